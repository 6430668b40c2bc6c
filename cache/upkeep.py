"""Looking after a store: what is in it, and making room in it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import StoreError
from cache.part import COMMITTED, Part
from cache.records import groups, parts, read_record
from cache.storage.base import FILE, USE, Storage

SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
AGES = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A part of a store; dataset, backbone and weights as they were typed."""

    path: str
    dataset: str
    backbone: str
    weights: str | None
    key: dict[str, Any] = field(repr=False)  # the fields of the extraction's
    arrays: tuple[dict[str, Any], ...]  # the fields of each array's key
    # Of the images whose rows hold codes, shape (n_images, 32).
    digests: NDArray[np.uint8] = field(repr=False, compare=False)
    size: int  # bytes on the disk
    used: float  # seconds since 1970

    @property
    def n_images(self) -> int:
        """Rows that hold codes."""
        return len(self.digests)


def list_parts(storage: Storage) -> list[Holding]:
    """List what a store holds, the most recently used first.

    Parameters
    ----------
    storage : Storage

    Returns
    -------
    holdings : list of Holding
        Parts that a crash left without a row are among them, with ``n_images`` 0.
    """
    found: list[Holding] = []
    uses = {file.path: file.modified for file in storage.files(USE)}
    for group in groups(storage):
        key = (read_record(storage, group) or {}).get("key", {})
        for path in parts(storage, group):
            part = Part(storage, path)
            files = list(storage.files(path))
            none = np.empty((0, 32), np.uint8)
            provenance = (part.record or {}).get("provenance", {})
            found.append(
                Holding(
                    path=path,
                    dataset=str(provenance.get("dataset", "?")),
                    backbone=str(provenance.get("backbone", "?")),
                    weights=provenance.get("weights"),
                    key=key,
                    arrays=tuple(part.arrays.values()),
                    digests=part.digests()[part.rows()] if part.segments else none,
                    size=sum(file.size for file in files),
                    used=uses.get(f"{USE}/{path}")
                    or max((file.modified for file in files), default=0.0),
                )
            )
    return sorted(found, key=lambda holding: holding.used, reverse=True)


def prune(
    storage: Storage,
    holdings: list[Holding],
    *,
    older_than: float | None = None,
    max_size: float | None = None,
    dry_run: bool = False,
    keep: Set[str] | None = None,
) -> tuple[list[Holding], list[Holding]]:
    """Remove what was not used for long, or as much as it takes, least recently used first.

    Parts that a crash left without a row go in any case.

    Parameters
    ----------
    storage : Storage
    holdings : list of Holding
        All of it, as `list_parts` returns them.
    older_than : float, optional
        Seconds.
    max_size : float, optional
        Bytes that may stay.
    dry_run : bool, default=False
        Whether nothing is removed.
    keep : set of str, optional
        Paths of the parts that this process is about to read; without it, it keeps all that it
        reads.

    Returns
    -------
    removed, busy : lists of Holding
        What went, or would go; and what would have to go but is in use by a running process.
    """
    total = sum(holding.size for holding in holdings)
    removed: list[Holding] = []
    busy: list[Holding] = []
    for holding in reversed(holdings):
        old = older_than is not None and holding.used < time.time() - older_than
        over = max_size is not None and total > max_size
        if not (old or over or not holding.n_images):
            continue
        if keep is not None and holding.path in keep:
            busy.append(holding)
            continue
        with storage.lock_exclusive(holding.path.split("/")[0], mine=keep is not None) as free:
            if free and (dry_run or _remove(storage, holding)):
                removed.append(holding)
                total -= holding.size
            elif holding.n_images:
                busy.append(holding)
    return removed, busy


