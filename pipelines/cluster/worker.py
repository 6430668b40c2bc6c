"""What runs on a worker of a Dask cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from threadpoolctl import threadpool_limits

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
        self.name, self.tasks = name, tasks

    def setup(self, worker: Worker) -> None:
        """Limit BLAS to one thread while there are tasks: each thread of a worker runs one."""
        self._limits = threadpool_limits(limits=1)

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
    """
    held: Any = get_worker().plugins[name]
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
