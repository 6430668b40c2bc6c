"""The report: what was found, as JSON for programs, CSV for tables, pages for people."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes import ImageList
from codes.decoding.decode import Decoding
from pipelines.comparison.compare import Comparison
from pipelines.comparison.duplicates import find_leaks
from pipelines.comparison.held_out_answers import ANSWERS, by_content, read_answers, write_answers
from pipelines.controls.controls import CONTROLS
from pipelines.drafts import replacing
from pipelines.report.networks import Standing, side_by_side
from pipelines.report.origin import describe_origin, network_study
from pipelines.report.page import render, render_markdown
from pipelines.report.subject import layer_noun
from pipelines.studies.study import Study

N_PAIRS, N_EXAMPLES, THUMBNAIL = 6, 4, 96
"""Pairs of classes that are shown, wrong images of each, and their longer side in pixels."""


def make_report(study: Study, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Gather everything a reader or a program needs to know of a comparison, as plain values.

    ``command`` is what was typed.
    """
    codes, comparison, protocol = study.codes, study.comparison, study.protocol
    images = codes.images
    classes, counts = np.unique(images.labels, return_counts=True)
    splits = None
    if images.splits is not None:
        names, sizes = np.unique(images.splits, return_counts=True)
        splits = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    origin = describe_origin(study)
    noun = layer_noun(origin)
    report: dict[str, Any] = {
        "dataset": {
            "name": images.name,
            "n_images": len(images),
            "n_distinct": len(np.unique(codes.digests, axis=0)),
            "classes": dict(zip(classes.tolist(), counts.tolist(), strict=True)),
            "splits": splits,
            "n_groups": None if images.groups is None else len(np.unique(images.groups)),
            "ignored_files": images.ignored,
            "n_dropped": codes.dropped,
        },
        "protocol": {
            "evaluation": "test split" if images.test is not None else "nested cross-validation",
            "scoring": comparison.scoring,
            "classifiers": protocol.classifiers,
            "Cs": protocol.grid,
            "cv": protocol.cv,
            "seeds": protocol.seeds,
            "repeats": 1 + max(fold.repeat for fold in comparison.folds),
            "train_sizes": protocol.sizes,
            "group_duplicates": protocol.group_duplicates,
            "max_loss": protocol.max_loss,
            "random_state": protocol.random_state,
            "Cs_search": protocol.Cs_search,
        },
        "best": asdict(comparison.best),
        "by_size": [asdict(best) for best in comparison.by_size],
        "layers": [asdict(row) for row in comparison.layers],
        "classes": comparison.classes,
        "confusion": comparison.confusion,
        "confused": _confused(comparison, images, _decoding(study)),
        "controls": [
            {"name": control.name, "what": CONTROLS[control.name].what.format(noun=noun)}
            | {k: v for k, v in asdict(control).items() if k != "name"}
            for control in study.controls
        ],
        **origin,
        "leaks": [
            asdict(leak)
            for leak in find_leaks(codes.digests, images.source.names, images.labels, images.test)
        ],
        "notes": study.notes,
        "command": command,
    }
    # Last: what a report measures is timed, too.
    report["timing"] = {stage: round(seconds, 3) for stage, seconds in codes.seconds.items()}
    report["timing"] |= {name: report[name] for name in ("images_extracted", "images_reused")}
    # Tuples become lists; NaN, as the C of what is fine-tuned, becomes None.
    plain: dict[str, Any] = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return plain


FILES = ("report.html", "report.md", "report.json", "scores.csv", ANSWERS)
"""What `write_report` writes."""


def write_report(folder: Path, report: dict[str, Any], study: Study) -> None:
    """Write the files of a report, `FILES`, into a folder, which is made where it is missing.

    Files in it are replaced, each at once.
    """
    comparison, codes = study.comparison, study.codes
    # Drawn first: should that fail, no old page stands beside new numbers.
    page, markdown = render([report]), render_markdown(report)
    folder.mkdir(parents=True, exist_ok=True)
    answers = by_content(comparison.tested, codes.digests, codes.images.labels)
    with replacing(folder / ANSWERS) as draft:
        write_answers(draft, answers)
    _write(folder / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    with (
        replacing(folder / "scores.csv") as draft,
        draft.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        columns = study.cv_results_
        writer.writerow(columns)
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        writer.writerows([["" if value != value else value for value in row] for row in rows])
    _write(folder / "report.html", page)
    _write(folder / "report.md", markdown)


def read_report(folder: Path) -> dict[str, Any]:
    """Read a folder's ``report.json``.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a report.
    """
    source = folder / "report.json"
    if not source.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} has no report.json. Give the folder that `cnn-codes compare --out` "
            "wrote."
        )
    try:
        report: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
        render([report])
    except (ValueError, KeyError, TypeError, StopIteration, jinja2.UndefinedError) as error:
        raise ValueError(
            f"{str(source)!r} is not a report of this version of cnn-codes. Make one with "
            "`cnn-codes compare --out`: stored codes are used again."
        ) from error
    return report


def render_again(folders: Sequence[Path], out: Path | None = None) -> tuple[Path, Standing | None]:
    """Render the page of one report again, or of several side by side.

    Parameters
    ----------
    folders : sequence of Path
        Each with a ``report.json``, and what was written with it.
    out : Path, optional
        The page. Default: ``report.html`` in the one folder, or in the current one.

    Returns
    -------
    page : Path
    standing : Standing or None
        How the networks of several reports compare.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_report`.
    """
    reports = [read_report(folder) for folder in folders]
    standing = None
    if len(reports) > 1:
        standing = side_by_side(reports, [read_answers(folder / ANSWERS) for folder in folders])
    page = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    _write(page, render(reports, standing))
    if standing is None:
        _write(page.with_suffix(".md"), render_markdown(reports[0]))
    return page, standing


def _decoding(study: Study) -> Decoding | None:
    """Say how thumbnails are decoded; None where there are no images."""
    network = network_study(study)
    if network is None:
        return None
    intensity = network.extraction.backbone.preprocessing.intensity
    return Decoding(enough=2 * THUMBNAIL, intensity=intensity)


def _confused(
    comparison: Comparison, images: ImageList, decoding: Decoding | None
) -> list[dict[str, Any]]:
    """List the pairs of classes that are most often confused, with some of the images.

    Without ``decoding`` these have no thumbnail.
    """
    pairs: dict[tuple[str, str], list[int]] = {}
    for mistake in comparison.mistakes:
        pairs.setdefault((mistake.label, mistake.predicted), []).append(mistake.image)
    most = sorted(pairs.items(), key=lambda pair: -len(pair[1]))[:N_PAIRS]
    return [
        {
            "label": label,
            "predicted": predicted,
            "n": len(wrong),
            "examples": [
                {
                    "path": images.source.names[image],
                    "thumbnail": None
                    if decoding is None
                    else _thumbnail(images.source.open(image, decoding)),
                }
                for image in wrong[:N_EXAMPLES]
            ],
        }
        for (label, predicted), wrong in most
    ]


def _thumbnail(pixels: NDArray[np.uint8]) -> str:
    """Shrink (or, below, enlarge) an image and write it as a data URL."""
    image = Image.fromarray(pixels)
    factor = THUMBNAIL / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    small = image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.BOX)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _write(file: Path, text: str) -> None:
    with replacing(file) as draft:
        draft.write_text(text, encoding="utf-8")
