"""Disk: what is written is on the disk before anything says so, and is created only once."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def create_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Create a Zarr group, all of it or nothing, unless there is one.

    Zarr's own creation looks first and writes then, so that two processes can get in each other's
    way; and it leaves it to the system when the file reaches the disk.

    Parameters
    ----------
    folder : Path
    attributes : mapping
        Plain values.

    Raises
    ------
    FileExistsError
        If the group is there already; it is left as it is.
    """
    document = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex}"
    try:
        with draft.open("x") as opened:
            opened.write(json.dumps(document))
            opened.flush()
            os.fsync(opened.fileno())
        os.link(draft, folder / "zarr.json")  # Unlike a rename, this fails where a file stands.
    finally:
        draft.unlink(missing_ok=True)
    sync(folder)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of files, to the disk.

    Parameters
    ----------
    path : Path
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force a folder and everything in it to the disk.

    Parameters
    ----------
    folder : Path
    """
    for at, _, files in os.walk(folder):
        for file in files:
            sync(Path(at, file))
        sync(Path(at))
