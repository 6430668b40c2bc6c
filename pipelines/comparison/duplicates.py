"""Leaks: copies of an image where they make a score too good, found by the images' digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from codes.wording import counted


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Copies of one image that should not be in one experiment.

    Attributes
    ----------
    kind : {"in train and test", "under two labels"}
    images : tuple of str
        The names of all the copies.
    n_test : int
        How many of them are in the test split.
    """

    kind: str
    images: tuple[str, ...]
    n_test: int = 0


def find_leaks(
    digests: NDArray[np.uint8],
    names: Sequence[str],
    labels: NDArray[np.str_],
    test: NDArray[np.bool_] | None = None,
) -> list[Leak]:
    """Find images that stand on both sides of the test split, or under two labels.

    Parameters
    ----------
    digests : ndarray of shape (n_samples, n_bytes), uint8
        Equal for copies.
    names : sequence of str
    labels : ndarray of shape (n_samples,), str
    test : ndarray of shape (n_samples,), bool, optional
        The test split.

    Returns
    -------
    leaks : list of Leak
        An image can be in two of them.

    Examples
    --------
    >>> digests = np.array([[1], [2], [1]], np.uint8)
    >>> find_leaks(digests, ["a.png", "b.png", "c.png"], np.array(["cat", "cat", "dog"]))
    [Leak(kind='under two labels', images=('a.png', 'c.png'), n_test=0)]
    """
    image, counts = _distinct(digests)
    by_image = np.split(np.argsort(image, kind="stable"), np.cumsum(counts)[:-1])
    leaks = []
    for copies in by_image:
        if len(copies) == 1:
            continue
        found = tuple(names[copy] for copy in copies.tolist())
        n_test = 0 if test is None else int(test[copies].sum())
        if 0 < n_test < len(copies):
            leaks.append(Leak(kind="in train and test", images=found, n_test=n_test))
        if len(np.unique(labels[copies])) > 1:
            leaks.append(Leak(kind="under two labels", images=found, n_test=n_test))
    return leaks


