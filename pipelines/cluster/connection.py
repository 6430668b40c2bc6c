"""The connection to a Dask cluster: its workers, checked before there is a task for them."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

if TYPE_CHECKING:
    from distributed import Client, Future

PATIENCE = 10
"""Seconds that the scheduler, and then a first worker, is waited for; and without any result, after
which workers are counted."""
POLL = 0.05
"""Seconds between two looks for results."""

Place = TypeVar("Place")
Result = TypeVar("Result")


class ClusterError(RuntimeError):
    """A cluster that cannot be used; the message says why, and what to do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
    """The workers of a Dask cluster.

    Attributes
    ----------
    client : distributed.Client
    n_workers : int
        When it was connected; others may come and go.
    """

    client: Client
    n_workers: int

    def run(
        self, tasks: Callable[[Place], Callable[[], Result]], places: Iterable[Place]
    ) -> Iterator[Result]:
        """Run tasks on the workers, as `pipelines.cluster.tasks.run_tasks` does.

        Tasks of a worker that ends are run again by others, and those that are done are not.

        Raises
        ------
        ClusterError
            If the scheduler or the last worker is lost, or one task ended several workers.
        """
        from distributed import KilledWorker, as_completed

        from pipelines.cluster.worker import Tasks, run_here

        name = f"cnn-codes-{uuid4().hex}"
        self.client.register_plugin(Tasks(name, tasks))
        futures = self.client.map(partial(run_here, name), list(places), pure=False)
        try:
            done = as_completed(  # type: ignore[no-untyped-call]
                futures, with_results=True, loop=self.client.loop
            )
            for future, result in self._while_there_are_workers(done):
                if future.status != "finished":
                    raise ClusterError(
                        "The connection to the scheduler was lost, or tasks were cancelled there. "
                        "Run it again when the cluster is back: stored codes are used again."
                    )
                # What is still asked for is computed again when the worker that holds it ends.
                future.release()  # type: ignore[no-untyped-call]
                yield result
        except KilledWorker as error:
            raise ClusterError(
                f"One task ended {error.allowed_failures + 1} workers, perhaps for want of memory. "
                "Read the log of a worker, and give each more memory or fewer threads."
            ) from error
        finally:
            self._release(futures, name)

    def _while_there_are_workers(self, done: Any) -> Iterator[tuple[Future[Any], Any]]:
        """Give results as they come, and end where no worker is left to make more."""
        seen = time.monotonic()
        while done.count():
            if done.has_ready() or self.client.status != "running":
                yield next(done)
                seen = time.monotonic()
                continue
            time.sleep(POLL)
            if time.monotonic() - seen > PATIENCE:
                if not self.client.nthreads():  # type: ignore[no-untyped-call]
                    raise ClusterError(
                        "The cluster has no worker any more. Start some, and run it again: stored "
                        "codes and finished trainings are used again."
                    )
                seen = time.monotonic()

    def _release(self, futures: list[Future[Any]], name: str) -> None:
        """Cancel tasks that are not done, and take them from the workers."""
        if self.client.status != "running":
            return
        self.client.cancel(futures)  # type: ignore[no-untyped-call]
        # The scheduler forgets the tasks, and then tells the workers: where one of them has ended
        # and it has not seen that yet, it closes the connection instead of answering. That does not
        # hide the error that a task ended with.
        with suppress(OSError):
            self.client.unregister_worker_plugin(name)  # type: ignore[no-untyped-call]

    def require(self, check: Callable[[], None]) -> None:
        """Run a check of the codes on every worker.

        Raises
        ------
        ClusterError
            If it raises an error on one; the message names the worker.
        """
        for worker, error in _on_each(self.client, check).items():
            if error is not None:
                raise ClusterError(
                    f"The worker {worker} cannot read the codes: {error} Put the store, or the "
                    "file of codes, on a disk that all workers share; or the store in S3, with "
                    "credentials in each worker's own environment."
                )


@contextmanager
def connected(scheduler: str | None) -> Iterator[Cluster | None]:
    """Connect to a cluster, and release its tasks in the end.

    Parameters
    ----------
    scheduler : str or None
        ``tcp://HOST:PORT``, or ``tls://HOST:PORT`` with Dask's own configuration of certificates.

    Yields
    ------
    cluster : Cluster or None
        None where no scheduler is given.

    Raises
    ------
    ValueError
        If it is not an address, or the package ``distributed`` is not installed.
    ClusterError
        If it does not answer within 10 seconds, has no worker within 10 more, or a worker has other
        versions than this process.
    """
    if scheduler is None:
        yield None
        return
    check_scheduler(scheduler)
    scheduler = scheduler.rstrip("/")
    from distributed import Client

    try:
        # Versions are checked below, with an error.
        with warnings.catch_warnings(action="ignore"):
            client = Client(  # type: ignore[no-untyped-call]
                scheduler, timeout=PATIENCE, set_as_default=False
            )
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {scheduler} within {PATIENCE} seconds. Give the address "
            "that `dask scheduler` prints, and see that this machine can reach it."
        ) from error
    with _quiet(), client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise ClusterError(
                f"The cluster of {scheduler} has no worker after {PATIENCE} seconds. Start some: "
                f"dask worker {scheduler} --nthreads 1"
            ) from error
        yield Cluster(client=client, n_workers=_require_versions(client))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own tracebacks of a lost connection from the terminal: an error says it."""
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def refuse_both(n_jobs: int, scheduler: str | None) -> None:
    """Refuse a number of processes here where there is a cluster.

    Raises
    ------
    ValueError
    """
    if scheduler is not None and n_jobs != 1:
        raise ValueError(
            f"n_jobs={n_jobs}, and scheduler={scheduler!r}: classifiers are trained by processes "
            "of this machine, or by a cluster's workers. Leave one out."
        )


def check_scheduler(scheduler: str) -> None:
    """Refuse what is not an address, or cannot be connected to without another package.

    Raises
    ------
    ValueError
    """
    found = re.fullmatch(r"(tcp|tls)://([^:/@?#\s]+|\[[0-9a-fA-F:]+\]):(\d{1,5})/?", scheduler)
    if found is None or not 0 < int(found[3]) < 2**16:
        shown = "" if "@" in scheduler else f" {scheduler!r}"  # A password can be in it.
        raise ValueError(
            f"--scheduler{shown}: it is not an address of a Dask scheduler. Allowed: "
            "tcp://HOST:PORT, such as tcp://10.0.0.1:8786, or tls://HOST:PORT."
        )
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "--scheduler needs the package distributed: pip install 'cnn-codes[dask]', here and "
            "on the workers."
        ) from error


def _require_versions(client: Client) -> int:
    """Refuse workers with other versions than this process; count them."""
    from pipelines.cluster.worker import explain_mismatch, read_versions

    own = read_versions()
    found = _on_each(client, read_versions)
    for worker, versions in found.items():
        if isinstance(versions, Exception):
            raise ClusterError(
                f"The worker {worker} cannot load cnn-codes ({versions}). Install cnn-codes "
                f"{own['cnn-codes']} there, as here."
            )
        wrong = explain_mismatch(worker, versions, own)
        if wrong is not None:
            raise ClusterError(wrong)
    return len(found)


def _on_each(client: Client, function: Callable[[], Any]) -> dict[str, Any]:
    """Run a function on every worker; what it returns, or the error that it raises."""
    return dict(client.run(function, on_error="return"))
