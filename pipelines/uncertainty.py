"""Uncertainty: intervals for scores, and which scores cannot be told from the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.scorings import SCORINGS, Answers, image_shares, image_weights, score_answers

CONFIDENCE = 0.95
N_RESAMPLES = 5000
_AT_ONCE = 500


def held_out_interval(
    scoring: str,
    truth: NDArray[np.intp],
    answers: Sequence[Answers],
    n_classes: int,
    *,
    random_state: int,
) -> tuple[float, float]:
    """Bound a score measured on one fixed set of test images.

    Wilson's interval for a proportion, with as many images as would give the same standard error:
    that of the score over the test images, and that of its mean over draws of training images. The
    former is known for (balanced) accuracy, and the bootstrap's otherwise. Log loss is no
    proportion: normal theory on its logarithm.

    Parameters
    ----------
    scoring : str
    truth : ndarray of shape (n_test,), intp
    answers : sequence of ndarray
        One for each draw of training images, as for `pipelines.scorings.score_answers`.
    n_classes : int
    random_state : int

    Returns
    -------
    low, high : float

    References
    ----------
    Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 1927.

    Examples
    --------
    >>> truth, answers = np.zeros(100, np.intp), np.repeat([0.0, 1.0], [90, 10])
    >>> low, high = held_out_interval("accuracy", truth, [answers], 2, random_state=0)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    scores = np.array([float(score_answers(scoring, truth, a, n_classes)[0]) for a in answers])
    mean = float(scores.mean())
    between = float(scores.var(ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    weights = image_weights(scoring, truth)
    n = 1 / float(np.square(weights).sum())
    if scoring == "neg_log_loss":
        per_image = np.mean(answers, axis=0)
        error = math.sqrt(float(per_image.var()) / n + between)
        z = stats.norm.ppf((1 + CONFIDENCE) / 2)
        if mean == 0:  # Every probability is 1.
            return 0.0, 0.0
        factor = math.exp(z * error / -mean)
        return mean * factor, mean / factor
    if not 0 < mean < 1:
        return _wilson(mean, n)
    variance = mean * (1 - mean) / n
    if scoring in ("f1_macro", "average_precision"):
        resampled = [
            _mean_scores(scoring, truth, answers, n_classes, counts)
            for counts in _resamples(scoring, truth, random_state, 1000)
        ]
        variance = max(float(np.concatenate(resampled).var()), variance / len(truth))
    return _wilson(mean, mean * (1 - mean) / (variance + between))


def resampled_interval(
    scoring: str, scores: NDArray[np.float64], n_folds: int, n_images: int
) -> tuple[float, float]:
    """Bound a score averaged over the folds of a repeated cross-validation.

    The folds share training images, so that the variance between them understates the variance of
    their mean; Nadeau and Bengio's correction adds the share of test to training images. Folds that
    happen to agree are no certainty: the interval is at least Wilson's for as many images.

    Parameters
    ----------
    scoring : str
    scores : ndarray of shape (n_repeats * n_folds,)
    n_folds : int
        At least 2.
    n_images : int
        Images that are tested in one repeat.

    Returns
    -------
    low, high : float
        Within [0, 1], or below 0 for log loss.

    References
    ----------
    Nadeau and Bengio, *Inference for the generalization error*, Machine Learning 2003.
    """
    mean = float(scores.mean())
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1))
    half = t * _corrected_error(scores, n_folds)
    if scoring == "neg_log_loss":
        return mean - half, min(0.0, mean + half)
    low, high = _wilson(mean, n_images)
    return max(0.0, min(low, mean - half)), min(1.0, max(high, mean + half))


