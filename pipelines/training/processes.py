"""Processes that train one network together, as torchrun starts them.

The first one runs the command; the others train with it, batch by batch, when it asks them to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=30)
"""How long the others wait while the first one extracts."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """A process, and those that train with it.

    Attributes
    ----------
    rank : int
        From 0.
    world_size : int
        How many processes there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.world_size == 1

    def share(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """Take the process's part of some images.

        Examples
        --------
        >>> [Processes(rank=r, world_size=2).share(np.arange(5)).tolist() for r in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        return np.array_split(images, self.world_size)[self.rank]

    def sum(self, value: float) -> float:
        """Sum a number of each process."""
        if self.alone:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def joined(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Put the rows of all processes one after another."""
        if self.alone:
            return rows
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, rows)
        return np.concatenate(parts)

    def send(self, order: object) -> None:
        """Send something from the first process to the others."""
        if not self.alone:
            dist.broadcast_object_list([order])

    def receive(self) -> Any:
        """Wait for what the first process sends."""
        received: list[Any] = [None]
        dist.broadcast_object_list(received)
        return received[0]

    def shared(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Make gradients of a network the mean of what all processes find."""
        if self.alone:
            return network
        if device.type != "cuda":
            return DistributedDataParallel(network)
        # Statistics that are trained are those of the whole batch.
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network, device_ids=[device])


ALONE = Processes()


@contextmanager
def join_processes(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Join the processes that torchrun started, and let them end when the first one does.

    Parameters
    ----------
    environment : mapping of str to str

    Yields
    ------
    processes : Processes
        Of one process where torchrun started none.
    """
    world_size = int(environment.get("WORLD_SIZE", "1")) if "RANK" in environment else 1
    if world_size == 1:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)
    processes = Processes(rank=dist.get_rank(), world_size=dist.get_world_size())
    # Where one fails, torchrun ends the others: they may be waiting for an answer.
    yield processes
    if processes.rank == 0:
        processes.send(None)
    dist.destroy_process_group()
