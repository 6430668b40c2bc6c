"""Labelled images: those to predict whose classes are known, and how well they are predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from codes import ImageList, load_images
from codes.data.images import JoinedSource, printable
from codes.data.names import composed
from codes.data.readers.archives import is_archive
from codes.data.readers.datasets import list_images
from codes.wording import counted, some
from pipelines.comparison.evaluate import answers_of, average_views
from pipelines.comparison.intervals import HeldOut, score_interval
from pipelines.comparison.scoring import SCORINGS, score_answers
from pipelines.extraction.extract import Extraction
from pipelines.predictor import FittedPipeline
from pipelines.progress import table, terminal

_MOST_LABELS = 10
"""That are listed one by one, where they are no classes."""
_NAMED = ("sklearn:", "torchvision:", "hf:", "wds:")


def list_to_predict(places: Sequence[str], *, page: int | None = None) -> ImageList:
    """List images to predict, with their labels where these can be seen.

    Parameters
    ----------
    places : sequence of str
        Image files; folders and archives, of which every image is listed; and what
        `codes.load_images` takes otherwise: a CSV file, ``torchvision:NAME`` and the like.
    page : int, optional
        As for `codes.load_images`.

    Returns
    -------
    images : ImageList
        The label of an image that has none is empty; others may be no class of a pipeline.

    Raises
    ------
    FileNotFoundError, ValueError
        As `codes.load_images` and `codes.data.readers.datasets.list_images`.
    """
    lists = [_list_place(place, page) for place in places]
    if len(lists) == 1:
        return lists[0]
    ignored: Counter[str] = Counter()
    for images in lists:
        ignored.update(images.ignored)
    return ImageList(
        name=printable(", ".join(places)),
        source=JoinedSource([images.source for images in lists]),
        labels=np.concatenate([images.labels for images in lists]),
        ignored=dict(ignored),
        page=page,
    )


def _list_place(place: str, page: int | None) -> ImageList:
    path = Path(place)
    named = not path.exists() and place.startswith(_NAMED)
    if named or (path.is_file() and path.suffix.lower() == ".csv"):
        return load_images(place, page=page, min_classes=0)
    if not path.is_dir() and not (path.is_file() and is_archive(path)):
        return list_images([place], page=page)
    try:
        labelled = load_images(place, page=page, min_classes=0)
    except ValueError:  # There are no class folders, or there are splits and more.
        images = list_images([place], page=page)
        return replace(images, labels=np.array([_folder(n, path) for n in images.source.names]))
    try:
        images = list_images([place], page=page)
    except ValueError:  # The images are in a train.zip and a test.zip there.
        return labelled
    label_of = dict(zip(labelled.source.names, labelled.labels.tolist(), strict=True))
    labels = [label_of.get(name, "") for name in images.source.names]
    return replace(images, labels=np.array(labels))


def _folder(name: str, place: Path) -> str:
    """Give the first folder below a place that an image is in; nothing where it is right there."""
    parts = Path(name).parts[len(place.parts) :]
    return parts[0] if len(parts) > 1 else ""


def say_unscored(images: ImageList, classes: Sequence[str]) -> None:
    """Say on standard error which labels are no classes of a pipeline, and which it may mean.

    Parameters
    ----------
    images : ImageList
        As `list_to_predict` returns it.
    classes : sequence of str
        Of the pipeline.
    """
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
    terminal().say(
        f"Not scored, as these labels are not classes of the fitted pipeline ({some(classes)}); "
        f"rename them to have their images scored:{''.join(lines)}"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """How well images of known classes are predicted.

    Attributes
    ----------
    scoring : str
    score, ci_low, ci_high : float
        And its 95 % interval.
    confusion : ndarray of shape (n_classes, n_classes), intp
        Images by class and by predicted class, in the order of the pipeline's classes.
    n_trained : int
        How many of them the pipeline was trained on.
    n_left_out : int
        Those, where there are others to score.
    """

    scoring: str
    score: float
    ci_low: float
    ci_high: float
    confusion: NDArray[np.intp]
    n_trained: int
    n_left_out: int


def evaluate(fitted: FittedPipeline, extraction: Extraction) -> Evaluated | None:
    """Score the predictions of images whose classes are known.

    Images that the pipeline was trained on are left out, if there are others.

    Parameters
    ----------
    fitted : FittedPipeline
    extraction : Extraction
        As `FittedPipeline.predict` returns it.

    Returns
    -------
    evaluated : Evaluated or None
        None where no image has a label that is one of the classes.
    """
    images, classes = extraction.images, np.array(fitted.card["classes"])
    known = np.isin(images.labels, classes)
    if not known.any():
        return None
    trained = fitted.trained_on(extraction.digests) & known
    scored = known & ~trained if (known & ~trained).any() else known
    truth = np.searchsorted(classes, images.labels[scored])
    [tap] = extraction.taps
    X = average_views(extraction.codes(tap.name)[scored])
    scoring = fitted.card["scoring"]
    predicted, answers = answers_of(fitted.classifier, X, truth, scoring)
    held_out = HeldOut(
        scoring=scoring,
        truth=truth,
        n_classes=len(classes),
        groups=None if images.groups is None else images.groups[scored],
    )
    score = float(score_answers(scoring, truth, answers, len(classes))[0])
    low, high = score_interval(held_out, score, [answers])
    confusion = np.zeros((len(classes), len(classes)), np.intp)
    np.add.at(confusion, (truth, predicted), 1)
    return Evaluated(
        scoring=scoring,
        score=score,
        ci_low=low,
        ci_high=high,
        confusion=confusion,
        n_trained=int(trained.sum()),
        n_left_out=int((known & ~scored).sum()),
    )


def print_evaluated(fitted: FittedPipeline, extraction: Extraction) -> None:
    """Print how well labelled images are predicted on standard error; of others, nothing.

    Parameters
    ----------
    fitted : FittedPipeline
    extraction : Extraction
        As `FittedPipeline.predict` returns it.
    """
    narrator, classes = terminal(), fitted.card["classes"]
    evaluated = evaluate(fitted, extraction)
    if evaluated is None:
        return
    narrator.show(_confusion_table(evaluated.confusion, classes))
    if evaluated.n_left_out:
        told = counted(evaluated.n_left_out, "image")
        narrator.say(f"Not scored: {told} that the pipeline was fitted on.")
    elif evaluated.n_trained:
        narrator.say(
            f"Warning: the pipeline was fitted on {evaluated.n_trained:,} of these; the score says "
            "nothing about new images."
        )
    n_without = int((extraction.images.labels == "").sum())
    if n_without:
        narrator.say(f"Not scored: {counted(n_without, 'image')} without a label.")
    narrator.say(
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
