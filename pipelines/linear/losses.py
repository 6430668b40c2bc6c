"""Losses: squared hinge and softmax, their gradients and their curvatures.

Margins, and what is computed from them, are arrays of shape ``(n_outputs, n_samples)``, a row a
class, as the rows of scikit-learn's ``coef_``. ``loss.at(margins)`` is the local quadratic model
that a Newton step needs: its ``gradient``, the product of its curvature with a direction, and the
curvature's diagonal, from which preconditioners are made; unless it is ``balanced``, the free
intercept was not found, and its gradient bounds nothing. ``loss.total(terms)`` sums over what is
solved together, to shape ``(n_problems, 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Signs = NDArray[np.int8]


@dataclass(frozen=True)
class Quadratic:
    """The loss ``Σ ½ weights (targets - margins)²`` of some samples; the others cost nothing.

    Attributes
    ----------
    samples : ndarray of shape (n_active,), int
    targets, weights : ndarrays of shape (n_active,)
    """

    samples: NDArray[np.intp]
    targets: Array
    weights: Array


@dataclass(frozen=True)
class HingeModel:
    """Local model of the squared hinge, whose curvature is diagonal.

    Only the slack is held: of many samples, each array more is memory.
    """

    signs: Signs
    weights: Array
    slack: Array
    balanced: bool = True  # There is no free intercept to find.

    @property
    def gradient(self) -> Array:
        """Of the loss, of shape ``(n_outputs, n_samples)``."""
        return np.asarray(-self.weights * self.signs * self.slack)

    def product(self, direction: Array) -> Array:
        """Multiply the curvature with ``direction``."""
        return np.asarray(self.diagonal() * direction)

    def diagonal(self) -> Array:
        """Give each output's own curvature."""
        return np.asarray(self.weights * (self.slack > 0))

    def dual_gap(self, dual: Array) -> tuple[Array, Array]:
        """Split ``dual`` into a feasible point, whose gap is returned, and the rest.

        Feasible are the sign of the class and zero outside the active set; there the duality gap
        is a sum of squares, Σ (w·slack - α)² / 2w, with no cancellation.
        """
        feasible = np.where(self.slack > 0, np.maximum(self.signs * dual, 0.0), 0.0)
        gap = np.square(self.weights * self.slack - feasible) / (2.0 * self.weights)
        return dual - self.signs * feasible, gap

    def quadratic(self, output: int) -> Quadratic:
        """Give the samples within an output's margin, the only ones that cost anything."""
        active = np.flatnonzero(self.slack[output] > 0)
        signs, weights = self.signs[output, active], self.weights[output, active]
        return Quadratic(active, signs.astype(np.float64), weights)


@dataclass(frozen=True)
class SquaredHinge:
    """One-vs-rest squared hinge, Σ ½ w max(0, 1 - s f)²: each output is its own problem.

    Parameters
    ----------
    signs : ndarray of shape (n_outputs, n_samples), int8
        +1 for the members of the output's class, -1 for the others.
    weights : ndarray of shape (n_outputs, n_samples)
        Twice C times the class weight: positive.
    """

    signs: Signs
    weights: Array

    def at(self, margins: Array) -> HingeModel:
        """Build the local model at ``margins``."""
        slack = self.signs * margins
        np.subtract(1.0, slack, out=slack)
        return HingeModel(self.signs, self.weights, np.maximum(slack, 0.0, out=slack))

    def total(self, terms: Array) -> Array:
        """Sum over samples (or features): one number an output."""
        return np.asarray(terms.sum(axis=1, keepdims=True))

    def take(self, outputs: NDArray[np.intp]) -> SquaredHinge:
        """Restrict the loss to these outputs, each once."""
        if len(outputs) == len(self.signs):
            return self
        return SquaredHinge(self.signs[outputs], self.weights[outputs])


