"""The page: a report as HTML for people, and as Markdown for notes and chats."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jinja2
from markupsafe import Markup, escape

from codes.wording import counted
from pipelines.comparison.protocol import FINETUNE
from pipelines.diagnostics.advice import CASES
from pipelines.diagnostics.border import BORDER
from pipelines.diagnostics.grid_edges import (
    edge_sentence,
    edges_of,
    not_searched_sentence,
    searched_sentence,
)
from pipelines.diagnostics.intensity_by_class import intensity_sentence
from pipelines.extraction.counts import Counts
from pipelines.progress import duration
from pipelines.report.answer import cautions, leaks_warning, roles, sentence, size_sentence
from pipelines.report.figures.curves import (
    C_curves,
    depth_curve,
    depth_curves,
    similarity_by_layer,
)
from pipelines.report.figures.finetuning import loss_curves, reliability_curves
from pipelines.report.figures.maps import confusion_matrix, size_map
from pipelines.report.figures.svg import both_widths
from pipelines.report.finetuning_rows import (
    REMEDIES,
    finetuned_rows,
    linear_rows,
    measured_cases,
    training_sentence,
)
from pipelines.report.networks import Standing
from pipelines.report.stability import stability_of
from pipelines.report.subject import (
    dataset_name,
    depth_axis,
    given_of,
    given_sentence,
    layer_noun,
    subject_name,
)
from pipelines.statistics.scoring import SCORINGS


def render(reports: Sequence[dict[str, Any]], standing: Standing | None = None) -> str:
    """Render one page that needs nothing else, of one report or of several side by side."""
    take = reports[0]["best"]["recommended"] or f"no {layer_noun(reports[0])}"
    axis = depth_axis(*reports)
    together = standing and both_widths(partial(depth_curves, reports, standing.labels, axis))
    return (
        _environment(html=True)
        .get_template("report.html.jinja")
        .render(
            pages=[_facts(report, number) for number, report in enumerate(reports)],
            title=f"{dataset_name(reports[0])}: {take} of {subject_name(reports[0])}"
            if standing is None
            else f"{len(reports)} comparisons",
            alike=len({report["protocol"]["scoring"] for report in reports}) == 1,
            standing=standing,
            together=together,
        )
    )


def render_markdown(report: dict[str, Any]) -> str:
    """Render a report as Markdown."""
    page = _environment(html=False).get_template("report.md.jinja")
    return page.render(page=_facts(report, 0, draw=False)) + "\n"


def _environment(*, html: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.report", "templates"),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: f"{value:.3f}"
    environment.filters["counted"] = counted
    environment.filters["duration"] = duration
    environment.filters["breakable"] = _breakable
    environment.filters["text"] = lambda words: str(words) if html else _as_markdown(words)
    environment.filters["with_commands"] = partial(_with_commands, html=html)
    return environment


def _breakable(name: str) -> Markup:
    """Let a browser break the line after each part of a name."""
    return Markup(re.sub(r"(?<=[._/])(?=\w)", "<wbr>", str(escape(name))))


def _as_markdown(words: object) -> str:
    """Escape what Markdown would take for markup."""
    return re.sub(r"([\\`*_<>|$\[\]])", r"\\\1", str(words)).replace("\n", " ")


def _with_commands(words: str, *, html: bool) -> Markup | str:
    """Mark what stands between backticks as a command; escape the rest."""
    parts = words.split("`")
    if html:
        shown = [f"<code>{escape(p)}</code>" if i % 2 else escape(p) for i, p in enumerate(parts)]
        return Markup("").join(map(Markup, shown))
    return "".join(f"`{p}`" if i % 2 else _as_markdown(p) for i, p in enumerate(parts))


def _facts(report: dict[str, Any], number: int, *, draw: bool = True) -> dict[str, Any]:
    """Gather what a template shows of one report."""
    best, rows = report["best"], report["layers"]
    at_best = [
        row | {"roles": roles(best, row["layer"], row["classifier"])}
        for row in rows
        if row["train_size"] == best["train_size"]
    ]
    scoring = SCORINGS[report["protocol"]["scoring"]].title
    return {
        "id": f"r{number}",
        "report": report,
        "given": given_of(report),
        "given_sentence": given_sentence(report),
        "noun": layer_noun(report),
        "dataset": dataset_name(report),
        "sentence": sentence(report),
        "cautions": cautions(report),
        "leaks": leaks_warning(report),
        "scoring": scoring,
        "size_sentence": size_sentence(report),
        "stability": stability_of(report),
        "at_best": at_best,
        "intensity": intensity_sentence(report["backbone"] or {}, report.get("intensity_check")),
        "edges": edge_sentence(edges_of(rows), report["protocol"]["Cs"]),
        "searched": searched_sentence(report["protocol"]),
        "not_searched": not_searched_sentence(
            [row for row in at_best if row["classifier"] == _classifier_of_C(report)],
            report["protocol"]["Cs"],
        ),
        "alarm": next((c for c in report["controls"] if c["alarm"]), None),
        "cases": CASES,
        "measured": measured_cases(at_best),
        "linear": linear_rows(at_best),
        "classifier_of_C": _classifier_of_C(report),
        "finetuned": finetuned_rows(report["finetune"], at_best, report["protocol"]["scoring"]),
        "remedies": REMEDIES,
        "trained": training_sentence(report["finetune"]),
        "counts": Counts(
            extracted=report["images_extracted"],
            copies=report["images_copies"],
            reused=report["images_reused"],
            layers=report["layers_reused"],
        ).sentence(n_skipped=len(report["skipped"])),
        "border": BORDER,
        "figures": _draw(report, at_best, scoring) if draw else {},
    }


def _classifier_of_C(report: dict[str, Any]) -> str:  # noqa: N802
    """Give the linear classifier that curves and controls are of: of fine-tuning there is no C."""
    best = report["best"]
    if best["classifier"] != FINETUNE:
        return str(best["classifier"])
    size = best["train_size"]
    return str(
        linear_rows([r for r in report["layers"] if r["train_size"] == size])[-1]["classifier"]
    )


def _draw(
    report: dict[str, Any], at_best: list[dict[str, Any]], scoring: str
) -> dict[str, str | None]:
    """Draw the figures of one report."""
    best, rows = report["best"], report["layers"]
    of_best = [row for row in rows if row["classifier"] == best["classifier"]]
    linear = _classifier_of_C(report)
    both = [row for row in at_best if row["classifier"] == linear]
    several = len({row["train_size"] for row in rows}) > 1
    Cs, similarity = report["protocol"]["Cs"], report["similarity"]
    axis = depth_axis(report)
    figures_of: dict[str, Callable[[float], str | None]] = {
        "curve": partial(depth_curve, at_best, scoring, report["controls"], axis),
        "map": partial(size_map, of_best) if several else lambda width: None,
        "C": partial(C_curves, both, Cs, scoring, noun=layer_noun(report)),
        "confusion": partial(confusion_matrix, report["classes"], report["confusion"]),
        "similarity": partial(similarity_by_layer, similarity or {"by_layer": []}, BORDER, axis),
        "losses": partial(loss_curves, report["finetune"]),
        "reliability": partial(reliability_curves, report["finetune"]),
    }
    return {name: both_widths(draw) for name, draw in figures_of.items()}
