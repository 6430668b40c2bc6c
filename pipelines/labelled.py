"""Labelled images: those to predict whose classes are known, and how well they are predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codes import ImageList, load_images
from codes.data.names import CODES_SCHEMES
from codes.data.readers.archives import is_archive
from codes.data.readers.datasets import list_images
from codes.data.sources import JoinedSource, printable
from pipelines.comparison.evaluate import answers_of
from pipelines.comparison.intervals import HeldOut, score_interval
from pipelines.comparison.scoring import score_answers
from pipelines.extraction.extract import Extraction
from pipelines.fitted.pipeline import FittedPipeline
from pipelines.reading.rows import average_views, take
from pipelines.reading.scratch import opened

_NAMED = ("sklearn:", "torchvision:", "hf:", "wds:", *CODES_SCHEMES)


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
    """Score the predictions of images whose classes are known; None where no label is a class.

    Images that the pipeline was trained on are left out, if there are others.
    """
    images, classes = extraction.images, np.array(fitted.card["classes"])
    known = np.isin(images.labels, classes)
    if not known.any():
        return None
    trained = fitted.trained_on(extraction.digests) & known
    scored = known & ~trained if (known & ~trained).any() else known
    truth = np.searchsorted(classes, images.labels[scored])
    [tap] = extraction.taps
    scoring = fitted.card["scoring"]
    with opened(extraction.readers[tap.name]) as codes:
        X = average_views(take(codes, np.flatnonzero(scored)))
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
