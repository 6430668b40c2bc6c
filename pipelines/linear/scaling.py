"""Codes scaled by the statistics of their training rows, a block at a time.

Only blocks are ever held in float64, so the codes may be float16 and may be in a memory map: blocks
of columns, which need one pass for everything; or, of codes in a file, blocks of rows, which are
read one after another. Centring a block before it enters a Gram matrix, rather than centring the
Gram matrix, avoids the cancellation that large means would cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.mapped import MappedCodes

Array = NDArray[np.floating[Any]]
Scale = Literal["standard", "l2"] | None

# Values in a block: 8 MiB of float64, and at least 128 columns, which keeps BLAS busy.
BLOCK_SIZE = 2**20
MIN_COLUMNS = 128
# Of codes in a file, so many columns are a page of it, or two.
MAPPED_COLUMNS = 2**11
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


def column_blocks(n_rows: int, n_features: int, width: int = 0) -> Iterator[slice]:
    """Cut columns into blocks of `BLOCK_SIZE` values, at least `width` of them."""
    width = max(MIN_COLUMNS, BLOCK_SIZE // max(1, n_rows), width)
    for start in range(0, n_features, width):
        yield slice(start, min(start + width, n_features))


def row_blocks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Cut rows into blocks of `BLOCK_SIZE` values, at least 64 of them."""
    step = max(64, BLOCK_SIZE // max(1, n_features))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def scaled_blocks(
    X: Array | MappedCodes, rows: NDArray[np.intp], n_train: int, *, scale: Scale, centre: bool
) -> Iterator[Block]:
    """Yield ``X[rows]`` scaled, some columns at a time.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, n_features), any float dtype
    rows : ndarray of int
        The rows wanted, the training rows first.
    n_train : int
        How many of ``rows`` are training rows: only they make the statistics.
    scale : {"standard", "l2", None}
        Unit training variance, unit length of each row, or as it is.
    centre : bool
        Whether the training mean is subtracted.
    """
    shrink = 1.0 / row_lengths(X, rows)[:, None] if scale == "l2" else None
    # No larger than a quarter of the Gram matrix that wide codes are reduced to.
    width = min(MAPPED_COLUMNS, len(rows) // 4) if isinstance(X, MappedCodes) else 0
    for columns in column_blocks(len(rows), X.shape[1], width):
        if isinstance(X, MappedCodes):
            codes = X[rows, columns].astype(np.float64)
        else:
            codes = np.take(X[:, columns], rows, axis=0).astype(np.float64)
        if shrink is not None:
            codes *= shrink
        mean: Array = np.zeros(codes.shape[1])
        factor: Array = np.ones(codes.shape[1])
        if centre:
            mean = codes[:n_train].mean(axis=0)
            codes -= mean
        if scale == "standard":
            centred = codes[:n_train]
            variance = np.einsum("ij,ij->j", centred, centred) / n_train
            factor = _inverse_deviation(variance, mean, n_train)
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

    Attributes
    ----------
    shape : tuple of int
    dtype : type
        Of the precision that the codes have.
    in_memory : bool
        Whether the codes are, or else in a file.
    mean, factor : ndarrays of shape (n_features,)
        As in `Block`.
    longest : float
        Length of the longest training row.
    """

    def __init__(
        self,
        X: Array | MappedCodes,
        rows: NDArray[np.intp],
        n_train: int,
        *,
        scale: Scale,
        centre: bool,
        ones: bool,
    ) -> None:
        self.shape = (len(rows), X.shape[1] + ones)
        self.dtype: Any = np.float64 if X.dtype == np.float64 else np.float32
        self.in_memory = not isinstance(X, MappedCodes)
        self._X, self._rows = X, rows
        self.mean: Array = np.zeros(X.shape[1])
        self.factor: Array = np.ones(X.shape[1])
        self._shrink = 1.0 / row_lengths(X, rows)[:, None] if scale == "l2" else None
        self._held: Array | None = None
        held: Array | None = None
        if self.shape[0] * self.shape[1] * self.dtype().itemsize <= SMALL:
            held = np.ones(self.shape, dtype=self.dtype)
        if self.in_memory:
            squares = self._measure_columns(n_train, scale, centre=centre, ones=ones, held=held)
        else:
            squares = self._measure_rows(n_train, scale, centre=centre, held=held)
        self.longest = float(np.sqrt(squares.max()))
        self._held = held

    def _measure_columns(
        self, n_train: int, scale: Scale, *, centre: bool, ones: bool, held: Array | None
    ) -> Array:
        """Find the statistics in one pass over blocks of columns; the squared length of rows."""
        squares = np.full(n_train, float(ones))
        for block in scaled_blocks(self._X, self._rows, n_train, scale=scale, centre=centre):
            self.mean[block.columns], self.factor[block.columns] = block.mean, block.factor
            squares += np.einsum("ij,ij->i", block.codes[:n_train], block.codes[:n_train])
            if held is not None:
                held[:, block.columns] = block.codes
        return squares

    def _measure_rows(
        self, n_train: int, scale: Scale, *, centre: bool, held: Array | None
    ) -> Array:
        """Find the statistics in one pass over blocks of rows, and the lengths in another."""
        if centre or scale == "standard":
            mean, variance = self._moments(n_train)
            if centre:
                self.mean = mean
            if scale == "standard":
                self.factor = _inverse_deviation(variance, mean, n_train)
        squares = np.empty(len(self._rows))
        for part in row_blocks(*self.shape):
            codes = self.take(part, np.float64)
            squares[part] = np.einsum("ij,ij->i", codes, codes)
            if held is not None:
                held[part] = codes
        return squares[:n_train]

    def _moments(self, n_train: int) -> tuple[Array, Array]:
        """Compute mean and variance of the training rows from those of blocks of them.

        Each block is centred by its own mean, so that nothing cancels where means are large (Chan,
        Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
        """
        mean, squares = np.zeros(self._X.shape[1]), np.zeros(self._X.shape[1])
        for part in row_blocks(n_train, self._X.shape[1]):
            codes = self._X[self._rows[part]].astype(np.float64)
            if self._shrink is not None:
                codes *= self._shrink[part]
            of_block = codes.mean(axis=0)
            codes -= of_block
            apart, share = of_block - mean, len(codes) / part.stop
            mean += share * apart
            squares += np.einsum("ij,ij->j", codes, codes) + part.start * share * np.square(apart)
        return mean, squares / n_train

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
        np.subtract(given, self.mean[raw].astype(dtype), out=scaled)
        scaled *= self.factor[raw].astype(dtype)
        return codes


def row_lengths(X: Array | MappedCodes, rows: NDArray[np.intp]) -> Array:
    """Measure the length of ``X[rows]``, one where it is zero: ``(n_rows,)``, float64."""
    squares = np.zeros(len(rows))
    if isinstance(X, MappedCodes):
        for part in row_blocks(len(rows), X.shape[1]):
            codes = X[rows[part]].astype(np.float64)
            squares[part] = np.einsum("ij,ij->i", codes, codes)
    else:
        for columns in column_blocks(len(X), X.shape[1]):
            codes = X[:, columns][rows].astype(np.float64)
            squares += np.einsum("ij,ij->i", codes, codes)
    lengths = np.sqrt(squares)
    return np.asarray(np.where(lengths > 0, lengths, 1.0))


def _inverse_deviation(variance: Array, mean: Array, n: int) -> Array:
    """Compute one over the standard deviation; zero where only rounding varies.

    The bound is scikit-learn's for a constant feature, with float64's epsilon.
    """
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + np.square(n * mean * eps)
    return np.asarray(np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance))))
