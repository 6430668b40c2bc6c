"""Shards: which images of a dataset each of several processes that fill one store extracts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.part import distinct
from cache.writer import SEGMENT_ROWS

# Who starts the processes names them so: torchrun, Slurm's srun, Slurm's job arrays.
_NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several processes that fill a store together.

    The shards are fixed by number before anyone looks at what is stored already, so that a rank
    that starts late or again leaves out no image and takes none of another's.

    Attributes
    ----------
    rank : int
        From 0.
    world_size : int
        How many processes there are.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank={self.rank}, world_size={self.world_size}: allowed are ranks from 0 to "
                "one less than the world size."
            )

    def of(self, digests: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Choose this rank's images: places in the list, each distinct image once; ``(n_own,)``.

        Of all ranks together they are all images. ``digests`` are of shape (n_samples, 32).

        Examples
        --------
        >>> digests = np.repeat(np.arange(5, dtype=np.uint8), 32).reshape(5, 32)
        >>> [Shard(rank=rank, world_size=2).of(digests).tolist() for rank in (0, 1)]
        [[0, 1, 2], [3, 4]]
        """
        places = distinct(digests)
        # Blocks of a segment or a little less, as many for each rank.
        rounds = -(-len(places) // (SEGMENT_ROWS * self.world_size))
        block = np.arange(len(places)) * rounds * self.world_size // max(1, len(places))
        mine = block % self.world_size == self.rank
        return np.asarray(places[mine])


def find_shard(
    rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ
) -> Shard:
    """Take the shard that was asked for, or the one that torchrun or Slurm gives this process.

    ``rank`` and ``world_size`` are given both or neither. The default is the whole dataset.

    Examples
    --------
    >>> find_shard(None, None, {"RANK": "1", "WORLD_SIZE": "4"})
    Shard(rank=1, world_size=4)
    """
    if (rank is None) != (world_size is None):
        raise ValueError(
            f"rank={rank}, world_size={world_size}: give both, or neither to take torchrun's or "
            "Slurm's."
        )
    if rank is not None and world_size is not None:
        return Shard(rank=rank, world_size=world_size)
    for names in _NAMES:
        if all(name in environment for name in names):
            number, count = (_number(environment, name) for name in names)
            if names[0] == "SLURM_ARRAY_TASK_ID":  # as in --array=5-25:10
                number -= _number(environment, "SLURM_ARRAY_TASK_MIN")
                number //= max(1, _number(environment, "SLURM_ARRAY_TASK_STEP"))
            if count > 1:
                return Shard(rank=number, world_size=count)
    return Shard()


def _number(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment.get(name, "0"))
    except ValueError:
        raise ValueError(
            f"The environment's {name} is {environment[name]!r}, which is not a number. Unset "
            "it, or give --rank and --world-size."
        ) from None
