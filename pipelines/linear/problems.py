"""Where a penalised linear model is solved: among samples or among features.

The minimiser of ``½‖W‖² + loss(Z W)`` is a combination of the training rows. With fewer samples
than features the unknown is that combination, and the Gram matrix is all that is needed of the
codes (`DualProblem`); otherwise it is the weights themselves (`PrimalProblem`). The solver in
`newton` sees only what the two have in common: products with the scaled codes (`matvec`) and with
their transpose (`rmatvec`), as in `scipy.sparse.linalg.LinearOperator`, inner products, a
preconditioner, and exact minimisers where these are quick. ``radius`` is the length of the longest
training row, ``room`` how many factors of the preconditioner may be held.

Unknowns are of shape ``(n_outputs, n_samples)`` or ``(n_outputs, n_features)``; `matvec` gives
decision values of the training rows, `held_out` those of the others, in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.losses import Quadratic
from pipelines.linear.scaling import BLOCK_SIZE, MIN_COLUMNS, ScaledRows
from pipelines.linear.symmetric import (
    Preconditioner,
    add_square,
    independent_rows,
    reorder,
    solve_positive,
)

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]

# Values in a block that is scaled and multiplied while it is in the processor's cache.
CACHED = 2**18
# Values in all factors of a preconditioner, where half the codes are not larger still.
FACTOR_SIZE = 2**23
# Where exact steps took less time than conjugate gradients: up to this share of the samples, among
# samples; up to the arithmetic of this many passes over the codes, among features; and wherever
# iterating took so many passes that the gain of large products over thin ones pays.
DIRECT_SHARE, SAMPLES_GAIN = 0.7, 4
DIRECT_PASSES, FEATURES_GAIN = 250, 8


class DualProblem:
    """The span of the training rows; a point is its coefficients on them.

    Rows that others span (duplicates; one row, once the mean is subtracted) get no coefficient:
    combinations that are zero would be invisible to every inner product and grow unseen.

    Parameters
    ----------
    gram : ndarray of shape (n_train + n_held_out, n_train + n_held_out), float64
        Inner products of the scaled rows, the training rows first. Where rows are dependent it is
        reordered in place, the independent rows first, so that no copy of it is held.
    n_train : int
        How many of them are training rows.
    """

    def __init__(self, gram: Array, n_train: int) -> None:
        self.radius = float(np.sqrt(gram.diagonal()[:n_train].max()))
        basis, rest, self._mix = independent_rows(gram[:n_train, :n_train])
        self.size = len(basis)
        self.is_dual = not len(rest)
        self._order = np.concatenate([basis, rest])
        if not self.is_dual:
            reorder(gram, np.concatenate([self._order, np.arange(n_train, len(gram))]))
        self._all, self._square = gram[:n_train, :n_train], gram[: self.size, : self.size]
        self._gram, self._cross = gram[: self.size, :n_train], gram[: self.size, n_train:]
        self.room = 1
        self._tau = 0.0
        self._factors: list[Preconditioner] = []

    def on_all_rows(self, unknown: Array) -> Array:
        """Give each training row its coefficient, zero for those that others span."""
        coefficients = np.zeros((len(unknown), len(self._all)))
        coefficients[:, self._order[: self.size]] = unknown
        return coefficients

    def matvec(self, unknown: Array) -> Array:
        """Compute the decision values of the training rows."""
        return self._in_order(unknown @ self._gram)

    def _in_order(self, values: Array) -> Array:
        """Put values of the reordered training rows in the order they were given."""
        if self.is_dual:
            return values
        ordered = np.empty_like(values)
        ordered[:, self._order] = values
        return ordered

    def held_out(self, unknown: Array) -> Array:
        """Compute the decision values of the held-out rows."""
        return np.asarray(unknown @ self._cross)

    def rmatvec(self, slope: Array, *, exact: bool) -> Array:
        """Return the slope, a combination of rows already, on the independent ones."""
        if self.is_dual:
            return slope
        basis, rest = self._order[: self.size], self._order[self.size :]
        return np.asarray(slope[:, basis] + slope[:, rest] @ self._mix)

    def inner(self, left: Array, right: Array, right_margins: Array) -> Array:
        """Give the terms of leftᵀ K right."""
        if not self.is_dual:
            right_margins = right_margins[:, self._order[: self.size]]
        return left * right_margins

    def prepare(self, curvature: Array) -> None:
        """Factor ``I + τ K``, where τ is the mean curvature; a factor that is near is kept.

        A curvature for each sample took more iterations for the hinge, and hardly fewer for the
        softmax.
        """
        tau = max(float(curvature.mean()), float(np.finfo(float).tiny))
        if not 0.7 < self._tau / tau < 1.4:
            self._tau = tau
            self._factors.clear()  # The old one goes before the new one is made.
            self._factors.append(Preconditioner(lambda: (self._square * tau).T))

    def precondition(self, residual: Array) -> tuple[Array, Array]:
        """Solve ``z + τ K z = residual``; the equation itself then tells the margins ``K z``."""
        (factor,) = self._factors
        solution = factor.solve(residual)
        margins: Array = (residual - factor.shift * solution) / self._tau
        if not self.is_dual:
            margins = self._in_order(np.hstack([margins, margins @ self._mix.T]))
        return solution, margins

    def release(self) -> None:
        """Give back what another C makes again."""
        self._factors.clear()
        self._tau = 0.0

    def least_squares(self, quadratic: Quadratic, n_cg: int) -> Array | None:
        """Solve ``(K + 1/weights) α = targets`` on the samples that cost anything, if few.

        ``n_cg`` is how many conjugate gradient iterations a step like it took, 0 if unknown.
        """
        few, n = quadratic.samples, len(self._all)
        if len(few) > DIRECT_SHARE * n and len(few) ** 3 / 3 > SAMPLES_GAIN * n_cg * 4 * n**2:
            return None
        if not self.is_dual:
            few = np.argsort(self._order)[few]
        # By rows, then by columns: a third of the time of both at once.
        matrix = self._all.T[few].take(few, axis=1).T
        matrix[np.diag_indices(len(few))] += 1.0 / quadratic.weights
        solution = solve_positive(matrix, quadratic.targets)
        if solution is None:
            return None
        coefficients = np.zeros((1, n))
        coefficients[0, quadratic.samples] = solution
        optimum: Array = self.rmatvec(coefficients, exact=True)[0]
        return optimum

    def prepare_cost(self, n_outputs: int) -> float:
        """Compare a third of n³ with four n² an output, as measured."""
        return (self.size + 120) / (12.0 * n_outputs)


class PrimalProblem:
    """The features themselves; a point is a row of weights an output.

    Products inside conjugate gradients run in the precision of the codes; `matvec` and an exact
    `rmatvec` accumulate in float64, so the answer does not depend on the inner precision, as in
    iterative refinement.

    Parameters
    ----------
    codes : ScaledRows of shape (n_train + n_held_out, n_features)
        The training rows first.
    n_train : int
        How many of them are training rows.

    Attributes
    ----------
    codes : ScaledRows
    """

    is_dual = False

    def __init__(self, codes: ScaledRows, n_train: int) -> None:
        n, self.size = codes.shape
        self.radius = codes.longest
        held = n * self.size if codes.in_memory else 0
        self.room = max(FACTOR_SIZE, held // 2) // self.size**2
        self.codes, self._train, self._test = codes, slice(0, n_train), slice(n_train, n)
        self._n_train, self._dtype = n_train, codes.dtype
        self._factors: list[Preconditioner] = []

    def matvec(self, unknown: Array) -> Array:
        """Compute the decision values of the training rows."""
        return self._matvec(unknown, self._train, np.float64)

    def held_out(self, unknown: Array) -> Array:
        """Compute the decision values of the held-out rows."""
        return self._matvec(unknown, self._test, np.float64)

    def _matvec(self, unknown: Array, rows: slice, dtype: Any) -> Array:
        margins = np.empty((len(unknown), rows.stop - rows.start), dtype=dtype)
        for part in self._blocks(rows.start, rows.stop):
            block = self.codes.take(part, dtype)
            margins[:, part.start - rows.start : part.stop - rows.start] = unknown @ block.T
        return margins

    def rmatvec(self, slope: Array, *, exact: bool) -> Array:
        """Multiply ``Zᵀ`` with the slope."""
        dtype = np.float64 if exact else self._dtype
        slope = slope.astype(dtype, copy=False)
        product: Array = np.zeros((len(slope), self.size), dtype=dtype)
        for rows in self._blocks(0, self._n_train):
            product += slope[:, rows] @ self.codes.take(rows, dtype)
        return product

    def inner(self, left: Array, right: Array, right_margins: Array) -> Array:
        """Give the terms of the plain inner product."""
        return left * right

    def prepare(self, curvature: Array) -> None:
        """Factor ``I + Zᵀ h Z``, the Hessian of an output whose curvature is ``h``.

        The factors are made when they are first wanted.
        """
        self._roots = np.sqrt(curvature).astype(self._dtype)
        self._factors = []

    def _hessian(self, samples: Index, root: Array, dtype: Any) -> Array:
        """Compute ``Zᵀ root² Z`` of these samples: the lower triangle, in Fortran order."""
        matrix = np.zeros((self.size, self.size), dtype=dtype, order="F")
        for part in self._blocks(0, len(samples), BLOCK_SIZE):
            block = self.codes.take(samples[part], dtype) * root[part, None]
            add_square(matrix, block)
        return matrix

    def _gram(self, samples: Index) -> Array:
        """Compute ``Z Zᵀ`` of these samples in float64, as `_hessian` does."""
        matrix = np.zeros((len(samples), len(samples)), order="F")
        width = max(MIN_COLUMNS, BLOCK_SIZE // len(samples))
        for start in range(0, self.size, width):
            block = self.codes.take(samples, np.float64, slice(start, start + width))
            add_square(matrix, block.T)
        return matrix

    def precondition(self, residual: Array) -> tuple[Array, Array]:
        """Solve with the factor, then take the margins of the solution."""
        if not self._factors:
            rows, dtype = np.arange(self._n_train), self._dtype
            for root in self._roots:
                self._factors.append(Preconditioner(partial(self._hessian, rows, root, dtype)))
        rows_of = np.split(residual.astype(self._dtype, copy=False), len(self._factors))
        pairs = zip(self._factors, rows_of, strict=True)  # One factor of all outputs, or of each.
        solution = np.concatenate([factor.solve(of) for factor, of in pairs])
        return solution, self._matvec(solution, self._train, self._dtype)

    def release(self) -> None:
        """Give back what another C makes again."""
        self._factors = []

    def least_squares(self, quadratic: Quadratic, n_cg: int) -> Array | None:
        """Solve among the samples that cost anything, or among the features, if few."""
        few, size = len(quadratic.samples), self.size
        flops = min(few**2 * size + few**3 / 3, size**2 * few + size**3 / 3)
        passes = max(DIRECT_PASSES, FEATURES_GAIN * n_cg)
        if flops > passes * 4 * self._n_train * size:
            return None
        self._factors = []  # They and this matrix are not held together: each may be large.
        samples, weights, targets = quadratic.samples, quadratic.weights, quadratic.targets
        if few <= size:
            matrix = self._gram(samples)
            matrix[np.diag_indices(few)] += 1.0 / weights
            solution = solve_positive(matrix, targets)
            return None if solution is None else self._rmatvec_of(samples, solution)
        matrix = self._hessian(samples, np.sqrt(weights), np.float64)
        matrix[np.diag_indices(size)] += 1.0
        return solve_positive(matrix, self._rmatvec_of(samples, weights * targets))

    def _rmatvec_of(self, samples: Index, values: Array) -> Array:
        """Multiply these samples, as columns, with ``values``."""
        product = np.zeros(self.size)
        for part in self._blocks(0, len(samples)):
            product += values[part] @ self.codes.take(samples[part], np.float64)
        return product

    def prepare_cost(self, n_outputs: int) -> float:
        """Compare building and factoring with two passes over the codes, as measured."""
        return float(self.size + 200) / (16.0 * n_outputs)

    def _blocks(self, first: int, stop: int, size: int = CACHED) -> Iterator[slice]:
        step = max(64, size // self.size)
        for start in range(first, stop, step):
            yield slice(start, min(start + step, stop))


LinearProblem = DualProblem | PrimalProblem
