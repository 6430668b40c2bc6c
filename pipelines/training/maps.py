"""Maps: what a start reads, of the centre and of random views of each image, in the store.

Everything before the start is computed once. A map is stored as codes are, with all that the store
promises: an extraction that was interrupted goes on, and only new images are computed.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache import CodesKey, CodeStore, ExtractionKey
from cache.view import CodesView
from codes import Backbone, CodeExtractor, ImageList
from codes.augmentation import AugmentedPreprocessing
from codes.backbones.backbone import pixels_backbone
from codes.extractor import CodesBatch
from codes.graph.starts import WHOLE, Start
from pipelines.extraction.extract import Extraction, key_of
from pipelines.extraction.fill import fill_missing
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress

MOST_VIEWS = 8
DISK_SHARE = 0.2
"""Of the free disk that maps may take by default."""

Place = tuple[ExtractionKey, CodesKey]
"""Where a store keeps something."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMaps:
    """What a start reads of every image: view 0 is the centre, the others are drawn by chance.

    Attributes
    ----------
    store : CodeStore
    places : tuple of (ExtractionKey, CodesKey)
        Of each view.
    digests : ndarray of shape (n_images, 32), uint8
    trained : ndarray of shape (n_images,), bool
        The images that have random views.
    n_bytes : int
        Of all values, before the store compresses them.
    """

    store: CodeStore
    places: tuple[Place, ...]
    digests: NDArray[np.uint8]
    trained: NDArray[np.bool_]
    n_bytes: int

    @property
    def n_views(self) -> int:
        """How many random views there are."""
        return len(self.places) - 1

    def fields(self) -> dict[str, Any]:
        """Return how the views were drawn, as plain values."""
        return {"views": [key.preprocessing for key, _ in self.places]}

    @cached_property
    def _views(self) -> list[CodesView]:
        own = [self.digests, *[self.digests[self.trained]] * self.n_views]
        return [
            self.store.view(*place, digests)
            for place, digests in zip(self.places, own, strict=True)
        ]

    def __getstate__(self) -> dict[str, object]:
        # What was opened stays in its process.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def read(self, images: NDArray[np.intp], view: int) -> Tensor:
        """Read the values of some images.

        Parameters
        ----------
        images : ndarray of shape (n,), intp
            Places in the dataset.
        view : int
            0 for the centre; a random view from 1 on, which begin anew after `n_views`.

        Returns
        -------
        values : Tensor of shape (n, n_values), float16 or float32
            Flattened, channels first.
        """
        number = 0 if view == 0 or not self.n_views else 1 + (view - 1) % self.n_views
        rows = images if number == 0 else self._rows[images]
        return torch.from_numpy(self._views[number][rows])

    @cached_property
    def _rows(self) -> NDArray[np.intp]:
        """Where each image is among those with random views."""
        return np.cumsum(self.trained) - 1


def store_maps(
    extraction: Extraction,
    starts: Sequence[Start],
    *,
    trained: NDArray[np.bool_] | None = None,
    augment: tuple[str, ...],
    n_views: int | None,
    dtype: str,
    random_state: int,
    progress: Progress,
) -> dict[str, StoredMaps]:
    """Compute the maps of several starts that the store lacks.

    Parameters
    ----------
    extraction : Extraction
        The images, and the backbone.
    starts : sequence of Start
    trained : ndarray of shape (n_images,), bool, optional
        The images of which random views are needed. Default: all.
    augment : tuple of str
        Of `codes.augmentation.AUGMENTATIONS`; with none, the centre is the only view.
    n_views : int or None
        Random views of each image; None for as many as a share of the free disk holds.
    dtype : {"float16", "float32"}
        What maps are stored as.
    random_state : int
        Seed of the views.
    progress : Progress

    Returns
    -------
    maps : dict of str to StoredMaps
        By the starts' names.

    Raises
    ------
    OSError
        If the disk does not hold them; it says how many views it would.
    """
    if trained is None:
        trained = np.ones(len(extraction.images), bool)
    values = sum(_bytes(start, dtype) for start in starts)
    center, per_view = (
        values * len(np.unique(digests, axis=0))
        for digests in (extraction.digests, extraction.digests[trained])
    )
    free = extraction.store.storage.free_bytes()
    if not augment:
        n_views = 0
    elif n_views is None:
        n_views = MOST_VIEWS
        if free is not None:
            n_views = int(np.clip(DISK_SHARE * free / per_view, 1, MOST_VIEWS))
    gigabytes = (center + n_views * per_view) / 1e9
    if free is not None and gigabytes > free / 1e9:
        raise OSError(
            errno.ENOSPC,
            f"The centre and {n_views} random views take up to {gigabytes:.3g} GB, and the disk of "
            f"{extraction.store.name!r} has {free / 1e9:.3g} GB left: "
            f"{max(0, int((free - center) // per_view))} views would fit. Use --views-cached, a "
            "later start or another --store.",
        )
    views = f"and of {n_views} random views of the {int(trained.sum()):,} that train, "
    progress.info(
        f"Maps of the centre of {len(extraction.images):,} images, {views if n_views else ''}at "
        f"{', '.join(start.name for start in starts)}: at most {gigabytes:.3g} GB in "
        f"{extraction.store.name}."
    )
    places: dict[str, list[Place]] = {start.name: [] for start in starts}
    whole = [start for start in starts if start.name == WHOLE]
    inner = [start for start in starts if start.name != WHOLE]
    for group, backbone in ((inner, extraction.backbone), (whole, _pixels(extraction.backbone))):
        if group:
            filled = _fill(
                backbone, group, n_views, augment, random_state, dtype, extraction, trained,
                progress,
            )  # fmt: skip
            for name, place in filled:
                places[name].append(place)
    n_stored = center + n_views * per_view
    return {
        start.name: StoredMaps(
            store=extraction.store,
            places=tuple(places[start.name]),
            digests=extraction.digests,
            trained=trained,
            n_bytes=n_stored // values * _bytes(start, dtype),
        )
        for start in starts
    }