def tied_with(
    scoring: str,
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    best: Sequence[Answers],
    others: Sequence[Sequence[Answers]],
    n_classes: int,
    *,
    groups: NDArray[np.str_] | None = None,
    random_state: int,
) -> NDArray[np.bool_]:
    """Tell which candidates cannot be told from the best, by bootstrap over the tested images.

    Scores are compared pairwise on the same images, averaged over the draws that test them: one
    test split, or the folds of a cross-validation, whose paired outcomes are as good as
    independent (Bayle et al.). Images of one group come and go together.

    Parameters
    ----------
    scoring : str
    truth : ndarray of shape (n_samples,), intp
    tests : sequence of ndarray of intp
        The images that each draw tests.
    best : sequence of ndarray
        Its answers to them.
    others : sequence of sequence of ndarray
    n_classes : int
    groups : ndarray of shape (n_samples,), optional
    random_state : int

    Returns
    -------
    tied : ndarray of shape (n_others,), bool
        False where the best is better in all but 5 % / `n_others` of the resamples.

    References
    ----------
    Bayle, Bayle, Janson and Mackey, *Cross-validation confidence intervals for test error*,
    NeurIPS 2020.
    """
    images = np.unique(np.concatenate(tests))
    at = [np.searchsorted(images, test) for test in tests]
    resamples = _resamples(
        scoring,
        truth[images],
        random_state,
        N_RESAMPLES,
        None if groups is None else groups[images],
    )
    candidates = [best, *others]
    shares = [_shares(scoring, truth[images], at, answers) for answers in candidates]
    lost = np.zeros(len(others))
    for counts in resamples:
        if groups is None and shares[0] is not None:
            scores = np.array(shares, np.float64) @ counts.T
        else:
            scores = np.array(
                [
                    np.mean(
                        [
                            score_answers(scoring, truth[images[i]], a, n_classes, counts[:, i])
                            for i, a in zip(at, answers, strict=True)
                        ],
                        axis=0,
                    )
                    for answers in candidates
                ]
            )
        # Sums in another order differ in the last digits.
        lost += (scores[0] - scores[1:] <= 1e-12).sum(1)
    tied: NDArray[np.bool_] = lost / N_RESAMPLES > (1 - CONFIDENCE) / max(1, len(others))
    return tied


def _shares(
    scoring: str,
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    answers: Sequence[Answers],
) -> NDArray[np.float64] | None:
    """Return what each image adds to the mean score of the draws, where that is such a sum."""
    total = np.zeros(len(truth))
    for test, given in zip(tests, answers, strict=True):
        shares = image_shares(scoring, truth[test], given)
        if shares is None:
            return None
        total[test] += shares / len(tests)
    return total


def _mean_scores(
    scoring: str,
    truth: NDArray[np.intp],
    answers: Sequence[Answers],
    n_classes: int,
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average over draws of training images the score of each resample of the test images."""
    shares = [share for a in answers if (share := image_shares(scoring, truth, a)) is not None]
    if shares:
        return np.asarray(counts @ np.mean(shares, axis=0))
    of_draws = [score_answers(scoring, truth, a, n_classes, counts) for a in answers]
    return np.asarray(np.mean(of_draws, axis=0))


def _resamples(
    scoring: str,
    truth: NDArray[np.intp],
    random_state: int,
    n: int,
    groups: NDArray[np.str_] | None = None,
) -> Iterator[NDArray[np.float64]]:
    """Yield how often each image is drawn: by group, or, where classes are averaged, by class."""
    rng = np.random.default_rng(random_state)
    if groups is not None:
        names, group = np.unique(groups, return_inverse=True)
        for start in range(0, n, _AT_ONCE):
            size = min(_AT_ONCE, n - start)
            even = np.full(len(names), 1 / len(names))
            yield rng.multinomial(len(names), even, size=size)[:, group].astype(np.float64)
        return
    number = np.zeros(len(truth), np.intp)
    if SCORINGS[scoring].by_class:
        number = np.unique(truth, return_inverse=True)[1]
    for start in range(0, n, _AT_ONCE):
        size = min(_AT_ONCE, n - start)
        counts = np.empty((size, len(truth)))
        for stratum in np.unique(number):
            inside = np.flatnonzero(number == stratum)
            even = np.full(len(inside), 1 / len(inside))
            counts[:, inside] = rng.multinomial(len(inside), even, size=size)
        yield counts


def _wilson(p: float, n: float) -> tuple[float, float]:
    z = stats.norm.ppf((1 + CONFIDENCE) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _corrected_error(values: NDArray[np.float64], n_folds: int) -> float:
    # A fold tests one image for every n_folds - 1 in its training pool.
    return math.sqrt((1 / len(values) + 1 / (n_folds - 1)) * float(values.var(ddof=1)))
