"""Guessing: what the commonest class of the training images scores, whatever the images show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.evaluate import Fit
from pipelines.comparison.scoring import SCORINGS
from pipelines.comparison.splits import Split


def guess(numbers: NDArray[np.intp], split: Split, n_classes: int, scoring: str) -> Fit:
    """Answer with the commonest class of a split's training images, or with the classes' shares.

    Parameters
    ----------
    numbers : ndarray of shape (n_samples,), intp
        Number of each image's class.
    split : Split
    n_classes : int
    scoring : str
        Of `pipelines.comparison.scoring.SCORINGS`.

    Returns
    -------
    fit : Fit
        As of a classifier without features; its C is NaN.
    """
    n = len(split.test)
    shares = np.bincount(numbers[split.train], minlength=n_classes) / len(split.train)
    predicted = np.full(n, shares.argmax())
    reads = SCORINGS[scoring].reads
    if reads == "labels":
        answers = predicted.astype(np.float64)
    elif reads == "probabilities":
        answers = np.log(shares[numbers[split.test]])
    else:
        answers = np.tile(shares, (n, 1))
    return Fit(
        C=np.nan,
        C_at_edge=None,
        converged=True,
        cv_scores=np.zeros(1),
        cv_score=0.0,
        train_score=0.0,
        predicted=predicted,
        answers=answers,
    )
