"""What a store asks of where it lies; `local` and `s3` are the two storages there are.

Everything above this module names files by their path inside the store, with slashes, and is the
same for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import platformdirs
from zarr.abc.store import Store

from cache.errors import StoreError

FILE = "zarr.json"
"""What Zarr calls the description of a group or an array."""
DIGESTS = "digests.sqlite"
"""File of remembered digests."""
RESULTS = "trials"
"""Folder of what others keep beside codes, in files found by what they depend on: trainings."""
USE = "use"
"""Folder of what is not codes: when each part was last used, and who uses each group now."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a store."""

    path: str  # inside the store
    size: int  # bytes
    modified: float  # seconds since 1970


class Storage(Protocol):
    """Files by their path, in folders; and who uses which of these.

    Methods with a body here do what a storage needs that has no disk to fill and no locks.
    """

    name: str  # what a user calls it
    n_threads: int  # how many files are best read or written side by side
    busy: str  # why `lock_exclusive` was refused, and until when
    digests: Path  # on this machine: where the digests of its files are remembered
    results: Path | None  # on this machine: where others keep theirs; None where nowhere

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has locks and connections of its own.
        return type(self), (self.name,)

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
        return

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it."""

    def require_space(self, n_bytes: int) -> None:
        """Refuse, with ``OSError(ENOSPC)``, to begin what does not fit."""
        return

    def free_bytes(self) -> int | None:
        """Give the bytes that are free; None where there is no limit."""
        return None

    def require_locks(self) -> None:
        """Refuse, with `StoreError`, a storage without locks."""
        return

    def asking(self) -> AbstractContextManager[None]:
        """Turn the errors of a library that talks to this storage into ours."""
        return nullcontext()

    def lock_shared(self, group: str) -> None:
        """Keep `lock_exclusive` from others until this process ends."""
        return

    def lock_exclusive(self, group: str, *, mine: bool = False) -> AbstractContextManager[bool]:
        """Keep others from `lock_shared`, if nobody else has it (or this process, if `mine`)."""


def user_folder() -> Path:
    """Give this user's cache folder, where codes are kept unless another storage is named.

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
