"""Converged scikit-learn, as the independent answer that the fast classifiers must give."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipelines.linear.estimators import LinearSVCCV, LogisticCV

FAST = {"svm": LinearSVCCV, "logistic": LogisticCV}


def stock(kind: str, C: float, *, dual: bool = False, class_weight: Any = None) -> Any:
    """scikit-learn's own classifier, set to converge."""
    # Where its Cholesky solver gives up, scikit-learn goes on with lbfgs, to the same tolerance.
    warnings.filterwarnings("ignore", message="Line search of Newton solver")
    if kind == "svm":
        return LinearSVC(
            C=C, tol=1e-9, max_iter=10**7, dual=dual, class_weight=class_weight, random_state=0
        )
    return LogisticRegression(
        C=C, tol=1e-9, max_iter=1000, solver="newton-cholesky", class_weight=class_weight
    )


def rotated(
    train: NDArray[Any], test: NDArray[Any], *, standard: bool = True
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale by the training rows; with fewer rows than columns, keep only the span of the rows.

    A penalised linear model has the same decisions in any orthonormal coordinates of that span.
    """
    train, test = train.astype(np.float64), test.astype(np.float64)
    if standard:
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
    if len(train) < train.shape[1]:
        basis = np.linalg.svd(train, full_matrices=False)[2]
        train, test = train @ basis.T, test @ basis.T
    return train, test


def grid_scores(
    kind: str,
    X: NDArray[Any],
    y: NDArray[Any],
    Cs: NDArray[Any],
    splits: list[tuple[NDArray[Any], NDArray[Any]]],
    **options: Any,
) -> NDArray[Any]:
    """Held-out accuracies, shape ``(n_Cs, n_folds)``."""
    scores = np.empty((len(Cs), len(splits)))
    for j, (train, test) in enumerate(splits):
        A, B = rotated(X[train], X[test])
        for i, C in enumerate(Cs):
            model = stock(kind, C, dual=A.shape[0] < X.shape[1], **options).fit(A, y[train])
            scores[i, j] = model.score(B, y[test])
    return scores


def smallest_gap(
    kind: str,
    X: NDArray[Any],
    y: NDArray[Any],
    Cs: NDArray[Any],
    splits: list[tuple[NDArray[Any], NDArray[Any]]],
) -> float:
    """How near two classes come to a tie for a held-out row, of the largest decision value."""
    gaps = []
    for train, test in splits:
        A, B = rotated(X[train], X[test])
        for C in Cs:
            model = stock(kind, C, dual=A.shape[0] < X.shape[1]).fit(A, y[train])
            values = model.decision_function(B)
            values = np.sort(values if values.ndim == 2 else np.c_[values, -values], axis=1)
            gaps.append((values[:, -1] - values[:, -2]).min() / max(np.abs(values).max(), 1e-300))
    return float(min(gaps))


def decisions(kind: str, X: NDArray[Any], y: NDArray[Any], C: float, **options: Any) -> Any:
    """Decision values of the training rows themselves."""
    A, _ = rotated(X, X[:1])
    return stock(kind, C, dual=len(X) < X.shape[1], **options).fit(A, y).decision_function(A)


def assert_same_answer(
    kind: str, X: NDArray[Any], y: NDArray[Any], Cs: NDArray[Any], splits: Any, **options: Any
) -> None:
    """Same C, accuracies within one sample, decisions within 1e-4 of the largest."""
    fast = FAST[kind](Cs, cv=splits, **options).fit(X, y)
    scores = grid_scores(kind, X, y, Cs, splits, **options)
    assert Cs[scores.mean(axis=1).argmax()] == fast.C_
    sizes = np.array([len(test) for _, test in splits])
    assert (np.abs(fast.scores_ - scores) * sizes <= 1 + 1e-9).all()
    expected = decisions(kind, X, y, fast.C_, **options)
    # Where no feature varies and classes are equal, all decisions are zero but for rounding.
    scale = max(float(np.abs(expected).max()), 1e-9)
    assert np.abs(fast.decision_function(X) - expected).max() <= 1e-4 * scale
    assert fast.certificate_ <= fast.tol
