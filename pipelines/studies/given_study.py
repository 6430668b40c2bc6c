"""A study of given codes: layers in a file that another tool wrote, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.cluster.connection import connected, refuse_both
from pipelines.comparison.protocol import Protocol
from pipelines.controls.controls import CONTROLS, DEFAULT_CONTROLS, parse_controls
from pipelines.exchange.given import GivenCodes
from pipelines.exchange.loading import load_given
from pipelines.extraction.left_out import say_ignored
from pipelines.progress import Progress, Silent
from pipelines.studies.stored_comparison import compare_stored, count_splits, leave_out_leaks
from pipelines.studies.study import Study

GIVEN_CONTROLS = tuple(name for name in DEFAULT_CONTROLS if not CONTROLS[name].extracts)
"""The controls that are run by default."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GivenStudy(Study):
    """The layers of a file of codes, compared.

    Attributes
    ----------
    given : GivenCodes
    protocol, comparison, control_names, n_jobs, scheduler, n_workers, progress
        As in `pipelines.studies.study.Study`.
    """

    given: GivenCodes

    @property
    def codes(self) -> GivenCodes:
        """The codes."""
        return self.given


def compare_given(
    dataset: str,
    *,
    layers: str | Sequence[str] = "default",
    protocol: Protocol,
    controls: str | Sequence[str] = GIVEN_CONTROLS,
    drop_leaks: bool = False,
    n_jobs: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> GivenStudy:
    """Compare the layers of a file of codes; parameters are those of `pipelines.compare`."""
    refuse_both(n_jobs, scheduler)
    progress = progress or Silent()
    control_names = parse_controls(controls)
    extracting = [name for name in control_names if CONTROLS[name].extracts]
    if extracting:
        raise ValueError(
            f"Controls {', '.join(extracting)} need the images and the network; {dataset!r} holds "
            f"codes. Allowed: {', '.join(GIVEN_CONTROLS)}, or none."
        )
    given = load_given(dataset, layers)
    say_ignored(given.images, progress)
    progress.info(f"Layers {given.order}: {', '.join(one.layer for one in given.layers)}.")
    n_splits = count_splits(given.images, protocol)
    if drop_leaks:
        given = leave_out_leaks(given, progress)
    with connected(scheduler) as cluster:
        comparison = compare_stored(
            given, given.layers, protocol=protocol, n_splits=n_splits, n_jobs=n_jobs,
            cluster=cluster, progress=progress,
        )  # fmt: skip
        n_workers = None if cluster is None else cluster.n_workers
    if comparison.best.tied:
        unknown = (
            "what the layers cost to compute is not known, so that none is recommended for being "
            "cheaper"
        )
        comparison = replace(comparison, notes=(unknown, *comparison.notes))
    return GivenStudy(
        protocol=protocol,
        given=given,
        comparison=comparison,
        control_names=control_names,
        n_jobs=n_jobs,
        scheduler=scheduler,
        n_workers=n_workers,
        progress=progress,
    )
