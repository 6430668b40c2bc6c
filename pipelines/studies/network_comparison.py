"""The comparison of a network's depths on images, which are extracted first: a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codes import load_images
from codes.augmentation import parse_augmentations
from codes.graph.starts import named_starts
from pipelines.cluster.connection import Cluster, connected, refuse_both
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import ComparedLayer
from pipelines.controls.controls import DEFAULT_CONTROLS, parse_controls
from pipelines.extraction.cost import multiply_adds
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.left_out import say_ignored
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.finetune import Finetuning, compare_finetuned
from pipelines.finetuning.prepare import require_trainable
from pipelines.progress import Progress, Silent, timed
from pipelines.studies.network_study import NetworkStudy
from pipelines.studies.stored_comparison import compare_stored, count_splits, leave_out_leaks
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes


def compare_network(
    dataset: str | Path,
    *,
    options: ExtractionOptions,
    protocol: Protocol,
    controls: str | Sequence[str] = DEFAULT_CONTROLS,
    drop_leaks: bool = False,
    finetune: FinetuneOptions | None = None,
    processes: Processes = ALONE,
    n_jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> NetworkStudy:
    """Extract what the store lacks, and compare the depths of a network on a dataset.

    Parameters, what is returned and what is raised are those of `pipelines.compare`.
    """
    refuse_both(n_jobs, scheduler)
    progress = progress or Silent()
    control_names = parse_controls(controls)
    _require_use(processes, finetune, scheduler)
    images = load_images(dataset, page=options.page)
    say_ignored(images, progress)
    if finetune is not None:  # Before hours of extraction: whether there are such starts.
        _require_starts(finetune, options, progress)
    if finetune is not None and images.test is None and protocol.repeats is None:
        protocol = replace(protocol, repeats=1)
        progress.info(
            "Without test images, each fold of one cross-validation has a search of its own; "
            "--repeats asks for more than one."
        )
    # Before hours of extraction: whether every class has the images that the folds need.
    n_splits = count_splits(images, protocol)
    with connected(scheduler) as cluster:  # Before hours of extraction: whether it can be used.
        extraction = extract(images, options, progress=progress)
        if drop_leaks:
            extraction = leave_out_leaks(extraction, progress)
        comparison, finetuning = _compare_extracted(
            extraction, protocol, finetune, n_splits=n_splits, processes=processes,
            n_jobs=n_jobs, cluster=cluster, progress=progress,
        )  # fmt: skip
        n_workers = None if cluster is None else cluster.n_workers
    return NetworkStudy(
        protocol=protocol,
        extraction=extraction,
        comparison=comparison,
        finetuning=finetuning,
        control_names=control_names,
        n_jobs=n_jobs,
        scheduler=scheduler,
        n_workers=n_workers,
        progress=progress,
    )


def _require_use(
    processes: Processes, finetune: FinetuneOptions | None, scheduler: str | None
) -> None:
    """Refuse processes of torchrun that have nothing to do, or not alone."""
    if processes.alone:
        return
    if finetune is None:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, which fine-tune a network "
            "together; nothing is to be fine-tuned here. Use one process, or `cnn-codes extract` "
            "with all of them first."
        )
    if scheduler is not None:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, and a scheduler was given: a "
            "network is trained by these together, or each training on a cluster. Leave one out."
        )


def _require_starts(
    finetune: FinetuneOptions, options: ExtractionOptions, progress: Progress
) -> None:
    """Refuse what cannot be trained, and say where a named start is not where training begins."""
    parse_augmentations(finetune.augment)
    require_trainable(options)
    for wanted, start in named_starts(backbone_of(options).graph, finetune.starts):
        if wanted != start:
            progress.info(f"From {wanted} on, the first layer that is trained is {start}.")


def _compare_extracted(
    extraction: Extraction,
    protocol: Protocol,
    finetune: FinetuneOptions | None,
    *,
    n_splits: int,
    processes: Processes,
    n_jobs: int,
    cluster: Cluster | None,
    progress: Progress,
) -> tuple[Comparison, Finetuning | None]:
    """Compare the depths whose codes are there; train the network too, where that is wanted."""
    products = multiply_adds(extraction.backbone, [tap.layer.name for tap in extraction.taps])
    comparison = compare_stored(
        extraction,
        [
            ComparedLayer(
                layer=tap.name,
                depth=tap.layer.depth,
                pool=tap.pool,
                multiply_adds=products[tap.layer.name],
            )
            for tap in extraction.taps
        ],
        protocol=protocol,
        n_splits=n_splits,
        n_jobs=n_jobs,
        cluster=cluster,
        progress=progress,
    )
    if len(extraction.taps) > 1 and not any(products.values()):
        uncounted = (
            f"no multiplication of {extraction.backbone.name} can be counted, so that no depth is "
            "recommended for being cheaper"
        )
        comparison = replace(comparison, notes=(uncounted, *comparison.notes))
    if finetune is None:
        return comparison, None
    with timed(extraction.seconds, "finetune"):
        return compare_finetuned(
            comparison, extraction, finetune, protocol=protocol,
            multiply_adds=max(products.values()), processes=processes, n_jobs=n_jobs,
            cluster=cluster, progress=progress,
        )  # fmt: skip
