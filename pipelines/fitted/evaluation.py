"""The evaluation of a fitted pipeline on images whose classes are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.answers import answers_of
from pipelines.extraction.extract import Extraction
from pipelines.fitted.pipeline import FittedPipeline
from pipelines.reading.rows import average_views, take
from pipelines.reading.scratch import opened
from pipelines.statistics.held_out import HeldOut
from pipelines.statistics.intervals import score_interval
from pipelines.statistics.scoring import score_answers


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
