"""Uncertainty: intervals for scores, and which scores cannot be told from the best."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95


def held_out_interval(
    scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, float]:
    """Bound a score measured on one fixed set of test images.

    Wilson's interval for a proportion, with as many test images as would give the same standard
    error when classes weigh unequally, and widened by the spread between draws of training images.

    Parameters
    ----------
    scores : ndarray of shape (n_draws,)
        One score for each draw of training images, in [0, 1].
    weights : ndarray of shape (n_test,)
        Weight of each test image in the score; they sum to 1.

    Returns
    -------
    low, high : float

    References
    ----------
    Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 1927.

    Examples
    --------
    >>> low, high = held_out_interval(np.array([0.9]), np.full(100, 0.01))
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    p = float(scores.mean())
    n = 1 / float(np.square(weights).sum())
    spread = float(scores.var(ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    if spread > 0 and 0 < p < 1:
        n = p * (1 - p) / (p * (1 - p) / n + spread)
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def resampled_interval(
    scores: NDArray[np.float64], n_folds: int, n_images: int
) -> tuple[float, float]:
    """Bound a score averaged over the folds of a repeated cross-validation.

    The folds share training images, so that the variance between them understates the variance of
    their mean; Nadeau and Bengio's correction adds the share of test to training images. Folds that
    happen to agree are no certainty: the interval is at least Wilson's for as many images.

    Parameters
    ----------
    scores : ndarray of shape (n_repeats * n_folds,)
    n_folds : int
        At least 2.
    n_images : int
        Images that are tested in one repeat.

    Returns
    -------
    low, high : float
        Within [0, 1].

    References
    ----------
    Nadeau and Bengio, *Inference for the generalization error*, Machine Learning 2003.
    """
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1) * _corrected_error(scores, n_folds)
    low, high = held_out_interval(np.array([scores.mean()]), np.full(n_images, 1 / n_images))
    return max(0.0, min(low, scores.mean() - half)), min(1.0, max(high, scores.mean() + half))


def tied_over_folds(
    best: NDArray[np.float64], others: NDArray[np.float64], n_folds: int, n_images: int
) -> NDArray[np.bool_]:
    """Tell which candidates cannot be told from the best, by their scores on the same folds.

    Folds that happen to agree are no certainty: the error is at least that of the difference on
    `n_images` independent images, were the other never right where the best is wrong.

    Parameters
    ----------
    best : ndarray of shape (n_resamples,)
    others : ndarray of shape (n_others, n_resamples)
    n_folds : int
    n_images : int
        Images that are tested in one repeat.

    Returns
    -------
    tied : ndarray of shape (n_others,), bool
        False where the best is better at a one-sided 5 %, Bonferroni-corrected for `n_others`.
    """
    tied = np.ones(len(others), bool)
    for i, other in enumerate(others):
        gain = float((best - other).mean())
        if gain <= 0:
            continue
        least = math.sqrt(gain * (1 - gain) / n_images)
        error = max(_corrected_error(best - other, n_folds), least)
        level = (1 - CONFIDENCE) / len(others)
        tied[i] = error > 0 and stats.t.sf(gain / error, len(best) - 1) > level
    return tied


def tied_over_images(
    best: NDArray[np.float64],
    others: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    random_state: int,
    n_resamples: int = 5000,
) -> NDArray[np.bool_]:
    """Tell which candidates cannot be told from the best, by bootstrap over the test images.

    Parameters
    ----------
    best : ndarray of shape (n_test,)
        Whether (over draws: how often) each test image was right.
    others : ndarray of shape (n_others, n_test)
    weights : ndarray of shape (n_test,)
        Weight of each test image in the score.
    random_state : int
    n_resamples : int, default=5000

    Returns
    -------
    tied : ndarray of shape (n_others,), bool
        False where the best is better in all but 5 % / `n_others` of the resamples.
    """
    gains = (best - others) * weights
    rng = np.random.default_rng(random_state)
    n_test = len(weights)
    lost = np.zeros(len(others))
    for start in range(0, n_resamples, 500):
        size = min(500, n_resamples - start)
        counts = rng.multinomial(n_test, np.full(n_test, 1 / n_test), size=size)
        lost += (gains @ counts.T <= 0).sum(1)
    tied: NDArray[np.bool_] = lost / n_resamples > (1 - CONFIDENCE) / max(1, len(others))
    return tied


def _corrected_error(values: NDArray[np.float64], n_folds: int) -> float:
    # A fold tests one image for every n_folds - 1 in its training pool.
    return math.sqrt((1 / len(values) + 1 / (n_folds - 1)) * float(values.var(ddof=1)))
