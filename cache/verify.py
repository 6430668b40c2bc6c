"""Verifying a store: every byte that a code depends on is compared with what was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from cache.chunks import chunk_path, decode
from cache.errors import DamagedCodesError, StoreError
from cache.part import COMMITTED, IMAGES, Part
from cache.records import groups, parts, read_record, write_record
from cache.storage.base import DIGESTS, FILE, RESULTS, USE, Storage


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is not as it was written.

    Attributes
    ----------
    path : str
        The file.
    why : str
    array : str or None
        Which array of codes, where only that is concerned.
    rows : tuple of int or None
        First and last row concerned, both counted.
    repair : str or None
        What is removed to repair it: the marker of the segment, the part or the record of the
        group; None for what does not belong to the store, and is left alone.
    """

    path: str
    why: str
    array: str | None = None
    rows: tuple[int, int] | None = None
    repair: str | None


def verify(storage: Storage, *, advance: Callable[[int], None] | None = None) -> Iterator[Fault]:
    """Compare everything in a store with its checksums.

    Rows that a running or killed process has not committed are no fault: nothing reads them.

    Parameters
    ----------
    storage : Storage
    advance : callable, optional
        Called with 1 after each part.

    Yields
    ------
    fault : Fault
    """
    known = {DIGESTS, f"{DIGESTS}-journal", f"{DIGESTS}-wal", f"{DIGESTS}-shm", USE, RESULTS}
    known |= set(groups(storage))
    for name in sorted({file.path.split("/")[0] for file in storage.files("")} - known):
        yield _foreign(name)
    for group in groups(storage):
        yield from _verify_group(storage, group)
        for path in parts(storage, group):
            yield from _verify_part(storage, path)
            if advance is not None:
                advance(1)


def repair(storage: Storage, faults: list[Fault]) -> None:
    """Remove what is faulty, so that it is extracted again; files of others stay.

    Parameters
    ----------
    storage : Storage
    faults : list of Fault
        As `verify` found them.

    Raises
    ------
    StoreError
        If somebody uses a part that is to be removed as a whole; nothing is removed then.
    """
    damaged = [fault for fault in faults if fault.repair is not None]
    # Without its marker a segment is as if never written, whoever else is at the part.
    markers = [fault for fault in damaged if f"/{COMMITTED}/" in str(fault.repair)]
    paths = list(dict.fromkeys(str(fault.repair) for fault in damaged if fault not in markers))
    with ExitStack() as locks:
        for group in sorted({path.split("/")[0] for path in paths}):
            if not locks.enter_context(storage.lock_exclusive(group)):
                raise StoreError(f"{group!r} in {storage.name!r} {storage.busy} Repair it then.")
        for path in paths:
            storage.remove(path)
        for fault in markers:
            storage.remove(str(fault.repair))
            if fault.array is not None:
                storage.remove(fault.path)  # So that other readers of Zarr see NaN.
    for group in groups(storage):
        # The key of a group stands in each of its parts too.
        if read_record(storage, group) is None:
            records = (read_record(storage, path) for path in parts(storage, group))
            record = next((record for record in records if record is not None), None)
            if record is not None:
                write_record(storage, group, {"key": record["key"]})


def _verify_group(storage: Storage, group: str) -> Iterator[Fault]:
    record = f"{group}/{FILE}"
    ours = parts(storage, group)
    yield from _verify_record(storage, group, repair=record)
    if storage.read(record) is None and any(storage.read(f"{part}/{FILE}") for part in ours):
        yield Fault(path=record, why="it is gone", repair=record)
    found = {"/".join(file.path.split("/")[:2]) for file in storage.files(group)}
    for path in sorted(found - {record, *ours}):
        if not path.endswith(".partial"):  # A killed writer's.
            yield _foreign(path)


def _verify_part(storage: Storage, path: str) -> Iterator[Fault]:
    files = sorted(file.path for file in storage.files(path))
    record, committed = f"{path}/{FILE}", f"{path}/{COMMITTED}"
    if record not in files:
        if any(re.fullmatch(rf".*/{COMMITTED}/\d+/{FILE}", file) for file in files):
            yield Fault(path=record, why="it is gone", repair=path)
        else:  # Its writer did not live to finish it: nothing reads it.
            yield from _foreign_in(Part(storage, path), files)
        return
    for folder in (*(f"{committed}/{name}" for name in storage.folders(committed)), path):
        if damaged := list(_verify_record(storage, folder, repair=folder)):
            yield from damaged
            return  # What else is wrong is found when this is mended.
    # Only readers of the whole hierarchy look at it.
    yield from _verify_record(storage, committed, repair=f"{committed}/{FILE}")
    part = Part(storage, path)
    try:
        part.digests()
    except StoreError as error:
        yield Fault(path=f"{path}/{IMAGES}", why=str(error), array=IMAGES, repair=path)
        return
    for array in part.arrays:
        yield from _verify_array(part, array)
    yield from _foreign_in(part, files)


def _verify_record(storage: Storage, folder: str, *, repair: str) -> Iterator[Fault]:
    try:
        read_record(storage, folder)
    except DamagedCodesError:
        yield Fault(path=f"{folder}/{FILE}", why="it is not as it was written", repair=repair)


def _verify_array(part: Part, array: str) -> Iterator[Fault]:
    try:
        described = part.open(array)
    except DamagedCodesError as error:
        yield Fault(path=f"{part.path}/{array}", why=str(error), array=array, repair=part.path)
        return
    step = described.chunks[0]
    rows = np.empty(described.chunks, described.dtype)
    for segment in part.segments:
        unreadable = {int(row) for row in segment.unreadable}
        for chunk, checksum in segment.checksums(array, step).items():
            first = max(chunk * step, segment.start)
            last = min(chunk * step + step, segment.stop) - 1
            path = chunk_path(part.path, array, chunk)
            try:
                data = part.storage.read(path)
                if data is None or checksum is None:
                    raise ValueError("the chunk is gone, or its marker does not count it")
                decode(data, checksum, rows)
                codes = rows[first - chunk * step : last + 1 - chunk * step, 0]
                lacking = set((np.flatnonzero(np.isnan(codes)) + first).tolist())
                if lacking != unreadable & set(range(first, last + 1)):
                    raise ValueError("it lacks rows that were written")
            except (ValueError, OSError) as error:
                yield Fault(
                    path=path,
                    why=str(error),
                    array=array,
                    rows=(first, last),
                    repair=segment.path,
                )


def _foreign_in(part: Part, files: list[str]) -> Iterator[Fault]:
    yield from (_foreign(file) for file in files if not part.owns(file))


def _foreign(path: str) -> Fault:
    return Fault(path=path, why="does not belong to the store, and is left alone", repair=None)
