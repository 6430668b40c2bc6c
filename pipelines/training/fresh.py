"""Fresh views: random views that are new in every epoch, and never stored."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codes import Backbone, CodeExtractor, ImageList
from codes.augmentation import AugmentedPreprocessing
from codes.data.sources import PerThread
from codes.graph.starts import WHOLE, Start
from pipelines.training.maps import StoredMaps


@dataclass(frozen=True, kw_only=True, eq=False)
class FreshMaps:
    """What a start reads of random views that are drawn, and computed, whenever they are asked for.

    View *v* of an image is the one that `pipelines.training.maps.StoredMaps` would hold.

    Attributes
    ----------
    stored : StoredMaps
        Of the centres.
    images : ImageList
    backbone : Backbone
    start : Start
    augment : tuple of str
    random_state : int
    precision : str
    device : str
    """

    stored: StoredMaps
    images: ImageList
    backbone: Backbone
    start: Start
    augment: tuple[str, ...]
    random_state: int
    precision: str
    device: str

    @property
    def n_bytes(self) -> int:
        """Bytes of the values that are stored."""
        return self.stored.n_bytes

    def fields(self) -> dict[str, Any]:
        """Return how the views are drawn, as plain values."""
        return {**self.stored.fields(), "fresh": self._drawn.fields()}

    def read(self, images: NDArray[np.intp], view: int) -> Tensor:
        """Compute the values of some images.

        Parameters
        ----------
        images : ndarray of shape (n,), intp
            Places in the dataset.
        view : int
            0 for the centre, which is stored; a random view from 1 on.

        Returns
        -------
        values : Tensor of shape (n, n_values)
            Flattened, channels first.
        """
        if view == 0:
            return self.stored.read(images, 0)
        drawn, digests = replace(self._drawn, numbers=(view,)), self.stored.digests

        def crop(image: np.intp) -> Tensor:
            pixels = self._sources.own.open(int(image), drawn.decoding)
            return drawn.crops(pixels, digests[image].tobytes())

        # On the CPU, other trials have the other cores.
        crops = torch.cat(list((map if self._threads is None else self._threads.map)(crop, images)))
        if self._network is None:
            return crops.flatten(1) / 255
        # What inference mode gives cannot be trained on.
        return self._network(crops)[self._network.taps[0].name].clone()

    @cached_property
    def _sources(self) -> PerThread:
        return PerThread(self.images.source)

    @cached_property
    def _drawn(self) -> AugmentedPreprocessing:
        return AugmentedPreprocessing.of(
            self.backbone.preprocessing, self.augment, self.random_state
        )

    @cached_property
    def _network(self) -> CodeExtractor | None:
        """What comes before the start; None where that is nothing."""
        if self.start.name == WHOLE:
            return None
        return CodeExtractor(
            self.backbone, [self.start.reads], pool="flatten", precision=self.precision,
            device=self.device,
        )  # fmt: skip

    @cached_property
    def _threads(self) -> ThreadPoolExecutor | None:
        device = torch.device(self.device)
        return None if device.type == "cpu" else ThreadPoolExecutor(os.cpu_count())
