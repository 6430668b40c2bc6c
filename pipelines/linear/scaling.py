"""Codes scaled by the statistics of their training rows, a block of columns at a time.

Only blocks are ever held in float64, so the codes may be float16 and may be in a memory map.
Centring a block before it enters a Gram matrix, rather than centring the Gram matrix, avoids the
cancellation that large means would cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Scale = Literal["standard", "l2"] | None

# Values in a block: 8 MiB of float64, and at least 128 columns, which keeps BLAS busy.
BLOCK_SIZE = 2**20
MIN_COLUMNS = 128
# Matrices of less than this many bytes are held without asking how large the codes are.
SMALL = 2**26


@dataclass(frozen=True)
class Block:
    """Some columns, scaled.

    Attributes
    ----------
    columns : slice
        Which columns of the codes these are.
    codes : ndarray of shape (n_rows, n_columns), float64
        The scaled values.
    mean : ndarray of shape (n_columns,)
        What was subtracted: the training mean, or zeros.
    factor : ndarray of shape (n_columns,)
        What the centred values were multiplied by: one over the training standard deviation
        (zero for a constant column, which no classifier can use), or ones.
    """

    columns: slice
    codes: Array
    mean: Array
    factor: Array


def scaled_blocks(
    X: Array, rows: NDArray[np.intp], n_train: int, *, scale: Scale, centre: bool
) -> Iterator[Block]:
    """Yield ``X[rows]`` scaled, some columns at a time.

    Parameters
    ----------
    X : array of shape (n_samples, n_features), any float dtype
    rows : ndarray of int
        The rows wanted, the training rows first.
    n_train : int
        How many of ``rows`` are training rows: only they make the statistics.
    scale : {"standard", "l2", None}
        Unit training variance, unit length of each row, or as it is.
    centre : bool
        Whether the training mean is subtracted.
    """
    n_features = X.shape[1]
    width = max(MIN_COLUMNS, BLOCK_SIZE // len(rows))
    shrink = 1.0 / row_lengths(X, rows)[:, None] if scale == "l2" else None
    for start in range(0, n_features, width):
        columns = slice(start, min(start + width, n_features))
        codes = np.take(X[:, columns], rows, axis=0).astype(np.float64)
        if shrink is not None:
            codes *= shrink
        mean: Array = np.zeros(codes.shape[1])
        factor: Array = np.ones(codes.shape[1])
        if centre:
            mean = codes[:n_train].mean(axis=0)
            codes -= mean
        if scale == "standard":
            factor = _inverse_deviation(codes[:n_train], mean)
            codes *= factor
        yield Block(columns, codes, mean, factor)


class ScaledRows:
    """``X[rows]`` scaled, some rows at a time; of large codes no scaled copy is held.

    Parameters
    ----------
    X, rows, n_train, scale, centre
        As in `scaled_blocks`.
    ones : bool
        Whether a last column of ones is added.
    """

    def __init__(
        self,
        X: Array,
        rows: NDArray[np.intp],
        n_train: int,
        *,
        scale: Scale,
        centre: bool,
        ones: bool,
    ) -> None:
        self.shape = (len(rows), X.shape[1] + ones)
        self.dtype: Any = np.float64 if X.dtype == np.float64 else np.float32
        self._X, self._rows = X, rows
        self._mean, self._factor = np.zeros(self.shape[1]), np.ones(self.shape[1])
        self._shrink = 1.0 / row_lengths(X, rows)[:, None] if scale == "l2" else None
        self._held: Array | None = None
        if self.shape[0] * self.shape[1] * self.dtype().itemsize <= SMALL:
            self._held = np.ones(self.shape, dtype=self.dtype)
        squares = np.full(n_train, float(ones))
        for block in scaled_blocks(X, rows, n_train, scale=scale, centre=centre):
            self._mean[block.columns], self._factor[block.columns] = block.mean, block.factor
            squares += np.einsum("ij,ij->i", block.codes[:n_train], block.codes[:n_train])
            if self._held is not None:
                self._held[:, block.columns] = block.codes
        self.longest = float(np.sqrt(squares.max()))

    def take(
        self, index: NDArray[np.intp] | slice, dtype: Any, columns: slice = slice(None)
    ) -> Array:
        """Scale these rows, and of them these columns."""
        if self._held is not None:
            return self._held[index, columns].astype(dtype, copy=False)
        start, stop, _ = columns.indices(self.shape[1])
        raw = slice(start, min(stop, self._X.shape[1]))
        given = self._X[self._rows[index], raw].astype(dtype, copy=False)
        if self._shrink is not None:
            given *= self._shrink[index].astype(dtype)
        codes = np.ones((len(given), stop - start), dtype=dtype)
        scaled = codes[:, : raw.stop - start]
        # The mean goes first: rounded to float32 it shifts a column, and blurs no difference.
        np.subtract(given, self._mean[raw].astype(dtype), out=scaled)
        scaled *= self._factor[raw].astype(dtype)
        return codes


def row_lengths(X: Array, rows: NDArray[np.intp] | slice) -> Array:
    """Measure the length of ``X[rows]``, one where it is zero: ``(n_rows,)``, float64."""
    squares = 0.0
    width = max(MIN_COLUMNS, BLOCK_SIZE // len(X))
    for start in range(0, X.shape[1], width):
        codes = X[:, start : start + width][rows].astype(np.float64)
        squares = squares + np.einsum("ij,ij->i", codes, codes)
    lengths = np.sqrt(squares)
    return np.asarray(np.where(lengths > 0, lengths, 1.0))


def _inverse_deviation(centred: Array, mean: Array) -> Array:
    """Compute one over the standard deviation; zero where only rounding varies.

    The bound is scikit-learn's for a constant feature, with float64's epsilon.
    """
    n = len(centred)
    variance = np.einsum("ij,ij->j", centred, centred) / n
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + np.square(n * mean * eps)
    return np.asarray(np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance))))
