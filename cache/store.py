"""The store: find codes by what they depend on, read them in any order, add what is missing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import zarr
from numpy.typing import NDArray

from cache.disk import create_group
from cache.key import CodesKey, ExtractionKey
from cache.writer import COMMITTED, IMAGES, PartWriter


class StoreError(RuntimeError):
    """A store does not hold what was asked of it, or is no store."""


class DamagedCodesError(StoreError):
    """Stored codes cannot be read back as they were written."""


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
        Default: the environment's ``CNN_CODES_STORE``, otherwise the platform's user cache folder.

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
        default = os.environ.get("CNN_CODES_STORE") or platformdirs.user_cache_path("cnn-codes")
        self.root = Path(default if root is None else root).expanduser()
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"The store {str(self.root)!r} is a file; a folder is needed.")

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
        parts = list(self._parts(extraction))
        wanted = [digest.tobytes() for digest in digests]
        places = {digest: place for place, digest in reversed(list(enumerate(wanted)))}
        lacking: dict[bytes, list[CodesKey]] = {}
        for array in arrays:
            located = _located(parts, array)
            for digest in places:
                if digest not in located:
                    lacking.setdefault(digest, []).append(array)
        gaps: dict[tuple[CodesKey, ...], list[int]] = {}
        for digest, keys in lacking.items():
            gaps.setdefault(tuple(keys), []).append(places[digest])
        return [
            Gap(images=np.sort(np.array(images, dtype=np.intp)), arrays=keys)
            for keys, images in gaps.items()
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
        """
        self.require_space(bytes_of(arrays, len(digests)))
        group = self.root / extraction.folder()
        if not self._check_key(group, extraction):
            with suppress(FileExistsError):  # Another process was first, with the same key.
                create_group(group, {"key": extraction.fields()})
        return PartWriter(group, arrays=arrays, digests=digests, provenance=provenance or {})

    def require_space(self, n_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Parameters
        ----------
        n_bytes : int
            What the codes can take, uncompressed.

        Raises
        ------
        OSError
            With ``errno.ENOSPC``, if less is free.
        """
        at = next(folder for folder in [self.root, *self.root.parents] if folder.exists())
        free = shutil.disk_usage(at).free
        if n_bytes > free:
            raise OSError(
                errno.ENOSPC,
                f"The codes can take {n_bytes / 1e9:.2f} GB, and the disk of {str(self.root)!r} "
                f"has {free / 1e9:.2f} GB left. Free some, or choose fewer --layers, a coarser "
                "--pool or another --store.",
            )

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
        located = _located(list(self._parts(extraction)), array)
        absent = sum(digest.tobytes() not in located for digest in digests)
        if absent:
            raise StoreError(
                f"The store {str(self.root)!r} lacks {array.array()} of {absent} of "
                f"{len(digests)} images. Run `cnn-codes extract` first."
            )
        places: dict[Path, list[tuple[int, int]]] = {}
        for place, digest in enumerate(digests):
            part, row = located[digest.tobytes()]
            places.setdefault(part.path, []).append((place, row))
        result: NDArray[Any] | None = None
        for path, pairs in places.items():
            source = zarr.open_array(path / array.array(), mode="r")
            if result is None:
                result = np.empty((len(digests), source.shape[1]), source.dtype)
            _read_rows(source, path / array.array(), np.array(pairs), result)
        return np.empty((0, 0), array.dtype) if result is None else result

    def _check_key(self, group: Path, extraction: ExtractionKey) -> bool:
        """Tell whether the group exists; an error if another extraction's codes are in it."""
        if not (group / "zarr.json").exists():
            return False
        if _attributes(group).get("key") != extraction.fields():
            raise StoreError(
                f"{str(group)!r} holds codes of another extraction than its name says. Move it "
                "away."
            )
        return True

    def _parts(self, extraction: ExtractionKey) -> Iterator[_Part]:
        group = self.root / extraction.folder()
        if not self._check_key(group, extraction):
            return
        for path in sorted(group.iterdir()):
            if (path / COMMITTED).is_dir():
                part = _Part(path=path)
                if part.load():
                    yield part


@dataclass(kw_only=True, eq=False)
class _Part:
    """A part as its markers tell it."""

    path: Path
    rows: dict[bytes, int] = field(default_factory=dict)

    def load(self) -> bool:
        """Read the images of the committed segments; tell whether there are any."""
        markers = [
            _attributes(marker) for marker in sorted((self.path / COMMITTED).iterdir())
            if (marker / "zarr.json").exists()
        ]  # fmt: skip
        if not markers:
            return False
        images = zarr.open_array(self.path / IMAGES, mode="r")
        digests: NDArray[np.uint8] = np.asarray(images[:])
        for marker in markers:
            for row in range(*marker["rows"]):
                if str(row) not in marker["unreadable"]:
                    self.rows.setdefault(digests[row].tobytes(), row)
        return True


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


def _located(parts: Sequence[_Part], array: CodesKey) -> dict[bytes, tuple[_Part, int]]:
    located: dict[bytes, tuple[_Part, int]] = {}
    for part in parts:
        folder = part.path / array.array()
        if not (folder / "zarr.json").exists():
            continue
        if _attributes(folder).get("key") != array.fields():
            raise StoreError(f"{str(folder)!r} holds other codes than its name says. Move it away.")
        for digest, row in part.rows.items():
            located.setdefault(digest, (part, row))
    return located


def _attributes(node: Path) -> dict[str, Any]:
    try:
        attributes: dict[str, Any] = json.loads((node / "zarr.json").read_text())["attributes"]
    except (ValueError, KeyError) as error:
        raise DamagedCodesError(
            f"{str(node / 'zarr.json')!r} is no Zarr metadata ({error}). Delete "
            f"{str(node)!r}: its codes are then extracted again."
        ) from error
    return attributes


def _read_rows(
    source: zarr.Array[Any], path: Path, pairs: NDArray[np.intp], result: NDArray[Any]
) -> None:
    """Read rows chunk by chunk into their places: no chunk twice, no copy of the whole array."""
    pairs = pairs[np.argsort(pairs[:, 1], kind="stable")]
    step = source.chunks[0]
    chunks = pairs[:, 1] // step
    for chunk in np.unique(chunks):
        inside = pairs[chunks == chunk]
        first, last = int(inside[0, 1]), int(inside[-1, 1])
        try:
            rows: NDArray[Any] = np.asarray(source[first : last + 1])
        except (ValueError, RuntimeError, OSError) as error:
            raise _damaged(path, first, last, str(error)) from error
        taken = rows[inside[:, 1] - first]
        if np.isnan(taken[:, 0]).any():  # The fill value: codes are finite when written.
            raise _damaged(path, first, last, "a chunk that was written is gone")
        result[inside[:, 0]] = taken


def _damaged(path: Path, first: int, last: int, why: str) -> DamagedCodesError:
    return DamagedCodesError(
        f"The stored codes {path.name}, rows {first} to {last}, are damaged: {why}. Delete "
        f"{str(path.parent)!r} and run again: its images are then extracted again."
    )