def prune_results(storage: Storage, *, older_than: float, dry_run: bool = False) -> list[int]:
    """Remove what others keep beside codes and did not use for long.

    Parameters
    ----------
    storage : Storage
    older_than : float
        Seconds.
    dry_run : bool, default=False

    Returns
    -------
    sizes : list of int
        Bytes of each file that went, or would go.
    """
    limit = time.time() - older_than
    old = [(file, size) for file, size, used in _results(storage) if used < limit]
    for file, _ in old if not dry_run else ():
        file.unlink(missing_ok=True)
    return [size for _, size in old]


def size_of_results(storage: Storage) -> int:
    """Count the bytes of what others keep beside codes."""
    return sum(size for _, size, _ in _results(storage))


def _results(storage: Storage) -> Iterator[tuple[Path, int, float]]:
    """List what others keep, its bytes and when it was last used; what goes meanwhile is not."""
    for file in sorted(storage.results.glob("*")) if storage.results is not None else ():
        with suppress(FileNotFoundError):
            stat = file.stat()
            yield file, stat.st_size, stat.st_mtime


def _remove(storage: Storage, holding: Holding) -> bool:
    """Remove a part, unless somebody wrote or used it since it was listed; whether it was."""
    part = Part(storage, holding.path)
    group = part.path.split("/")[0]
    uses = {file.path: file.modified for file in storage.files(f"{USE}/{group}")}
    if uses.get(f"{USE}/{part.path}", 0.0) > holding.used or (
        part.segments and not holding.n_images
    ):
        return False
    files = [file.path for file in storage.files(part.path)]
    # Whatever ends this early: no rows without markers, and nothing is read without a record.
    storage.remove(f"{part.path}/{COMMITTED}")
    storage.remove(f"{part.path}/{FILE}")
    if all(part.owns(file) for file in files):
        storage.remove(part.path)
    else:
        for file in filter(part.owns, files):
            storage.remove(file)
    storage.remove(f"{USE}/{part.path}")
    return True


def make_room(storage: Storage, limit: str, n_bytes: int, keep: Set[str]) -> list[str]:
    """Remove parts until ``n_bytes`` more keep the store within its limit.

    Parameters
    ----------
    storage : Storage
    limit : str
        A size, such as ``20GB``.
    n_bytes : int
    keep : set of str
        As for `prune`.

    Returns
    -------
    removed : list of str
        Their paths.

    Raises
    ------
    StoreError
        If too much of the store is in use, or the codes alone are larger than the limit.
    """
    most = int(parse_quantity(limit, "CNN_CODES_STORE_LIMIT", SIZES))
    holdings = list_parts(storage)
    left = max(0, most - n_bytes)
    removed, _ = prune(storage, holdings, max_size=left, dry_run=True, keep=keep)
    used = sum(h.size for h in holdings) - sum(h.size for h in removed)
    if used + n_bytes > most:
        raise StoreError(
            f"The codes can take {n_bytes / 1e6:,.1f} MB, {used / 1e6:,.1f} MB of the store "
            f"{storage.name!r} are in use, and CNN_CODES_STORE_LIMIT allows {limit}. Raise it, or "
            "choose fewer --layers, a coarser --pool or another --store."
        )
    removed, _ = prune(storage, holdings, max_size=left, keep=keep)
    return [holding.path for holding in removed]


def parse_quantity(text: str, name: str, units: Mapping[str, int]) -> float:
    """Read a number and its unit, in bytes or seconds.

    Parameters
    ----------
    text : str
    name : str
        The option that it was given for.
    units : mapping of str to int
        `SIZES` or `AGES`.

    Raises
    ------
    ValueError
        If it is not a number followed by one of the units.

    Examples
    --------
    >>> parse_quantity("1.5GB", "--max-size", SIZES), parse_quantity("2d", "--older-than", AGES)
    (1500000000.0, 172800.0)
    """
    known = {unit.upper(): factor for unit, factor in units.items()}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Z]+)\s*", text.upper())
    if match is None or match[2] not in known:
        raise ValueError(
            f"{name} {text!r} is not valid. Allowed: a number and one of {', '.join(units)}, as in "
            f"30{[*units][1]}."
        )
    return float(match[1]) * known[match[2]]
