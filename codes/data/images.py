"""Image lists: what to read, and what is known of each image (label, split, group, digest)."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes.decoding.decode import count_pages, decode_file, open_file, to_rgb, was_misread

_ANEW = (".tif", ".tiff", ".bmp")
"""Endings of files of which some are read in another way than by earlier versions."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class DigestMemory(Protocol):
    """Remembers what files are known by."""

    def of(self, path: str, compute: Callable[[], bytes], *, member: str = "") -> bytes:
        """Recall the digest of a file, or of a member of an archive; or compute it."""


class ImageSource(Protocol):
    """Where the pixels of a list of images come from."""

    @property
    def names(self) -> Sequence[str]:
        """What to call each image: its path, where it has one."""

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 (32 bytes) of what image `index` is made of."""

    def open(self, index: int) -> Image.Image:
        """Decode image `index` to RGB, or raise `codes.decoding.decode.UnreadableImageError`."""


class FileSource:
    """Images in files; known by the SHA-256 of the file.

    Parameters
    ----------
    paths : sequence of Path
    page : int, optional
        Which page of files with several, from 1; part of what they are known by.
    """

    def __init__(self, paths: Sequence[Path], *, page: int | None = None) -> None:
        self._paths, self._page = [str(path) for path in paths], page
        self.names = [printable(path) for path in self._paths]

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of a file."""
        path = self._paths[index]
        compute = partial(_digest_file, path)
        try:
            found = recall(memory, path, compute)
            return of_page(found, self._page, lambda: open_file(path))
        except OSError:
            return no_digest()

    def open(self, index: int) -> Image.Image:
        """Decode a file to RGB."""
        return decode_file(self._paths[index], page=self._page)


