"""The store: find codes by what they depend on, read them in any order, add what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreError
from cache.key import CodesKey, ExtractionKey
from cache.part import Part, distinct, find_images
from cache.records import parts, read_record, write_record
from cache.storage.base import USE, user_folder
from cache.storage.opening import open_storage
from cache.upkeep import make_room
from cache.view import CodesView
from cache.writer import PartWriter

DTYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True, eq=False)
class Gap:
    """Images that lack the same arrays of codes.

    Attributes
    ----------
    images : ndarray of shape (n_images,), intp
        Places in the list that was asked for; each distinct image once.
    arrays : tuple of CodesKey
    """

    images: NDArray[np.intp]
    arrays: tuple[CodesKey, ...]


class CodeStore:
    """A folder of codes, kept by what they depend on.

    Images are known by the SHA-256 of their content, so that a renamed, reordered, relabelled or
    cut-down dataset finds its codes, and a grown one lacks the new images only.

    Parameters
    ----------
    root : str or Path, optional
        A folder, or ``s3://bucket/prefix`` with credentials in the environment. Default: the
        environment's ``CNN_CODES_STORE``, otherwise the platform's user cache folder.

    Examples
    --------
    >>> import tempfile
    >>> key = ExtractionKey(architecture={"name": "net"}, weights="0" * 64, preprocessing={},
    ...                     precision="float32", extractor=1)
    >>> fc7 = CodesKey(layer="fc7", activation="post", pool="flatten", dtype="float16")
    >>> images = np.arange(64, dtype=np.uint8).reshape(2, 32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = CodeStore(folder)
    ...     with store.write(key, {fc7: 3}, images) as part:
    ...         part.write({fc7: np.array([[0, 0.5, 1], [2, 0, 0]], np.float32)}, {})
    ...     store.missing(key, [fc7], images), store.codes(key, fc7, images[::-1]).tolist()
    ([], [[2.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    """

    def __init__(self, root: str | Path | None = None) -> None:
        if root is None:
            root = os.environ.get("CNN_CODES_STORE") or user_folder()
        self.storage = open_storage(root)
        self.name = self.storage.name
        self._used: set[str] = set()
        self._needed: set[str] = set()

    def missing(
        self, extraction: ExtractionKey, arrays: Sequence[CodesKey], digests: NDArray[np.uint8]
    ) -> list[Gap]:
        """Find which images lack which arrays.

        Parameters
        ----------
        extraction : ExtractionKey
        arrays : sequence of CodesKey
        digests : ndarray of shape (n_samples, 32), uint8

        Returns
        -------
        gaps : list of Gap
            Empty if every array has every image.
        """
        held = self._parts(extraction)
        places = distinct(digests)
        lacking = np.empty((len(places), len(arrays)), bool)
        lookups: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        for column, array in enumerate(arrays):
            with_array = [part for part in held if part.has(array)]
            names = tuple(part.path for part in with_array)
            if names not in lookups:
                part_of, _ = find_images(with_array, digests[places])
                lookups[names] = part_of < 0
                self._needed |= {names[number] for number in np.unique(part_of[part_of >= 0])}
            lacking[:, column] = lookups[names]
        patterns, pattern_of = np.unique(lacking, axis=0, return_inverse=True)
        return [
            Gap(
                images=places[pattern_of.ravel() == number],
                arrays=tuple(compress(arrays, pattern)),
            )
            for number, pattern in enumerate(patterns)
            if pattern.any()
        ]

    def write(
        self,
        extraction: ExtractionKey,
        arrays: Mapping[CodesKey, int],
        digests: NDArray[np.uint8],
        *,
        provenance: Mapping[str, Any] | None = None,
    ) -> PartWriter:
        """Start a new part.

        Parameters
        ----------
        extraction : ExtractionKey
        arrays : mapping of CodesKey to int
            The arrays and their widths (n_features).
        digests : ndarray of shape (n_images, 32), uint8
            The images, in the order in which their codes will be written.
        provenance : mapping, optional
            Recorded beside the codes.

        Returns
        -------
        part : PartWriter
            A context manager.

        Raises
        ------
        OSError
            If the disk has no room for the codes, uncompressed (``errno.ENOSPC``), or the folder
            cannot be written.
        StoreError
            If the object store does not answer.
        ValueError
            If there is no array or image, or a width, stored type or digest is none.
        """
        _check_parts(arrays, digests)
        self.storage.require_space(bytes_of(arrays, len(digests)))
        group = extraction.folder()
        if not self._check_key(extraction):
            with suppress(FileExistsError):  # Another process was first, with the same key.
                write_record(self.storage, group, {"key": extraction.fields()})
        self.storage.lock_shared(group)
        return PartWriter(
            self.storage, extraction, arrays=arrays, digests=digests, provenance=provenance or {}
        )

    def require_limit(self, n_bytes: int) -> list[str]:
        """Keep the store within ``CNN_CODES_STORE_LIMIT``, where that is set.

        Parameters
        ----------
        n_bytes : int
            What will be written, uncompressed.

        Returns
        -------
        removed : list of str
            What had to go, least recently used first: nothing that another process uses, nor what
            `missing` or `view` found here.

        Raises
        ------
        StoreError
            If that is not enough.
        """
        limit = os.environ.get("CNN_CODES_STORE_LIMIT")
        return make_room(self.storage, limit, n_bytes, self._needed) if limit and n_bytes else []

    def codes(
        self, extraction: ExtractionKey, array: CodesKey, digests: NDArray[np.uint8]
    ) -> NDArray[Any]:
        """Read the codes of a list of images.

        Parameters
        ----------
        extraction : ExtractionKey
        array : CodesKey
        digests : ndarray of shape (n_samples, 32), uint8

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features), float16 or float32
            In the order of the list.

        Raises
        ------
        StoreError
            If the codes of an image are not there.
        DamagedCodesError
            If a chunk fails its checksum or is gone; the message names the array and the rows.
        """
        return self.view(extraction, array, digests)[:]

    def view(
        self, extraction: ExtractionKey, array: CodesKey, digests: NDArray[np.uint8]
    ) -> CodesView:
        """Look up the codes of a list of images, and leave them on the disk until they are read.

        Parameters
        ----------
        extraction, array, digests
            As for `codes`.

        Returns
        -------
        codes : CodesView of shape (n_samples, n_features)

        Raises
        ------
        StoreError
            If the codes of an image are not there.
        """
        held = [part for part in self._parts(extraction) if part.has(array)]
        part_of, row_of = find_images(held, digests)
        absent = int((part_of < 0).sum())
        if absent:
            raise StoreError(
                f"The store {self.name!r} lacks {array.array()} of {absent} of "
                f"{len(digests)} images. Run `cnn-codes extract` first."
            )
        for number in np.unique(part_of):
            path = held[number].path
            self._needed.add(path)
            if path not in self._used:
                self._used.add(path)
                self.storage.touch(f"{USE}/{path}")
        return CodesView(array.array(), held, part_of, row_of)

    def _check_key(self, extraction: ExtractionKey) -> bool:
        """Tell whether the group exists; an error if another extraction's codes are in it."""
        record = read_record(self.storage, extraction.folder())
        if record is not None and record.get("key") != extraction.fields():
            raise StoreError(
                f"{extraction.folder()!r} in {self.name!r} holds codes of another extraction than "
                "its name says. Move it away."
            )
        return record is not None

    def _parts(self, extraction: ExtractionKey) -> list[Part]:
        group = extraction.folder()
        if not self._check_key(extraction):
            return []
        self.storage.lock_shared(group)
        found = [Part(self.storage, path) for path in parts(self.storage, group)]
        return [part for part in found if part.segments]


def _check_parts(arrays: Mapping[CodesKey, int], digests: NDArray[np.uint8]) -> None:
    wrong = [key.layer for key, n in arrays.items() if n < 1 or key.dtype not in DTYPES]
    if wrong or not arrays:
        raise ValueError(
            f"Arrays {wrong or 'none'}: allowed are one or more, of 1 or more features, kept as "
            f"{' or '.join(DTYPES)}."
        )
    if digests.dtype != np.uint8 or digests.ndim != 2 or digests.shape[1] != 32 or not len(digests):
        raise ValueError(
            f"Digests are {digests.dtype} of shape {digests.shape}; wanted are uint8 of shape "
            "(n_images, 32), of one image or more: their SHA-256."
        )


def bytes_of(arrays: Mapping[CodesKey, int], n_images: int) -> int:
    """Return the size of codes before compression, in bytes.

    Parameters
    ----------
    arrays : mapping of CodesKey to int
        The arrays and their widths (n_features).
    n_images : int

    Returns
    -------
    n_bytes : int
    """
    return n_images * sum(
        n_features * np.dtype(key.dtype).itemsize for key, n_features in arrays.items()
    )
