"""The report: what was found, as JSON for programs, CSV for tables and one page for people."""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipelines import figures
from pipelines.draws import Protocol
from pipelines.extraction import Extraction, versions
from pipelines.leaks import find_leaks
from pipelines.options import ExtractionOptions
from pipelines.results import Comparison

SCORES_COLUMNS = (
    "layer", "depth", "pool", "n_features", "classifier", "train_size", "repeat", "fold", "C",
    "score", "n_train", "n_test",
)  # fmt: skip


def make_report(
    extraction: Extraction,
    comparison: Comparison,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Gather everything a reader or a program needs to know of a comparison.

    Parameters
    ----------
    extraction : Extraction
    comparison : Comparison
    options : ExtractionOptions
    protocol : Protocol
    command : sequence of str, optional
        What was typed.

    Returns
    -------
    report : dict
        What ``report.json`` holds: plain values only.
    """
    images, backbone = extraction.images, extraction.backbone
    classes, counts = np.unique(images.labels, return_counts=True)
    taps = {tap.layer.name: tap for tap in extraction.taps}
    splits = None
    if images.splits is not None:
        names, sizes = np.unique(images.splits, return_counts=True)
        splits = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    return {
        "dataset": {
            "name": images.name,
            "n_images": len(images),
            "n_distinct": len(np.unique(extraction.digests, axis=0)),
            "classes": dict(zip(classes.tolist(), counts.tolist(), strict=True)),
            "splits": splits,
            "n_groups": None if images.groups is None else len(np.unique(images.groups)),
            "ignored_files": images.ignored,
        },
        "backbone": {
            "name": backbone.name,
            "weights": backbone.weights,
            "weights_digest": backbone.weights_digest,
            "architecture": backbone.architecture,
            "preprocessing": asdict(backbone.preprocessing),
            "activation": options.activation,
            "precision": options.precision,
            "dtype": options.dtype,
        },
        "protocol": {
            "evaluation": "test split" if images.test is not None else "nested cross-validation",
            "scoring": comparison.scoring,
            "classifiers": list(protocol.classifiers),
            "Cs": list(protocol.Cs),
            "cv": protocol.cv,
            "repeats": protocol.repeats,
            "train_sizes": list(protocol.train_sizes),
            "random_state": protocol.random_state,
        },
        "environment": {"versions": versions(), "device": extraction.device},
        "best": asdict(comparison.best) | {"tied": list(comparison.best.tied)},
        "layers": [
            {
                "layer": row.layer,
                "depth": taps[row.layer].layer.depth,
                "pool": taps[row.layer].pool,
                "n_features": taps[row.layer].n_features,
                **{k: v for k, v in asdict(row).items() if k != "layer"},
            }
            for row in comparison.layers
        ],
        "timing": {
            **{stage: round(seconds, 3) for stage, seconds in extraction.seconds.items()},
            "images_extracted": extraction.n_extracted,
            "images_reused": extraction.n_reused,
        },
        "images_extracted": extraction.n_extracted,
        "images_reused": extraction.n_reused,
        "leaks": [
            asdict(leak)
            for leak in find_leaks(
                extraction.digests, images.source.names, images.labels, images.test
            )
        ],
        "skipped": [{"path": path, "reason": why} for path, why in extraction.skipped.items()],
        "notes": list(comparison.notes),
        "command": list(command),
    }


def write_report(folder: Path, report: dict[str, Any], comparison: Comparison) -> None:
    """Write ``report.json``, ``scores.csv`` and ``report.html``.

    Parameters
    ----------
    folder : Path
        Made where it is missing; files in it are replaced, each at once.
    report : dict
        As `make_report` returns it.
    comparison : Comparison
    """
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    by_layer = {row["layer"]: row for row in report["layers"]}
    draft = _draft(folder / "scores.csv")
    with draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SCORES_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for fold in comparison.folds:
            layer = {key: by_layer[fold.layer][key] for key in ("depth", "pool", "n_features")}
            writer.writerow(asdict(fold) | layer)
    draft.replace(folder / "scores.csv")
    _replace(folder / "report.html", render(report))


def render_again(folder: Path) -> Path:
    """Render ``report.html`` from a folder's ``report.json``.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    page : Path

    Raises
    ------
    FileNotFoundError
        If there is no ``report.json``.
    ValueError
        If it is no report.
    """
    source = folder / "report.json"
    if not source.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no report.json. Give the folder that `cnn-codes compare --out` "
            "wrote."
        )
    try:
        report = json.loads(source.read_text(encoding="utf-8"))
        page = render(report)
    except (ValueError, KeyError, TypeError, jinja2.UndefinedError) as error:
        raise ValueError(
            f"{str(source)!r} is no report of cnn-codes ({error!r}). Make one with "
            "`cnn-codes compare --out`."
        ) from error
    _replace(folder / "report.html", page)
    return folder / "report.html"


def render(report: dict[str, Any]) -> str:
    """Render the page.

    Parameters
    ----------
    report : dict
        What ``report.json`` holds.

    Returns
    -------
    html : str
        One page that needs nothing else.
    """
    best = report["best"]
    rows = report["layers"]
    at_best = [row for row in rows if row["train_size"] == best["train_size"]]
    of_best = [row for row in rows if row["classifier"] == best["classifier"]]
    sizes = list(dict.fromkeys(row["train_size"] for row in rows))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        report=report,
        dataset=Path(report["dataset"]["name"]).name,
        sentence=sentence(report),
        leaks=leaks_sentence(report["leaks"]),
        curve=figures.depth_curve(at_best, best, report["protocol"]["scoring"]),
        sizes=sizes,
        size_map=figures.size_map(of_best) if len(sizes) > 1 else None,
        changes=_changes(of_best, sizes),
        at_best=at_best,
        at_edge=[row for row in at_best if row["C_at_edge"]],
    )


def sentence(report: dict[str, Any]) -> str:
    """Say the answer in one sentence.

    Parameters
    ----------
    report : dict

    Returns
    -------
    sentence : str
    """
    best = report["best"]
    depth = next(row["depth"] for row in report["layers"] if row["layer"] == best["layer"])
    size = "all training images" if best["train_size"] == "all" else (
        f"{best['train_size']} training images of each class"
    )  # fmt: skip
    others = {row["layer"] for row in report["layers"]} - {best["layer"]}
    if not others:
        other = "it is the only depth compared"
    elif not best["tied"]:
        other = "every other depth is worse"
    elif len(best["tied"]) == len(others):
        other = "no other depth can be told from it"
    else:
        other = f"it cannot be told from {', '.join(best['tied'])}"
    return (
        f"With {size}, take the codes of {best['layer']} (depth {depth:.2f}): {other}. Codes "
        f"chosen like this score {report['protocol']['scoring'].replace('_', ' ')} "
        f"{best['score']:.3f} on images that had no part in the choice (95 % interval "
        f"{best['ci_low']:.3f} to {best['ci_high']:.3f})."
    )


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


def _changes(rows: list[dict[str, Any]], sizes: list[Any]) -> list[tuple[Any, str]]:
    """Highest layer at each size."""
    return [
        (size, max((r for r in rows if r["train_size"] == size), key=lambda r: r["score"])["layer"])
        for size in sizes
    ]


def _replace(file: Path, text: str) -> None:
    draft = _draft(file)
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)


def _draft(file: Path) -> Path:
    return file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
