"""Reading codes: a list of images, in its order, all at once or a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.errors import DamagedCodesError
from cache.part import Part

READ_BYTES = 2**26
"""Decoded at once: some chunks, which Zarr decodes side by side."""


class CodesView:
    """Stored codes of a list of images; rows are read when they are asked for.

    Behaves as a two-dimensional array of which rows can be taken: ``view[:100]``,
    ``view[[3, 1]]``, ``numpy.asarray(view)``. The classifiers of `pipelines` take it as ``X``.

    Parameters
    ----------
    array : str
        Name of the array in each part.
    parts : sequence of Part
    part_of, row_of : ndarrays of shape (n_samples,), intp
        The part, by its number in ``parts``, and the row in it, of each image.

    Attributes
    ----------
    shape : tuple of int
        ``(n_samples, n_features)``.
    dtype : numpy.dtype
    chunks : tuple of int
        How many rows are best read together, and n_features.
    """

    ndim = 2

    def __init__(
        self,
        array: str,
        parts: Sequence[Part],
        part_of: NDArray[np.intp],
        row_of: NDArray[np.intp],
    ) -> None:
        self._name, self._parts = array, list(parts)
        self._part_of, self._row_of = part_of, row_of
        self._sources = {number: parts[number].open(array) for number in np.unique(part_of)}
        first = next(iter(self._sources.values()), None)
        self.dtype: np.dtype[Any] = np.dtype(array.split("-")[-2] if first is None else first.dtype)
        self.shape = (len(row_of), 0 if first is None else int(first.shape[1]))
        self.chunks = (64, 0) if first is None else (int(first.chunks[0]), self.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("Stored codes are read, so an array of them is always a copy.")
        codes = self[:]
        return codes if dtype is None else codes.astype(dtype, copy=False)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Read rows: a number, slice, boolean mask or list of numbers, as for an array.

        Returns
        -------
        codes : ndarray of shape (n_rows, n_features), or (n_features,) for a number

        Raises
        ------
        DamagedCodesError
            If a chunk fails its checksum or is gone; the message names the array and the rows.
        """
        rows, *rest = rows if isinstance(rows, tuple) else (rows,)
        wanted = np.arange(len(self))[rows]
        taken = self._read(np.atleast_1d(wanted))
        return taken[(slice(None) if wanted.ndim else 0, *rest)]

    def _read(self, wanted: NDArray[np.intp]) -> NDArray[Any]:
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        part_of, row_of = self._part_of[wanted], self._row_of[wanted]
        for number in np.unique(part_of):
            places = np.flatnonzero(part_of == number)
            self._read_part(int(number), row_of[places], places, result)
        return result

    def _read_part(
        self, number: int, rows: NDArray[np.intp], places: NDArray[np.intp], result: NDArray[Any]
    ) -> None:
        """Read rows of a part into their places: no chunk twice, no copy of the whole array."""
        source = self._sources[number]
        order = np.argsort(rows, kind="stable")
        rows, places = rows[order], places[order]
        step = source.chunks[0]
        most = max(1, READ_BYTES // (step * source.shape[1] * source.dtype.itemsize))
        chunks = rows // step
        at = 0
        while at < len(rows):
            # Chunks that follow one another are read together.
            until = np.searchsorted(chunks, chunks[at] + most)
            gaps = np.flatnonzero(np.diff(chunks[at:until]) > 1)
            stop = at + int(gaps[0]) + 1 if len(gaps) else int(until)
            first, last = int(rows[at]), int(rows[stop - 1])
            block = self._decode(number, source, first, last)
            inside = rows[at:stop] - first
            taken = block if np.array_equal(inside, np.arange(len(block))) else block[inside]
            if np.isnan(taken[:, 0]).any():  # The fill value: codes are finite when written.
                raise self._damaged(number, first, last, "a chunk that was written is gone")
            result[places[at:stop]] = taken
            at = stop

    def _decode(self, number: int, source: zarr.Array[Any], first: int, last: int) -> NDArray[Any]:
        with self._parts[number].place.asking():
            try:
                return np.asarray(source[first : last + 1])
            except (ValueError, RuntimeError, OSError) as error:
                step = source.chunks[0]
                next_chunk = (first // step + 1) * step
                if next_chunk <= last:  # Find out which.
                    self._decode(number, source, first, next_chunk - 1)
                    self._decode(number, source, next_chunk, last)
                raise self._damaged(number, first, last, str(error).rstrip(".")) from error

    def _damaged(self, number: int, first: int, last: int, why: str) -> DamagedCodesError:
        part = self._parts[number]
        return DamagedCodesError(
            f"The stored codes {self._name}, rows {first} to {last} of {part.path} in "
            f"{part.place.name!r}, are damaged: {why}. Run `cnn-codes cache verify --repair` and "
            "then this again: these images are then extracted again."
        )
