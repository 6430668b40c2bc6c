"""Answers: what a classifier says of images, as a score reads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.linear.mapped import MappedCodes
from pipelines.statistics.scoring import SCORINGS


def decision_values(
    model: LinearSVCCV | LogisticCV, X: NDArray[Any] | MappedCodes
) -> NDArray[np.float64]:
    """Give a decision value to every class, to each of two as well.

    Parameters
    ----------
    model : LinearSVCCV or LogisticCV
    X : ndarray of shape (n_samples, n_features)

    Returns
    -------
    values : ndarray of shape (n_samples, n_classes)
    """
    values = np.asarray(model.decision_function(X), np.float64)
    return np.column_stack([-values, values]) if values.ndim == 1 else values


def answers_of(
    model: LinearSVCCV | LogisticCV,
    X: NDArray[Any] | MappedCodes,
    truth: NDArray[np.intp],
    scoring: str,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the number of the class that each image is given, and what the score reads.

    Parameters
    ----------
    model : LinearSVCCV or LogisticCV
    X : ndarray of shape (n_samples, n_features)
    truth : ndarray of shape (n_samples,), intp
        Number of each image's own class.
    scoring : str

    Returns
    -------
    predicted : ndarray of shape (n_samples,), intp
    answers : ndarray of shape (n_samples,) or (n_samples, n_classes), float64
        As for `pipelines.statistics.scoring.score_answers`.
    """
    if SCORINGS[scoring].reads == "probabilities":
        values = np.asarray(model.predict_log_proba(X), np.float64)
        return decision_values(model, X).argmax(1), read_values(values, truth, scoring)
    values = decision_values(model, X)
    # Ties go to the first class, as in `predict`.
    return values.argmax(1), read_values(values, truth, scoring)


def read_values(
    values: NDArray[np.float64], truth: NDArray[np.intp], scoring: str
) -> NDArray[np.float64]:
    """Take what a score reads out of values of shape (n_samples, n_classes).

    These are decision values, or logarithms of probabilities where the score reads probabilities;
    the result is as for `pipelines.statistics.scoring.score_answers`.
    """
    reads = SCORINGS[scoring].reads
    if reads == "probabilities":
        least = np.log(np.finfo(np.float64).eps)  # As scikit-learn's log_loss.
        return np.maximum(values[np.arange(len(truth)), truth], least)
    return values if reads == "decisions" else values.argmax(1).astype(np.float64)
