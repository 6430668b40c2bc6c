"""Tasks that are run beside each other, here or on a cluster, whichever is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from joblib import Parallel, delayed

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

Place = TypeVar("Place")
Result = TypeVar("Result")


def run_tasks(
    tasks: Callable[[Place], Callable[[], Result]],
    places: Iterable[Place],
    *,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
) -> Iterator[Result]:
    """Run a task at each of several places.

    Parameters
    ----------
    tasks : callable
        Gives the task of a place: a function without arguments. It can be pickled. A process of
        this machine is sent its own tasks; a cluster's worker is sent `tasks` once, and places.
    places : iterable
        Small: names and numbers.
    n_jobs : int, default=1
        Processes of this machine, as in joblib. A cluster has its own number.
    cluster : Cluster, optional
        As `pipelines.cluster.connection.connected` gives it.

    Yields
    ------
    result
        Of each task, as they finish.

    Examples
    --------
    >>> from functools import partial
    >>> sorted(run_tasks(lambda n: partial(pow, n, 2), [1, 2, 3]))
    [1, 4, 9]
    """
    if cluster is not None:
        return cluster.run(tasks, places)
    calls = (delayed(tasks(place))() for place in places)
    found: Iterator[Result] = Parallel(n_jobs=n_jobs, return_as="generator_unordered")(calls)
    return found