class ArraySource:
    """Images in memory; known by the SHA-256 of their shape and values.

    Parameters
    ----------
    arrays : ndarray of shape (n_samples, height, width) or (n_samples, height, width, 3), uint8
    name : str
        Prefix of the images' names.
    """

    def __init__(self, arrays: NDArray[np.uint8], *, name: str) -> None:
        self.arrays = np.ascontiguousarray(arrays)
        self.names = [f"{name}:{index}" for index in range(len(arrays))]

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of an array."""
        array = self.arrays[index]
        return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()

    def open(self, index: int) -> Image.Image:
        """Return an array as an RGB image."""
        return to_rgb(Image.fromarray(self.arrays[index]))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageList:
    """A labelled list of images.

    Attributes
    ----------
    name : str
        What the user called the dataset.
    source : ImageSource
        Opens and digests the images.
    labels : ndarray of shape (n_samples,), str
    splits : ndarray of shape (n_samples,), str, or None
        ``"train"``, ``"validation"`` or ``"test"`` for each image, where the dataset is cut.
    groups : ndarray of shape (n_samples,), str, or None
        Patient, slide, plate: images of one group are never on two sides of a fold.
    ignored : dict of str to int
        What was ignored, such as files that are no images: their ending → how many.
    page : int, optional
        Which page of files with several is read.
    """

    name: str
    source: ImageSource
    labels: NDArray[np.str_]
    splits: NDArray[np.str_] | None = None
    groups: NDArray[np.str_] | None = None
    ignored: dict[str, int]
    page: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def test(self) -> NDArray[np.bool_] | None:
        """Which images are the test split, shape ``(n_samples,)``; None where there is none."""
        if self.splits is None or "test" not in self.splits:
            return None
        return np.asarray(self.splits == "test")

    def take(self, indices: NDArray[np.intp]) -> ImageList:
        """Return the list of some of the images.

        Parameters
        ----------
        indices : ndarray of shape (n_taken,), intp

        Returns
        -------
        images : ImageList
        """
        return ImageList(
            name=self.name,
            source=_Subset(self.source, indices),
            labels=self.labels[indices],
            splits=None if self.splits is None else self.splits[indices],
            groups=None if self.groups is None else self.groups[indices],
            ignored=self.ignored,
            page=self.page,
        )


class JoinedSource:
    """Images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = list(sources)
        self._ends = np.cumsum([len(source.names) for source in sources])
        self.names = [name for source in sources for name in source.names]

    def _find(self, index: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self._sources[number]
        return source, int(index - (self._ends[number] - len(source.names)))

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return what an image is known by to its source."""
        source, place = self._find(index)
        return source.digest(place, memory)

    def open(self, index: int) -> Image.Image:
        """Decode an image to RGB."""
        source, place = self._find(index)
        return source.open(place)


class _Subset:
    def __init__(self, source: ImageSource, indices: NDArray[np.intp]) -> None:
        self._source = source
        self._indices = indices
        self.names = [source.names[index] for index in indices]

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        return self._source.digest(int(self._indices[index]), memory)

    def open(self, index: int) -> Image.Image:
        return self._source.open(int(self._indices[index]))


def printable(name: str) -> str:
    r"""Write out what of a file's name is no text, or would steer a terminal.

    Examples
    --------
    >>> print(printable(os.fsdecode(b"caf\xe9.jpg")))
    caf\udce9.jpg
    >>> print(printable("two\nlines.jpg"))
    two\nlines.jpg
    """
    written = name.encode("utf-8", "backslashreplace").decode("utf-8")
    written = CONTROL.sub(lambda found: repr(found[0])[1:-1], written)
    return name if written == name else written  # Lists of files keep both: the same, mostly.


def no_digest() -> bytes:
    """Give a number of no image to one that cannot be read.

    To open it fails too, so that it is listed with the unreadable images. Should it be there again
    by then, its codes are stored under what nobody asks for a second time.
    """
    return os.urandom(32)


def of_page(digest: bytes, page: int | None, opened: Callable[[], BinaryIO]) -> bytes:
    """Turn the digest of a file into that of one of its pages, if it has several.

    Parameters
    ----------
    digest : bytes
    page : int or None
    opened : callable
        Opens the file, where a page is asked for.
    """
    if page is None:
        return digest
    with opened() as file:
        if count_pages(file) == 1:
            return digest
    return hashlib.sha256(digest + f"page {page}".encode()).digest()


def _digest_file(path: str) -> bytes:
    with open_file(path) as file:
        return digest_file(file)


def digest_file(file: io.BufferedReader | io.BytesIO) -> bytes:
    """Compute what an image file is known by.

    Parameters
    ----------
    file : binary file
        At its start.

    Returns
    -------
    digest : bytes
        The SHA-256 of its content; of a file whose pixels are now read in another way than when
        codes of it may have been stored, another one, so that those codes are not found.
    """
    digest = hashlib.file_digest(file, "sha256").digest()
    file.seek(0)
    return hashlib.sha256(digest + b"read anew").digest() if was_misread(file) else digest


def recall(
    memory: DigestMemory | None, path: str, compute: Callable[[], bytes], *, member: str = ""
) -> bytes:
    """Recall the digest of a file, or of a member of an archive; or compute it.

    Memories of earlier versions hold TIFFs and BMPs by their content alone (see `digest_file`), so
    that these are remembered under a name of their own.
    """
    if memory is None:
        return compute()
    if PurePath(member or path).suffix.lower() in _ANEW:
        member = f"{member}/read anew"
    return memory.of(path, compute, member=member)


def distinct(digests: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Find the distinct images, in an order by chance that is the same in any dataset: by digest.

    Parameters
    ----------
    digests : ndarray of shape (n_images, 32), uint8

    Returns
    -------
    places : ndarray of shape (n_distinct,)
        The first of each.
    """
    places: NDArray[np.intp] = np.unique(digests, axis=0, return_index=True)[1]
    return places


def digest_images(
    images: ImageList,
    *,
    memory: DigestMemory | None = None,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Compute what each image is known by in the store.

    Parameters
    ----------
    images : ImageList
    memory : DigestMemory, optional
        Asked before a file is read.
    advance : callable, optional
        Called with 1 after each image.

    Returns
    -------
    digests : ndarray of shape (n_samples, 32), uint8
        SHA-256 of each image's content; its name and label play no part.

    Examples
    --------
    >>> source = ArraySource(np.zeros((2, 8, 8), np.uint8), name="blank")
    >>> blank = ImageList(name="blank", source=source, labels=np.array(["a", "b"]), ignored={})
    >>> digests = digest_images(blank)
    >>> digests.shape, bool((digests[0] == digests[1]).all())
    ((2, 32), True)
    """
    digests = np.empty((len(images), 32), np.uint8)
    for index in range(len(images)):
        digests[index] = np.frombuffer(images.source.digest(index, memory), np.uint8)
        if advance is not None:
            advance(1)
    return digests
