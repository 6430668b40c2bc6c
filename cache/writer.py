"""Writing: rows of codes arrive in order, are cut into segments, and are committed one by one.

A segment counts once its marker exists. The marker is created exclusively after every chunk of
the segment and its directories have reached the disk, so that a crash at any moment leaves only
segments that are whole, and some chunks that nobody reads.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from cache.errors import StoreError
from cache.key import CodesKey, ExtractionKey
from cache.part import COMMITTED, IMAGES
from cache.places import USE, Place
from cache.records import FILE, sha256, write_record

SEGMENT_ROWS = 1024
"""Images between two commits: at most so many are computed again after a crash."""

CHUNK_BYTES = 12 * 2**20
CHECKSUM_BYTES = 4
"""Each chunk ends with its CRC-32C."""


def chunk_rows(n_features: int, itemsize: int) -> int:
    """Choose how many rows stand in one chunk.

    Parameters
    ----------
    n_features : int
    itemsize : int
        Bytes of one value.

    Returns
    -------
    rows : int
        The power of two nearest to 12 MiB, between 64 and a segment.

    Examples
    --------
    >>> chunk_rows(512, 2), chunk_rows(86_528, 4)
    (1024, 64)
    """
    wanted = max(1.0, CHUNK_BYTES / (n_features * itemsize))
    return int(np.clip(2 ** round(np.log2(wanted)), 64, SEGMENT_ROWS))


class PartWriter:
    """Writes one part: a fixed list of images, and some arrays of codes for them.

    Use it as a context manager. When the block ends early, by an error or by Ctrl-C, the rows
    that arrived are committed and the rest of the part stays empty; a part with no row is removed.

    Parameters
    ----------
    place : Place
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
        place: Place,
        key: ExtractionKey,
        *,
        arrays: Mapping[CodesKey, int],
        digests: NDArray[np.uint8],
        provenance: Mapping[str, Any],
    ) -> None:
        now = datetime.now(UTC)
        self.path = f"{key.folder()}/{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        self.n_committed = 0
        self._place = place
        self._row = 0
        self._segment_start = 0
        self._unreadable: dict[int, str] = {}
        with place.asking():
            images = zarr.create_array(
                place.zarr(f"{self.path}/{IMAGES}"),
                shape=digests.shape,
                dtype="uint8",
                chunks=(65_536, 32),
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
                fill_value=0,
            )
            images[:] = digests
            self._columns = {
                array: _Column(place, self.path, array, (len(digests), n_features))
                for array, n_features in arrays.items()
            }
        write_record(place, f"{self.path}/{COMMITTED}", {})
        place.sync(self.path, [file.path for file in place.files(self.path)])
        names = [array.array() for array in arrays]
        metadata = {name: place.read(f"{self.path}/{name}/{FILE}") for name in [IMAGES, *names]}
        write_record(
            place,
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
        place.touch(f"{USE}/{self.path}")

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            # What refused a write would refuse the next one.
            if not isinstance(error, (OSError, StoreError)):
                self._commit()
        finally:
            if self.n_committed == 0:
                with suppress(OSError, StoreError):
                    self._place.remove(self.path)

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
        OverflowError
            If the stored type cannot hold a code; the message names the layer.
        OSError
            If the disk is full or fails; what was committed stays.
        """
        self._unreadable |= unreadable
        stored = {key: _as_stored(rows, key) for key, rows in codes.items()}
        n = len(next(iter(stored.values())))
        start = 0
        while start < n:
            stop = min(n, start + self._segment_start + SEGMENT_ROWS - self._row)
            with self._place.asking():
                for key, column in self._columns.items():
                    column.append(stored[key][start:stop])
            self._row += stop - start
            start = stop
            if self._row == self._segment_start + SEGMENT_ROWS:
                self._commit()

    def _commit(self) -> None:
        start, stop = self._segment_start, self._row
        if start == stop:
            return
        chunks: dict[str, dict[str, str | None]] = {}
        with self._place.asking():
            for column in self._columns.values():
                column.flush()
                chunks[column.name] = column.checksums(start, stop)
        self._place.sync(
            self.path,
            [
                chunk_path(self.path, name, chunk)
                for name, checksums in chunks.items()
                for chunk, checksum in checksums.items()
                if checksum is not None
            ],
        )
        unreadable = {str(row): why for row, why in self._unreadable.items() if start <= row < stop}
        write_record(
            self._place,
            f"{self.path}/{COMMITTED}/{start:09d}",
            {"start": start, "stop": stop, "unreadable": unreadable, "chunks": chunks},
        )
        self.n_committed += stop - start - len(unreadable)
        self._segment_start = stop


class _Column:
    """One array of codes, written a chunk at a time."""

    def __init__(self, place: Place, part: str, key: CodesKey, shape: tuple[int, int]) -> None:
        dtype = np.dtype(key.dtype)
        self.name = key.array()
        self._place, self._part = place, part
        self._rows = chunk_rows(shape[1], dtype.itemsize)
        self._array = zarr.create_array(
            place.zarr(f"{part}/{self.name}"),
            shape=shape,
            dtype=key.dtype,
            chunks=(self._rows, shape[1]),
            # Measured: zstd 1 is at the entropy bound of ReLU codes; shuffling makes them larger.
            compressors=[ZstdCodec(level=1), Crc32cCodec()],
            # A chunk never written reads as this; zero would look like a ReLU's output.
            fill_value=float("nan"),
            attributes={"key": key.fields()},
        )
        self._buffer = np.empty((min(self._rows, shape[0]), shape[1]), dtype)
        self._start = self._filled = 0

    def append(self, rows: NDArray[Any]) -> None:
        while len(rows):
            taken = rows[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            rows = rows[len(taken) :]
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        if self._filled:
            stop = self._start + self._filled
            self._array[self._start : stop] = self._buffer[: self._filled]
            self._start, self._filled = stop, 0

    def checksums(self, start: int, stop: int) -> dict[str, str | None]:
        """Give the checksum at the end of each chunk of some rows."""
        found: dict[str, str | None] = {}
        for chunk in range(start // self._rows, (stop - 1) // self._rows + 1):
            path = chunk_path(self._part, self.name, str(chunk))
            # A chunk of unreadable images alone is the fill value: no file.
            tail = self._place.tail(path, CHECKSUM_BYTES)
            found[str(chunk)] = None if tail is None else tail.hex()
        return found


def chunk_path(part: str, array: str, chunk: str) -> str:
    """Name the file of a chunk of whole rows."""
    return f"{part}/{array}/c/{chunk}/0"


def _as_stored(rows: NDArray[np.float32], key: CodesKey) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = rows.astype(key.dtype, copy=False)
    if np.isinf(stored).any():
        most = np.finfo(key.dtype).max
        raise OverflowError(
            f"Layer {key.layer!r} has a code of {np.nanmax(np.abs(rows)):.4g}, and {key.dtype} "
            f"holds at most {most:.0f}. Nothing of this batch was kept. Use --dtype float32."
        )
    return stored
