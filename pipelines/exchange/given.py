"""Given codes: those that another tool computed, in a file of which layers are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes import ImageList
from pipelines.comparison.results import ComparedLayer
from pipelines.exchange.arrays import ArrayFile
from pipelines.reading.readers import Block, Reader


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenCodes:
    """Labelled codes in a file; each layer is read when it is asked for.

    Attributes
    ----------
    images : ImageList
        Of which only names are known; they cannot be opened.
    digests : ndarray of shape (n_samples, 32), uint8
        Equal for rows whose codes of all layers are equal.
    layers : tuple of ComparedLayer
    order : str
        How layers are ordered, in words.
    has_depths : bool
        Whether the file says at which depth of a network each layer is. Otherwise a depth is the
        layer's place in the order, from 0 to 1.
    file : ArrayFile
    kinds : dict of str to (int, numpy.dtype)
        Width and type of each layer's codes.
    rows : ndarray of shape (n_samples,), intp
        Of the file, ascending.
    dropped : int
        Rows that were left out since, as they leak.
    seconds : dict of str to float
        By stage.
    """

    images: ImageList
    digests: NDArray[np.uint8] = field(repr=False)
    layers: tuple[ComparedLayer, ...]
    order: str
    has_depths: bool
    file: ArrayFile
    kinds: dict[str, tuple[int, np.dtype[Any]]] = field(repr=False)
    rows: NDArray[np.intp] = field(repr=False)
    dropped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def check(self) -> Callable[[], None]:
        """A function that raises an error in a process that cannot read the file."""
        return partial(_require, self.file, self.file.names())

    @property
    def readers(self) -> dict[str, GivenReader]:
        """What reads the codes of each layer; `compare_layers` takes it."""
        return {
            one.layer: GivenReader(self.file, one.layer, self.rows, *self.kinds[one.layer])
            for one in self.layers
        }

    def keep(self, rows: NDArray[np.intp]) -> GivenCodes:
        """Drop all rows but some."""
        return replace(
            self,
            images=self.images.take(rows),
            digests=self.digests[rows],
            rows=self.rows[rows],
            dropped=self.dropped + len(self.rows) - len(rows),
        )


def _require(file: ArrayFile, names: list[str]) -> None:
    if not file.path.exists():
        raise FileNotFoundError(f"{file.title} is not there.")
    if file.names() != names:
        raise ValueError(f"{file.title} is another file there.")


class GivenReader(Reader):
    """Reads the codes of a layer out of a file.

    Parameters
    ----------
    file : ArrayFile
    layer : str
    rows : ndarray of shape (n_samples,), intp
        Of the file, ascending.
    n_features : int
    dtype : numpy.dtype
    """

    def __init__(
        self,
        file: ArrayFile,
        layer: str,
        rows: NDArray[np.intp],
        n_features: int,
        dtype: np.dtype[Any],
    ) -> None:
        self._file, self._layer, self._rows = file, layer, rows
        self._n_features, self._dtype = n_features, dtype.newbyteorder("=")

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_samples, n_features)``."""
        return len(self._rows), self._n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a value is."""
        return self._dtype

    def __call__(self) -> NDArray[Any]:
        """Read all codes into memory."""
        codes = self._file.read(self._layer).astype(self._dtype, copy=False)
        return codes if len(codes) == len(self._rows) else codes[self._rows]

    def blocks(self) -> Iterator[Block]:
        """Read all codes, some at a time, in the file's order."""
        start = 0
        for codes in self._file.blocks(self._layer):
            first, last = np.searchsorted(self._rows, [start, start + len(codes)])
            kept = codes if last - first == len(codes) else codes[self._rows[first:last] - start]
            yield Block(rows=np.arange(first, last), codes=kept.astype(self._dtype, copy=False))
            start += len(codes)
