"""Rows to train on and to test: images, and their views, of codes in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.mapped import MappedCodes
from pipelines.linear.scaling import SMALL

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


def take(X: NDArray[Any] | MappedCodes, images: NDArray[np.intp]) -> NDArray[Any] | MappedCodes:
    """Take some images; of codes in a file, few are read into memory, and many stay there.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, ...)
    images : ndarray of shape (n_images,), intp

    Returns
    -------
    X : array or MappedCodes of shape (n_images, ...)
    """
    if not isinstance(X, MappedCodes):
        return X[images]
    taken = X.select(images)
    return taken[:] if taken.nbytes <= SMALL else taken


def training_rows(
    X: NDArray[Any] | MappedCodes, y: NDArray[Any], splits: Sequence[Fold]
) -> tuple[NDArray[Any] | MappedCodes, NDArray[Any], list[Fold]]:
    """Make a row of each view, with the label of its image and on its side of every fold.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, n_features) or (n_samples, n_views, n_features)
    y : ndarray of shape (n_samples,)
    splits : sequence of (train, test)

    Returns
    -------
    X : array or MappedCodes of shape (n_samples * n_views, n_features)
    y : ndarray of shape (n_samples * n_views,)
    splits : list of (train, test)

    Examples
    --------
    >>> X, y, splits = training_rows(np.zeros((2, 3, 4)), np.array([5, 6]), [([0], [1])])
    >>> X.shape, y.tolist(), [side.tolist() for side in splits[0]]
    ((6, 4), [5, 5, 5, 6, 6, 6], [[0, 1, 2], [3, 4, 5]])
    """
    if X.ndim == 2:
        return X, y, list(splits)
    n_samples, n_views, n_features = X.shape
    every = X.as_rows() if isinstance(X, MappedCodes) else X.reshape(-1, n_features)
    rows = np.arange(n_samples * n_views).reshape(n_samples, n_views)
    apart = [(rows[train].ravel(), rows[test].ravel()) for train, test in splits]
    return every, np.repeat(y, n_views), apart


def row_groups(groups: NDArray[np.str_] | None, n_images: int, n_rows: int) -> NDArray[Any]:
    """Give each row to train on the group of its image, or else its image.

    Examples
    --------
    >>> row_groups(np.array(["a", "b"]), 2, 6).tolist(), row_groups(None, 2, 4).tolist()
    (['a', 'a', 'a', 'b', 'b', 'b'], [0, 0, 1, 1])
    """
    of_image = np.arange(n_images) if groups is None else groups
    return np.repeat(of_image, n_rows // n_images)


def average_views(X: NDArray[Any] | MappedCodes) -> NDArray[Any] | MappedCodes:
    """Average the views of each image, where they are kept apart.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, n_features) or (n_samples, n_views, n_features)

    Returns
    -------
    X : array or MappedCodes of shape (n_samples, n_features)
        As it was given, or float32.
    """
    if isinstance(X, MappedCodes):
        return X.averaged()
    return X.mean(1, dtype=np.float32) if X.ndim == 3 else X
