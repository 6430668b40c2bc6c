"""Sources: where the pixels of images come from, and what each image is known by."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from codes.decoding.decode import (
    WHOLE,
    Decoding,
    Pixels,
    UnreadableImageError,
    count_pages,
    decode,
    open_file,
    read_wide,
    was_misread,
)
from codes.decoding.intensity import WideImage

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

    def holds(self, index: int, digest: bytes) -> bool:
        """Tell whether image `index` is still what it was known by."""

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Decode image `index`, or raise `codes.decoding.decode.UnreadableImageError`.

        Given are its pixels, uint8 of shape (height, width, 3), as `codes.decoding.decode.decode`
        gives them.
        """

    def open_wide(self, index: int) -> WideImage | None:
        """Read image `index` as it is, if it has more than 8 bits a channel.

        None of others, which are not decoded; or raise as `open` does.
        """


class ReadByAll:
    """A source that keeps no open file or the like: all threads may read the same one."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return the same source."""
        return self


class EncodedSource(ABC):
    """Images as files, wherever these are kept; known by the SHA-256 of the file.

    A file whose pixels are now read in another way than when codes of it may have been stored is
    known by another digest, so that those codes are not found.

    `page` is which page of files with several, from 1, and part of what they are known by.
    """

    def __init__(self, names: Sequence[str], *, page: int | None = None) -> None:
        self.names, self._page = names, page

    @abstractmethod
    def opened(self, index: int) -> BinaryIO:
        """Open a file, or raise `UnreadableImageError` or OSError."""

    def remembered_as(self, index: int) -> tuple[str, str] | None:
        """Name the file on the disk, and its member, by which a digest is remembered."""
        return None

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of a file, or of its page."""
        place = None if memory is None else self.remembered_as(index)
        try:
            if memory is None or place is None:
                found = self._digest(index)
            else:
                path, member = place
                # Memories of earlier versions hold these by their content alone.
                if PurePath(member or path).suffix.lower() in _ANEW:
                    member = f"{member}/read anew"
                found = memory.of(path, lambda: self._digest(index), member=member)
            if self._page is None:
                return found
            with self.opened(index) as file:
                if count_pages(file) == 1:
                    return found
            return hashlib.sha256(found + f"page {self._page}".encode()).digest()
        except (UnreadableImageError, OSError):
            return no_digest()

    def _digest(self, index: int) -> bytes:
        with self.opened(index) as file:
            digest = hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]
            file.seek(0)
            return hashlib.sha256(digest + b"read anew").digest() if was_misread(file) else digest

    def holds(self, index: int, digest: bytes) -> bool:
        """Read the file again, and tell whether it is the same."""
        return self.digest(index) == digest

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Decode a file."""
        return decode(lambda: self.opened(index), self._page, decoding=decoding)

    def open_wide(self, index: int) -> WideImage | None:
        """Read a file of more than 8 bits a channel."""
        return read_wide(lambda: self.opened(index), self._page)


class FileSource(ReadByAll, EncodedSource):
    """Images in files on the disk."""

    def __init__(self, paths: Sequence[Path], *, page: int | None = None) -> None:
        self._paths = [str(path) for path in paths]
        super().__init__([printable(path) for path in self._paths], page=page)

    def opened(self, index: int) -> BinaryIO:
        """Open a file."""
        return open_file(self._paths[index])

    def remembered_as(self, index: int) -> tuple[str, str]:
        """Name the file."""
        return self._paths[index], ""


class ArraySource(ReadByAll):
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

    def holds(self, index: int, digest: bytes) -> bool:
        """Take memory to be as it was."""
        return True

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Return an array's red, green and blue."""
        pixels = self.arrays[index]
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels

    def open_wide(self, index: int) -> None:
        """Return nothing: arrays have 8 bits."""


class JoinedSource:
    """Images of several sources, one source after the other."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        self._sources = list(sources)
        self._ends = np.cumsum([len(source.names) for source in sources])
        self.names = [name for source in sources for name in source.names]

    def __deepcopy__(self, memo: dict[int, object]) -> JoinedSource:
        """Copy the sources, and share what is known of them."""
        other = copy(self)
        other._sources = deepcopy(self._sources, memo)
        return other

    def _find(self, index: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        source = self._sources[number]
        return source, int(index - (self._ends[number] - len(source.names)))

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return what an image is known by to its source."""
        source, place = self._find(index)
        return source.digest(place, memory)

    def holds(self, index: int, digest: bytes) -> bool:
        """Ask the image's source."""
        source, place = self._find(index)
        return source.holds(place, digest)

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Decode an image."""
        source, place = self._find(index)
        return source.open(place, decoding)

    def open_wide(self, index: int) -> WideImage | None:
        """Read an image of more than 8 bits a channel."""
        source, place = self._find(index)
        return source.open_wide(place)


class SubsetSource:
    """Some of the images of a source."""

    def __init__(self, source: ImageSource, indices: NDArray[np.intp]) -> None:
        self._source = source
        self._indices = indices
        self.names = [source.names[index] for index in indices]

    def __deepcopy__(self, memo: dict[int, object]) -> SubsetSource:
        """Copy the source, and share what is known of it."""
        other = copy(self)
        other._source = deepcopy(self._source, memo)
        return other

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return what an image is known by to its source."""
        return self._source.digest(int(self._indices[index]), memory)

    def holds(self, index: int, digest: bytes) -> bool:
        """Ask the source."""
        return self._source.holds(int(self._indices[index]), digest)

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Decode an image."""
        return self._source.open(int(self._indices[index]), decoding)

    def open_wide(self, index: int) -> WideImage | None:
        """Read an image of more than 8 bits a channel."""
        return self._source.open_wide(int(self._indices[index]))


class PerThread:
    """A copy of a source for each thread, as not every source may be read by two at once.

    `ReadByAll` says which may.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source, self._threads = source, threading.local()

    @property
    def own(self) -> ImageSource:
        """The copy of the thread that asks."""
        if not hasattr(self._threads, "source"):
            self._threads.source = deepcopy(self._source)
        found: ImageSource = self._threads.source
        return found


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
