"""Readers: the codes of a layer, read when they are asked for, whole or some rows at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES = 2**24
"""What is read and written together."""


class Block(NamedTuple):
    """Some codes of a layer.

    Attributes
    ----------
    rows : ndarray of shape (n_rows,), intp
        Places in the dataset.
    codes : ndarray of shape (n_rows, n_columns), or (n_rows, n_views, n_columns)
    first : int
        The first of the columns.
    """

    rows: NDArray[np.intp]
    codes: NDArray[Any]
    first: int = 0


class Reader(ABC):
    """Reads the codes of a layer; it can be sent to another process.

    Calling it gives all of them, in the order of the dataset.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """``(n_samples, n_features)``, or ``(n_samples, n_views, n_features)``."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """What a value is."""

    @property
    def nbytes(self) -> int:
        """Bytes of all codes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @abstractmethod
    def __call__(self) -> NDArray[Any]:
        """Read all codes into memory."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Read all codes, some at a time, in the order in which they are read soonest."""


class SideBySide(Reader):
    """The codes of several layers, as one.

    Parameters
    ----------
    readers : sequence of Reader
        Of the same images.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = tuple(readers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all features together."""
        return (*self._readers[0].shape[:-1], sum(one.shape[-1] for one in self._readers))

    @property
    def dtype(self) -> np.dtype[Any]:
        """What holds the values of each."""
        return np.result_type(*(one.dtype for one in self._readers))

    def __call__(self) -> NDArray[Any]:
        """Read all codes into memory."""
        return np.concatenate([read() for read in self._readers], axis=-1)

    def blocks(self) -> Iterator[Block]:
        """Read one layer after the other."""
        first = 0
        for reader in self._readers:
            for block in reader.blocks():
                yield block._replace(
                    codes=block.codes.astype(self.dtype, copy=False), first=first + block.first
                )
            first += reader.shape[-1]


def cut_rows(n_rows: int, row_bytes: int) -> Iterator[slice]:
    """Cut rows into blocks that fit into memory together.

    Parameters
    ----------
    n_rows : int
    row_bytes : int
        Of a row.

    Yields
    ------
    rows : slice
        Of at least 64 rows, but for the last.

    Examples
    --------
    >>> list(cut_rows(100, 2**30))
    [slice(0, 64, None), slice(64, 100, None)]
    """
    step = max(64, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
