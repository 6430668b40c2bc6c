"""Intervals for scores, and which scores cannot be distinguished from the best.

Both rest on the jackknife: how the score changes when one unit is left out, an image, or a group
of images that belong together. It needs no formula of the score, and holds for a few groups (with
Student's t); the outcomes of a cross-validation are as good as independent (Bayle et al.).

References
----------
Efron and Tibshirani, *An introduction to the bootstrap*, 1993, chapter 11. Bayle, Bayle, Janson and
Mackey, *Cross-validation confidence intervals for test error*, NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.comparison.scoring import SCORINGS, Answers, image_weights, score_answers

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
EXPLAINED = 0.99
"""Confidence at which a test score is said to be unlike the cross-validated one."""
MOST_UNITS = 1000
"""More than that are left out in so many random blocks."""
N_MULTIPLIERS = 4000
_AT_ONCE = 2**21


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Images that had no part in the training, as a score sees them.

    Attributes
    ----------
    scoring : str
        Of `pipelines.comparison.scoring.SCORINGS`.
    truth : ndarray of shape (n_tested,), intp
        Number of each image's class.
    n_classes : int
    groups : ndarray of shape (n_tested,), or None
        Images of one group are one witness.
    random_state : int
    """

    scoring: str
    truth: NDArray[np.intp]
    n_classes: int
    groups: NDArray[np.str_] | None = None
    random_state: int = 0

    @cached_property
    def units(self) -> NDArray[np.intp]:
        """The number of each image's unit: its group, itself, or a random block of them."""
        unit = np.arange(len(self.truth))
        if self.groups is not None:
            unit = np.unique(self.groups, return_inverse=True)[1]
        n_units = int(unit.max()) + 1
        if n_units <= MOST_UNITS:
            return unit
        block = np.random.default_rng(self.random_state).permutation(n_units) % MOST_UNITS
        return np.asarray(block[unit])

    @property
    def n_tested(self) -> int:
        """How many witnesses there are: images, or groups of them."""
        return len(self.truth if self.groups is None else np.unique(self.groups))

    def score(self, answers: Answers) -> float:
        """Score the answers of one fit."""
        return float(score_answers(self.scoring, self.truth, answers, self.n_classes)[0])

    def deviations(self, answers: Sequence[Answers]) -> Floats:
        """Leave out each unit in turn; the squares sum to the variance of the score.

        Parameters
        ----------
        answers : sequence of ndarray
            One for each time that all images were tested, as for
            `pipelines.comparison.scoring.score_answers`.

        Returns
        -------
        deviations : ndarray of shape (n_units,)
        """
        unit = self.units
        n_units = int(unit.max()) + 1
        if n_units == 1:
            return np.zeros(1)
        scores = np.zeros(n_units)
        step = max(1, _AT_ONCE // len(unit))
        for start in range(0, n_units, step):
            left_out = np.arange(start, min(start + step, n_units))
            counts = (unit != left_out[:, None]).astype(np.float64)
            for given in answers:
                scores[left_out] += score_answers(
                    self.scoring, self.truth, given, self.n_classes, counts
                )
        scores /= len(answers)
        deviations: Floats = math.sqrt((n_units - 1) / n_units) * (scores - scores.mean())
        return deviations

    def freedom(self, deviations: Floats) -> float:
        """Count degrees of freedom (Satterthwaite's, where classes are averaged)."""
        unit = self.units
        _, first = np.unique(unit, return_index=True)
        # As many pairs of unit and class as units: each unit is of one class.
        pure = len(np.unique(unit * self.n_classes + self.truth)) == len(first)
        if not SCORINGS[self.scoring].by_class or not pure:
            return max(1.0, len(first) - 1.0)
        strata = self.truth[first]
        parts = np.bincount(strata, np.square(deviations), self.n_classes).astype(np.float64)
        sizes = np.bincount(strata, minlength=self.n_classes).astype(np.float64)
        return _satterthwaite(parts, sizes - 1)


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
        `pipelines.comparison.scoring.score_answers`.
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
        _satterthwaite(np.array([within, between]), np.array([freedom, len(by_draw) - 1.0])),
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
        return float(parts.sum()), _satterthwaite(parts, sizes[there] - 1)
    deviations = held_out.deviations(answers)
    variance = float(np.square(deviations).sum())
    if held_out.scoring != "neg_log_loss":
        n_units = len(deviations) if len(deviations) == 1 else len(truth)
        variance = max(variance, score * (1 - score) / n_units)  # As of independent images.
    return variance, held_out.freedom(deviations)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedTests:
    """Which candidates can be distinguished from one of them.

    Attributes
    ----------
    worse, better : ndarray of shape (n_candidates,), bool
        Beyond chance. Neither: they cannot be distinguished.
    loss : ndarray of shape (n_candidates,)
        The score of the one less that of each.
    error : ndarray of shape (n_candidates,)
        Standard error of the loss; infinite where all images are answered alike.
    margin : ndarray of shape (n_candidates,)
        Half of the interval of the loss, at the level of these comparisons; infinite where all
        images are answered alike.
    """

    worse: NDArray[np.bool_]
    better: NDArray[np.bool_]
    loss: Floats
    error: Floats
    margin: Floats


def paired_tests(
    held_out: HeldOut,
    answers: Sequence[Sequence[Answers]],
    scores: Floats,
    best: int,
    *,
    chose: bool,
) -> PairedTests:
    """Tell which candidates are worse, or better, than one of them, on the same images.

    Paired differences of the scores over their jackknife errors, by Student's t. The level is 5 %
    for all comparisons together: the largest of them is compared with the largest of as many
    normal variables that are correlated alike (a multiplier bootstrap), over all pairs where the
    same images chose the candidate.

    Parameters
    ----------
    held_out : HeldOut
    answers : sequence of sequence of ndarray
        Of each candidate, each split or repeat.
    scores : ndarray of shape (n_candidates, n_draws)
        As they are reported.
    best : int
        The candidate that the others are compared with.
    chose : bool
        Whether the tested images had a part in choosing it.

    Returns
    -------
    tests : PairedTests

    References
    ----------
    Hsu, *Multiple comparisons*, 1996, chapter 4. Chernozhukov, Chetverikov and Kato, *Gaussian
    approximations and multiplier bootstrap*, Annals of Statistics 2013.
    """
    n_draws = scores.shape[1]
    of_units = np.array([held_out.deviations(given) for given in answers])
    of_draws = (scores - scores.mean(1, keepdims=True)) / math.sqrt(n_draws * max(1, n_draws - 1))
    parts = [of_units, of_draws]
    variances = [np.square(part - part[best]).sum(1) for part in parts]
    n_units = of_units.shape[1]
    freedom = np.array(
        [
            _satterthwaite(np.array(pair), np.array([n_units - 1.0, n_draws - 1.0]))
            for pair in zip(*variances, strict=True)
        ]
    )
    # One image more that is answered differently: a few that all agree prove little.
    least = 1 / n_units**2 if SCORINGS[held_out.scoring].reads == "labels" else 0.0
    total = variances[0] + variances[1]
    error = np.sqrt(np.where(total > 0, total + least, np.inf))
    mean = scores.mean(1)
    level = _level(np.hstack(parts), best, held_out.random_state, chose=chose)
    loss = mean[best] - mean
    t = loss / error
    return PairedTests(
        worse=stats.t.sf(t, freedom) < level,
        better=stats.t.cdf(t, freedom) < level,
        loss=loss,
        error=error,
        margin=stats.t.isf(level, freedom) * error,
    )


def _level(parts: Floats, best: int, random_state: int, *, chose: bool) -> float:
    """Find the level of one comparison at which all of them together err in 5 %."""
    rng = np.random.default_rng(random_state)
    drawn = parts @ rng.standard_normal((parts.shape[1], N_MULTIPLIERS))
    largest = np.full(N_MULTIPLIERS, -np.inf)
    for i in range(len(parts)) if chose else [best]:
        error = np.sqrt(np.square(parts - parts[i]).sum(1))
        apart = error > 1e-12
        if apart.any():
            t = (drawn[i] - drawn[apart]) / error[apart, None]
            largest = np.maximum(largest, t.max(0))
    if not np.isfinite(largest).all():  # All candidates answer alike.
        return 0.0
    return float(stats.norm.sf(np.quantile(largest, CONFIDENCE)))


def _scores(held_out: HeldOut, answers: Sequence[Answers]) -> Floats:
    return np.array([held_out.score(given) for given in answers], np.float64)


def _satterthwaite(variances: Floats, freedom: Floats) -> float:
    """Give the degrees of freedom of a sum of variances."""
    there = variances > 0
    if not there.any():
        return max(1.0, float(freedom.max()))
    parts = np.square(variances[there]) / np.maximum(freedom[there], 1.0)
    return max(1.0, float(variances.sum() ** 2 / parts.sum())) if parts.sum() > 0 else math.inf


def _quantile(freedom: float, confidence: float) -> float:
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # An interval holds its score, also where rounding would say otherwise: at 0 and 1.
    return max(0.0, min(p, float(centre - half))), min(1.0, max(p, float(centre + half)))
