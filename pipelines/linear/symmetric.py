"""Symmetric matrices that are as large as the codes: built, factored and reordered in place.

LAPACK's routines take a triangle in Fortran order and overwrite it; NumPy's own products and
SciPy's solvers would each hold a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs, get_lapack_funcs

from pipelines.linear.scaling import BLOCK_SIZE

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]


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


def add_square(matrix: Array, block: Array) -> None:
    """Add ``blockᵀ block`` to the lower triangle of ``matrix``, in place, in Fortran order."""
    # Either way BLAS is shown memory in Fortran order, of which no copy is made.
    rows, trans = (block.T, 0) if block.flags.c_contiguous else (block, 1)
    (syrk,) = get_blas_funcs(("syrk",), (matrix,))
    syrk(1.0, rows, beta=1.0, c=matrix, trans=trans, lower=1, overwrite_c=1)


def mirror(matrix: Array) -> None:
    """Copy the lower triangle into the upper one, in place, a block at a time."""
    step = max(1, BLOCK_SIZE // len(matrix))
    for start in range(0, len(matrix), step):
        stop = min(start + step, len(matrix))
        matrix[:start, start:stop] = matrix[start:stop, :start].T
        square = matrix[start:stop, start:stop]
        square[...] = np.tril(square) + np.tril(square, -1).T


def solve_positive(matrix: Array, right: Array) -> Array | None:
    """Solve a positive definite system; none where rounding made it indefinite.

    Of ``matrix``, in Fortran order, the lower triangle is read, and overwritten.
    """
    (posv,) = get_lapack_funcs(("posv",), (matrix,))
    _, solution, info = posv(matrix, right, lower=1, overwrite_a=1)
    return solution if info == 0 else None


def reorder(gram: Array, order: Index) -> None:
    """Reorder rows and columns alike, in place, a block at a time."""
    step = max(1, BLOCK_SIZE // len(gram))
    for start in range(0, len(gram), step):
        block = slice(start, start + step)
        gram[:, block] = gram[order, block]
    for start in range(0, len(gram), step):
        block = slice(start, start + step)
        gram[block] = gram[block][:, order]


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
    # Of L = [[L₁, 0], [L₂, 0]] the mix is L₂ L₁⁻¹. Cut out, L₁ would be a copy; so the rest of the
    # columns become those of the identity, which do not change it.
    right = np.zeros((len(gram), len(gram) - rank), order="F")
    right[:rank] = factor[rank:, :rank].T
    factor[rank:, rank:] = np.eye(len(gram) - rank)
    mix, _ = get_lapack_funcs("trtrs", (factor,))(factor, right, lower=1, trans=1, overwrite_b=1)
    return rows[:rank], rows[rank:], np.asarray(mix[:rank].T)
