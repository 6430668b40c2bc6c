"""Where a penalised linear model is solved: among samples or among features.

The minimiser of ``½‖W‖² + loss(Z W)`` is a combination of the training rows. With fewer samples
than features the unknown is that combination, and the Gram matrix is all that is needed of the
codes (`SampleSpace`); otherwise it is the weights themselves (`FeatureSpace`). The solver in
`newton` sees only what the two have in common: margins, the pull of a loss gradient back into
the space, inner products, and a preconditioner.

Unknowns are of shape ``(n_outputs, n_samples)`` or ``(n_outputs, n_features)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs, get_lapack_funcs, solve_triangular

from pipelines.losses import Quadratic
from pipelines.scaling import BLOCK_SIZE, MIN_COLUMNS

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]

# Values in all factors of a preconditioner, where half the codes are not larger still.
FACTOR_SIZE = 2**23
# Where exact steps took less time than conjugate gradients: up to this share of the samples, among
# samples; up to the arithmetic of this many passes over the codes, among features; and wherever
# iterating took so many passes that this gain, of large products over thin ones, pays.
DIRECT_SHARE, DIRECT_PASSES, DIRECT_GAIN = 0.7, 100, 4


class Space(Protocol):
    """What the Newton solver needs of the data."""

    size: int
    is_dual: bool  # an unknown has a coefficient for each training row
    radius: float  # length of the longest training row
    room: int  # how many factors of the preconditioner may be held

    def margins(self, unknown: Array) -> Array:
        """Compute the decision values of the training rows, in float64."""

    def held_out(self, unknown: Array) -> Array:
        """Compute the decision values of the held-out rows."""

    def pull(self, slope: Array, *, exact: bool) -> Array:
        """Map a loss gradient into this space; inexactly means in the codes' own precision."""

    def inner(self, left: Array, right: Array, right_margins: Array) -> Array:
        """Give the terms whose sum is the inner product of two points."""

    def prepare(self, curvature: Array) -> None:
        """Factor the preconditioner for curvatures of shape ``(1 or n_outputs, n_samples)``."""

    def precondition(self, residual: Array) -> tuple[Array, Array]:
        """Precondition a residual, and give the margins of the result too."""

    def least_squares(self, quadratic: Quadratic, n_cg: int) -> Array | None:
        """Minimise ``½‖w‖²`` and a least-squares loss exactly, where that is quick.

        ``n_cg`` is how many conjugate gradient iterations a step like it took, 0 if unknown.
        """

    def prepare_cost(self, n_outputs: int) -> float:
        """Count the iterations for ``n_outputs`` that cost as much as one factorisation."""


class Preconditioner:
    """Cholesky factor of ``build() + shift·I``.

    The shift is one, plus what rounding needs for the factorisation to exist: with a large C the
    identity drowns, and a preconditioner may be a little off.

    Parameters
    ----------
    build : callable
        Makes the positive semidefinite matrix, its lower triangle, in Fortran order; called again
        if the factorisation failed, as factoring overwrites it.
    """

    def __init__(self, build: Callable[[], Array]) -> None:
        self.shift = 0.0
        info = -1
        while info != 0:
            matrix = build()
            rounding = float(np.finfo(matrix.dtype).eps) * float(matrix.diagonal().max())
            self.shift = max(1.0 + 8.0 * rounding, 10.0 * self.shift)
            matrix[np.diag_indices(len(matrix))] += self.shift
            potrf, self._potrs = get_lapack_funcs(("potrf", "potrs"), (matrix,))
            self._factor, info = potrf(matrix, lower=1, overwrite_a=1, clean=0)

    def solve(self, rows: Array) -> Array:
        """Solve for each row of ``rows``."""
        solution: Array = self._potrs(self._factor, rows.T, lower=1)[0].T
        return solution


def solve_positive(matrix: Array, right: Array) -> Array | None:
    """Solve a positive definite system; none where rounding made it indefinite.

    Of ``matrix``, in Fortran order, the lower triangle is read, and overwritten.
    """
    (posv,) = get_lapack_funcs(("posv",), (matrix,))
    _, solution, info = posv(matrix, right, lower=1, overwrite_a=1)
    return solution if info == 0 else None


def _solve(factors: list[Preconditioner], rows: Array) -> Array:
    """Solve with the one factor of all outputs, or with each output's own."""
    if len(factors) == 1:
        return factors[0].solve(rows)
    pairs = zip(factors, rows, strict=True)
    return np.concatenate([factor.solve(row[None]) for factor, row in pairs])


