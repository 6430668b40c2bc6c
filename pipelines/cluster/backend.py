"""joblib's Dask backend, for a client that is closed when the tasks are done or given up."""

from __future__ import annotations

from joblib._dask import DaskDistributedBackend


class ClusterBackend(DaskDistributedBackend):  # type: ignore[misc]
    """Runs every task on the cluster, and cancels what nobody waits for.

    Parameters
    ----------
    client : distributed.Client
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Count threads of the cluster: 2 at least, as joblib runs the tasks of 1 in the caller."""
        return max(2, int(super().effective_n_jobs(n_jobs)))

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the tasks that are not done, which joblib's backend only stops to wait for."""
        super().abort_everything(ensure_ready)
        self.client.cancel(list(self._results))
