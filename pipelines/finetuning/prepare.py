"""A dataset, its network and options of fine-tuning → what trains it, maps and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codes import Backbone, ImageList
from codes.augmentation import parse_augmentations
from codes.backbones.backbone import load_backbone
from codes.extractor import PRECISIONS
from codes.graph.heads import head_input
from codes.graph.starts import WHOLE, Start, choose_starts
from codes.graph.suffix import NORMS
from codes.inference.devices import computes_in, find_device
from pipelines.comparison.protocol import SCRATCH
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.remote import run_remotely
from pipelines.progress import Progress
from pipelines.training.fresh import FreshMaps
from pipelines.training.kept import KeptTrials
from pipelines.training.maps import StoredMaps, store_maps
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes
from pipelines.training.run import Maps
from pipelines.training.trials import Candidate, Trainer

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster


def prepare(
    extraction: Extraction,
    numbers: NDArray[np.intp],
    options: FinetuneOptions,
    *,
    trained: NDArray[np.bool_] | None = None,
    processes: Processes = ALONE,
    cluster: Cluster | None = None,
    progress: Progress,
) -> Trainer:
    """Store the maps that candidates are trained on.

    Parameters
    ----------
    extraction : Extraction
    numbers : ndarray of shape (n_samples,), intp
        Of the images' classes.
    options : FinetuneOptions
    trained : ndarray of shape (n_samples,), bool, optional
        The images that train in some split. Default: all.
    processes : Processes, default=ALONE
        Which train together.
    cluster : Cluster, optional
        A Dask cluster whose workers run the trials.
    progress : Progress

    Returns
    -------
    trainer : Trainer
        Finished trials are kept beside the store.

    Raises
    ------
    ValueError
        If a start or the precision is not available.
    OSError
        If the disk does not hold the maps.
    """
    graph = extraction.backbone.graph
    require_trainable(extraction.options)
    starts = tuple(choose_starts(graph, options.starts))
    whole = choose_starts(graph, WHOLE)[0] if options.scratch else None
    wanted = dict.fromkeys(start for start in (*starts, whole) if start is not None)
    augment = parse_augmentations(options.augment)
    maps = store_maps(
        extraction,
        list(wanted),
        trained=trained,
        augment=() if options.fresh else augment,
        n_views=options.views_cached,
        dtype="float16",
        random_state=extraction.options.random_state,
        progress=progress,
    )
    ingredients = Ingredients(
        options=options,
        starts=starts,
        whole=whole,
        extraction=extraction.options,
        images=extraction.images,
        digests=extraction.digests,
        numbers=numbers,
        maps=maps,
    )
    folder = extraction.store.storage.results
    kept = None if folder is None else KeptTrials(folder)
    trainer = ingredients.trainer(extraction.backbone, kept, processes)
    processes.send(ingredients)
    if cluster is None:
        return trainer
    device = trainer.device.type
    return replace(trainer, elsewhere=partial(run_remotely, cluster, ingredients, device=device))


def require_trainable(options: ExtractionOptions) -> None:
    """Refuse to train in what a device does not compute in, or gradients do not fit into.

    Raises
    ------
    ValueError
        If the precision is not available for training, or the network is run densely.
    """
    device, precision = find_device(options.device), options.precision
    if precision == "float16":
        raise ValueError(
            "precision='float16': gradients of training are often too small for it. Allowed: "
            "float32, bfloat16."
        )
    if not computes_in(device, PRECISIONS[precision]):
        raise ValueError(
            f"precision={precision!r}: {device} has no instructions for it, and training would be "
            "several times slower than in float32. Use float32, or another device."
        )
    if options.dense:
        raise ValueError(
            "A network that is run densely cannot be fine-tuned: its fully-connected layers are "
            "convolutions there. Leave out --dense."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ingredients:
    """What a trainer is made of in any process, beside the backbone.

    Attributes
    ----------
    options : FinetuneOptions
    starts : tuple of Start
        Of the pretrained network.
    whole : Start or None
        Of the network from random weights, where that is trained.
    extraction : ExtractionOptions
    images : ImageList
    digests : ndarray of shape (n_samples, 32), uint8
    numbers : ndarray of shape (n_samples,), intp
    maps : dict of str to StoredMaps
        By start.
    """

    options: FinetuneOptions
    starts: tuple[Start, ...]
    whole: Start | None
    extraction: ExtractionOptions
    images: ImageList
    digests: NDArray[np.uint8]
    numbers: NDArray[np.intp]
    maps: dict[str, StoredMaps]

    def trainer(self, backbone: Backbone, kept: KeptTrials | None, processes: Processes) -> Trainer:
        """Make the trainer.

        Raises
        ------
        ValueError
            If several processes cannot train it.
        """
        backbone, options = center_of(backbone), self.options
        device = find_device(self.extraction.device)
        candidates = {
            start.name: Candidate(
                backbone=backbone, start=start, options=options,
                maps=self._maps(backbone, start, str(device)),
            )
            for start in self.starts
        }  # fmt: skip
        if self.whole is not None:
            of = self.extraction
            random = load_backbone(
                of.backbone, weights="none", image_size=of.image_size, random_state=of.random_state
            )
            candidates[SCRATCH] = Candidate(
                backbone=replace(random, preprocessing=backbone.preprocessing),
                start=self.whole,
                maps=self._maps(backbone, self.whole, str(device)),
                options=replace(options, head="random", batch_norm="train", lr_ratio=1.0),
            )
        norms = any(isinstance(module, NORMS) for module in backbone.graph.root.modules())
        trains_norms = any(one.options.batch_norm == "train" for one in candidates.values())
        if norms and trains_norms and device.type != "cuda" and not processes.alone:
            raise ValueError(
                f"{processes.world_size} processes on the {device.type} cannot train batch "
                "normalisation, whose statistics would be of a part of each batch. Use one "
                "process, or leave out --batch-norm train and --scratch."
            )
        return Trainer(
            candidates=candidates,
            numbers=self.numbers,
            digests=self.digests,
            device=device,
            dtype=PRECISIONS[self.extraction.precision],
            kept=kept,
            deterministic=self.extraction.deterministic,
            processes=processes,
        )

    def _maps(self, backbone: Backbone, start: Start, device: str) -> Maps:
        stored = self.maps[start.name]
        augment = parse_augmentations(self.options.augment)
        if not (self.options.fresh and augment):
            return stored
        return FreshMaps(
            stored=stored, images=self.images, backbone=backbone, start=start, augment=augment,
            random_state=self.extraction.random_state, precision=self.extraction.precision,
            device=device,
        )  # fmt: skip


def work(processes: Processes) -> None:
    """Train with the first process, as one of the others, until it ends."""
    trainer = None
    while (order := processes.receive()) is not None:
        if isinstance(order, Ingredients):
            trainer = order.trainer(backbone_of(order.extraction), None, processes)
        elif trainer is not None:
            with trainer.exactly():
                trainer.train_together(*order)


def last_codes(extraction: Extraction, progress: Progress) -> Callable[[], NDArray[Any]]:
    """Store what the network's own classifier reads, averaged where that is a map.

    Parameters
    ----------
    extraction : Extraction
    progress : Progress

    Returns
    -------
    reader : function
        Returns the codes, of shape (n_samples, n_features).
    """
    found = extract(
        extraction.images,
        reading_last_codes(extraction),
        backbone=center_of(extraction.backbone),
        progress=progress,
    )
    [reader] = found.readers.values()
    return reader


def reading_last_codes(extraction: Extraction) -> ExtractionOptions:
    """Give the options that read what the network's own classifier does, of the centre."""
    graph = extraction.backbone.graph
    return replace(
        extraction.options, layers=graph.names[head_input(graph)], pool="avg", activation="post",
        views="center", each_view=False,
    )  # fmt: skip


def center_of(backbone: Backbone) -> Backbone:
    """Give the backbone that sees the centre of an image only."""
    return replace(backbone, preprocessing=replace(backbone.preprocessing, views="center"))