def copies_in_test(digests: NDArray[np.uint8], test: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Find the test images that are copies of a training image.

    Parameters
    ----------
    digests : ndarray of shape (n_samples, n_bytes), uint8
    test : ndarray of shape (n_samples,), bool, or None

    Returns
    -------
    copied : ndarray of shape (n_samples,), bool

    Examples
    --------
    >>> digests = np.array([[1], [2], [1]], np.uint8)
    >>> copies_in_test(digests, np.array([False, False, True])).tolist()
    [False, False, True]
    """
    if test is None:
        return np.zeros(len(digests), bool)
    image, _ = _distinct(digests)
    return np.asarray(test & np.isin(image, image[~test]))


def count_copies(
    digests: NDArray[np.uint8], labels: NDArray[np.str_], test: NDArray[np.bool_] | None
) -> int:
    """Count the images that only repeat another: with its label, on its side of the test split.

    Parameters
    ----------
    digests : ndarray of shape (n_samples, n_bytes), uint8
    labels : ndarray of shape (n_samples,), str
    test : ndarray of shape (n_samples,), bool, or None

    Returns
    -------
    n_copies : int

    Examples
    --------
    >>> digests = np.array([[1], [2], [1], [1]], np.uint8)
    >>> count_copies(digests, np.array(["cat", "cat", "cat", "dog"]), None)
    1
    """
    image, _ = _distinct(digests)
    side = np.zeros(len(image), bool) if test is None else test
    found = np.stack([image, np.unique(labels, return_inverse=True)[1], side])
    return len(image) - len(np.unique(found, axis=1).T)


def repeated_images(
    digests: NDArray[np.uint8],
    labels: NDArray[np.str_],
    test: NDArray[np.bool_] | None,
    *,
    kept_together: bool,
) -> list[str]:
    """Say how many images only repeat another, as `count_copies` counts them.

    Parameters
    ----------
    digests, labels, test
        As for `count_copies`.
    kept_together : bool
        Whether copies are kept on one side of every fold.

    Returns
    -------
    notes : list of str
        One, or none.
    """
    n = count_copies(digests, labels, test)
    if not n:
        return []
    verb = "repeats" if n == 1 else "repeat"
    said = f"{counted(n, 'image')} {verb} another with the same label"
    if kept_together:
        return [f"{said} (byte by byte); copies stay on one side of every fold"]
    return [
        f"{said} (byte by byte), and copies may stand on two sides of a fold, so that scores may "
        "be too good: leave out --no-group-duplicates"
    ]


def without_leaks(
    digests: NDArray[np.uint8], labels: NDArray[np.str_], test: NDArray[np.bool_] | None
) -> NDArray[np.bool_]:
    """Find the images that leak nothing: ``--drop-leaks`` keeps these.

    Left out are the test images that are copies of a training image, and every copy of an image
    that has two labels, as at most one of these is right.

    Parameters
    ----------
    digests : ndarray of shape (n_samples, n_bytes), uint8
    labels : ndarray of shape (n_samples,), str
    test : ndarray of shape (n_samples,), bool, or None

    Returns
    -------
    kept : ndarray of shape (n_samples,), bool

    Examples
    --------
    >>> digests = np.array([[1], [2], [1]], np.uint8)
    >>> without_leaks(digests, np.array(["cat", "cat", "dog"]), None).tolist()
    [False, True, False]
    """
    image, counts = _distinct(digests)
    pairs = np.unique(np.stack([image, np.unique(labels, return_inverse=True)[1]]), axis=1)
    n_labels = np.bincount(pairs[0], minlength=len(counts))
    return np.asarray((n_labels[image] == 1) & ~copies_in_test(digests, test))


def group_copies(
    digests: NDArray[np.uint8], groups: NDArray[np.str_] | None
) -> NDArray[np.str_] | None:
    """Put copies of an image into one group, so that no fold has them on two sides.

    Parameters
    ----------
    digests : ndarray of shape (n_samples, n_bytes), uint8
    groups : ndarray of shape (n_samples,), str, or None
        Groups that share an image become one.

    Returns
    -------
    groups : ndarray of shape (n_samples,), str, or None
        As given where no image has a copy.

    Examples
    --------
    >>> group_copies(np.array([[1], [2], [1]], np.uint8), None).tolist()
    ['0', '1', '0']
    """
    image, counts = _distinct(digests)
    if counts.max(initial=1) == 1:
        return groups
    n = len(image)
    links = [(np.arange(n), n + image)]
    if groups is not None:
        links.append((np.arange(n), 2 * n + np.unique(groups, return_inverse=True)[1]))
    rows, columns = (np.concatenate(ends) for ends in zip(*links, strict=True))
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(3 * n, 3 * n))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[:n].astype(str))


def _distinct(digests: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Give each row the number of its image, and count the rows of each image."""
    _, image, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    return image.ravel(), counts


def leaks_sentence(leaks: Sequence[dict[str, Any]], n_test: int) -> str:
    """Say how many images have copies where these make scores too good.

    Parameters
    ----------
    leaks : sequence of dict
        ``report.json``'s ``leaks``.
    n_test : int
        Images of the test split, these among them.

    Returns
    -------
    sentence : str
        Empty where there are none.

    Examples
    --------
    >>> leaks_sentence([{"kind": "in train and test", "images": ["a", "b", "c"], "n_test": 2}], 8)
    '2 of 8 test images (25 %) are copies of training images'
    """
    copied = sum(leak["n_test"] for leak in leaks if leak["kind"] == "in train and test")
    mislabelled = sum(len(leak["images"]) for leak in leaks if leak["kind"] == "under two labels")
    said = []
    if copied:
        verb = "are copies" if copied > 1 else "is a copy"
        share = f"{100 * copied / n_test:.0f} %"
        said.append(
            f"{copied:,} of {counted(n_test, 'test image')} ({share}) {verb} of training images"
        )
    if mislabelled:
        verb = "is a copy" if mislabelled == 1 else "are copies"
        said.append(f"{counted(mislabelled, 'image')} {verb} of an image with another label")
    return "; ".join(said)
