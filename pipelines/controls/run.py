"""Scores of controls, on the splits and with the classifier that the chosen depth was scored on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.cluster.tasks import run_tasks
from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import Fit
from pipelines.comparison.held_out_answers import HeldOutAnswers
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.scored_fits import ScoredFits
from pipelines.comparison.splits import Split
from pipelines.controls.controls import CONTROLS, Control
from pipelines.controls.findings import UNNEEDED, find_unneeded
from pipelines.linear.mapped import MappedCodes
from pipelines.reading.readers import Reader
from pipelines.reading.scratch import Codes, in_turns, opened
from pipelines.statistics.paired_tests import paired_tests
from pipelines.statistics.scoring import score_answers

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster


@dataclass(frozen=True, kw_only=True)
class ControlScore:
    """What a control scores, where the chosen depth was scored.

    Attributes
    ----------
    name : str
        Of `pipelines.controls.controls.CONTROLS`.
    n_features : int
        0 for the majority.
    score, ci_low, ci_high : float
        And its 95 % interval.
    alarm : bool
        Whether labels that mean nothing are predicted far better than by chance: something leaks.
    finding : str
        What it says against the network: see `pipelines.controls.findings.find_unneeded`.
    score_without_leaks : float or None
        As in `pipelines.comparison.results.Best`.
    """

    name: str
    n_features: int
    score: float
    ci_low: float
    ci_high: float
    alarm: bool = False
    finding: str = ""
    score_without_leaks: float | None = None

    @property
    def expected(self) -> float:
        """The score on test images that are no copies of training images, where that differs."""
        return self.score if self.score_without_leaks is None else self.score_without_leaks


def run_controls(
    readers: Mapping[str, Reader],
    comparison: Comparison,
    *,
    protocol: Protocol,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[ControlScore]:
    """Score controls where the chosen depth was scored.

    In a repeated cross-validation, on the splits of the first repeat.

    Parameters
    ----------
    readers : mapping of str to Reader
        Control → how to read its codes, of shape (n_samples, n_features); not called for
        ``"majority"``.
    comparison : Comparison
    protocol : Protocol
        Of the comparison.
    n_jobs : int, default=1
        Processes, as in joblib.
    cluster : Cluster, optional
        A Dask cluster whose workers do it instead.
    advance : callable, optional
        Called with 1 after each control.

    Returns
    -------
    scores : list of ControlScore
    """
    size, samples = comparison.best.train_size, comparison.scored.samples
    splits = every = comparison.scored.splits_of(size)
    if samples.test is None:
        splits = [split for split in every if split.repeat == every[0].repeat]
    controls = [CONTROLS[name] for name in readers]
    grid = _affordable(controls, comparison, protocol, len(splits) / len(every))
    protocol = replace(protocol, train_sizes=(size,), scoring=comparison.scoring, Cs=grid)
    fits: dict[str, list[Fit]] = {}
    alarms: dict[str, bool] = {}
    turns = in_turns(readers, n_jobs, here=cluster is None, unread=("majority",))
    with closing(turns):  # Also where an error ends it: its scratch file is removed.
        for reads in turns:
            tasks = _Evaluations(
                reads=reads, comparison=comparison, splits=splits, protocol=protocol
            )
            for name, of_control, alarm in run_tasks(tasks, reads, n_jobs=n_jobs, cluster=cluster):
                fits[name], alarms[name] = of_control, alarm
                if advance is not None:
                    advance(1)
    scored = replace(comparison.scored, splits=splits, fits={})
    return [
        replace(_score(name, fits[name], comparison, scored), alarm=alarms[name])
        for name in readers
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evaluations:
    """The tasks of `run_controls`, by the controls' names."""

    reads: Mapping[str, Codes]
    comparison: Comparison
    splits: Sequence[Split]
    protocol: Protocol

    def __call__(self, name: str) -> Callable[[], tuple[str, list[Fit], bool]]:
        read = self.reads[name]
        return partial(_evaluate, CONTROLS[name], read, self.comparison, self.splits, self.protocol)


def _evaluate(
    control: Control,
    read: Codes,
    comparison: Comparison,
    splits: Sequence[Split],
    protocol: Protocol,
) -> tuple[str, list[Fit], bool]:
    with ExitStack() as stack:

        def open_codes() -> NDArray[Any] | MappedCodes:  # Not called where none are read.
            return stack.enter_context(opened(read))

        fits = control.evaluate(open_codes, comparison, splits, protocol)
        alarm = control.alarms(fits, open_codes, comparison, splits, protocol)
        return control.name, fits, alarm


def _score(
    name: str, fits: Sequence[Fit], comparison: Comparison, scored: ScoredFits
) -> ControlScore:
    """Score a control, and say what it says against the network."""
    best, clean = comparison.best, scored.clean
    score, low, high = scored.mean_score(fits, best.train_size)
    control = ControlScore(
        name=name,
        n_features=fits[0].n_features,
        score=score,
        ci_low=low,
        ci_high=high,
    )
    if clean is not None:
        alone, low, _ = scored.mean_score(fits, best.train_size, only=clean)
        control = replace(control, score_without_leaks=alone)
    # Where no depth is better than guessing, random weights that are say nothing of training.
    shown = best.recommended is not None or name == "pixels"
    if name not in UNNEEDED or low <= best.guess or not shown:
        return control
    tested = comparison.tested
    worse = _is_worse(tested, fits, scored)
    groups = tested.held_out.groups
    n_groups = None if groups is None else len(np.unique(groups))
    finding = find_unneeded(name, control.expected, best, worse=worse, n_groups=n_groups)
    return replace(control, finding=finding)


def _is_worse(
    tested: HeldOutAnswers,
    fits: Sequence[Fit],
    scored: ScoredFits,
) -> bool:
    """Tell whether a control scores lower than the comparison's own choice, beyond chance."""
    only = scored.clean
    held_out, answers = scored.pooled(fits, scored.sizes[0], only=only)
    kept = np.ones(len(tested.images), bool) if only is None else only[tested.images]
    chosen = [given[kept] for given in tested.answers[: len(answers)]]  # The first repeats.
    scores = [
        [
            score_answers(held_out.scoring, held_out.truth, given, held_out.n_classes)[0]
            for given in of
        ]
        for of in (chosen, answers)
    ]
    tests = paired_tests(held_out, [chosen, answers], np.array(scores), 0, chose=False)
    return bool(tests.worse[1])


def _affordable(
    controls: Sequence[Control], comparison: Comparison, protocol: Protocol, share: float
) -> tuple[float, ...]:
    """Thin the grid of C where controls on some of the splits would cost more than all layers."""
    best = comparison.best
    rows = [row for row in comparison.layers if row.train_size == best.train_size]
    cost = sum(control.cost(len(rows)) for control in controls)
    step = math.ceil(cost * share / len(rows)) if cost else 1
    logs = np.log(protocol.grid)
    [C] = [row.C for row in rows if (row.layer, row.classifier) == (best.layer, best.classifier)]
    chosen = int(np.abs(logs - np.log(C)).argmin())  # A median: perhaps between two of the grid.
    return protocol.grid[chosen % step :: step]
