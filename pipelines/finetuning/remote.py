"""Trials on a Dask cluster: each worker makes the trainer once, and reads maps from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from codes.inference.devices import in_lanes
from pipelines.cluster.tasks import run_tasks
from pipelines.extraction.extract import backbone_of
from pipelines.training.kept import KeptTrials, Outcome
from pipelines.training.processes import ALONE
from pipelines.training.trials import Trainer, Trial

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster
    from pipelines.finetuning.prepare import Ingredients


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteTrials:
    """The tasks of some trials, by their numbers.

    Attributes
    ----------
    ingredients : Ingredients
    trials : sequence of Trial
    device : str
        The kind that the caller computes on: what a trial gives depends on it.
    """

    ingredients: Ingredients
    trials: Sequence[Trial]
    device: str

    def __call__(self, number: int) -> Callable[[], tuple[int, Outcome]]:
        """Give the task of a trial."""
        return partial(self._run, number)

    def _run(self, number: int) -> tuple[int, Outcome]:
        trainer, trial = self._trainer, self.trials[number]
        with trainer.exactly():  # On one core, as there are others for other trials.
            [outcome] = in_lanes(trainer.device, [partial(trainer.outcome, trial)])
        return number, outcome

    @cached_property
    def _trainer(self) -> Trainer:
        own = self.ingredients
        folder = next(iter(own.maps.values())).store.storage.results
        kept = None if folder is None else KeptTrials(folder)
        trainer = own.trainer(backbone_of(own.extraction), kept, ALONE)
        if trainer.device.type != self.device:
            raise ValueError(
                f"A worker trains on {trainer.device.type}, and this machine on {self.device}: "
                "the same training gives other networks there. Use workers with the same kind of "
                "device, or --device cpu."
            )
        return trainer


def run_remotely(
    cluster: Cluster, ingredients: Ingredients, trials: Sequence[Trial], *, device: str
) -> Iterator[tuple[int, Outcome]]:
    """Run trials on a cluster.

    Parameters
    ----------
    cluster : Cluster
    ingredients : Ingredients
        Of the trainer whose trials these are.
    trials : sequence of Trial
    device : str

    Yields
    ------
    number : int
        Of the trial.
    outcome : Outcome
        As they finish.
    """
    tasks = RemoteTrials(ingredients=ingredients, trials=trials, device=device)
    return run_tasks(tasks, range(len(trials)), cluster=cluster)
