"""Evaluation: how one layer does on the draws that all layers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.draws import Draw, Protocol
from pipelines.linear import LinearSVCCV, LogisticCV

_ESTIMATORS = {"svm": LinearSVCCV, "logistic": LogisticCV}


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What one classifier did on one draw.

    Attributes
    ----------
    C : float
        The chosen one.
    C_at_edge : {"low", "high"} or None
        Whether it lies at the end of the grid, and scores still rise towards that end.
    cv_score : float
        Its mean score over the inner folds.
    correct : ndarray of shape (n_test,), bool
    """

    C: float
    C_at_edge: str | None
    cv_score: float
    correct: NDArray[np.bool_]


def evaluate_layer(
    X: NDArray[Any], y: NDArray[np.str_], draws: Sequence[Draw], classifier: str, protocol: Protocol
) -> list[Fit]:
    """Train and test one classifier on the codes of one layer, draw by draw.

    Scaling and C are fitted on each draw's training images alone.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,), str
    draws : sequence of Draw
    classifier : {"svm", "logistic"}
    protocol : Protocol

    Returns
    -------
    fits : list of Fit
        One for each draw.
    """
    scoring = protocol.scoring or default_scoring(y)
    fits = []
    for draw in draws:
        model = _ESTIMATORS[classifier](
            Cs=np.array(protocol.Cs),
            cv=draw.inner,
            scoring=scoring,
            random_state=protocol.random_state,
        ).fit(X[draw.train], y[draw.train])
        chosen = int(np.flatnonzero(np.array(protocol.Cs) == model.C_)[0])
        fits.append(
            Fit(
                C=float(model.C_),
                C_at_edge=model.C_at_edge_,
                cv_score=float(model.scores_[chosen].mean()),
                correct=np.asarray(model.predict(X[draw.test]) == y[draw.test]),
            )
        )
    return fits


def default_scoring(y: NDArray[np.str_]) -> str:
    """Return balanced accuracy where classes are unequal, otherwise accuracy.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)

    Returns
    -------
    scoring : str

    Examples
    --------
    >>> default_scoring(np.array(["a", "a", "b", "b", "b"]))
    'accuracy'
    >>> default_scoring(np.array(["a", "b", "b", "b", "b"]))
    'balanced_accuracy'
    """
    counts = np.unique(y, return_counts=True)[1]
    return "balanced_accuracy" if counts.max() > 1.5 * counts.min() else "accuracy"


def image_weights(y: NDArray[np.str_], scoring: str) -> NDArray[np.float64]:
    """Return what each test image weighs in a score.

    Parameters
    ----------
    y : ndarray of shape (n_test,)
    scoring : {"accuracy", "balanced_accuracy"}

    Returns
    -------
    weights : ndarray of shape (n_test,)
        They sum to 1, so that a score is the sum of the weights of the images that are right.
    """
    if scoring == "accuracy":
        return np.full(len(y), 1 / len(y))
    _, inverse, counts = np.unique(y, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (len(counts) * counts[inverse])
    return weights