class SampleSpace:
    """The span of the training rows; a point is its coefficients on them.

    Rows that others span (duplicates; one row, once the mean is subtracted) get no coefficient:
    combinations that are zero would be invisible to every inner product and grow unseen.

    Parameters
    ----------
    gram : ndarray of shape (n_train + n_held_out, n_train + n_held_out), float64
        Inner products of the scaled rows, the training rows first.
    n_train : int
        How many of them are training rows.
    """

    def __init__(self, gram: Array, n_train: int) -> None:
        self._all = gram[:n_train, :n_train]
        self._basis, self._rest, self._mix = independent_rows(self._all)
        self.size = len(self._basis)
        self.is_dual = not len(self._rest)
        whole = gram if self.is_dual else gram[self._basis]
        self._gram, self._cross = whole[: self.size, :n_train], whole[: self.size, n_train:]
        self._square = self._gram if self.is_dual else self._gram[:, self._basis]
        self.radius = float(np.sqrt(gram.diagonal()[:n_train].max()))
        self.room = 1
        self._tau = 0.0

    def on_all_rows(self, unknown: Array) -> Array:
        """Give each training row its coefficient, zero for those that others span."""
        coefficients = np.zeros((len(unknown), self._gram.shape[1]))
        coefficients[:, self._basis] = unknown
        return coefficients

    def margins(self, unknown: Array) -> Array:
        """Compute the decision values of the training rows."""
        return np.asarray(unknown @ self._gram)

    def held_out(self, unknown: Array) -> Array:
        """Compute the decision values of the held-out rows."""
        return np.asarray(unknown @ self._cross)

    def pull(self, slope: Array, *, exact: bool) -> Array:
        """Return the slope, a combination of rows already, on the independent ones."""
        if self.is_dual:
            return slope
        return np.asarray(slope[:, self._basis] + slope[:, self._rest] @ self._mix)

    def inner(self, left: Array, right: Array, right_margins: Array) -> Array:
        """Give the terms of leftᵀ K right."""
        return left * (right_margins if self.is_dual else right_margins[:, self._basis])

    def prepare(self, curvature: Array) -> None:
        """Factor ``I + τ K``, where τ is the mean curvature; a factor that is near is kept.

        A curvature for each sample took more iterations for the hinge, and hardly fewer for the
        softmax.
        """
        tau = max(float(curvature.mean()), float(np.finfo(float).tiny))
        if not 0.7 < self._tau / tau < 1.4:
            self._tau = tau
            self._factor = Preconditioner(lambda: (self._square * tau).T)

    def precondition(self, residual: Array) -> tuple[Array, Array]:
        """Solve ``z + τ K z = residual``; the equation itself then tells the margins ``K z``."""
        solution = self._factor.solve(residual)
        margins = (residual - self._factor.shift * solution) / self._tau
        if self.is_dual:
            return solution, margins
        everywhere = np.empty((len(residual), self._gram.shape[1]))
        everywhere[:, self._basis] = margins
        everywhere[:, self._rest] = margins @ self._mix.T
        return solution, everywhere

    def least_squares(self, quadratic: Quadratic, n_cg: int) -> Array | None:
        """Solve ``(K + 1/weights) α = targets`` on the samples that cost anything, if few."""
        few, n = quadratic.samples, len(self._all)
        if len(few) > DIRECT_SHARE * n and len(few) ** 3 / 3 > DIRECT_GAIN * n_cg * 4 * n**2:
            return None
        matrix = self._all[few[:, None], few].T
        matrix[np.diag_indices(len(few))] += 1.0 / quadratic.weights
        solution = solve_positive(matrix, quadratic.targets)
        if solution is None:
            return None
        coefficients = np.zeros((1, len(self._all)))
        coefficients[0, few] = solution
        optimum: Array = self.pull(coefficients, exact=True)[0]
        return optimum

    def prepare_cost(self, n_outputs: int) -> float:
        """Compare a third of n³ with four n² an output, as measured."""
        return (self.size + 120) / (12.0 * n_outputs)


def independent_rows(gram: Array) -> tuple[Index, Index, Array]:
    """Choose rows that span all rows, by Cholesky with pivoting.

    Returns
    -------
    basis, rest : ndarrays of int
        The chosen rows and the others; ``basis`` is in order if nothing is left over.
    mix : ndarray of shape (len(rest), len(basis))
        The others as combinations of the chosen.
    """
    pstrf = get_lapack_funcs("pstrf", (gram,))
    tol = 10 * len(gram) * float(np.finfo(float).eps) * float(gram.diagonal().max())
    factor, pivots, rank, _ = pstrf(gram, tol=tol, lower=1)
    rows = pivots.astype(np.intp) - 1
    if rank == len(gram):
        return np.arange(rank), rows[rank:], np.empty((0, rank))
    lower = factor[:, :rank]
    mix = solve_triangular(lower[:rank], lower[rank:].T, lower=True, trans="T", check_finite=False)
    return rows[:rank], rows[rank:], np.asarray(mix.T)


