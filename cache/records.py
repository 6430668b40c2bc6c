"""Records: small Zarr groups whose attributes say what is there, and prove that they are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cache.errors import DamagedCodesError
from cache.key import canonical_json, sha256
from cache.storage.base import FILE, Storage


def write_record(storage: Storage, folder: str, attributes: Mapping[str, Any]) -> None:
    """Create a Zarr group, all of it or nothing.

    Zarr's own creation looks first and writes then, so that two processes can get in each other's
    way; and it leaves it to the system when the file reaches the disk.

    Parameters
    ----------
    storage : Storage
    folder : str
    attributes : mapping
        Plain values.

    Raises
    ------
    FileExistsError
        If the group is there already; it is left as it is.
    """
    storage.create(f"{folder}/{FILE}", _to_bytes(folder, attributes))


def read_record(storage: Storage, folder: str) -> dict[str, Any] | None:
    """Read a group's attributes.

    Returns
    -------
    attributes : dict or None
        None where there is no such group.

    Raises
    ------
    DamagedCodesError
        If a single byte is not as it was written, or the record stood elsewhere.
    """
    data = storage.read(f"{folder}/{FILE}")
    if data is None:
        return None
    try:
        attributes: dict[str, Any] = json.loads(data)["attributes"]
        attributes.pop("checksum", None)
        whole = attributes.pop("path") == folder and _to_bytes(folder, attributes) == data
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise DamagedCodesError(
            f"{folder + '/' + FILE!r} in {storage.name!r} is not as it was written. Run "
            "`cnn-codes cache verify --repair`: what it describes is then extracted again."
        )
    return attributes


def _to_bytes(folder: str, attributes: Mapping[str, Any]) -> bytes:
    placed = {**attributes, "path": folder}  # A copy in another place is not what belongs there.
    checksum = sha256(canonical_json(placed).encode())
    document = {
        "attributes": {**placed, "checksum": checksum},
        "node_type": "group",
        "zarr_format": 3,
    }
    return canonical_json(document).encode()


def groups(storage: Storage) -> list[str]:
    """List the extractions of a store; everything else is ignored."""
    return [name for name in storage.folders("") if re.fullmatch(r".+-[0-9a-f]{16}", name)]


def parts(storage: Storage, group: str) -> list[str]:
    """List the paths of an extraction's parts."""
    names = storage.folders(group)
    return [f"{group}/{n}" for n in names if re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", n)]
