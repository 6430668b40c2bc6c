"""A study of a network: its depths compared on a dataset, and what needs the network to know."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from pipelines.cluster.connection import connected
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import FINETUNE
from pipelines.diagnostics.advice import Advice, advise
from pipelines.diagnostics.intensity_by_class import IntensityCheck, check_intensity
from pipelines.diagnostics.reproducibility import Reproducibility, measure_reproducibility
from pipelines.diagnostics.similarity import Similarity, measure_similarity
from pipelines.extraction.cost import measure_cost
from pipelines.extraction.extract import Extraction
from pipelines.extraction.normalization import NormalizationCheck, check_normalization
from pipelines.finetuning.finetune import Finetuned, Finetuning
from pipelines.fitted.finetuned import fit_finetuned
from pipelines.fitted.linear import fit
from pipelines.fitted.pipeline import FittedPipeline, trained_on
from pipelines.progress import timed
from pipelines.studies.study import Study


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
