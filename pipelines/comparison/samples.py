"""Samples: what is known of the images of a dataset besides their codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Labels, test split and groups of the images, from which splits are made.

    Attributes
    ----------
    y : ndarray of shape (n_samples,), str
        Class of each image.
    test : ndarray of shape (n_samples,), bool, or None
        The test split.
    groups : ndarray of shape (n_samples,), str, or None
        Images of one group are never on two sides of a fold.
    copied : ndarray of shape (n_samples,), bool, or None
        Test images that are copies of training images.

    Raises
    ------
    ValueError
        If there is not one value for each image.

    Examples
    --------
    >>> samples = Samples(y=np.array(["b", "a", "b"]))
    >>> samples.classes.tolist(), samples.numbers.tolist()
    (['a', 'b'], [1, 0, 1])
    """

    y: NDArray[np.str_]
    test: NDArray[np.bool_] | None = None
    groups: NDArray[Any] | None = None
    copied: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        for name in ("y", "test", "groups", "copied"):
            values = getattr(self, name)
            if values is None:
                continue
            array = np.asarray(values)
            if array.shape != (len(self.y),):
                raise ValueError(
                    f"{name} has the shape {array.shape}; one value for each of {len(self.y)} "
                    "labels."
                )
            object.__setattr__(
                self, name, array.astype(bool) if name in ("test", "copied") else array
            )

    @cached_property
    def classes(self) -> NDArray[np.str_]:
        """The classes, sorted."""
        return np.unique(self.y)

    @cached_property
    def numbers(self) -> NDArray[np.intp]:
        """The number of each image's class."""
        return np.searchsorted(self.classes, self.y)
