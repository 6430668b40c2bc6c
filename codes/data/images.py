"""Image lists: what to read, and what is known of each image (label, split, group, digest)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from codes.data.sources import DigestMemory, ImageSource, PerThread, SubsetSource
from codes.decoding.intensity import WideImage

_TOGETHER = 16
"""Images that a thread reads one after another: of small ones, a thread for each would take longer
than they do."""
_MOST_THREADS = 16

Read = TypeVar("Read")


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

    @property
    def train(self) -> NDArray[np.intp]:
        """Places of the images outside the test split, shape ``(n_train,)``: all without one."""
        return np.arange(len(self)) if self.test is None else np.flatnonzero(~self.test)

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
            source=SubsetSource(self.source, indices),
            labels=self.labels[indices],
            splits=None if self.splits is None else self.splits[indices],
            groups=None if self.groups is None else self.groups[indices],
            ignored=self.ignored,
            page=self.page,
        )


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


def distinct_train(images: ImageList, digests: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Find the distinct images outside the test split, in the order of `distinct`.

    Parameters
    ----------
    images : ImageList
    digests : ndarray of shape (n_images, 32), uint8

    Returns
    -------
    places : ndarray of shape (n_distinct,)
        In the list; the first of each.
    """
    return images.train[distinct(digests[images.train])]


def read_images(
    images: ImageList, read: Callable[[ImageSource, int], Read]
) -> Generator[list[Read], None, None]:
    """Read each image in some way; several threads do.

    Parameters
    ----------
    images : ImageList
    read : callable
        Of a source and the place of an image in it, as for `codes.data.sources.ImageSource.open`.

    Yields
    ------
    found : list
        What was read of some consecutive images, in the order of the list.
    """
    sources = PerThread(images.source)

    def together(start: int) -> list[Read]:
        places = range(start, min(start + _TOGETHER, len(images)))
        return [read(sources.own, place) for place in places]

    pool = ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(together, range(0, len(images), _TOGETHER))
    finally:
        pool.shutdown(cancel_futures=True)


def look_at_wide(
    images: ImageList, look: Callable[[WideImage], Read]
) -> Generator[list[Read | None], None, None]:
    """Look at each image of more than 8 bits a channel; several threads do.

    Parameters
    ----------
    images : ImageList
    look : callable
        May raise a ValueError, of values that cannot be used.

    Yields
    ------
    found : list
        What was noted of some consecutive images, in the order of the list; None of images of 8
        bits, which are not decoded, and of those that cannot be read, which `pipelines.extract`
        lists.
    """

    def read(source: ImageSource, place: int) -> Read | None:
        try:
            wide = source.open_wide(place)
            return None if wide is None else look(wide)
        except (ValueError, OSError):
            return None

    return read_images(images, read)


def digest_images(
    images: ImageList,
    *,
    memory: DigestMemory | None = None,
    advance: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """Compute what each image is known by in the store; several threads read.

    Parameters
    ----------
    images : ImageList
    memory : DigestMemory, optional
        Asked before a file is read.
    advance : callable, optional
        Called with the number of images that were read since.

    Returns
    -------
    digests : ndarray of shape (n_samples, 32), uint8
        SHA-256 of each image's content; its name and label play no part.

    Examples
    --------
    >>> from codes.data.sources import ArraySource
    >>> source = ArraySource(np.zeros((2, 8, 8), np.uint8), name="blank")
    >>> blank = ImageList(name="blank", source=source, labels=np.array(["a", "b"]), ignored={})
    >>> digests = digest_images(blank)
    >>> digests.shape, bool((digests[0] == digests[1]).all())
    ((2, 32), True)
    """
    digests = np.empty((len(images), 32), np.uint8)
    done = 0
    with closing(read_images(images, lambda source, i: source.digest(i, memory))) as found:
        for some in found:
            rows = np.frombuffer(b"".join(some), np.uint8).reshape(-1, 32)
            digests[done : done + len(rows)] = rows
            done += len(rows)
            if advance is not None:
                advance(len(rows))
    return digests
