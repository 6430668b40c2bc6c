"""Intervals for scores that were measured on images without a part in the training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.statistics.held_out import HeldOut, degrees_of_freedom
from pipelines.statistics.scoring import Answers, image_weights

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
EXPLAINED = 0.99
"""Confidence at which a test score is said to be unlike the cross-validated one."""


def score_interval(
    held_out: HeldOut,
    score: float,
    answers: Sequence[Answers],
    *,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Bound a score measured on images that had no part in the training.

    Wilson's interval for a proportion, with as many images as would give the same standard error,
    and Student's quantile: the variance over the units, and that of the mean over splits of the
    training images. Log loss is no proportion: normal theory on its logarithm.

    Parameters
    ----------
    held_out : HeldOut
    score : float
        Mean over the splits.
    answers : sequence of ndarray
        One for each split, or each repeat of a cross-validation, as for
        `pipelines.statistics.scoring.score_answers`.
    confidence : float, default=0.95

    Returns
    -------
    low, high : float

    References
    ----------
    Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 1927.

    Examples
    --------
    >>> truth, answers = np.zeros(100, np.intp), np.repeat([0.0, 1.0], [90, 10])
    >>> held_out = HeldOut(scoring="accuracy", truth=truth, n_classes=2)
    >>> low, high = score_interval(held_out, 0.9, [answers])
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    by_draw = _scores(held_out, answers)
    between = float(by_draw.var(ddof=1)) / len(by_draw) if len(by_draw) > 1 else 0.0
    within, freedom = _within(held_out, score, answers)
    variance = within + between
    quantile = _quantile(
        degrees_of_freedom(np.array([within, between]), np.array([freedom, len(by_draw) - 1.0])),
        confidence,
    )
    if held_out.scoring == "neg_log_loss":
        if score == 0:  # Every probability is 1.
            return 0.0, 0.0
        factor = math.exp(quantile * math.sqrt(variance) / -score)
        return score * factor, score / factor
    if not 0 < score < 1:
        n_units = float(held_out.units.max()) + 1
        weights = image_weights(held_out.scoring, held_out.truth)
        return _wilson(score, min(n_units, 1 / float(np.square(weights).sum())), quantile)
    return _wilson(score, score * (1 - score) / variance, quantile)


def explained_range(
    held_out: HeldOut,
    score: float,
    answers: Sequence[Answers],
    *,
    cv_score: float,
    trained: NDArray[np.intp],
    n_folds: int,
) -> tuple[float, float]:
    """Bound the test scores that a cross-validation on the training images explains.

    The limits of the difference of two independent scores at 99 % (Newcombe's method 10), where
    the interval of the cross-validated score is that of the test score, scaled by the square root
    of how many images each rests on. A fit on all training images may do better than those on all
    but one fold: by at most a share ``1 / n_folds`` of what is lost, as losses of learning curves
    fall no faster than with the number of images.

    Parameters
    ----------
    held_out : HeldOut
        The test images.
    score : float
        On these.
    answers : sequence of ndarray
        As for `score_interval`.
    cv_score : float
    trained : ndarray of shape (n_train,), intp
        Number of the class of each training image.
    n_folds : int
        Of the cross-validation.

    Returns
    -------
    low, high : float
        A test score outside is not explained by chance: the test images are unlike the training
        images.

    References
    ----------
    Newcombe, *Interval estimation for the difference between independent proportions*, Statistics
    in Medicine 1998.

    Examples
    --------
    >>> truth, answers = np.zeros(400, np.intp), np.repeat([0.0, 1.0], [320, 80])
    >>> held_out = HeldOut(scoring="accuracy", truth=truth, n_classes=2)
    >>> low, high = explained_range(
    ...     held_out, 0.8, [answers], cv_score=0.9, trained=np.zeros(2000, np.intp), n_folds=5
    ... )
    >>> round(low, 2), round(high, 2)
    (0.85, 0.98)
    """
    low, high = score_interval(held_out, score, answers, confidence=EXPLAINED)
    below, above = score - low, high - score
    n_train, n_test = (
        1 / float(np.square(image_weights(held_out.scoring, labels)).sum())
        for labels in (trained, held_out.truth)
    )
    ratio = n_test / n_train
    largest = 0.0 if held_out.scoring == "neg_log_loss" else 1.0
    least = -math.inf if held_out.scoring == "neg_log_loss" else 0.0
    learned = (largest - cv_score) / n_folds
    return (
        max(least, cv_score - math.sqrt(above**2 + ratio * below**2)),
        min(largest, cv_score + math.sqrt(below**2 + ratio * above**2) + learned),
    )


def _within(held_out: HeldOut, score: float, answers: Sequence[Answers]) -> tuple[float, float]:
    """Give the variance of a score over the tested units, and its degrees of freedom."""
    truth, n_classes = held_out.truth, held_out.n_classes
    if held_out.groups is None and held_out.scoring == "accuracy":
        return score * (1 - score) / len(truth), math.inf
    if held_out.groups is None and held_out.scoring == "balanced_accuracy":
        sizes = np.bincount(truth, minlength=n_classes).astype(np.float64)
        hits = np.mean([given == truth for given in answers], axis=0)
        there = sizes > 0
        # One hit and one miss more: of five images that are all right, not all are always right.
        rates = (np.bincount(truth, hits, n_classes)[there] + 1) / (sizes[there] + 2)
        parts = rates * (1 - rates) / sizes[there] / there.sum() ** 2
        return float(parts.sum()), degrees_of_freedom(parts, sizes[there] - 1)
    deviations = held_out.deviations(answers)
    variance = float(np.square(deviations).sum())
    if held_out.scoring != "neg_log_loss":
        n_units = len(deviations) if len(deviations) == 1 else len(truth)
        variance = max(variance, score * (1 - score) / n_units)  # As of independent images.
    return variance, held_out.freedom(deviations)


def _scores(held_out: HeldOut, answers: Sequence[Answers]) -> Floats:
    return np.array([held_out.score(given) for given in answers], np.float64)


def _quantile(freedom: float, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # An interval holds its score, also where rounding would say otherwise: at 0 and 1.
    return max(0.0, min(p, float(centre - half))), min(1.0, max(p, float(centre + half)))
