"""What ``cnn-codes predict`` writes: a CSV file, and on standard error how good it is."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import IO

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from codes import ImageList
from codes.data.names import composed
from codes.wording import counted, some
from pipelines.cli.streams.terminal import table, terminal
from pipelines.extraction.extract import Extraction
from pipelines.fitted.evaluation import evaluate
from pipelines.fitted.pipeline import FittedPipeline
from pipelines.statistics.scoring import SCORINGS

_MOST_LABELS = 10
"""That are listed one by one, where they are not classes."""


def say_unscored(images: ImageList, classes: Sequence[str]) -> None:
    """Say on standard error which labels are not classes of a pipeline, and which are nearest."""
    found = Counter(label for label in images.labels.tolist() if label and label not in classes)
    if not found:
        return
    known = {composed(name).strip().casefold(): name for name in reversed(classes)}
    lines = []
    for label, n in found.most_common(_MOST_LABELS):
        near = get_close_matches(composed(label).strip().casefold(), known, 1)
        nearest = f"; the nearest is {known[near[0]]!r}" if near else ""
        lines.append(f"\n  {label!r}: {counted(n, 'image')}{nearest}")
    n_left = sum(found.values()) - sum(n for _, n in found.most_common(_MOST_LABELS))
    if n_left:
        lines.append(
            f"\n  {counted(len(found) - _MOST_LABELS, 'more label')}: {counted(n_left, 'image')}"
        )
    terminal().info(
        f"Not scored, as these labels are not classes of the fitted pipeline ({some(classes)}); "
        f"rename them to have their images scored:{''.join(lines)}"
    )


def print_evaluated(fitted: FittedPipeline, extraction: Extraction) -> None:
    """Print on standard error how well labelled images are predicted; of others, nothing."""
    progress, classes = terminal(), fitted.card["classes"]
    evaluated = evaluate(fitted, extraction)
    if evaluated is None:
        return
    progress.show(_confusion_table(evaluated.confusion, classes))
    if evaluated.n_left_out:
        left_out = counted(evaluated.n_left_out, "image")
        progress.info(f"Not scored: {left_out} that the pipeline was fitted on.")
    elif evaluated.n_trained:
        progress.info(
            f"Warning: the pipeline was fitted on {evaluated.n_trained:,} of these; the score says "
            "nothing about new images."
        )
    n_without = int((extraction.images.labels == "").sum())
    if n_without:
        progress.info(f"Not scored: {counted(n_without, 'image')} without a label.")
    progress.info(
        f"{SCORINGS[evaluated.scoring].title.capitalize()} {evaluated.score:.3f} (95 % interval "
        f"{evaluated.ci_low:.3f} to {evaluated.ci_high:.3f}) on "
        f"{counted(int(evaluated.confusion.sum()), 'labelled image')}."
    )


def _confusion_table(confusion: NDArray[np.intp], classes: Sequence[str]) -> Table:
    """Show a row for each class: the confusion without its zeros."""
    listing = table("class", "images", "correct", "the others predicted as")
    listing.columns[-1].justify, listing.columns[-1].no_wrap = "left", False
    for number, row in enumerate(confusion):
        others = [i for i in np.argsort(-row, kind="stable").tolist() if row[i] and i != number]
        listing.add_row(
            classes[number],
            f"{row.sum():,}",
            f"{row[number]:,}",
            ", ".join(f"{classes[i]} {row[i]:,}" for i in others),
        )
    return listing


def write_predictions(
    out: IO[str],
    extraction: Extraction,
    labels: NDArray[np.str_],
    scores: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    """Write a CSV file with the columns path, label, score, and the score of every class.

    Labels and scores are as `FittedPipeline.predict` returns them.
    """
    writer = csv.writer(out, lineterminator="\n")
    own = ["path", "label", "score"]
    writer.writerow([*own, *(f"class {name}" if name in own else name for name in classes)])
    rows = zip(extraction.images.source.names, labels.tolist(), scores, strict=True)
    for name, label, values in rows:
        score = values[list(classes).index(label)]
        writer.writerow([name, label, f"{score:.6g}", *(f"{value:.6g}" for value in values)])