class FeatureSpace:
    """The features themselves; a point is a row of weights an output.

    Products inside conjugate gradients run in the precision of the codes; `margins` and an exact
    `pull` accumulate in float64, so the answer does not depend on the inner precision, as in
    iterative refinement.

    Parameters
    ----------
    codes : ndarray of shape (n_train + n_held_out, n_features), float32 or float64
        Scaled codes, the training rows first.
    n_train : int
        How many of them are training rows.
    """

    is_dual = False

    def __init__(self, codes: Array, n_train: int) -> None:
        self.size = codes.shape[1]
        self.radius = float(np.sqrt(np.einsum("ij,ij->i", codes, codes)[:n_train].max()))
        self.room = max(FACTOR_SIZE, codes.size // 2) // self.size**2
        self._factors: list[Preconditioner] = []
        self._train = codes[:n_train]
        self._test = codes[n_train:]

    def margins(self, unknown: Array) -> Array:
        """Compute the decision values of the training rows."""
        return self._exact_margins(self._train, unknown)

    def held_out(self, unknown: Array) -> Array:
        """Compute the decision values of the held-out rows."""
        return self._exact_margins(self._test, unknown)

    def _exact_margins(self, codes: Array, unknown: Array) -> Array:
        margins = np.empty((len(unknown), len(codes)))
        for rows in self._blocks(len(codes)):
            margins[:, rows] = unknown @ codes[rows].astype(np.float64, copy=False).T
        return margins

    def pull(self, slope: Array, *, exact: bool) -> Array:
        """Multiply ``Zᵀ`` with the slope."""
        if not exact:
            return np.asarray(slope.astype(self._train.dtype, copy=False) @ self._train)
        pulled = np.zeros((len(slope), self.size))
        for rows in self._blocks(len(self._train)):
            pulled += slope[:, rows] @ self._train[rows].astype(np.float64, copy=False)
        return pulled

    def inner(self, left: Array, right: Array, right_margins: Array) -> Array:
        """Give the terms of the plain inner product."""
        return left * right

    def prepare(self, curvature: Array) -> None:
        """Factor ``I + Zᵀ h Z``, the Hessian of an output whose curvature is ``h``.

        The factors are made when they are first wanted.
        """
        self._roots = np.sqrt(curvature).astype(self._train.dtype)
        self._factors = []

    def _hessian(self, samples: Index, root: Array, dtype: Any) -> Array:
        """Compute ``Zᵀ root² Z`` of these samples: the lower triangle, in Fortran order."""
        matrix = np.zeros((self.size, self.size), dtype=dtype, order="F")
        syrk = get_blas_funcs("syrk", (matrix,))
        for part in self._blocks(len(samples)):
            block = self._train[samples[part]].astype(dtype, copy=False) * root[part, None]
            matrix = syrk(1.0, block.T, beta=1.0, c=matrix, lower=1, overwrite_c=1)
        return matrix

    def _gram(self, samples: Index) -> Array:
        """Compute ``Z Zᵀ`` of these samples in float64, as `_hessian` does."""
        matrix = np.zeros((len(samples), len(samples)), order="F")
        syrk = get_blas_funcs("syrk", (matrix,))
        width = max(MIN_COLUMNS, BLOCK_SIZE // len(samples))
        for start in range(0, self.size, width):
            block = np.take(self._train[:, start : start + width], samples, axis=0)
            matrix = syrk(1.0, block.astype(np.float64), beta=1.0, c=matrix, lower=1, overwrite_c=1)
        return matrix

    def precondition(self, residual: Array) -> tuple[Array, Array]:
        """Solve with the factor, then take the margins of the solution."""
        if not self._factors:
            rows, dtype = np.arange(len(self._train)), self._train.dtype
            for root in self._roots:
                self._factors.append(Preconditioner(partial(self._hessian, rows, root, dtype)))
        solution = _solve(self._factors, residual.astype(self._train.dtype, copy=False))
        return solution, solution @ self._train.T

    def least_squares(self, quadratic: Quadratic, n_cg: int) -> Array | None:
        """Solve among the samples that cost anything, or among the features, if few."""
        few, size = len(quadratic.samples), self.size
        flops = min(few**2 * size + few**3 / 3, size**2 * few + size**3 / 3)
        passes = max(DIRECT_PASSES, DIRECT_GAIN * n_cg)
        if flops > passes * 4 * len(self._train) * size:
            return None
        self._factors = []  # They and this matrix are not held together: each may be large.
        samples, weights, targets = quadratic.samples, quadratic.weights, quadratic.targets
        if few <= size:
            matrix = self._gram(samples)
            matrix[np.diag_indices(few)] += 1.0 / weights
            solution = solve_positive(matrix, targets)
            return None if solution is None else self._pull_back(samples, solution)
        matrix = self._hessian(samples, np.sqrt(weights), np.float64)
        matrix[np.diag_indices(size)] += 1.0
        return solve_positive(matrix, self._pull_back(samples, weights * targets))

    def _pull_back(self, samples: Index, values: Array) -> Array:
        """Multiply these samples, as columns, with ``values``."""
        pulled = np.zeros(self.size)
        for part in self._blocks(len(samples)):
            pulled += values[part] @ self._train[samples[part]].astype(np.float64, copy=False)
        return pulled

    def prepare_cost(self, n_outputs: int) -> float:
        """Compare building and factoring with two passes over the codes, as measured."""
        return float(self.size + 200) / (16.0 * n_outputs)

    def _blocks(self, n_rows: int) -> Iterator[slice]:
        step = max(64, BLOCK_SIZE // self.size)
        for start in range(0, n_rows, step):
            yield slice(start, min(start + step, n_rows))
