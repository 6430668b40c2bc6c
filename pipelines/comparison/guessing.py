"""Guessing: what the commonest class of the training images scores, whatever the images show."""

from __future__ import annotations

import numpy as np

from pipelines.comparison.evaluate import Fit
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split
from pipelines.statistics.scoring import SCORINGS


def guess(samples: Samples, split: Split, scoring: str) -> Fit:
    """Answer with the commonest class of a split's training images, or with the classes' shares.

    Parameters
    ----------
    samples : Samples
    split : Split
    scoring : str
        Of `pipelines.statistics.scoring.SCORINGS`.

    Returns
    -------
    fit : Fit
        As of a classifier without features; its C is NaN.
    """
    n, numbers = len(split.test), samples.numbers
    counts = np.bincount(numbers[split.train], minlength=len(samples.classes))
    shares = counts / len(split.train)
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
