"""Codes in a file that is mapped into memory: rows are read when they are indexed."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]

# Bytes of pages that are mapped before they are given back: they stay in the system's cache, and
# are no longer counted as memory of the process.
KEPT = 2**25
# Bytes that the system maps around a page that is missing (Linux; fault_around_bytes).
AROUND = 2**16


class _MappedFile:
    """The values in a file, whose pages are mapped by all that reads them together."""

    def __init__(self, path: Path, dtype: np.dtype[Any], width: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.values = np.frombuffer(self._map, dtype).reshape(-1, width)
        self._mapped = 0

    def read(self, rows: Index, columns: slice | int) -> Array:
        """Read some rows, or one, and some columns of them, or one."""
        if not np.ndim(rows):
            return np.asarray(self.values[rows, columns])
        codes = np.empty((*rows.shape, *self.values[0, columns].shape), self.values.dtype)
        row = self.values.strides[0]
        # Few rows of many map the pages around each: so many at once map no more than is kept.
        step = max(1, KEPT // ((row + AROUND) * max(1, rows[:1].size)))
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            codes[start : start + step] = self.values[part, columns]
            span = (int(part.max()) - int(part.min()) + 1) * row
            self._mapped += min(span, part.size * (row + AROUND))
            if self._mapped > KEPT and hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
                self._mapped = 0
        return codes


class MappedCodes:
    """Rows of codes in a file, of which only those that are indexed are read.

    Parameters
    ----------
    path : Path
        A file of nothing but the values, row after row.
    shape : tuple of int
        ``(n_samples, n_features)``, or ``(n_samples, n_views, n_features)``.
    dtype : numpy.dtype
        Of floating-point numbers.

    Attributes
    ----------
    shape, dtype, ndim
        Of what indexing gives.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "codes")
    ...     np.arange(12, dtype=np.float32).tofile(file)
    ...     codes = MappedCodes(file, (2, 3, 2), np.dtype(np.float32))
    ...     some = codes.select(np.array([1]))
    ...     some.shape, some.as_rows()[:, 0].tolist(), some.averaged()[:].tolist()
    ((1, 3, 2), [6.0, 8.0, 10.0], [[8.0, 9.0]])
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file = _MappedFile(path, dtype, shape[-1])
        self._rows = np.arange(len(self._file.values)).reshape(shape[:-1])
        self._average = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what indexing gives."""
        kept = self._rows.shape[:1] if self._average else self._rows.shape
        return (*kept, self._file.values.shape[1])

    @property
    def ndim(self) -> int:
        """2, or 3 where views are kept apart."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As in the file; averages are float32."""
        return np.dtype(np.float32) if self._average else self._file.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Array:
        """Read rows, or rows and a slice of columns, as of an array."""
        rows, columns = index if isinstance(index, tuple) else (index, slice(None))
        codes = self._file.read(self._rows[rows], columns)
        return codes.mean(axis=1, dtype=np.float32) if self._average else codes

    def select(self, rows: Index) -> MappedCodes:
        """Give some of the rows, which are not read."""
        return self._with(self._rows[rows], average=self._average)

    def as_rows(self) -> MappedCodes:
        """Make a row of each view."""
        return self._with(self._rows.ravel(), average=False)

    def averaged(self) -> MappedCodes:
        """Average the views of a sample when it is read."""
        return self._with(self._rows, average=self._rows.ndim == 2)

    def _with(self, rows: Index, *, average: bool) -> MappedCodes:
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__ | {"_rows": rows, "_average": average}
        return other
