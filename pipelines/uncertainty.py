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


def score_interval(
    scoring: str,
    score: float,
    truth: NDArray[np.intp],
    answers: Sequence[Answers],
    n_classes: int,
    *,
    groups: NDArray[np.str_] | None = None,
    random_state: int,
) -> tuple[float, float]:
    """Bound a score measured on images that had no part in the training.

    Wilson's interval for a proportion, with as many images as would give the same standard error:
    that over the images (outcomes of a cross-validation are as good as independent, Bayle et al.),
    and that of the mean over draws of training images. The former is known for (balanced) accuracy,
    and the bootstrap's otherwise, or where images come in groups. Log loss is no proportion: normal
    theory on its logarithm.

    Parameters
    ----------
    scoring : str
    score : float
        Mean over the draws.
    truth : ndarray of shape (n_tested,), intp
    answers : sequence of ndarray
        One for each draw, or each repeat of a cross-validation, as for
        `pipelines.scorings.score_answers`.
    n_classes : int
    groups : ndarray of shape (n_tested,), optional
    random_state : int

    Returns
    -------
    low, high : float

    References
    ----------
    Wilson, *Probable inference, the law of succession, and statistical inference*, JASA 1927.
    Bayle, Bayle, Janson and Mackey, *Cross-validation confidence intervals for test error*,
    NeurIPS 2020.

    Examples
    --------
    >>> truth, answers = np.zeros(100, np.intp), np.repeat([0.0, 1.0], [90, 10])
    >>> low, high = score_interval("accuracy", 0.9, truth, [answers], 2, random_state=0)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    scores = np.array([float(score_answers(scoring, truth, a, n_classes)[0]) for a in answers])
    between = float(scores.var(ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    n = 1 / float(np.square(image_weights(scoring, truth)).sum())
    if groups is not None:
        n = min(n, float(len(np.unique(groups))))
    resampled = groups is not None or image_shares(scoring, truth, answers[0]) is None
    variance = 0.0
    if resampled:
        tests = [np.arange(len(truth))] * len(answers)
        of_resamples = [
            _mean_scores(scoring, truth, tests, answers, n_classes, counts)
            for counts in _resamples(scoring, truth, random_state, 1000, groups)
        ]
        variance = float(np.concatenate(of_resamples).var())
    if scoring == "neg_log_loss":
        if score == 0:  # Every probability is 1.
            return 0.0, 0.0
        if not resampled:
            variance = float(np.mean(answers, axis=0).var()) / n
        z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
        factor = math.exp(z * math.sqrt(variance + between) / -score)
        return score * factor, score / factor
    if not 0 < score < 1:
        return _wilson(score, n)
    least = score * (1 - score) / len(truth)  # As of so many independent images.
    variance = max(variance, least) if resampled else score * (1 - score) / n
    return _wilson(score, score * (1 - score) / (variance + between))


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
                    _mean_scores(scoring, truth[images], at, answers, n_classes, counts)
                    for answers in candidates
                ]
            )
        # Sums in another order differ in the last digits.
        lost += (scores[0] - scores[1:] <= 1e-12).sum(1)
    tied: NDArray[np.bool_] = lost / N_RESAMPLES > (1 - CONFIDENCE) / max(1, len(others))
    return tied


def _mean_scores(
    scoring: str,
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    answers: Sequence[Answers],
    n_classes: int,
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Average over the draws the score of each resample of the images."""
    of_draws = [
        score_answers(scoring, truth[test], given, n_classes, counts[:, test])
        for test, given in zip(tests, answers, strict=True)
    ]
    return np.asarray(np.mean(of_draws, axis=0))


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
