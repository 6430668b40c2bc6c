"""Extraction: a dataset whose codes are all in the store, and how it comes to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, CodesView, ExtractionKey, StoreError
from cache.digests import DigestMemory
from codes import Backbone, CodeExtractor, ImageList, Preprocessing, load_backbone
from codes.data.images import digest_images
from codes.decoding.intensity import DATASET
from codes.extractor import EXTRACTOR_VERSION
from codes.graph.cutting import Tap
from pipelines.extraction.counts import Counts
from pipelines.extraction.distributed import Shard
from pipelines.extraction.fill import fill_missing
from pipelines.extraction.left_out import say_skipped
from pipelines.extraction.normalization import normalized, require_norm
from pipelines.extraction.options import ExtractionOptions
from pipelines.extraction.settling import Settled, settle
from pipelines.progress import Progress, Silent, timed
from pipelines.reading.stored import StoredReader


@dataclass(frozen=True, kw_only=True, eq=False)
class Extraction:
    """A dataset whose codes are all in the store.

    Attributes
    ----------
    images : ImageList
        Without the skipped ones.
    digests : ndarray of shape (n_samples, 32), uint8
    backbone : Backbone
    options : ExtractionOptions
        With what was found where that was asked for: a normalisation, "auto", and a range of
        intensities, "dataset".
    chosen, range_found : str
        In these cases: what was found, and by what; otherwise empty.
    taps : list of Tap
        What was read, in forward order.
    device : str
    store : CodeStore
    key : ExtractionKey
    arrays : dict of str to CodesKey
        By the taps' names.
    counts : Counts
        Images that went through the network, copies of these, and those found in the store.
    skipped : dict of str to str
        Image that could not be decoded → why.
    dropped : int
        Images that were left out since, as they leak.
    seconds : dict of str to float
        By stage.
    """

    images: ImageList
    digests: NDArray[np.uint8] = field(repr=False)
    backbone: Backbone = field(repr=False)
    options: ExtractionOptions = field(repr=False)
    taps: list[Tap] = field(repr=False)
    device: str
    store: CodeStore
    key: ExtractionKey = field(repr=False)
    arrays: dict[str, CodesKey] = field(repr=False)
    counts: Counts
    skipped: dict[str, str]
    chosen: str = ""
    range_found: str = ""
    dropped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def n_extracted(self) -> int:
        """Images that went through the network."""
        return self.counts.extracted

    @property
    def n_reused(self) -> int:
        """Images whose codes of all layers were in the store before."""
        return self.counts.reused

    def codes(self, layer: str) -> NDArray[Any]:
        """Read the codes of a layer, a tap's name, out of the store.

        Returns
        -------
        codes : ndarray of shape (n_samples, n_features), float16 or float32
            In the order of `images`. Where views are kept apart, (n_samples, n_views, n_features).
        """
        return self.readers[layer]()

    def view(self, layer: str) -> CodesView:
        """Find a layer's codes in the store and leave them there: rows are read when indexed.

        Parameters
        ----------
        layer : str
            A tap's name.

        Returns
        -------
        codes : CodesView of shape (n_samples, n_views * n_features)
        """
        return self.store.view(self.key, self.arrays[layer], self.digests)

    def keep(self, rows: NDArray[np.intp]) -> Extraction:
        """Drop all images but some, as others leak; the store keeps its codes of all."""
        return replace(
            self,
            images=self.images.take(rows),
            digests=self.digests[rows],
            dropped=self.dropped + len(self.images) - len(rows),
        )

    def options_of(self, layer: str) -> ExtractionOptions:
        """Narrow the options that this was made with down to one of its taps, by its name."""
        [tap] = [tap for tap in self.taps if tap.name == layer]
        return replace(self.options, layers=tap.layer.name, pool=tap.pool)

    @property
    def check(self) -> Callable[[], None]:
        """A function that raises `StoreError` in a process that cannot read the codes."""
        arrays = list(self.arrays.values())
        return partial(_require_codes, self.store, self.key, arrays, self.digests[:1])

    @property
    def readers(self) -> dict[str, StoredReader]:
        """What reads the codes of each layer; `compare_layers` takes it."""
        # Each is sent to another process: it must not take the network along.
        return {
            tap.name: StoredReader(
                self.store, self.key, self.arrays[tap.name], self.digests, tap.n_views
            )
            for tap in self.taps
        }


def _require_codes(
    store: CodeStore, key: ExtractionKey, arrays: list[CodesKey], digests: NDArray[np.uint8]
) -> None:
    if store.missing(key, arrays, digests):
        raise StoreError(f"the store {store.name!r} is not there, or another one is.")


def extract(
    images: ImageList,
    options: ExtractionOptions,
    *,
    backbone: Backbone | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Make sure that the store holds the codes of every image of a dataset.

    Parameters
    ----------
    images : ImageList
        As `codes.load_images` returns it.
    options : ExtractionOptions
    backbone : Backbone, optional
        One that is loaded already, in place of the options'.
    shard : Shard, optional
        Leave the images of other ranks to them. Default: all are this process's.
    progress : Progress, optional

    Returns
    -------
    extraction : Extraction
        Of the rank's own images.

    Raises
    ------
    UnreadableImagesError
        If images cannot be decoded and are not to be skipped; the codes of all others are stored.
    ValueError
        If the options ask for another page than the images are listed with.
    ValueError, OSError, OverflowError
        As `codes.load_backbone`, `codes.CodeExtractor` and
        `cache.CodeStore.write` raise them.
    """
    if options.page not in (None, images.page):
        raise ValueError(
            f"The options say page={options.page}, and the images are listed with "
            f"page={images.page}. Say it where they are listed: "
            f"load_images(…, page={options.page})."
        )
    progress = progress or Silent()
    seconds: dict[str, float] = {}
    named = backbone is None
    with timed(seconds, "load"):
        if backbone is None:
            backbone = backbone_of(options)
            say_weights(backbone, options.weights, progress)
        extractor = extractor_of(backbone, options)
    store = CodeStore(options.store)
    store.storage.require_locks()
    with timed(seconds, "digest"):
        digests = read_digests(images, store, progress)
    settled = Settled(options=options, backbone=backbone)
    if named:
        settled = settle(images, digests, backbone, options, seconds=seconds, progress=progress)
    options = settled.options
    if settled.backbone is not backbone:
        backbone = settled.backbone
        extractor = extractor_of(backbone, options)
    if shard is not None and shard.world_size > 1:
        own = shard.of(digests)
        images, digests = images.take(own), digests[own]
    key = key_of(backbone, options.precision)
    arrays = {
        tap.name: CodesKey(
            layer=tap.layer.name,
            activation=options.activation,
            pool=f"{tap.pool}:each-view" if tap.n_views > 1 else tap.pool,
            dtype=options.dtype,
        )
        for tap in extractor.taps
    }
    with timed(seconds, "extract"):
        counts, unreadable = fill_missing(
            store, key, arrays, images, digests, extractor, options=options, progress=progress
        )
    bad = [i for i, digest in enumerate(digests) if digest.tobytes() in unreadable]
    skipped = {images.source.names[i]: unreadable[digests[i].tobytes()] for i in bad}
    say_skipped(skipped, len(images), progress, skip=options.skip_unreadable, stored=True)
    kept = np.setdiff1d(np.arange(len(images)), np.array(bad, np.intp))
    return Extraction(
        images=images.take(kept) if bad else images,
        digests=digests[kept],
        backbone=backbone,
        options=options,
        chosen=settled.normalization,
        range_found=settled.intensity,
        taps=extractor.taps,
        device=str(extractor.device),
        store=store,
        key=key,
        arrays=arrays,
        counts=counts,
        skipped=skipped,
        seconds=seconds,
    )


