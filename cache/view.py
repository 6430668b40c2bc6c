"""Reading codes: a list of images, in its order, all at once or a few rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.chunks import chunk_path, decode
from cache.errors import DamagedCodesError
from cache.part import Part


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
        self._part_of, self._row_of = part_of, row_of
        # Of no image, codes are as wide as others.
        numbers = np.unique(part_of) if len(part_of) else np.arange(len(parts))[:1]
        self._sources = {int(number): _Source(parts[number], array) for number in numbers}
        first = next(iter(self._sources.values()), None)
        self.dtype: np.dtype[Any] = np.dtype(array.split("-")[-2] if first is None else first.dtype)
        self.shape = (len(row_of), 0 if first is None else first.n_features)
        self.chunks = (64, 0) if first is None else (first.chunk_rows, self.shape[1])

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
        index = rows if isinstance(rows, tuple) else (rows,)
        if len(index) > 2:
            raise IndexError(f"{len(index)} indices were given; codes have rows and columns.")
        which, columns = (*index, slice(None), slice(None))[:2]
        if which is Ellipsis:
            which = slice(None)
        if not isinstance(which, slice):
            which = np.asarray(which) if np.size(which) else np.empty(np.shape(which), np.intp)
            if which.ndim > 1 or which.dtype.kind not in ("iu" if which.ndim == 0 else "iub"):
                raise IndexError(
                    f"Rows {str(rows)[:60]!r} are not available. Allowed: a number, a slice, or "
                    "one list of numbers or truth values; then, after a comma, columns."
                )
        wanted = np.arange(len(self))[which]
        if np.ndim(columns) and not isinstance(which, slice) and wanted.ndim:
            raise IndexError("Rows and columns cannot both be lists. Use codes[rows][:, columns].")
        taken = self._read(np.atleast_1d(wanted))
        return np.asarray(taken[(slice(None) if wanted.ndim else 0, columns)])

    def stored_order(self) -> NDArray[np.intp]:
        """Give the rows in the order in which they are stored: read so, no chunk is read twice."""
        return np.lexsort((self._row_of, self._part_of))

    def _read(self, wanted: NDArray[np.intp]) -> NDArray[Any]:
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        part_of, row_of = self._part_of[wanted], self._row_of[wanted]
        for number, source in self._sources.items():
            places = np.flatnonzero(part_of == number)
            places = places[np.argsort(row_of[places], kind="stable")]
            chunk_of = row_of[places] // source.chunk_rows
            starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
            tasks = np.split(places, starts[1:]) if len(places) else []
            read = partial(source.read, row_of=row_of, result=result)
            n_threads = min(source.part.storage.n_threads, len(tasks))
            if n_threads <= 1:
                read(tasks)
            else:
                with ThreadPoolExecutor(n_threads) as threads:
                    list(threads.map(read, (tasks[n::n_threads] for n in range(n_threads))))
        return result


class _Source:
    """An array of a part, read a chunk at a time."""

    def __init__(self, part: Part, array: str) -> None:
        described = part.open(array)
        self.part, self._array = part, array
        self.dtype, (self.chunk_rows, self.n_features) = described.dtype, described.chunks
        self._checksums: dict[int, str | None] = {}
        for segment in part.segments:
            self._checksums |= segment.checksums(array, self.chunk_rows)

    def read(
        self, tasks: Sequence[NDArray[np.intp]], row_of: NDArray[np.intp], result: NDArray[Any]
    ) -> None:
        """Read rows into their places; each task is of one chunk, rows ascending."""
        # New memory for each chunk would take longer than reading it.
        buffer = np.empty((self.chunk_rows, self.n_features), self.dtype)
        # What cannot be compressed takes a little more than its rows.
        data = bytearray(buffer.nbytes + buffer.nbytes // 128 + 1024)
        for places in tasks:
            chunk = int(row_of[places[0]]) // self.chunk_rows
            inside = row_of[places] - chunk * self.chunk_rows
            run = slice(int(places[0]), int(places[-1]) + 1)
            whole = len(places) == self.chunk_rows and (np.diff(inside) == 1).all()
            if whole and (np.diff(places) == 1).all():
                taken = result[run]  # No copy on the way.
                self._decode(chunk, data, taken)
            else:
                self._decode(chunk, data, buffer)
                taken = buffer[inside]
                result[places] = taken
            if np.isnan(taken[:, 0]).any():  # Codes are finite when written.
                raise self._damaged(chunk, "it lacks rows that were written")

    def _decode(self, chunk: int, data: bytearray, rows: NDArray[Any]) -> None:
        try:
            path = chunk_path(self.part.path, self._array, chunk)
            n_bytes, checksum = self.part.storage.read_into(path, data), self._checksums[chunk]
            if n_bytes is None or checksum is None:
                raise self._damaged(chunk, "the chunk is gone, or its marker does not count it")
            decode(memoryview(data)[:n_bytes], checksum, rows)
        except (ValueError, OSError) as error:
            raise self._damaged(chunk, str(error)) from error

    def _damaged(self, chunk: int, why: str) -> DamagedCodesError:
        first = chunk * self.chunk_rows
        last = min(first + self.chunk_rows, max(segment.stop for segment in self.part.segments)) - 1
        return DamagedCodesError(
            f"The stored codes {self._array}, rows {first} to {last} of {self.part.path} in "
            f"{self.part.storage.name!r}, are damaged: {why}. Run `cnn-codes cache verify "
            "--repair` and then this again: these images are then extracted again."
        )
