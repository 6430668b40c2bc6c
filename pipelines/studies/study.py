"""A study: layers compared on labelled images, whoever computed their codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cluster.connection import connected
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import Best
from pipelines.controls.controls import CONTROLS, LeftOutError
from pipelines.controls.run import ControlScore, run_controls
from pipelines.progress import Progress, Silent, duration, timed
from pipelines.reading.labelled import LabelledCodes
from pipelines.reading.readers import Reader

SCORES_COLUMNS = (
    "layer", "depth", "pool", "n_features", "classifier", "train_size", "repeat", "fold", "C",
    "score", "n_train", "n_test", "Cs_not_searched",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Study(ABC):
    """Layers compared on labelled images, and what needs no network to be known of them.

    A study of a network is a `pipelines.studies.network_study.NetworkStudy`, of codes that were
    given a `pipelines.studies.given_study.GivenStudy`.

    Controls are scored when they are first asked for.

    Attributes
    ----------
    protocol : Protocol
    comparison : Comparison
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

    protocol: Protocol
    comparison: Comparison = field(repr=False)
    control_names: tuple[str, ...] = ()
    n_jobs: int = 1
    scheduler: str | None = None
    n_workers: int | None = None
    progress: Progress = field(default_factory=Silent, repr=False)

    @property
    @abstractmethod
    def codes(self) -> LabelledCodes:
        """The images and their codes."""

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
        rows = (*self.comparison.folds, *self.comparison.folds_cut_again)
        names = (*SCORES_COLUMNS, "cut") if self.protocol.seeds > 1 else SCORES_COLUMNS
        return {
            name: np.array([getattr(row, name) for row in rows], kinds.get(name)) for name in names
        }

    @property
    def linear(self) -> Comparison:
        """The comparison of the linear classifiers alone."""
        return self.comparison

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
        codes, seconds = self.codes, self.codes.seconds
        readers: dict[str, Reader] = {}
        notes = []
        with timed(seconds, "controls"):
            for name in self.control_names:
                try:
                    control = CONTROLS[name]
                    readers[name] = control.read(codes, self.linear.best.layer, self.progress)
                except LeftOutError as why:
                    notes.append(f"the control {name} was left out: {why}")
            if any(CONTROLS[name].searches for name in readers):
                self.progress.info(
                    f"Training the controls {', '.join(readers)}: at most about as long as the "
                    f"comparison took, {duration(seconds['compare'])}."
                )
            with (
                connected(self.scheduler if readers else None) as cluster,
                self.progress.step("Controls", len(readers)) as advance,
            ):
                scores = run_controls(
                    readers,
                    self.linear,
                    protocol=self.protocol,
                    n_jobs=self.n_jobs,
                    cluster=cluster,
                    advance=advance,
                )
        return tuple(scores), tuple(notes)
