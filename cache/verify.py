"""Verifying a store: every byte that a code depends on is compared with what was written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from cache.chunks import MIN_ROWS, chunk_path, decode
from cache.errors import DamagedCodesError, StoreError
from cache.part import COMMITTED, IMAGES, Part
from cache.places import DIGESTS, FILE, USE, Place, groups, parts
from cache.records import read_record, write_record

_CHUNK = r"c\.(\d+)\.0"


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


def verify(place: Place, *, advance: Callable[[int], None] | None = None) -> Iterator[Fault]:
    """Compare everything in a store with its checksums.

    Rows that a running or killed process has not committed are no fault: nothing reads them.

    Parameters
    ----------
    place : Place
    advance : callable, optional
        Called with 1 after each part.

    Yields
    ------
    fault : Fault
    """
    known = {DIGESTS, f"{DIGESTS}-journal", f"{DIGESTS}-wal", f"{DIGESTS}-shm", USE}
    known |= set(groups(place))
    for name in sorted({file.path.split("/")[0] for file in place.files("")} - known):
        yield _foreign(name)
    for group in groups(place):
        yield from _verify_group(place, group)
        for path in parts(place, group):
            yield from _verify_part(place, path)
            if advance is not None:
                advance(1)


def repair(place: Place, faults: list[Fault]) -> None:
    """Remove what is faulty, so that it is extracted again; what is not the store's stays.

    Parameters
    ----------
    place : Place
    faults : list of Fault
        As `verify` found them.

    Raises
    ------
    StoreError
        If a running process uses what is to be removed; nothing is removed then.
    """
    paths = list(dict.fromkeys(fault.repair for fault in faults if fault.repair is not None))
    with ExitStack() as locks:
        for group in sorted({path.split("/")[0] for path in paths}):
            if not locks.enter_context(place.alone(group)):
                raise StoreError(
                    f"{group!r} in {place.name!r} is used by a running process. Repair it when "
                    "that has ended."
                )
        for path in paths:
            place.remove(path)
    for group in groups(place):
        # The key of a group stands in each of its parts too.
        if read_record(place, group) is None:
            records = (read_record(place, path) for path in parts(place, group))
            record = next((record for record in records if record is not None), None)
            if record is not None:
                write_record(place, group, {"key": record["key"]})


def _verify_group(place: Place, group: str) -> Iterator[Fault]:
    try:
        if read_record(place, group) is None and any(
            place.read(f"{path}/{FILE}") is not None for path in parts(place, group)
        ):
            path = f"{group}/{FILE}"
            yield Fault(path=path, why="it is gone", repair=path)
    except DamagedCodesError:
        path = f"{group}/{FILE}"
        yield Fault(path=path, why="it is not as it was written", repair=path)
    ours = {path.split("/")[1] for path in parts(place, group)} | {FILE}
    for name in sorted({file.path.split("/")[1] for file in place.files(group)} - ours):
        if not _is_ours(name, ()):
            yield _foreign(f"{group}/{name}")


def _verify_part(place: Place, path: str) -> Iterator[Fault]:
    files = {file.path for file in place.files(path)}
    if f"{path}/{FILE}" not in files:
        if any(re.fullmatch(rf".*/{COMMITTED}/\d+/{FILE}", file) for file in files):
            yield Fault(path=f"{path}/{FILE}", why="it is gone", repair=path)
            return
        for file in sorted(files):  # Its writer did not live to finish them: nothing reads them.
            name = file.rsplit("/", 1)[-1]
            if not re.fullmatch(_CHUNK, name) and not _is_ours(name, (FILE,)):
                yield _foreign(file)
        return
    for name in place.folders(f"{path}/{COMMITTED}"):
        marker = f"{path}/{COMMITTED}/{name}"
        try:
            if read_record(place, marker) is None:
                continue
        except DamagedCodesError:
            yield Fault(path=f"{marker}/{FILE}", why="it is not as it was written", repair=marker)
            return  # What else is wrong is found when this is mended.
    try:
        read_record(place, f"{path}/{COMMITTED}")
    except DamagedCodesError:
        record = f"{path}/{COMMITTED}/{FILE}"  # Only readers of the whole hierarchy look at it.
        yield Fault(path=record, why="it is not as it was written", repair=record)
    try:
        part = Part(place, path)
    except DamagedCodesError:
        yield Fault(path=f"{path}/{FILE}", why="it is not as it was written", repair=path)
        return
    try:
        part.digests()
    except (DamagedCodesError, StoreError) as error:
        yield Fault(path=f"{path}/{IMAGES}", why=str(error), array=IMAGES, repair=path)
        return
    expected = {f"{path}/{FILE}", f"{path}/{COMMITTED}/{FILE}"}
    expected |= {f"{segment.path}/{FILE}" for segment in part.segments}
    for array in [IMAGES, *part.arrays]:
        expected.add(f"{path}/{array}/{FILE}")
    for array in part.arrays:
        yield from _verify_array(part, array)
    for file in sorted(files - expected):
        if not _is_ours(file.rsplit("/", 1)[-1], ()) and not _is_chunk(part, file):
            yield _foreign(file)


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
        for number, checksum in segment.chunks[array].items():
            chunk = int(number)
            first = max(chunk * step, segment.start)
            last = min(chunk * step + step, segment.stop) - 1
            path = chunk_path(part.path, array, chunk)
            why = None
            try:
                data = part.place.read(path)
                if data is None:
                    raise ValueError("the chunk is gone")
                decode(data, checksum, rows)
                codes = rows[first - chunk * step : last + 1 - chunk * step, 0]
                lacking = set((np.flatnonzero(np.isnan(codes)) + first).tolist())
                if lacking != unreadable & set(range(first, last + 1)):
                    raise ValueError("it lacks rows that were written")
            except (ValueError, OSError) as error:
                why = str(error)
            if why is not None:
                yield Fault(
                    path=path, why=why, array=array, rows=(first, last), repair=segment.path
                )


def _is_chunk(part: Part, file: str) -> bool:
    """Tell whether a file is a chunk of one of the part's arrays, committed or not."""
    record = part.record or {"metadata": {}, "n_images": 0}
    array, name = file.removeprefix(f"{part.path}/").partition("/")[::2]
    match = re.fullmatch(_CHUNK, name)
    most = record["n_images"] // MIN_ROWS
    return array in record["metadata"] and match is not None and int(match[1]) <= most


def _is_ours(name: str, names: tuple[str, ...]) -> bool:
    """Tell whether a file is expected, or what a killed writer leaves: harmless."""
    return name in names or name.endswith(".partial")


def _foreign(path: str) -> Fault:
    return Fault(path=path, why="does not belong to the store, and is left alone", repair=None)
