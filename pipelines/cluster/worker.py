"""What runs on a worker of a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from threadpoolctl import threadpool_limits

from pipelines.cluster.connection import ClusterError

CHECKED = ("cnn-codes", "numpy", "scipy", "scikit-learn", "distributed")
"""Packages of which a worker needs the caller's versions: another may give other scores."""


class Tasks(WorkerPlugin):
    """Tasks that every worker holds, sent once, also to one that joins later.

    Parameters
    ----------
    name : str
        What they are found by.
    tasks : callable
        As for `pipelines.cluster.tasks.run_tasks`.
    """

    def __init__(self, name: str, tasks: Callable[[Any], Callable[[], Any]]) -> None:
        self.name, self.tasks, self._needed = name, tasks, read_versions()
        self.refused: str | None = None

    def setup(self, worker: Worker) -> None:
        """Limit BLAS to one thread while there are tasks: each thread of a worker runs one."""
        self._limits = threadpool_limits(limits=1)
        self.refused = explain_mismatch(worker.address, read_versions(), self._needed)

    def teardown(self, worker: Worker) -> None:
        """Let BLAS have the threads again that it had."""
        self._limits.restore_original_limits()


def run_here(name: str, place: Any) -> Any:
    """Run the task of a place.

    Parameters
    ----------
    name : str
        Of the `Tasks` that it is among.
    place : object

    Raises
    ------
    ClusterError
        If the worker, which joined later, has other versions than the caller.
    """
    held: Any = get_worker().plugins[name]
    if held.refused is not None:
        raise ClusterError(held.refused)
    return held.tasks(place)()


def read_versions() -> dict[str, str | None]:
    """Return the versions of Python and of `CHECKED`; None where one is not installed."""
    found: dict[str, str | None] = {"Python": "{}.{}".format(*sys.version_info)}
    for name in CHECKED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def explain_mismatch(
    worker: str, found: dict[str, str | None], needed: dict[str, str | None]
) -> str | None:
    """Say which version a worker lacks; None where it has them all.

    Examples
    --------
    >>> explain_mismatch("tcp://10.0.0.2:9", {"numpy": "1.26.4"}, {"numpy": "2.2.0"})[:50]
    'The worker tcp://10.0.0.2:9 has numpy 1.26.4, and '
    """
    for name, version_there in found.items():
        if version_there != needed[name]:
            return (
                f"The worker {worker} has {name} {version_there or '(not installed)'}, and "
                f"{needed[name]} is needed, as here: other versions may give other scores."
            )
    return None
