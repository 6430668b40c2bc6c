"""A permutation test of whether predictions know anything of the labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.statistics.scoring import image_weights

N_PERMUTATIONS, MOST_PERMUTED = 1999, 1000


def better_than_chance(
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    predicted: Sequence[NDArray[np.intp]],
    *,
    groups: NDArray[np.str_] | None = None,
    random_state: int,
) -> bool:
    """Test whether predictions know anything of the labels, by permuting these.

    Parameters
    ----------
    truth : ndarray of shape (n_samples,), intp
    tests : sequence of ndarray of intp
        The images that each split tests.
    predicted : sequence of ndarray of intp
        The classes predicted for them.
    groups : ndarray of shape (n_samples,), optional
        One image of each group is looked at: others would not be independent of it.
    random_state : int

    Returns
    -------
    better : bool
        At 1 in 1,000, in balanced accuracy.

    References
    ----------
    Ojala and Garriga, *Permutation tests for studying classifier performance*, JMLR 2010.
    """
    rng = np.random.default_rng(random_state)
    found, permuted = 0.0, np.zeros(N_PERMUTATIONS)
    for test, answers in zip(tests, predicted, strict=True):
        looked_at = rng.permutation(len(test))
        if groups is not None:
            looked_at = looked_at[np.unique(groups[test[looked_at]], return_index=True)[1]]
        looked_at = looked_at[:MOST_PERMUTED]
        labels, given = truth[test[looked_at]], answers[looked_at]
        weights = image_weights("balanced_accuracy", labels)
        found += float(weights @ (labels == given))
        for i in range(N_PERMUTATIONS):
            order = rng.permutation(len(labels))
            permuted[i] += weights[order] @ (labels[order] == given)
    # As good as the best, but for the last digits of a sum in another order.
    return bool((1 + (permuted >= found - 1e-9).sum()) / (1 + N_PERMUTATIONS) <= 0.001)


def above_chance(
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    predicted: Sequence[NDArray[np.intp]],
) -> bool:
    """Tell whether balanced accuracy, the mean over splits, is more than guessing gives.

    Parameters
    ----------
    truth, tests, predicted
        As for `better_than_chance`.

    Examples
    --------
    >>> truth, tests = np.array([0, 0, 0, 1]), [np.arange(4)]
    >>> above_chance(truth, tests, [np.array([0, 0, 0, 0])])
    False
    >>> above_chance(truth, tests, [np.array([1, 0, 0, 1])])
    True
    """
    above = 0.0
    for test, answers in zip(tests, predicted, strict=True):
        labels = truth[test]
        score = image_weights("balanced_accuracy", labels) @ (labels == answers)
        above += float(score) - 1 / len(np.unique(labels))
    return above > 1e-9
