"""The summary: what a comparison prints when it is finished."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from pipelines.cli.streams.terminal import stdout, table, terminal
from pipelines.diagnostics.grid_edges import edge_sentence, edges_of
from pipelines.report.answer import cautions, leaks_warning, roles, sentence
from pipelines.report.origin import network_study
from pipelines.report.report import FILES
from pipelines.report.stability import stability_of
from pipelines.report.subject import layer_noun
from pipelines.studies.study import Study


def print_summary(study: Study, report: dict[str, Any], out: Path) -> None:
    """Print a table of scores, warnings, and the answer; ``out`` is the folder of the report."""
    console = stdout()
    console.print(_scores_table(study, layer_noun(report)), soft_wrap=False)
    for note in study.notes:
        console.print(f"Note: {note}.")
    copies = leaks_warning(report)
    if copies:
        terminal().info(f"Warning: {copies} {out / 'report.html'} lists them.")
    if any(control.alarm for control in study.controls):
        terminal().info(
            "Warning: shuffled labels are predicted far better than by chance. Something leaks: do "
            "not trust these scores."
        )
    check = report["preprocessing_check"]
    if check is not None and check["level"] == "warn":
        terminal().info(f"Warning: {check['text']}")
    intensity = report["intensity_check"]
    if intensity is not None and intensity["text"]:
        terminal().info(f"Warning: {intensity['text']}")
    edges = edge_sentence(edges_of(report["layers"]), report["protocol"]["Cs"])
    if edges:
        terminal().info(f"Warning: {edges}")
    network = network_study(study)
    if network is not None:
        extraction = network.extraction
        console.print(extraction.counts.sentence(n_skipped=len(extraction.skipped)))
    console.print(sentence(report))
    stability = stability_of(report)
    if stability is not None:
        console.print(stability["line"])
    for caution in cautions(report):
        console.print(caution)
    if network is not None:
        console.print(network.advice.text)
    page, *others = FILES
    console.print(", ".join([str(out / page), *others]))


def _scores_table(study: Study, noun: str) -> Table:
    comparison = study.comparison
    sizes = list(dict.fromkeys(row.train_size for row in comparison.layers))
    heads = [f"{size} a class" if size != "all" else "all" for size in sizes]
    best = comparison.best
    place = "depth" if noun == "depth" else "place"
    clean = ["no copies"] * (best.score_without_leaks is not None)
    scored = table("layer", place, "classifier", *heads, "95 % interval", *clean, "CV", "")
    scores = {(r.layer, r.classifier, r.train_size): r for r in comparison.layers}
    for layer, classifier in dict.fromkeys((r.layer, r.classifier) for r in comparison.layers):
        rows = [scores[layer, classifier, size] for size in sizes]
        last = scores[layer, classifier, best.train_size]
        is_best = (layer, classifier) == (best.layer, best.classifier)
        words = roles(asdict(best), layer, classifier)
        scored.add_row(
            layer,
            f"{last.depth:.2f}",
            classifier,
            *(f"{row.score:.3f}" for row in rows),
            f"{last.ci_low:.3f} – {last.ci_high:.3f}",
            *(f"{last.expected[0]:.3f}" for _ in clean),
            f"{last.cv_score:.3f}",
            ", ".join(words),
            style="bold" if is_best else "",
        )
    for control in study.controls:
        scored.add_row(
            control.name,
            "",
            "" if control.name == "majority" else study.linear.best.classifier,
            *[""] * (len(sizes) - 1),
            f"{control.score:.3f}",
            f"{control.ci_low:.3f} – {control.ci_high:.3f}",
            *(f"{control.expected:.3f}" for _ in clean),
            "",
            "control",
            style="dim",
        )
    return scored
