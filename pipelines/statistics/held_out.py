"""Held-out images as a score sees them, and what each of them does to it.

All that is said of a score's uncertainty rests on the jackknife: how the score changes when one
unit is left out, an image, or a group of images that belong together. It needs no formula of the
score, and holds for a few groups (with Student's t); the outcomes of a cross-validation are as good
as independent (Bayle et al.).

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

from pipelines.statistics.scoring import SCORINGS, Answers, score_answers

Floats = NDArray[np.float64]

MOST_UNITS = 1000
"""More than that are left out in so many random blocks."""
_AT_ONCE = 2**21


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Images that had no part in the training, as a score sees them.

    Attributes
    ----------
    scoring : str
        Of `pipelines.statistics.scoring.SCORINGS`.
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
            `pipelines.statistics.scoring.score_answers`.

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
        return degrees_of_freedom(parts, sizes - 1)


def degrees_of_freedom(variances: Floats, freedom: Floats) -> float:
    """Give the degrees of freedom of a sum of variances, by Satterthwaite's approximation.

    Parameters
    ----------
    variances, freedom : ndarray of shape (n_parts,)
        Each part, and its own degrees of freedom.

    Examples
    --------
    >>> degrees_of_freedom(np.array([1.0, 1.0]), np.array([10.0, 10.0]))
    20.0
    """
    there = variances > 0
    if not there.any():
        return max(1.0, float(freedom.max()))
    parts = np.square(variances[there]) / np.maximum(freedom[there], 1.0)
    return max(1.0, float(variances.sum() ** 2 / parts.sum())) if parts.sum() > 0 else math.inf
