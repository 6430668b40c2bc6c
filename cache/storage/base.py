"""Where a store lies: a folder on a disk, or a prefix of an object store.

Everything above this module names files by their path inside the store, with slashes, and is the
same for both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs
from zarr.abc.store import Store

from cache.errors import StoreError

FILE = "zarr.json"
"""What Zarr calls the description of a group or an array."""
DIGESTS = "digests.sqlite"
"""File of remembered digests."""
USE = "use"
"""Folder of what is not codes: when each part was last used, and who uses each group now."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a store.

    Attributes
    ----------
    path : str
        Inside the store.
    size : int
        Bytes.
    modified : float
        Seconds since 1970.
    """

    path: str
    size: int
    modified: float


class Place(Protocol):
    """The few things that a store asks of what it lies on."""

    name: str  # what a user calls it
    n_threads: int  # how many files are best read or written side by side
    busy: str  # why `alone` was refused, and until when
    digests: Path  # on this machine: where the digests of its files are remembered

    def exists(self) -> bool:
        """Tell whether anything was ever stored."""

    def zarr(self, path: str) -> Store:
        """Give Zarr the folder at ``path``."""

    def folders(self, path: str) -> list[str]:
        """List the names of the folders in a folder, sorted; none where it does not exist."""

    def files(self, path: str) -> Iterator[File]:
        """List all files below a folder."""

    def read(self, path: str) -> bytes | None:
        """Read a file; None where there is none."""

    def read_into(self, path: str, buffer: bytearray) -> int | None:
        """Read a file, or as much of it as fits; how much it was, None where there is none."""

    def create(self, path: str, data: bytes) -> None:
        """Write a file, all of it or nothing; `FileExistsError` where there is one."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file, in a folder that is there, that nothing else writes or reads yet."""

    def touch(self, path: str) -> None:
        """Write an empty file, or make the one that is there as new."""

    def sync(self, paths: Iterable[str]) -> None:
        """Return when these files, and these folders' lists of files, are kept."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it."""

    def require_space(self, n_bytes: int) -> None:
        """Refuse, with ``OSError(ENOSPC)``, to begin what does not fit."""

    def require_locks(self) -> None:
        """Refuse, with `StoreError`, a place where `hold` and `alone` cannot work."""

    def asking(self) -> AbstractContextManager[None]:
        """Turn the errors of a library that talks to this place into ours."""

    def hold(self, group: str) -> None:
        """Keep `alone` from others until this process ends."""

    def alone(self, group: str, *, mine: bool = False) -> AbstractContextManager[bool]:
        """Keep others from `hold`; whether nobody holds it, or, if `mine`, nobody but this."""


def groups(place: Place) -> list[str]:
    """List the extractions of a store; whatever else lies there is nobody's business."""
    return [name for name in place.folders("") if re.fullmatch(r".+-[0-9a-f]{16}", name)]


def parts(place: Place, group: str) -> list[str]:
    """List the paths of an extraction's parts."""
    names = place.folders(group)
    return [f"{group}/{n}" for n in names if re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{8}", n)]


def open_place(root: str | Path) -> Place:
    """Find out what a store's name stands for.

    Parameters
    ----------
    root : str or Path
        A folder, or the URL of an object store such as ``s3://bucket/prefix``.

    Raises
    ------
    StoreError
        If it is a file, a URL of no known kind, in the folder of an unknown user, or an object
        store without its extra installed.
    """
    text = os.fspath(root)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) and not text.startswith("s3://"):
        kind = text.split(":")[0]  # What follows can hold a password.
        raise StoreError(
            f"The store is of an unknown kind, {kind}:…; allowed are a folder, or "
            "s3://bucket/prefix as a str."
        )
    if not text.strip():
        raise StoreError("The store's name is empty. Allowed: a folder, or s3://bucket/prefix.")
    if "://" in text:
        try:
            from cache.storage.s3 import Bucket
        except ModuleNotFoundError as error:
            raise StoreError(
                f"The store {text!r} needs the package {error.name!r}. Install it: "
                "pip install 'cnn-codes[s3]'."
            ) from error
        return Bucket(text)
    from cache.storage.local import Disk

    try:
        folder = Path(text).expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"The store {text!r} lies in a home folder that is not known: {error} Name a folder "
            "without ~ with --store or CNN_CODES_STORE."
        ) from error
    return Disk(folder)


def user_folder() -> Path:
    """Give this user's cache folder, where codes are kept unless another place is named.

    Raises
    ------
    StoreError
        If there is none: HOME is not set, and the system does not know the user.
    """
    try:
        return platformdirs.user_cache_path("cnn-codes").expanduser()
    except RuntimeError as error:
        raise StoreError(
            "The store's default place, the user's cache folder, is not known: HOME is not set, "
            "and the system does not know this user. Name a folder with --store or "
            "CNN_CODES_STORE, or set HOME."
        ) from error
