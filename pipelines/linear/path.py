"""One fit: what is minimised, scaled by the training rows and reduced to its smaller side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import ThreadpoolController

from pipelines.linear.losses import Loss, Softmax, SquaredHinge, log_softmax
from pipelines.linear.mapped import MappedCodes
from pipelines.linear.newton import Point, minimise
from pipelines.linear.problems import DualProblem, LinearProblem, PrimalProblem
from pipelines.linear.scaling import SMALL, Scale, ScaledRows, column_blocks, scaled_blocks
from pipelines.linear.symmetric import add_square, mirror

Array = NDArray[np.floating[Any]]
Codes = Array | MappedCodes
Index = NDArray[np.intp]
# With more samples than features, the hinge is quicker among samples up to this ratio, as measured.
GRAM_RATIO = 2.5
# A Gram matrix of up to this many bytes may be larger than the codes: among features, fewer samples
# than features took three times as long or more.
GRAM_SIZE = 2**30


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is to be minimised, whatever the fold and the C.

    Attributes
    ----------
    kind : {"squared_hinge", "softmax"}
    classes : ndarray of shape (n_classes,)
        The labels, sorted.
    scale, class_weight, tol, max_iter
        As in the estimators.
    """

    kind: Literal["squared_hinge", "softmax"]
    classes: NDArray[Any]
    scale: Scale
    class_weight: dict[Any, float] | Literal["balanced"] | None
    tol: float
    max_iter: int

    @property
    def centre(self) -> bool:
        """Whether the training mean is subtracted; a free intercept makes it free."""
        return self.scale == "standard" or self.kind == "softmax"

    def loss(self, labels: Index, C: float) -> Loss:
        """Build the loss of training rows with these labels (indices of `classes`)."""
        n_classes = len(self.classes)
        by_class = np.ones(n_classes)
        if self.class_weight is not None:
            by_class = compute_class_weight(
                self.class_weight, classes=self.classes, y=self.classes[labels]
            )
        members = labels == np.arange(n_classes)[:, None]
        if self.kind == "softmax":
            # Two rows that mirror each other cost half of what scikit-learn's one row costs.
            cost = 0.5 * C if n_classes == 2 else C
            return Softmax(members, cost * by_class[labels])
        signs = np.where(members[1:] if n_classes == 2 else members, 1, -1).astype(np.int8)
        if self.class_weight is None:
            return SquaredHinge(signs, np.broadcast_to(2.0 * C, signs.shape))
        if n_classes == 2:
            return SquaredHinge(signs, 2.0 * C * by_class[labels][None])
        # As LIBLINEAR: the weight of a class is for its own members in its own problem.
        return SquaredHinge(signs, 2.0 * C * np.where(members, by_class[:, None], 1.0))

    def decisions(self, rows: Array) -> Array:
        """Shape outputs as scikit-learn does: one row for two classes."""
        return rows[1:] - rows[:1] if self.kind == "softmax" and len(rows) == 2 else rows


