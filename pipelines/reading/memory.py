"""Memory: how much of it this process may use, and which codes are held in it."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from joblib import effective_n_jobs

from codes.wording import counted
from pipelines.linear.path import needed_memory
from pipelines.reading.readers import Reader

if sys.platform != "win32":
    import resource

LIBRARIES = 3 * 10**8
"""Bytes that Python and the libraries take in each process."""
SHARE = 8
"""A layer is held in memory where it takes at most one part in so many of the rest: its training
rows are a copy, those to test another, and half of the memory is for everything else."""


class TooLargeError(ValueError):
    """Training takes more memory than there is."""


def memory_limit() -> int | None:
    """Say how many bytes of memory this process may use at most.

    Returns
    -------
    limit : int or None
        The least of the machine's memory, the limits of the control groups (version 1 or 2) that
        the process is in, and its own limits of data and address space. None on Windows, where it
        is not known.
    """
    if sys.platform == "win32":
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_group_limits()]
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            limits.append(soft)
    return min(limits)


def fits_in_memory(n_bytes: int, n_jobs: int) -> bool:
    """Tell whether each of so many processes can hold codes of this size in memory.

    Parameters
    ----------
    n_bytes : int
        Of a layer.
    n_jobs : int
        Processes, 1 or more.
    """
    limit = memory_limit()
    return limit is None or n_bytes * SHARE <= limit / n_jobs - LIBRARIES


def require_memory(what: str, reader: Reader, n_images: int, n_classes: int, n_jobs: int) -> None:
    """Refuse to train on codes where what the solver holds does not fit into memory.

    Parameters
    ----------
    what : str
        How the message names the codes.
    reader : Reader
    n_images : int
        To train on.
    n_classes : int
    n_jobs : int
        Processes, as in joblib.

    Raises
    ------
    TooLargeError
    """
    limit = memory_limit()
    n_rows = n_images * math.prod(reader.shape[1:-1])
    width = reader.shape[-1]
    n_processes = effective_n_jobs(n_jobs)
    needed = (needed_memory(n_rows, width, n_classes) + LIBRARIES) * n_processes
    if limit is not None and needed > limit:
        raise TooLargeError(
            f"Training on {n_rows:,} rows of {width:,} features of {what} takes about "
            f"{needed / 1e9:.3g} GB of memory in {counted(n_processes, 'process')}; there are "
            f"{limit / 1e9:.3g} GB. Use --jobs 1, fewer images (--train-sizes), or fewer features "
            "(--pool avg)."
        )


def _group_limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Read the limits of the control groups of this process, and of those they are in."""
    if not own.exists():
        return []
    found = []
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = top / path.lstrip("/")
        # In a container, the path may be the host's, and its own group is the top.
        for folder in {group, *group.parents, top}:
            file = folder / name
            if folder.is_relative_to(top) and file.exists():
                value = file.read_text().strip()
                found += [int(value)] if value.isdigit() else []
    return found
