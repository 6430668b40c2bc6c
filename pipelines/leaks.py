"""Leaks: copies of an image where they make a score too good, found by the images' digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Copies of one image that should not be in one experiment.

    Attributes
    ----------
    kind : {"in train and test", "under two labels"}
    images : tuple of str
        The names of all the copies.
    """

    kind: str
    images: tuple[str, ...]


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
    [Leak(kind='under two labels', images=('a.png', 'c.png'))]
    """
    image, counts = _distinct(digests)
    by_image = np.split(np.argsort(image, kind="stable"), np.cumsum(counts)[:-1])
    leaks = []
    for copies in by_image:
        if len(copies) == 1:
            continue
        found = tuple(names[copy] for copy in copies.tolist())
        if test is not None and len(np.unique(test[copies])) > 1:
            leaks.append(Leak(kind="in train and test", images=found))
        if len(np.unique(labels[copies])) > 1:
            leaks.append(Leak(kind="under two labels", images=found))
    return leaks


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


def leaks_sentence(leaks: Sequence[dict[str, Any]]) -> str:
    """Say how many images have copies where these make scores too good.

    Parameters
    ----------
    leaks : sequence of dict
        ``report.json``'s ``leaks``.

    Returns
    -------
    sentence : str
    """
    kinds = [leak["kind"] for leak in leaks]
    return "; ".join(
        f"{kinds.count(kind)} image{'s' * (kinds.count(kind) > 1)} {kind}"
        for kind in dict.fromkeys(kinds)
    )