class Decided(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose input is already the decision values: what a scorer is shown."""

    def __init__(self, classes: NDArray[Any]) -> None:
        self.classes = classes

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels."""
        return self.classes

    def fit(self, X: Array, y: NDArray[Any]) -> Decided:
        """Do nothing: the decisions are made."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Return true: there is nothing to fit."""
        return True

    def decision_function(self, X: Array) -> Array:
        """Return the values themselves, one-dimensional for two classes."""
        return X[:, 0] if X.shape[1] == 1 else X

    def predict(self, X: Array) -> NDArray[Any]:
        """Choose the label with the largest value."""
        return np.asarray(self.classes[decide(X)])


class DecidedWithProbabilities(Decided):
    """The same, for the logistic model."""

    def predict_proba(self, X: Array) -> Array:
        """Take the softmax of the values (a sigmoid for two classes)."""
        return np.exp(log_probabilities(X))


def judge(settings: Settings) -> Decided:
    """Make what a scorer is shown of a classifier with these settings."""
    kind = Decided if settings.kind == "squared_hinge" else DecidedWithProbabilities
    return kind(settings.classes)


def decide(values: Array) -> Index:
    """Choose the class by index, from decision values of shape ``(n_samples, n_outputs)``."""
    if values.shape[1] == 1:
        return (values[:, 0] > 0).astype(np.intp)
    return np.asarray(values.argmax(axis=1))


def log_probabilities(values: Array) -> Array:
    """Turn decision values of shape ``(n_samples, n_outputs)`` into logarithms of probabilities."""
    if values.shape[1] == 1:
        values = np.hstack([np.zeros_like(values), values])
    return log_softmax(values.T).T


def refit(X: Codes, labels: Index, C: float, settings: Settings) -> tuple[Array, Array, float, int]:
    """Fit all rows.

    Returns
    -------
    coef : ndarray of shape (n_outputs, n_features)
        In the space of the codes (of the unit-length codes where ``scale="l2"``).
    intercept : ndarray of shape (n_outputs,)
    certificate : float
    n_iter : int
    """
    rows = np.arange(len(X))
    with one_thread():
        problem = make_problem(X, rows, rows[:0], settings)
        loss = settings.loss(labels, C)
        point = origin(problem, settings, len(X))
        point = minimise(problem, loss, point, tol=settings.tol, max_iter=settings.max_iter)
        unknown = point.unknown
        if isinstance(problem, DualProblem):
            unknown = problem.on_all_rows(unknown)
        unknown = settings.decisions(unknown)
        intercept = settings.decisions(intercept_of(loss)).ravel()
        coef = np.empty((len(unknown), X.shape[1]))
        for columns, part, mean, factor in _weights(problem, X, unknown, settings):
            coef[:, columns] = part * factor
            intercept = intercept - coef[:, columns] @ mean
        if settings.kind == "squared_hinge":
            # The penalised intercept is the weight of a column of ones.
            last = unknown.sum(axis=1) if isinstance(problem, DualProblem) else unknown[:, -1]
            intercept = intercept + last
    return coef, intercept, point.certificate, max(1, point.n_iter)


def _weights(
    problem: LinearProblem, X: Codes, unknown: Array, settings: Settings
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Give the weights of scaled features, some columns at a time, and how these were scaled."""
    if isinstance(problem, PrimalProblem):
        codes = problem.codes
        for columns in column_blocks(len(X), X.shape[1]):
            yield columns, unknown[:, columns], codes.mean[columns], codes.factor[columns]
        return
    rows = np.arange(len(X))
    for block in scaled_blocks(X, rows, len(X), scale=settings.scale, centre=settings.centre):
        yield block.columns, unknown @ block.codes, block.mean, block.factor


def _among_samples(n_train: int, n_rows: int, n_features: int, settings: Settings) -> bool:
    """Whether the Gram matrix of the rows takes less work than the features, and fits."""
    size = 8 * n_rows**2
    if n_train <= n_features:
        return size <= GRAM_SIZE or 2 * n_train <= n_features
    # The hinge's Newton systems are solved exactly, and cut straight out of a Gram matrix.
    return settings.kind == "squared_hinge" and n_train <= GRAM_RATIO * n_features and size <= SMALL


def problem_size(n_train: int, n_test: int, n_features: int, settings: Settings) -> int:
    """Say how many bytes `make_problem` holds, at most."""
    n_rows = n_train + n_test
    return 8 * n_rows**2 if _among_samples(n_train, n_rows, n_features, settings) else SMALL


def needed_memory(n_train: int, n_features: int, n_outputs: int) -> int:
    """Say about how many bytes a cross-validated fit on codes in a file holds.

    A Gram matrix, a copy that finds dependent rows and a factor of it; or a Hessian and a factor in
    single precision. And for each sample and output, up to 16 numbers: the margins, and what
    the loss and the solver make of them.

    Parameters
    ----------
    n_train, n_features, n_outputs : int
    """
    matrices = 24 * n_train**2 if n_train <= n_features else 12 * n_features**2
    return matrices + 16 * 8 * n_train * n_outputs


def make_problem(X: Codes, train: Index, test: Index, settings: Settings) -> LinearProblem:
    """Reduce the codes to a Gram matrix of their rows, or scale them, whichever is less work."""
    rows = np.concatenate([train, test])
    ones = settings.kind == "squared_hinge"
    if _among_samples(len(train), len(rows), X.shape[1], settings):
        gram = np.full((len(rows), len(rows)), 1.0 if ones else 0.0, order="F")
        blocks = scaled_blocks(X, rows, len(train), scale=settings.scale, centre=settings.centre)
        for block in blocks:
            add_square(gram, block.codes.T)
        mirror(gram)
        return DualProblem(gram, len(train))
    codes = ScaledRows(X, rows, len(train), scale=settings.scale, centre=settings.centre, ones=ones)
    return PrimalProblem(codes, len(train))


def origin(problem: LinearProblem, settings: Settings, n_train: int) -> Point:
    """Start with all weights zero."""
    n_classes = len(settings.classes)
    n_outputs = 1 if n_classes == 2 and settings.kind == "squared_hinge" else n_classes
    return Point(np.zeros((n_outputs, problem.size)), np.zeros((n_outputs, n_train)))


def intercept_of(loss: Loss) -> Array:
    """Give the free intercept, ``(n_outputs, 1)``; zero where it is one of the weights."""
    return loss.intercept if isinstance(loss, Softmax) else np.zeros((1, 1))


@cache
def _controller() -> ThreadpoolController:
    # Finding the thread pools takes milliseconds, a small fit no more than that.
    return ThreadpoolController()


def one_thread() -> Any:
    """Limit BLAS to one thread: small solves with several were up to five times slower."""
    return _controller().limit(limits=1, user_api="blas")
