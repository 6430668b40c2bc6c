"""A study: the depths of a network compared on a dataset, and what belongs to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from codes import load_images
from codes.augmentation import parse_augmentations
from codes.graph.starts import named_starts
from pipelines.cluster.connection import Cluster, connected, refuse_both
from pipelines.codes_study import CodesStudy
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
from pipelines.stored_comparison import compare_stored, count_splits, leave_out_leaks
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes


@dataclass(frozen=True, kw_only=True, eq=False)
class Study(CodesStudy):
    """The depths of a network, compared on a dataset.

    What else is known, such as controls and similarity, is measured when it is first asked for.

    Attributes
    ----------
    protocol : Protocol
    extraction : Extraction
        The images and their codes, with the options that they were made with.
    comparison : Comparison
    finetuning : Finetuning or None
        What fine-tuning gave, where it was asked for.
    control_names : tuple of str
        The controls to run.
    n_jobs : int
        Processes that train classifiers.
    scheduler : str or None
        Of the Dask cluster whose workers do it instead.
    n_workers : int or None
        How many these were.
    progress : Progress
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


def compare(
    dataset: str | Path,
    *,
    options: ExtractionOptions | None = None,
    protocol: Protocol | None = None,
    controls: str | Sequence[str] = DEFAULT_CONTROLS,
    drop_leaks: bool = False,
    finetune: FinetuneOptions | bool = False,
    processes: Processes | None = None,
    n_jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Study:
    """Extract what the store lacks, and compare the depths of a network on a dataset.

    Parameters
    ----------
    dataset : str or Path
        As for `codes.load_images`.
    options : ExtractionOptions, optional
        What to read, with which network.
    protocol : Protocol, optional
        How depths are compared.
    controls : str, or sequence of str
        Of `pipelines.controls.controls.CONTROLS`, joined by commas; or "none".
    drop_leaks : bool, default=False
        Leave out the images that `pipelines.comparison.duplicates.without_leaks` finds.
    finetune : bool or FinetuneOptions, default=False
        Whether the network is trained as well; or from where on, and how.
    processes : Processes, optional
        Those that fine-tune with this one, as `pipelines.training.processes.join_processes` gives
        them.
    n_jobs : int, default=1
        Processes that train classifiers.
    scheduler : str, optional
        Address of a Dask scheduler, ``tcp://HOST:PORT``, whose workers train them instead. They
        read codes from the store themselves.
    progress : Progress, optional
    **settings
        Fields of `ExtractionOptions` and of `Protocol`, such as ``backbone="resnet18"`` and
        ``train_sizes=(5, "all")``; they replace those of `options` and `protocol`.

    Returns
    -------
    study : Study

    Raises
    ------
    TypeError
        If a setting is a field of neither, or no backbone is named.
    ValueError
        As `pipelines.extraction.extract.extract`, and if a class is too small for the folds, a
        control is unknown, or both `n_jobs` and `scheduler` are given.
    pipelines.cluster.connection.ClusterError
        If the cluster cannot be used.
    """
    refuse_both(n_jobs, scheduler)
    options, protocol = _settled(options, protocol, settings)
    progress = progress or Silent()
    control_names = parse_controls(controls)
    if not finetune and processes is not None and not processes.alone:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, which fine-tune a network "
            "together; nothing is to be fine-tuned here. Use one process, or `cnn-codes extract` "
            "with all of them first."
        )
    if scheduler is not None and processes is not None and not processes.alone:
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
            extraction, protocol, finetune, n_splits=n_splits, processes=processes or ALONE,
            n_jobs=n_jobs, cluster=cluster, progress=progress,
        )  # fmt: skip
        n_workers = None if cluster is None else cluster.n_workers
    return Study(
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


def _settled(
    options: ExtractionOptions | None, protocol: Protocol | None, settings: dict[str, Any]
) -> tuple[ExtractionOptions, Protocol]:
    """Give each setting to the options or to the protocol; the random state to both."""
    known = [{f.name for f in fields(kind)} for kind in (ExtractionOptions, Protocol)]
    unknown = sorted(set(settings) - known[0] - known[1])
    if unknown:
        own = {"controls", "drop_leaks", "n_jobs", "progress", "scheduler"}
        allowed = ", ".join(sorted(known[0] | known[1] | own))
        raise TypeError(f"compare() has no setting {', '.join(unknown)}. Allowed: {allowed}.")
    of_options, of_protocol = (
        {name: value for name, value in settings.items() if name in names} for names in known
    )
    if options is None:
        if "backbone" not in settings:
            raise TypeError('compare() needs a backbone, such as backbone="resnet18".')
        options = ExtractionOptions(**of_options)
    else:
        options = replace(options, **of_options)
    return options, replace(protocol or Protocol(), **of_protocol)
