"""The search for C, from the middle of the grid outwards, as far as a better value may be.

All folds of one fit are scored at a value before the next is chosen. What ends a side is the paired
difference to the best value so far, ``Σ d``, where ``d`` is what a held-out image adds to the mean
score with the best value, less what it adds with the other. Its standard error is ``√Σ d²``: for
accuracy their ratio is the statistic of McNemar's test, and at least ten images have to be worse
for it to exceed 3. Rows of a group count as one image.

References
----------
McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", Psychometrika 12, 1947. Friedman, Hastie and Tibshirani, "Regularization paths for
generalized linear models via coordinate descent", Journal of Statistical Software 33, 2010, start
each solution from the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

CLEARLY_WORSE, WORSE = 3.0, 2.0
"""Standard errors of the paired difference: of one value, and of each of two in a row."""
# Nine images that are worse are 3 standard errors, whatever the last digits of a sum say.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class ValueScore:
    """What all folds say of one C.

    Attributes
    ----------
    mean : float
        Over the folds.
    shares : ndarray of shape (n_units,)
        What each held-out image adds to it.
    """

    mean: float
    shares: Array


def search_outwards(n_values: int, score: Callable[[int], ValueScore]) -> dict[int, ValueScore]:
    """Score the values of an increasing grid, as far as needed.

    A side ends beyond the best value where one is worse than it by more than `CLEARLY_WORSE`
    standard errors, or two in a row by more than `WORSE`. The lower side, where fits are quicker,
    goes first; and of the first two values the lower one, since a fit is quicker from a smaller C
    than from none.

    Parameters
    ----------
    n_values : int
    score : callable
        Scores the value of this index.

    Returns
    -------
    scored : dict of int to ValueScore
        Of neighbouring values, in the order in which they were scored.

    Examples
    --------
    >>> right = np.array([[0] * 40, [1] * 40, [0] * 40, [0] * 40, [0] * 40])
    >>> list(search_outwards(5, lambda i: ValueScore(mean=right[i].mean(), shares=right[i] / 40)))
    [1, 2, 0]
    """
    middle = (n_values - 1) // 2
    scored = {index: score(index) for index in range(max(0, middle - 1), middle + 1)}
    while (index := _next(scored, n_values)) is not None:
        scored[index] = score(index)
    return scored


def _next(scored: Mapping[int, ValueScore], n_values: int) -> int | None:
    """Choose the value to score next; None where both sides have ended."""
    # Of several best values the smallest, as it is chosen in the end.
    best = min(scored, key=lambda i: (-scored[i].mean, i))
    low, high = min(scored), max(scored)
    worse = {i: standard_errors(scored[best].shares, scored[i].shares) for i in scored}
    if low > 0 and not ends([worse[i] for i in range(best - 1, low - 1, -1)]):
        return low - 1
    if high < n_values - 1 and not ends([worse[i] for i in range(best + 1, high + 1)]):
        return high + 1
    return None


def ends(worse: Sequence[float]) -> bool:
    """Tell whether a side ends, by how much worse its values are, from the best one outwards.

    Examples
    --------
    >>> ends([1.0, 3.5]), ends([2.5, 2.5]), ends([2.5, 1.5, 2.5])
    (True, True, False)
    """
    two = any(min(pair) > WORSE + ROUNDING for pair in pairwise(worse))
    return two or any(one > CLEARLY_WORSE + ROUNDING for one in worse)


def standard_errors(best: Array, other: Array) -> float:
    """Give the paired difference in its standard errors.

    Parameters
    ----------
    best, other : ndarray of shape (n_units,)
        What each held-out image adds to the mean scores.

    Returns
    -------
    standard_errors : float
        Positive where ``other`` is worse; 0 where they agree on every image.

    Examples
    --------
    >>> standard_errors(np.array([1.0, 1.0, 1.0, 1.0, 0.0]), np.array([0.0, 0.0, 0.0, 0.0, 0.0]))
    2.0
    """
    apart = best - other
    error = np.sqrt(np.square(apart).sum())
    return float(apart.sum() / error) if error > 0 else 0.0
