"""Paired tests: which candidates cannot be distinguished from one of them, on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.statistics.held_out import HeldOut, degrees_of_freedom
from pipelines.statistics.intervals import CONFIDENCE
from pipelines.statistics.scoring import SCORINGS, Answers

Floats = NDArray[np.float64]

N_MULTIPLIERS = 4000
"""Draws of the multiplier bootstrap."""


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
            degrees_of_freedom(np.array(pair), np.array([n_units - 1.0, n_draws - 1.0]))
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
