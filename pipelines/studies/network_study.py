"""A study of a network: its depths compared on a dataset, and what needs the network to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from codes import load_images
from codes.augmentation import parse_augmentations
from codes.graph.starts import named_starts
from pipelines.cluster.connection import Cluster, connected, refuse_both
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import FINETUNE, Protocol
from pipelines.comparison.results import ComparedLayer
from pipelines.controls.controls import DEFAULT_CONTROLS, parse_controls
from pipelines.diagnostics.advice import Advice, advise
from pipelines.diagnostics.intensity_by_class import IntensityCheck, check_intensity
from pipelines.diagnostics.reproducibility import Reproducibility, measure_reproducibility
from pipelines.diagnostics.similarity import Similarity, measure_similarity
from pipelines.extraction.cost import measure_cost, multiply_adds
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.left_out import say_ignored
from pipelines.extraction.normalization import NormalizationCheck, check_normalization
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.finetune import Finetuned, Finetuning, compare_finetuned
from pipelines.finetuning.prepare import require_trainable
from pipelines.fitted.finetuned import fit_finetuned
from pipelines.fitted.linear import fit
from pipelines.fitted.pipeline import FittedPipeline, trained_on
from pipelines.progress import Progress, Silent, timed
from pipelines.studies.stored_comparison import compare_stored, count_splits, leave_out_leaks
from pipelines.studies.study import Study
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes


@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkStudy(Study):
    """The depths of a network, compared on a dataset.

    What else is known, such as controls and similarity, is measured when it is first asked for.

    Attributes
    ----------
    extraction : Extraction
        The images and their codes, with the options that they were made with.
    finetuning : Finetuning or None
        What fine-tuning gave, where it was asked for.
    protocol, comparison, control_names, n_jobs, scheduler, n_workers, progress
        As in `pipelines.studies.study.Study`.
    """

    extraction: Extraction
    finetuning: Finetuning | None = field(default=None, repr=False)

    @property
    def codes(self) -> Extraction:
        """The images and their codes."""
        return self.extraction

    @property
    def finetuned(self) -> tuple[Finetuned, ...]:
        """What fine-tuning gave from each start."""
        return () if self.finetuning is None else self.finetuning.found

    def fit(self, start: str | None = None) -> FittedPipeline:
        """Fit what is recommended on every image: a linear classifier, or the network too.

        Where nothing is shown to be better than guessing, the chosen depth is fitted, with a note.

        Parameters
        ----------
        start : str, optional
            The first module to train, of those that were compared. Default: as recommended.

        Returns
        -------
        fitted : FittedPipeline
        """
        if start is None and self.best.taken[1] == FINETUNE:
            start = self.best.taken[0]
        if start is None:
            return fit(self.extraction, self.comparison, self.protocol)
        if self.finetuning is None:
            raise ValueError("Nothing was fine-tuned. Call compare() with finetune=….")
        with connected(self.scheduler) as cluster:
            return fit_finetuned(
                self.extraction, self.comparison, self.protocol, self.finetuning, start,
                n_jobs=self.n_jobs, cluster=cluster, progress=self.progress,
            )  # fmt: skip

    @property
    def linear(self) -> Comparison:
        """The comparison of the linear classifiers alone."""
        return self.comparison if self.finetuning is None else self.finetuning.linear

    @cached_property
    def similarity(self) -> Similarity:
        """How similar the images are to those that the network was trained on."""
        extraction = self.extraction
        with timed(extraction.seconds, "similarity"):
            return measure_similarity(
                extraction.images,
                extraction.digests,
                extraction.backbone,
                store=extraction.store,
                device=extraction.device,
                random_state=extraction.options.random_state,
                progress=self.progress,
            )

    @cached_property
    def preprocessing_check(self) -> NormalizationCheck | None:
        """Whether the normalisation in use fits; None without batch normalisation."""
        extraction = self.extraction
        return check_normalization(
            extraction.images, extraction.digests, extraction.backbone, device=extraction.device
        )

    @cached_property
    def intensity_check(self) -> IntensityCheck | None:
        """Whether absolute brightness that is removed differs by class; None of 8-bit images."""
        extraction = self.extraction
        in_use = extraction.backbone.preprocessing.intensity
        return check_intensity(extraction.images, extraction.digests, in_use)

    @property
    def n_trained_on(self) -> int:
        """Images that are tested and that the weights, a file that `fit` wrote, were trained on."""
        extraction = self.extraction
        seen = trained_on(extraction.options.weights, extraction.digests)
        test = extraction.images.test
        return int(seen.sum() if test is None else (seen & test).sum())

    @cached_property
    def reproducibility(self) -> Reproducibility:
        """How much codes differ when they are extracted otherwise."""
        with timed(self.extraction.seconds, "reproducibility"):
            return measure_reproducibility(self.extraction)

    @cached_property
    def cost(self) -> dict[str, float]:
        """Seconds of the network for an image, up to the chosen and to the recommended layer."""
        taps = {tap.name for tap in self.extraction.taps}
        chosen = [self.best.layer, self.best.taken[0], self.linear.best.layer]
        return measure_cost(self.extraction, [layer for layer in chosen if layer in taps])

    @cached_property
    def advice(self) -> Advice:
        """What to do next, by the transfer-learning table of the CS231n notes."""
        diverged = self.finetuning is not None and not self.finetuned
        return advise(self.comparison, self.similarity, self.controls, diverged=diverged)


def compare_network(
    dataset: str | Path,
    *,
    options: ExtractionOptions,
    protocol: Protocol,
    controls: str | Sequence[str] = DEFAULT_CONTROLS,
    drop_leaks: bool = False,
    finetune: FinetuneOptions | bool = False,
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
    if not finetune and not processes.alone:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, which fine-tune a network "
            "together; nothing is to be fine-tuned here. Use one process, or `cnn-codes extract` "
            "with all of them first."
        )
    if scheduler is not None and not processes.alone:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, and a scheduler was given: a "
            "network is trained by these together, or each training on a cluster. Leave one out."
        )
    images = load_images(dataset, page=options.page)
    say_ignored(images, progress)
    if finetune:  # Before hours of extraction: whether there are such starts.
        finetune = FinetuneOptions(seeds=protocol.seeds) if finetune is True else finetune
        parse_augmentations(finetune.augment)
        require_trainable(options)
        for wanted, start in named_starts(backbone_of(options).graph, finetune.starts):
            if wanted != start:
                progress.info(f"From {wanted} on, the first layer that is trained is {start}.")
    if finetune and images.test is None and protocol.repeats is None:
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


def _compare_extracted(
    extraction: Extraction,
    protocol: Protocol,
    finetune: FinetuneOptions | bool,
    *,
    n_splits: int,
    processes: Processes,
    n_jobs: int,
    cluster: Cluster | None,
    progress: Progress,
) -> tuple[Comparison, Finetuning | None]:
    """Compare the depths whose codes are there; train the network too, where that is wanted."""
    products = multiply_adds(extraction.backbone)
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
    if not isinstance(finetune, FinetuneOptions):
        return comparison, None
    with timed(extraction.seconds, "finetune"):
        return compare_finetuned(
            comparison, extraction, finetune, protocol=protocol,
            multiply_adds=max(products.values()), processes=processes, n_jobs=n_jobs,
            cluster=cluster, progress=progress,
        )  # fmt: skip
