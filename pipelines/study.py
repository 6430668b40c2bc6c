"""A study: the depths of a network compared on a dataset, and what belongs to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes import ImageList, load_images
from codes.augmentation import parse_augmentations
from codes.graph.starts import named_starts
from codes.wording import counted
from pipelines.comparison.compare import Comparison, compare_layers
from pipelines.comparison.duplicates import (
    copies_in_test,
    group_copies,
    repeated_images,
    without_leaks,
)
from pipelines.comparison.protocol import FINETUNE, Protocol
from pipelines.comparison.results import Best, ComparedLayer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.controls.controls import (
    CONTROLS,
    DEFAULT_CONTROLS,
    LeftOutError,
    Reader,
    parse_controls,
)
from pipelines.controls.run import ControlScore, run_controls
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
from pipelines.fitted.pipeline import FittedPipeline
from pipelines.progress import Progress, Silent, duration, timed
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes

SCORES_COLUMNS = (
    "layer", "depth", "pool", "n_features", "classifier", "train_size", "repeat", "fold", "C",
    "score", "n_train", "n_test", "Cs_not_searched",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
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
    progress : Progress
    """

    protocol: Protocol
    extraction: Extraction
    comparison: Comparison = field(repr=False)
    finetuning: Finetuning | None = field(default=None, repr=False)
    control_names: tuple[str, ...] = ()
    n_jobs: int = 1
    progress: Progress = field(default_factory=Silent, repr=False)

    @property
    def best(self) -> Best:
        """The chosen depth at the largest training size."""
        return self.comparison.best

    @property
    def tied(self) -> tuple[str, ...]:
        """Layers that cannot be distinguished from it."""
        return self.best.tied

    @property
    def best_score_(self) -> float:
        """Its score, on images that chose neither the layer nor C."""
        return self.best.score

    @property
    def cv_results_(self) -> dict[str, NDArray[Any]]:
        """A column for each of ``scores.csv``, with a value for each fold; pandas takes it."""
        # Training sizes are numbers, and "all".
        kinds = {"train_size": object}
        return {
            name: np.array([getattr(fold, name) for fold in self.comparison.folds], kinds.get(name))
            for name in SCORES_COLUMNS
        }

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
        return fit_finetuned(
            self.extraction, self.comparison, self.protocol, self.finetuning, start,
            n_jobs=self.n_jobs, progress=self.progress,
        )  # fmt: skip

    @property
    def linear(self) -> Comparison:
        """The comparison of the linear classifiers alone."""
        return self.comparison if self.finetuning is None else self.finetuning.linear

    @cached_property
    def controls(self) -> tuple[ControlScore, ...]:
        """What the chosen depth of the linear classifiers should be compared with."""
        return self._controls[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of comparison and controls, and why."""
        return (*self.comparison.notes, *self._controls[1])

    @cached_property
    def _controls(self) -> tuple[tuple[ControlScore, ...], tuple[str, ...]]:
        extraction, seconds = self.extraction, self.extraction.seconds
        readers: dict[str, Reader] = {}
        notes = []
        with timed(seconds, "controls"):
            for name in self.control_names:
                try:
                    control = CONTROLS[name]
                    readers[name] = control.read(extraction, self.linear.best.layer, self.progress)
                except LeftOutError as why:
                    notes.append(f"the control {name} was left out: {why}")
            if any(CONTROLS[name].searches for name in readers):
                self.progress.info(
                    f"Training the controls {', '.join(readers)}: at most about as long as the "
                    f"comparison took, {duration(seconds['compare'])}."
                )
            with self.progress.step("Controls", len(readers)) as advance:
                scores = run_controls(
                    readers,
                    self.linear,
                    protocol=self.protocol,
                    n_jobs=self.n_jobs,
                    advance=advance,
                )
        return tuple(scores), tuple(notes)

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
        As `pipelines.extraction.extract.extract`, and if a class is too small for the folds or a
        control is unknown.
    """
    options, protocol = _settled(options, protocol, settings)
    progress = progress or Silent()
    control_names = parse_controls(controls)
    if not finetune and processes is not None and not processes.alone:
        raise ValueError(
            f"torchrun started {processes.world_size} processes, which fine-tune a network "
            "together; nothing is to be fine-tuned here. Use one process, or `cnn-codes extract` "
            "with all of them first."
        )
    images = load_images(dataset, page=options.page)
    say_ignored(images, progress)
    if finetune:  # Before hours of extraction: whether there are such starts.
        finetune = FinetuneOptions() if finetune is True else finetune
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
    samples = Samples(y=images.labels, test=images.test, groups=images.groups)
    splits, _ = make_splits(samples, protocol)
    extraction = extract(images, options, progress=progress)
    if drop_leaks:
        extraction = _without_leaks(extraction, progress)
    images = extraction.images
    notes = [
        *_shared_groups(images),
        *repeated_images(
            extraction.digests,
            images.labels,
            images.test,
            kept_together=protocol.group_duplicates,
        ),
    ]
    groups = images.groups
    if protocol.group_duplicates:
        groups = group_copies(extraction.digests, groups)
    products = multiply_adds(extraction.backbone)
    if len(extraction.taps) > 1 and not any(products.values()):
        notes.append(
            f"no multiplication of {extraction.backbone.name} can be counted, so that no depth is "
            "recommended for being cheaper"
        )
    n_fits = len(extraction.taps) * len(protocol.classifiers) * len(splits)
    progress.info(
        f"Comparing {', '.join(tap.name for tap in extraction.taps)}: "
        f"{counted(n_fits, 'classifier')} to train, each with {_choice_of_C(protocol)}."
    )
    with timed(extraction.seconds, "compare"), progress.step("Comparing", n_fits) as advance:
        comparison = compare_layers(
            extraction.readers,
            images.labels,
            protocol=protocol,
            test=images.test,
            groups=groups,
            copied=copies_in_test(extraction.digests, images.test),
            layers=[
                ComparedLayer(
                    layer=tap.name,
                    depth=tap.layer.depth,
                    pool=tap.pool,
                    multiply_adds=products[tap.layer.name],
                )
                for tap in extraction.taps
            ],
            n_jobs=n_jobs,
            advance=advance,
        )
    finetuning = None
    if finetune:
        with timed(extraction.seconds, "finetune"):
            comparison, finetuning = compare_finetuned(
                comparison, extraction, finetune, protocol=protocol,
                multiply_adds=max(products.values()), processes=processes or ALONE, n_jobs=n_jobs,
                progress=progress,
            )  # fmt: skip
    return Study(
        protocol=protocol,
        extraction=extraction,
        comparison=replace(comparison, notes=(*notes, *comparison.notes)),
        finetuning=finetuning,
        control_names=control_names,
        n_jobs=n_jobs,
        progress=progress,
    )


def _settled(
    options: ExtractionOptions | None, protocol: Protocol | None, settings: dict[str, Any]
) -> tuple[ExtractionOptions, Protocol]:
    """Give each setting to the options or to the protocol; the random state to both."""
    known = [{f.name for f in fields(kind)} for kind in (ExtractionOptions, Protocol)]
    unknown = sorted(set(settings) - known[0] - known[1])
    if unknown:
        own = {"controls", "drop_leaks", "n_jobs", "progress"}
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


def _without_leaks(extraction: Extraction, progress: Progress) -> Extraction:
    """Leave out the images that leak, and say how many they are."""
    images = extraction.images
    kept = np.flatnonzero(without_leaks(extraction.digests, images.labels, images.test))
    if len(kept) == len(images):
        return extraction
    n_left_out = len(images) - len(kept)
    leaking = "image that leaks" if n_left_out == 1 else "images that leak"
    progress.info(f"Left out: {n_left_out:,} {leaking} (--drop-leaks).")
    return replace(
        extraction,
        images=images.take(kept),
        digests=extraction.digests[kept],
        dropped=n_left_out,
    )


def _shared_groups(images: ImageList) -> list[str]:
    """Say how many groups have images on both sides of the test split."""
    if images.groups is None or images.test is None:
        return []
    both = np.intersect1d(images.groups[images.test], images.groups[~images.test])
    if not len(both):
        return []
    n = int(np.isin(images.groups[images.test], both).sum())
    return [
        f"{n:,} of {counted(int(images.test.sum()), 'test image')} "
        f"{'belongs' if n == 1 else 'belong'} to {counted(len(both), 'group')} with training "
        f"images too, such as {str(both[0])!r}: the test score may be too good"
    ]


def _choice_of_C(protocol: Protocol) -> str:  # noqa: N802
    """Say how each classifier gets its C."""
    if len(protocol.grid) == 1:
        return f"C = {protocol.grid[0]:g}"
    return f"the best of {len(protocol.grid)} values of C by {protocol.cv}-fold cross-validation"
