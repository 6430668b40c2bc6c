"""A part: an immutable list of images and some arrays of their codes, as its markers tell it.

::

    alexnet-1f0c…/zarr.json                     the key of the extraction
    alexnet-1f0c…/20261120T101500-3fa9…/        a part
        zarr.json                               its arrays, checksums, provenance; written last
        images/                                 (n_images, 32) uint8: SHA-256 of each image
        features.2-post-grid_8-float16-…/       (n_images, n_features): codes
        committed/000001024/zarr.json           marker: these rows are whole
    use/alexnet-1f0c…/20261120T101500-3fa9…     its time: when the part was last read
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from cache.chunks import MIN_ROWS
from cache.errors import DamagedCodesError
from cache.key import CodesKey, sha256
from cache.records import read_record
from cache.storage.base import FILE, Storage

COMMITTED, IMAGES = "committed", "images"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What a marker says of some rows of a part."""

    path: str  # of the marker
    start: int
    stop: int
    unreadable: dict[str, str]  # row → why its image has no codes
    chunks: dict[str, dict[str, str]]  # array → number of a chunk → the checksum at its end

    def checksums(self, array: str, chunk_rows: int) -> dict[int, str | None]:
        """Give the checksum of each chunk that its rows are in; None where the marker has none."""
        kept = self.chunks.get(array, {})
        numbers = range(self.start // chunk_rows, -(-self.stop // chunk_rows))
        return {chunk: kept.get(str(chunk)) for chunk in numbers}


class Part:
    """A part that can be read.

    Parameters
    ----------
    storage : Storage
    path : str

    Attributes
    ----------
    record : dict or None
        None if the part's writer did not live to finish its first files.
    segments : list of Segment
        Committed.

    Raises
    ------
    DamagedCodesError
        If a record is not as it was written.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self.storage, self.path = storage, path
        self.record = read_record(storage, path)
        self.segments: list[Segment] = []
        self._markers: set[str] = set()
        if self.record is not None:
            for name in storage.folders(f"{path}/{COMMITTED}"):
                marker = f"{path}/{COMMITTED}/{name}"
                self._markers.add(marker)
                attributes = read_record(storage, marker)
                if attributes is not None:
                    self.segments.append(Segment(path=marker, **attributes))

    @property
    def arrays(self) -> dict[str, Any]:
        """Name of each array of codes → the fields of its key."""
        return {} if self.record is None else dict(self.record["arrays"])

    def has(self, array: CodesKey) -> bool:
        """Tell whether an array is among those of the part."""
        name = array.array()
        if name not in self.arrays:
            return False
        if self.arrays[name] != array.fields():
            raise DamagedCodesError(f"{self.path}/{name} holds other codes than its name says.")
        return True

    def owns(self, file: str) -> bool:
        """Tell whether a file in the part's folder is the part's, or what a killed writer left."""
        folder, _, name = file.removeprefix(f"{self.path}/").rpartition("/")
        if name.endswith(".partial"):
            return True
        chunk = re.fullmatch(r"c\.(\d+)\.0", name)
        if self.record is None:
            return name == FILE or chunk is not None
        if chunk is not None:
            most = self.record["n_images"] // MIN_ROWS
            return folder in self.record["metadata"] and int(chunk[1]) <= most
        known = {"", COMMITTED, *self.record["metadata"]}
        return name == FILE and (folder in known or f"{self.path}/{folder}" in self._markers)

    def digests(self) -> NDArray[np.uint8]:
        """Read the images' digests, shape ``(n_images, 32)``."""
        images = self.open(IMAGES)
        try:
            digests: NDArray[np.uint8] = np.asarray(images[:])
        except (ValueError, RuntimeError, OSError) as error:
            raise self._damaged(IMAGES, str(error)) from error
        if self.record is None or sha256(digests.tobytes()) != self.record["images"]:
            raise self._damaged(IMAGES, "the images are not those that were written")
        return digests

    def rows(self) -> NDArray[np.intp]:
        """Give the numbers of the rows that hold codes."""
        readable = np.zeros(max(segment.stop for segment in self.segments), bool)
        for segment in self.segments:
            readable[segment.start : segment.stop] = True
            readable[[int(row) for row in segment.unreadable]] = False
        return np.flatnonzero(readable)

    def open(self, array: str) -> zarr.Array[Any]:
        """Open an array whose metadata are as they were written."""
        metadata = self.storage.read(f"{self.path}/{array}/{FILE}")
        if (
            metadata is None
            or self.record is None
            or sha256(metadata) != self.record["metadata"][array]
        ):
            raise self._damaged(array, "its metadata are not those that were written")
        return zarr.open_array(self.storage.zarr(f"{self.path}/{array}"), mode="r")

    def _damaged(self, array: str, why: str) -> DamagedCodesError:
        return DamagedCodesError(
            f"{self.path}/{array} in {self.storage.name!r} is damaged: {why}. Run `cnn-codes cache "
            "verify --repair`: its images are then extracted again."
        )


def find_images(
    parts: Sequence[Part], digests: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find where each image stands in some parts.

    Parameters
    ----------
    parts : sequence of Part
        Of several that hold an image, the first counts.
    digests : ndarray of shape (n, 32), uint8

    Returns
    -------
    part_of, row_of : ndarrays of shape (n,), intp
        Number of the part, -1 where there is none, and the row in it.
    """
    rows = [part.rows() for part in parts]
    kept = [part.digests()[r] for part, r in zip(parts, rows, strict=True)]
    keys = _whole(np.concatenate([np.empty((0, 32), np.uint8), *kept]))
    order = np.argsort(keys, kind="stable")
    keys, wanted = keys[order], _whole(digests)
    asked = np.argsort(wanted)  # In order they are found several times as fast.
    places = np.searchsorted(keys, wanted[asked])
    inside = places < len(keys)
    asked, places = asked[inside], places[inside]
    same = keys[places] == wanted[asked]
    found, at = asked[same], order[places[same]]
    part_of, row_of = np.full(len(digests), -1, np.intp), np.zeros(len(digests), np.intp)
    part_of[found] = np.repeat(np.arange(len(parts)), [len(r) for r in rows])[at]
    row_of[found] = np.concatenate([np.empty(0, np.intp), *rows])[at]
    return part_of, row_of


def distinct(digests: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Give the place of the first of each image among copies, in ascending order.

    Parameters
    ----------
    digests : ndarray of shape (n, 32), uint8

    Examples
    --------
    >>> distinct(np.array([[3] * 32, [1] * 32, [3] * 32], np.uint8)).tolist()
    [0, 1]
    """
    return np.sort(np.unique(_whole(digests), return_index=True)[1])


def _whole(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """Give each digest as one value, which NumPy sorts and compares faster than 32."""
    return np.ascontiguousarray(digests).view("S32").ravel()