def read_digests(images: ImageList, store: CodeStore, progress: Progress) -> NDArray[np.uint8]:
    """Read what images are known by, uint8 of shape ``(n_images, 32)``.

    The store remembers the digests of files that have not changed.
    """
    with (
        DigestMemory(store.storage.digests) as memory,
        progress.step("Reading files", len(images)) as advance,
    ):
        return digest_images(images, memory=memory, advance=advance)


def key_of(backbone: Backbone, precision: str) -> ExtractionKey:
    """Make the key of what is extracted with a backbone."""
    return ExtractionKey(
        architecture=backbone.architecture,
        weights=backbone.weights_digest,
        preprocessing=backbone.preprocessing.fields(),
        precision=precision,
        extractor=EXTRACTOR_VERSION,
    )


def backbone_of(options: ExtractionOptions) -> Backbone:
    """Load the network that some options name.

    Where a normalisation is to be chosen, "auto", or a range found, "dataset", it has its own.
    """
    if options.normalize not in (None, "auto"):
        Preprocessing().normalized(str(options.normalize))  # Fail early.
    backbone = load_backbone(
        options.backbone,
        weights=options.weights,
        image_size=options.image_size,
        dense=options.dense,
        random_state=options.random_state,
    )
    if options.normalize == "auto":
        require_norm(backbone)
    seen = replace(backbone.preprocessing, views=options.views, decode=options.decode)
    if options.intensity not in (None, DATASET):
        seen = replace(seen, intensity=options.intensity)
    return normalized(replace(backbone, preprocessing=seen), options)


def say_weights(backbone: Backbone, asked: str | None, progress: Progress) -> None:
    """Say which weights were found in a file, where that is more than what was asked for."""
    read = f" ({backbone.weights_read})" if backbone.weights_read else ""
    if read or asked not in (None, "none", "default", backbone.weights):
        progress.info(f"Weights: {backbone.weights}{read}.")


def extractor_of(backbone: Backbone, options: ExtractionOptions) -> CodeExtractor:
    """Make the extractor that some options describe."""
    return CodeExtractor(
        backbone,
        options.layers,
        pool=options.pool,
        activation=options.activation,
        precision=options.precision,
        device=options.device,
        each_view=options.each_view,
        deterministic=options.deterministic,
        compile=options.compile,
    )
