"""Labelled codes: images whose labels are known and whose codes are there, wherever they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.reading.readers import Reader

if TYPE_CHECKING:
    from codes import ImageList


class LabelledCodes(Protocol):
    """Labelled images whose codes are there."""

    @property
    def images(self) -> ImageList:
        """What is known of each image."""

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Digest of each image, of shape (n_samples, 32); equal for copies."""

    @property
    def readers(self) -> Mapping[str, Reader]:
        """What reads the codes of each layer, of shape (n_samples, n_features)."""

    @property
    def seconds(self) -> dict[str, float]:
        """How long each stage took."""

    @property
    def dropped(self) -> int:
        """Images that were left out, as they leak."""

    @property
    def check(self) -> Callable[[], None]:
        """A function that raises an error in a process that cannot read the codes."""

    def keep(self, rows: NDArray[np.intp]) -> Self:
        """Drop all images but some."""
