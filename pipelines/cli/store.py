"""The commands ``cnn-codes cache list``, ``verify`` and ``prune``."""

from __future__ import annotations

import json
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from cache import CodeStore, DamagedCodesError, StoreError
from cache.contents import Entry, list_entries
from cache.records import groups, parts
from cache.storage.base import Storage
from cache.upkeep import (
    AGES,
    SIZES,
    Holding,
    list_parts,
    parse_quantity,
    prune_results,
    size_of_results,
)
from cache.upkeep import prune as prune_parts
from cache.verify import Fault, repair
from cache.verify import verify as find_faults
from codes.wording import counted, megabytes
from pipelines.cli.shared_options import like_field
from pipelines.cli.store_table import HEADS, fit_rows, table_rows
from pipelines.cli.streams.terminal import stdout, terminal

cache = App(
    name="cache",
    help="Look after the store: what is in it, is it whole, make room. It is made of parts: "
    "folders of what one run added for one key, all that codes depend on besides the image.",
    version=version("cnn-codes"),
    default_parameter=Parameter(negative=()),
)

Store = Annotated[str | Path | None, like_field("store")]


@cache.command(name="list")
def list_(*, store: Store = None, json_: Annotated[bool, Parameter(name="--json")] = False) -> None:
    """List what the store holds, the most recently used first: a line for each dataset and key.

    A key is all that codes depend on besides the image: backbone, weights, preprocessing,
    precision. Where lines would look the same, settings says how they differ; a dash stands
    for what most of them have. Images counts copies once, and size includes what
    compare keeps beside codes. Into a pipe the columns are separated by tabs, and nothing is
    shortened. The total goes to standard error.

    Parameters
    ----------
    json_
        Print everything that is known as JSON: the whole key, each array of codes, bytes, and the
        parts of the store that hold it.
    """
    storage = _open(store)
    holdings = list_parts(storage)
    entries = list_entries(holdings)
    console = stdout()
    if json_:
        print(json.dumps([_plain(entry) for entry in entries], indent=2), file=console.file)
        return
    rows = table_rows(entries)
    if console.is_terminal:
        lines = fit_rows(rows, console.width)
    else:
        lines = ["\t".join(row) for row in (HEADS, *rows)]
    for line in lines:
        print(line, file=console.file)
    total = megabytes(sum(holding.size for holding in holdings))
    kept = size_of_results(storage)
    beside = f", and {megabytes(kept)} of trainings" if kept else ""
    terminal().info(f"{storage.name}: {total}{beside}")


def _plain(entry: Entry) -> dict[str, Any]:
    """Turn an entry into what JSON can hold."""
    return {
        "dataset": entry.dataset,
        "backbone": entry.backbone,
        "weights": entry.weights,
        "image_size": entry.image_size,
        "images": entry.n_images,
        "bytes": entry.size,
        "last_used": datetime.fromtimestamp(entry.used).astimezone().isoformat("T", "seconds"),
        "key": entry.key,
        "layers": entry.arrays,
        "parts": entry.parts,
    }


@cache.command
def verify(
    *, store: Store = None, repair_: Annotated[bool, Parameter(name="--repair")] = False
) -> None:
    """Compare every byte of the store with its checksums; exit status 1 if one is wrong.

    Parameters
    ----------
    repair_
        Remove what is damaged, so that the next run extracts it again.
    """
    storage = _open(store)
    n_parts = sum(len(parts(storage, group)) for group in groups(storage))
    with terminal().step("Verifying", n_parts) as advance:
        faults = list(find_faults(storage, advance=advance))
    for fault in faults:
        stdout().print(_describe(fault))
    damaged = [fault for fault in faults if fault.repair is not None]
    n_foreign = len(faults) - len(damaged)
    if damaged and not repair_:
        raise DamagedCodesError(
            f"{counted(len(damaged), 'fault')} in {storage.name!r}. Run `cnn-codes cache verify "
            "--repair` to remove what is damaged; the next run extracts it again."
        )
    if damaged:
        # What is wrong behind a damaged record shows when the record is gone.
        while damaged:
            repair(storage, damaged)
            damaged = [fault for fault in find_faults(storage) if fault.repair is not None]
        stdout().print("Repaired: what was removed is extracted again by the next run.")
    if n_foreign:
        raise StoreError(
            f"{counted(n_foreign, 'path')} in {storage.name!r} not made by this program, and left "
            "alone. Move them away, or give the store a folder of its own."
        )
    if not faults:
        stdout().print(f"{storage.name}: {counted(n_parts, 'part')}, nothing damaged")


@cache.command
def prune(
    *,
    store: Store = None,
    older_than: str | None = None,
    max_size: str | None = None,
    dry_run: bool = False,
) -> None:
    """Make room: remove the least recently used codes, and what crashes left behind.

    Nothing that a running process reads is removed. With --older-than, finished trainings go too.

    Parameters
    ----------
    older_than
        Remove what was last used before this time, such as 12h, 30d or 8w.
    max_size
        Remove until the store is no larger than this, such as 500MB or 20GB.
    dry_run
        Say what would be removed, and remove nothing.
    """
    age = None if older_than is None else parse_quantity(older_than, "--older-than", AGES)
    size = None if max_size is None else parse_quantity(max_size, "--max-size", SIZES)
    storage = _open(store)
    removed, busy = prune_parts(
        storage, list_parts(storage), older_than=age, max_size=size, dry_run=dry_run
    )
    for holding in removed:
        stdout().print(f"{'would remove' if dry_run else 'removed'} {_name(holding)}")
    for holding in busy:
        stdout().print(f"kept, in use by a running process: {_name(holding)}")
    trainings = [] if age is None else prune_results(storage, older_than=age, dry_run=dry_run)
    total = megabytes(sum(holding.size for holding in removed))
    done = "To remove" if dry_run else "Removed"
    terminal().info(f"{done}: {counted(len(removed), 'part')}, {total}")
    if trainings:
        of = counted(len(trainings), "file")
        terminal().info(f"{done}: {of} of trainings, {megabytes(sum(trainings))}")


def _open(store: str | Path | None) -> Storage:
    storage = CodeStore(store).storage
    if not storage.exists():
        raise StoreError(f"There is no store at {storage.name!r} yet.")
    return storage


def _name(holding: Holding) -> str:
    return (
        f"{holding.path} ({holding.dataset}, {counted(holding.n_images, 'image')}, "
        f"{megabytes(holding.size)})"
    )


def _describe(fault: Fault) -> str:
    where = "" if fault.rows is None else f", rows {fault.rows[0]} to {fault.rows[1]}"
    array = "" if fault.array is None else f" (array {fault.array}{where})"
    return f"{fault.path}{array}: {fault.why}"
