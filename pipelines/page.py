"""The page: a report as HTML for people, and as Markdown for notes and chats."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipelines import figures
from pipelines.advice import CASES
from pipelines.scorings import SCORINGS


def render(reports: Sequence[dict[str, Any]]) -> str:
    """Render the page of one report, or of several side by side.

    Parameters
    ----------
    reports : sequence of dict
        What each ``report.json`` holds.

    Returns
    -------
    html : str
        One page that needs nothing else.
    """
    names = [report["backbone"]["name"] for report in reports]
    return (
        _environment(html=True)
        .get_template("report.html.jinja")
        .render(
            pages=[_facts(report, number) for number, report in enumerate(reports)],
            title=f"{_dataset(reports[0])}: {reports[0]['best']['recommended']} of {names[0]}"
            if len(reports) == 1
            else f"{len(reports)} comparisons",
            together=figures.depth_curves(reports) if len(reports) > 1 else None,
        )
    )


def render_markdown(report: dict[str, Any]) -> str:
    """Render a report as Markdown.

    Parameters
    ----------
    report : dict
        What ``report.json`` holds.

    Returns
    -------
    markdown : str
    """
    page = _environment(html=False).get_template("report.md.jinja")
    return page.render(page=_facts(report, 0, draw=False)) + "\n"


def _environment(*, html: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "."),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = lambda value: f"{value:.3f}"
    return environment


def _facts(report: dict[str, Any], number: int, *, draw: bool = True) -> dict[str, Any]:
    """Gather what a template shows of one report."""
    best, rows = report["best"], report["layers"]
    at_best = [row for row in rows if row["train_size"] == best["train_size"]]
    scoring = SCORINGS[report["protocol"]["scoring"]].title
    return {
        "id": f"r{number}",
        "report": report,
        "dataset": _dataset(report),
        "sentence": sentence(report),
        "leaks": leaks_sentence(report["leaks"]),
        "scoring": scoring,
        "size_sentence": size_sentence(report),
        "at_best": at_best,
        "at_edge": [row for row in at_best if row["C_at_edge"]],
        "alarm": next((c for c in report["controls"] if c["alarm"]), None),
        "cases": CASES,
        "figures": _draw(report, at_best, scoring) if draw else {},
    }


def _draw(
    report: dict[str, Any], at_best: list[dict[str, Any]], scoring: str
) -> dict[str, str | None]:
    """Draw the figures of one report."""
    best, rows = report["best"], report["layers"]
    of_best = [row for row in rows if row["classifier"] == best["classifier"]]
    both = [row for row in at_best if row in of_best]
    sizes = {row["train_size"] for row in rows}
    return {
        "curve": figures.depth_curve(at_best, best, scoring, report["controls"]),
        "map": figures.size_map(of_best) if len(sizes) > 1 else None,
        "C": figures.C_curves(both, report["protocol"]["Cs"], scoring),
        "confusion": figures.confusion_matrix(report["classes"], report["confusion"]),
        "similarity": figures.similarity_by_layer(report["similarity"]["by_layer"]),
    }


def _dataset(report: dict[str, Any]) -> str:
    return Path(report["dataset"]["name"]).name


def sentence(report: dict[str, Any]) -> str:
    """Say the answer in two or three sentences.

    Parameters
    ----------
    report : dict

    Returns
    -------
    sentence : str
    """
    best = report["best"]
    rows = {
        row["layer"]: row
        for row in reversed(report["layers"])
        if row["train_size"] == best["train_size"]
    }
    size = "all training images" if best["train_size"] == "all" else (
        f"{best['train_size']} training images of each class"
    )  # fmt: skip
    chosen, cheap = best["layer"], best["recommended"]
    first = f"With {size}, take the codes of {chosen} (depth {rows[chosen]['depth']:.2f}): "
    if len(rows) == 1:
        first += "it is the only depth compared."
    elif not best["tied"]:
        first += "every other depth is worse."
    else:
        everything = len(best["tied"]) == len(rows) - 1
        first = (
            f"With {size}, the codes of {chosen} (depth {rows[chosen]['depth']:.2f}) do best, but "
            + ("no other depth" if everything else "they")
            + " can"
            + ("" if everything else "not")
            + " be told from "
            + ("them" if everything else _join(best["tied"], "or"))
            + ". "
        )
        if cheap == chosen:
            first += f"Take {chosen}: it is also the cheapest of these to compute."
        else:
            row = rows[cheap]
            first += (
                f"Take {cheap} (depth {row['depth']:.2f}, its own score {row['score']:.3f}): it "
                "is the cheapest of these to compute."
            )
    return (
        f"{first} A depth chosen like {chosen} has "
        f"{SCORINGS[report['protocol']['scoring']].title} {best['score']:.3f} on images that had "
        f"no part in the choice (95 % interval {best['ci_low']:.3f} to {best['ci_high']:.3f})."
    )


def size_sentence(report: dict[str, Any]) -> str:
    """Say at which training sizes another depth is best, beyond chance.

    Parameters
    ----------
    report : dict

    Returns
    -------
    sentence : str
    """
    best = report["best"]
    other = [
        f"with {found['train_size']} training images a class {found['layer']} is better"
        for found in report["by_size"]
        if best["layer"] not in (found["layer"], *found["tied"])
    ]
    if len(report["by_size"]) == 1:
        return ""
    if not other:
        return f"At no size is another depth better than {best['layer']}, as far as can be told."
    return f"The best depth changes with the number of images: {_join(other, 'and')}."


def _join(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def leaks_sentence(leaks: Sequence[dict[str, Any]]) -> str:
    """Say how many images have copies where these make scores too good.

    Parameters
    ----------
    leaks : sequence of dict
        ``report.json``'s ``leaks``.

    Returns
    -------
    sentence : str
    """
    kinds = [leak["kind"] for leak in leaks]
    return "; ".join(
        f"{kinds.count(kind)} image{'s' * (kinds.count(kind) > 1)} {kind}"
        for kind in dict.fromkeys(kinds)
    )