def _bytes(start: Start, dtype: str) -> int:
    """Count the bytes of what a start reads of an image."""
    return int(np.prod(start.shape)) * np.dtype(dtype).itemsize


def _pixels(backbone: Backbone) -> Backbone:
    return pixels_backbone(replace(backbone.preprocessing, views="center"))


def _fill(
    backbone: Backbone,
    starts: Sequence[Start],
    n_views: int,
    augment: tuple[str, ...],
    random_state: int,
    dtype: str,
    extraction: Extraction,
    trained: NDArray[np.bool_],
    progress: Progress,
) -> list[tuple[str, Place]]:
    """Fill the store with the centre, then with random views; say where each start's are."""
    options = replace(extraction.options, skip_unreadable=False)
    center = replace(backbone.preprocessing, views="center")
    drawn = AugmentedPreprocessing.of(center, augment, random_state)
    found: list[tuple[str, Place]] = []
    for preprocessing, numbers in ((center, (0,)), (drawn, tuple(range(1, n_views + 1)))):
        if not numbers:
            continue
        seen = replace(backbone, preprocessing=preprocessing)
        extractor = _Views(seen, starts, numbers, options, extraction.device)
        key = key_of(seen, options.precision)
        arrays = {
            tap.name: CodesKey(
                layer=tap.layer,
                activation="post",
                pool="flatten" if tap.number == 0 else f"flatten:view-{tap.number}",
                dtype=dtype,
            )
            for tap in extractor.taps
        }
        own = np.flatnonzero(trained) if preprocessing is drawn else np.arange(len(trained))
        fill_missing(
            extraction.store, key, arrays, extraction.images.take(own), extraction.digests[own],
            extractor, options=options, progress=progress,
        )  # fmt: skip
        found += [(tap.start, (key, arrays[tap.name])) for tap in extractor.taps]
    return found


@dataclass(frozen=True, kw_only=True)
class _View:
    """A view at a start."""

    name: str
    start: str
    layer: str
    number: int
    width: int


class _Views:
    """An extractor of maps, each view on its own."""

    def __init__(
        self,
        backbone: Backbone,
        starts: Sequence[Start],
        numbers: Sequence[int],
        options: ExtractionOptions,
        device: str,
    ) -> None:
        self._backbone, self._starts, self._options = backbone, list(starts), options
        self._device, self._numbers = device, tuple(numbers)
        self._reads = {
            start.name: "pixels" if start.name == WHOLE else start.reads for start in starts
        }
        self.taps = [
            _View(
                name=f"{start.name} (view {number})",
                start=start.name,
                layer=self._reads[start.name],
                number=number,
                width=int(np.prod(start.shape)),
            )
            for start in starts
            for number in numbers
        ]
        preprocessing = backbone.preprocessing
        if isinstance(preprocessing, AugmentedPreprocessing):
            preprocessing = replace(preprocessing, numbers=self._numbers)
        self._codes = CodeExtractor(
            replace(backbone, preprocessing=preprocessing),
            list(dict.fromkeys(self._reads.values())),
            pool="flatten",
            precision=options.precision,
            device=device,
            each_view=len(self._numbers) > 1,
            deterministic=options.deterministic,
        )
        self.device, self.precision = self._codes.device, self._codes.precision
        self.compile = False

    @property
    def most(self) -> int | None:
        return self._codes.most

    def only(self, names: Collection[str]) -> _Views:
        wanted = [tap for tap in self.taps if tap.name in names]
        starts = [start for start in self._starts if start.name in {tap.start for tap in wanted}]
        numbers = sorted({tap.number for tap in wanted})
        narrowed = _Views(self._backbone, starts, numbers, self._options, self._device)
        narrowed.taps = wanted
        return narrowed

    def extract(
        self,
        images: ImageList,
        *,
        batch_size: int | None,
        workers: int,
        digests: NDArray[np.uint8],
    ) -> Generator[CodesBatch, None, None]:
        batches = self._codes.extract(
            images, batch_size=batch_size, workers=workers, digests=digests
        )
        names = {tap.layer.name: tap.name for tap in self._codes.taps}
        with closing(batches):
            for batch in batches:
                apart = {}
                for tap in self.taps:
                    rows = batch.codes[names[tap.layer]]
                    place = self._numbers.index(tap.number)
                    apart[tap.name] = rows[:, place * tap.width : (place + 1) * tap.width]
                yield replace(batch, codes=apart)
