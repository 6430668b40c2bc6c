"""Writing: rows of codes arrive in order, are cut into segments, and are committed one by one.

A segment counts once its marker exists. The marker is created exclusively after every chunk of
the segment and its directories have reached the disk, so that a crash at any moment leaves only
segments that are whole, and some chunks that are never read.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.chunks import CODECS, KEYS, chunk_path, chunk_rows, encode
from cache.errors import StoreError
from cache.key import CodesKey, ExtractionKey, sha256
from cache.part import COMMITTED, IMAGES
from cache.records import write_record
from cache.storage.base import FILE, USE, Storage

SEGMENT_ROWS = 1024
"""Images between two commits: at most so many are computed again after a crash."""

SMALLEST_MAXIMUM = 2.0**-16
"""Of a batch kept as float16, whose steps are 2**-24 from there down to zero."""


class PartWriter:
    """Writes one part: a fixed list of images, and some arrays of codes for them.

    Use it as a context manager. When the block ends early, by an error or by Ctrl-C, the rows
    that arrived are committed and the rest of the part stays empty; a part with no row is removed.

    Parameters
    ----------
    storage : Storage
    key : ExtractionKey
    arrays : mapping of CodesKey to int
        The arrays and their widths (n_features).
    digests : ndarray of shape (n_images, 32), uint8
        The images, in the order in which their codes will come.
    provenance : mapping
        Recorded beside the codes: versions, device.
    """

    def __init__(
        self,
        storage: Storage,
        key: ExtractionKey,
        *,
        arrays: Mapping[CodesKey, int],
        digests: NDArray[np.uint8],
        provenance: Mapping[str, Any],
    ) -> None:
        now = datetime.now(UTC)
        self.path = f"{key.folder()}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.n_committed = 0
        self._storage = storage
        self._row = 0
        self._segment_start = 0
        self._unreadable: dict[int, str] = {}
        with storage.asking():
            images = zarr.create_array(
                storage.zarr(f"{self.path}/{IMAGES}"),
                shape=digests.shape,
                dtype="uint8",
                chunks=(65_536, 32),
                chunk_key_encoding=KEYS,
                compressors=CODECS,
                fill_value=0,
            )
            images[:] = digests
            self._columns = {
                array: _Column(storage, self.path, array, (len(digests), n_features))
                for array, n_features in arrays.items()
            }
        write_record(storage, f"{self.path}/{COMMITTED}", {})
        self._folders = [f"{self.path}/{column.name}" for column in self._columns.values()]
        described = [f"{self.path}/{IMAGES}", *self._folders]
        storage.sync([*(file.path for file in storage.files(self.path)), *described])
        metadata = {at.split("/")[-1]: storage.read(f"{at}/{FILE}") for at in described}
        write_record(
            storage,
            self.path,
            {
                "created": now.isoformat(),
                "key": key.fields(),
                "n_images": len(digests),
                "images": sha256(digests.tobytes()),
                "arrays": {array.array(): array.fields() for array in arrays},
                "metadata": {name: sha256(data or b"") for name, data in metadata.items()},
                "provenance": dict(provenance),
            },
        )
        storage.touch(f"{USE}/{self.path}")
        self._n_images = len(digests)
        # This thread alone changes what follows: Ctrl-C, which the main thread gets anywhere, finds
        # a batch or a commit whole.
        self._owner = ThreadPoolExecutor(1)
        self._threads = ThreadPoolExecutor(storage.n_threads)
        self._sent: deque[Future[None]] = deque()

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            # What refused a write would refuse the next one.
            if not isinstance(error, (OSError, StoreError)):
                self._owner.submit(self._commit).result()
        finally:
            self._owner.shutdown()
            self._threads.shutdown()
            if self.n_committed == 0:
                with suppress(OSError, StoreError):
                    self._storage.remove(self.path)

    def write(
        self, codes: Mapping[CodesKey, NDArray[np.float32]], unreadable: Mapping[int, str]
    ) -> None:
        """Append the rows of the next images.

        Parameters
        ----------
        codes : mapping of CodesKey to ndarray of shape (n, n_features), float32
            The same n for every array of the part.
        unreadable : mapping of int to str
            Place in the part → why that image has no codes; its rows are never read.

        Raises
        ------
        ValueError
            If an array is missing or of another shape, a code is NaN or infinite, or there are more
            rows than images.
        OverflowError
            If the stored type cannot hold a code; the message names the layer.
        OSError
            If the disk is full or fails; what was committed stays.
        """
        n, largest = self._check(codes, unreadable)
        stored = {key: _as_stored(rows, key, largest[key]) for key, rows in codes.items()}
        self._owner.submit(self._append, stored, n, unreadable).result()

    def _check(
        self, codes: Mapping[CodesKey, NDArray[np.float32]], unreadable: Mapping[int, str]
    ) -> tuple[int, dict[CodesKey, float]]:
        """Return the number of rows and the largest code of each array.

        What could not be read back is refused.
        """
        if codes.keys() != self._columns.keys():
            raise ValueError(
                f"Codes of {[key.layer for key in codes]} were given; this part holds "
                f"{[key.layer for key in self._columns]}. Give all of them at once."
            )
        n = len(next(iter(codes.values())))
        lost = sorted(row - self._row for row in unreadable)
        if self._row + n > self._n_images or (lost and not 0 <= lost[0] <= lost[-1] < n):
            raise ValueError(
                f"Rows {self._row} to {self._row + n - 1} were given, unreadable ones among them "
                f"{sorted(unreadable)}; this part has {self._n_images} images."
            )
        readable = np.ones(n, bool)
        readable[lost] = False
        largest: dict[CodesKey, float] = {}
        for key, rows in codes.items():
            shape = n, self._columns[key].n_features
            if rows.shape != shape:
                raise ValueError(f"Codes of {key.layer!r} are {rows.shape}; wanted are {shape}.")
            of_rows = largest_of_rows(rows)[readable]
            if not np.isfinite(of_rows).all():
                raise ValueError(
                    f"Codes of {key.layer!r} have NaN or infinity, and only numbers are stored. "
                    "Name images without codes in `unreadable`."
                )
            largest[key] = float(of_rows.max(initial=0))
        return n, largest

    def _append(
        self, stored: Mapping[CodesKey, NDArray[Any]], n: int, unreadable: Mapping[int, str]
    ) -> None:
        self._unreadable |= unreadable
        start = 0
        while start < n:
            stop = min(n, start + self._segment_start + SEGMENT_ROWS - self._row)
            for key, column in self._columns.items():
                for chunk, rows in column.append(stored[key][start:stop]):
                    self._send(column, chunk, rows)
            self._row += stop - start
            start = stop
            if self._row == self._segment_start + SEGMENT_ROWS:
                self._commit()

    def _commit(self) -> None:
        start, stop = self._segment_start, self._row
        if start == stop:
            return
        for column in self._columns.values():
            for chunk, rows in column.flush():
                self._send(column, chunk, rows)
        self._wait(0)
        for column in self._columns.values():
            if len(column.checksums) < -(-(stop - start) // column.chunk_rows):
                return  # A write failed before: these rows are not all there.
        self._storage.sync(self._folders)
        chunks = {column.name: column.checksums for column in self._columns.values()}
        unreadable = {str(row): why for row, why in self._unreadable.items() if start <= row < stop}
        write_record(
            self._storage,
            f"{self.path}/{COMMITTED}/{start:09d}",
            {"start": start, "stop": stop, "unreadable": unreadable, "chunks": chunks},
        )
        for column in self._columns.values():
            column.checksums = {}
        self.n_committed += stop - start - len(unreadable)
        self._segment_start = stop

    def _send(self, column: _Column, chunk: int, rows: NDArray[Any]) -> None:
        """Have a chunk compressed and written beside what comes next; few wait at a time."""
        self._sent.append(self._threads.submit(self._keep, column, chunk, rows))
        self._wait(2 * self._storage.n_threads)

    def _keep(self, column: _Column, chunk: int, rows: NDArray[Any]) -> None:
        data, checksum = encode(rows)
        self._storage.write(chunk_path(self.path, column.name, chunk), data)
        column.checksums[str(chunk)] = checksum

    def _wait(self, most: int) -> None:
        """Wait until at most so many chunks are under way; an error of one is raised here."""
        while len(self._sent) > most:
            self._sent.popleft().result()


class _Column:
    """One array of codes: rows come in, chunks go out."""

    def __init__(self, storage: Storage, part: str, key: CodesKey, shape: tuple[int, int]) -> None:
        self.name = key.array()
        self._dtype = np.dtype(key.dtype)
        # A segment is whole chunks: both are powers of two.
        rows = min(chunk_rows(shape[1], self._dtype.itemsize), SEGMENT_ROWS)
        self.chunk_rows, self.n_features = self._shape = rows, shape[1]
        zarr.create_array(
            storage.zarr(f"{part}/{self.name}"),
            shape=shape,
            dtype=key.dtype,
            chunks=self._shape,
            chunk_key_encoding=KEYS,
            compressors=CODECS,
            # A chunk that is gone reads as this; zero would look like a ReLU's output.
            fill_value=float("nan"),
            attributes={"key": key.fields()},
        )
        self.checksums: dict[str, str] = {}  # Of the chunks written since the last commit.
        self._buffer = np.empty(self._shape, self._dtype)
        self._chunk = self._filled = 0

    def append(self, rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Add rows; yields the number and the rows of each chunk that they fill."""
        while len(rows):
            taken = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._buffer):
                yield from self.flush()

    def flush(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the chunk that is begun, if there is one."""
        if self._filled:
            self._buffer[self._filled :] = np.nan
            yield self._chunk, self._buffer
            self._buffer = np.empty(self._shape, self._dtype)
            self._chunk, self._filled = self._chunk + 1, 0


def largest_of_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the largest size of a value in each row, or NaN where one is NaN; nothing is copied.

    Examples
    --------
    >>> largest_of_rows(np.array([[1, -3], [np.nan, 2], [0, np.inf]], np.float32)).tolist()
    [3.0, nan, inf]
    """
    found: NDArray[np.float32] = np.maximum(rows.max(1, initial=0), -rows.min(1, initial=0))
    return found


def _as_stored(rows: NDArray[np.float32], key: CodesKey, largest: float) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = rows.astype(key.dtype, copy=False)
        overflows = np.isinf(stored.dtype.type(largest))
    if overflows:
        most = np.finfo(key.dtype).max
        raise OverflowError(
            f"Layer {key.layer!r} has a code of {largest:.4g}, and {key.dtype} "
            f"holds at most {most:.0f}. Nothing of this batch was kept. Use --dtype float32."
        )
    if stored.dtype == np.float16 and 0 < largest < SMALLEST_MAXIMUM:
        raise OverflowError(
            f"The largest code of layer {key.layer!r} in a batch is {largest:.4g}, and float16 "
            f"keeps less than three digits below {SMALLEST_MAXIMUM:.2g}. Nothing of this batch "
            "was kept. Use --dtype float32."
        )
    return stored