class SoftmaxModel:
    """Local model of the softmax loss after its free intercept has been minimised out.

    Eliminating the intercept leaves the Schur complement ``H - H1 (1ᵀH1)⁺ 1ᵀH``, so the solver
    sees a loss of the margins only and strong convexity holds for everything it moves.
    """

    def __init__(self, probabilities: Array, loss: Softmax) -> None:
        self.probabilities, self.loss = probabilities, loss
        self.slope = self.gradient.sum(axis=1, keepdims=True)
        weights = loss.weights
        self.balanced = bool(np.abs(self.slope).max() <= 1e-11 * weights.sum())
        weighted = weights * probabilities
        inner = np.diag(weighted.sum(axis=1)) - weighted @ probabilities.T
        # Adding one number to every class changes no probability, so 1 spans a null space of
        # this matrix. Filling it with 11ᵀ leaves what the inverse does to the sums that are
        # ever put in, which are orthogonal to 1. The ridge is rounding-sized; the floor holds
        # where every probability has saturated.
        top = max(float(np.trace(inner)), 1e-10 * float(weights.sum()))
        inner = inner / top + 1.0
        inner.flat[:: len(inner) + 1] += 1e-12
        self.inverse = np.linalg.inv(inner) / top

    @property
    def gradient(self) -> Array:
        """Of the loss, of shape ``(n_outputs, n_samples)``."""
        gradient = self.probabilities - self.loss.members
        gradient *= self.loss.weights
        return gradient

    def product(self, direction: Array) -> Array:
        """Multiply the curvature with ``direction``."""
        plain = self._softmax_product(direction)
        intercept = self.inverse @ plain.sum(axis=1, keepdims=True)
        return plain - self._softmax_product(intercept)

    def _softmax_product(self, direction: Array) -> Array:
        product = self.loss.weights * self.probabilities
        product *= direction - (self.probabilities * direction).sum(axis=0)
        return product

    def diagonal(self) -> Array:
        """Give each output's own curvature."""
        return np.asarray(self.loss.weights * self.probabilities * (1.0 - self.probabilities))


class Softmax:
    """Multinomial logistic loss with a free intercept, Σ w log-loss(f + intercept).

    Parameters
    ----------
    members : ndarray of shape (n_outputs, n_samples), bool
        Whether the sample is of the output's class.
    weights : ndarray of shape (n_samples,)
        C times the class weight: positive.

    Attributes
    ----------
    intercept : ndarray of shape (n_outputs, 1)
        The best intercept at the margins last seen; its entries sum to zero.
    """

    def __init__(
        self, members: NDArray[np.bool_], weights: Array, intercept: Array | None = None
    ) -> None:
        self.members, self.weights = members, weights
        if intercept is None:
            intercept = np.log((weights * members).sum(axis=1, keepdims=True) / weights.sum())
            intercept = intercept - intercept.mean()
        self.intercept = intercept

    def at(self, margins: Array) -> SoftmaxModel:
        """Build the local model at ``margins``, with the best intercept there."""
        model = self._model(margins)
        for _ in range(100):
            if model.balanced:
                break
            start = self.intercept
            self.intercept = start - model.inverse @ model.slope
            newton = self._model(margins)
            if np.abs(newton.slope).max() <= 0.5 * np.abs(model.slope).max():
                model = newton
                continue
            # Newton fails where probabilities saturate. Iterative scaling gives each class its
            # share and never makes the loss worse; in logarithms nothing underflows.
            logs = np.log(self.weights) + log_softmax(margins + start)
            top = logs.max(axis=1, keepdims=True)
            shares = top + np.log(np.exp(logs - top).sum(axis=1, keepdims=True))
            wanted = np.log((self.weights * self.members).sum(axis=1, keepdims=True))
            self.intercept = start + wanted - shares
            self.intercept -= self.intercept.mean()
            model = self._model(margins)
        return model

    def _model(self, margins: Array) -> SoftmaxModel:
        probabilities = log_softmax(margins + self.intercept)
        return SoftmaxModel(np.exp(probabilities, out=probabilities), self)

    def total(self, terms: Array) -> Array:
        """Sum over everything: the outputs are one coupled problem."""
        return np.asarray(terms.sum().reshape(1, 1))

    def take(self, outputs: NDArray[np.intp]) -> Softmax:
        """Return the whole: the outputs are coupled."""
        return self


LocalModel = HingeModel | SoftmaxModel
Loss = SquaredHinge | Softmax


def log_softmax(values: Array) -> Array:
    """Take the logarithm of each column's softmax."""
    shifted = values - values.max(axis=0)
    shifted -= np.log(np.exp(shifted).sum(axis=0))
    return np.asarray(shifted)
