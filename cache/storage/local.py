"""A store on a disk: what is written has reached it before anything says so."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import ReadWriteLock, Timeout
from zarr.storage import LocalStore

from cache.errors import StoreError
from cache.storage.base import DIGESTS, RESULTS, USE, File, Storage
from cache.storage.locks import missing_locks, said_if_long


class LocalStorage(Storage):
    """A folder.

    Parameters
    ----------
    root : str or Path
        Made when something is stored.
    """

    def __init__(self, root: str | Path) -> None:
        self.root, self.name = Path(root), str(root)
        if not _nearest(self.root.absolute()).is_dir():
            raise StoreError(f"The store {self.name!r} is or lies in a file; a folder is needed.")
        self.busy = "is used by a running process; wait until it has ended."
        self.n_threads = min(4, os.cpu_count() or 1)
        self.digests, self.results = self.root / DIGESTS, self.root / RESULTS
        self._held: dict[str, ReadWriteLock] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process can be in another folder.
        return type(self), (self.root.absolute(),)

    def exists(self) -> bool:
        """Tell whether the folder is there."""
        return self.root.is_dir()

    def zarr(self, path: str) -> LocalStore:
        """Give Zarr the folder at ``path``."""
        return LocalStore(self.root / path)

    def folders(self, path: str) -> list[str]:
        """List the names of the folders in a folder, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root / path) if entry.is_dir())
        except FileNotFoundError:
            return []

    def files(self, path: str) -> Iterator[File]:
        """List all files below a folder; one that goes meanwhile is left out."""
        for folder, _, names in os.walk(self.root / path):
            for name in names:
                at = Path(folder, name)
                with suppress(FileNotFoundError):
                    stat = at.stat()
                    inside = at.relative_to(self.root).as_posix()
                    yield File(path=inside, size=stat.st_size, modified=stat.st_mtime)

    def read(self, path: str) -> bytes | None:
        """Read a file."""
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None

    def read_into(self, path: str, buffer: bytearray) -> int | None:
        """Read a file into memory that is there already: new memory takes four times as long."""
        try:
            with (self.root / path).open("rb", buffering=0) as file:
                return file.readinto(buffer)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def create(self, path: str, data: bytes) -> None:
        """Write a file, all of it or nothing, and force it to the disk."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            _write(draft, data)
            os.link(draft, target)  # Unlike a rename, this fails where a file stands.
        finally:
            draft.unlink(missing_ok=True)
        for folder in (target.parent, target.parent.parent):
            _sync(folder)

    def touch(self, path: str) -> None:
        """Note the time, unless the store is only to be read."""
        with suppress(OSError):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).touch()

    def write(self, path: str, data: bytes) -> None:
        """Write a file and force it to the disk; its folder is left to `sync`."""
        with self._there(path):
            _write(self.root / path, data)

    def sync(self, paths: Iterable[str]) -> None:
        """Force files, and folders' lists of files, to the disk."""
        for path in paths:
            with self._there(path):
                _sync(self.root / path)

    @contextmanager
    def _there(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(
                f"{path!r} is gone from the store {self.name!r}: it was removed while codes were "
                "written. Run it again."
            ) from error

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it."""
        target = self.root / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def require_space(self, n_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold, or will not take."""
        folder = _nearest(self.root.absolute())
        if n_bytes and not _takes_files(folder):
            raise StoreError(
                f"The store {self.name!r} cannot be written: {str(folder)!r} takes no files. "
                "Choose another --store or CNN_CODES_STORE."
            )
        free = self.free_bytes()
        if n_bytes > free:
            raise OSError(
                errno.ENOSPC,
                f"The codes can take {n_bytes / 1e6:,.1f} MB, and the disk of {self.name!r} "
                f"has {free / 1e6:,.1f} MB left. Free some, or choose fewer --layers, a coarser "
                "--pool or another --store.",
            )

    def free_bytes(self) -> int:
        """Give the bytes that are free on the disk."""
        return shutil.disk_usage(_nearest(self.root.absolute())).free

    def require_locks(self) -> None:
        """Refuse a file system without locks: SQLite would wait for one for ever."""
        folder = _nearest(self.root.absolute())
        with said_if_long(folder, "the file system does not answer."):
            error = missing_locks(folder)
        if error is not None:
            raise StoreError(
                f"The store {self.name!r} lies on a file system without locks of files "
                f"({error.strerror}), which keep codes from being removed while they are read. "
                "Choose a --store (or CNN_CODES_STORE) on a local disk."
            ) from error

    def lock_shared(self, group: str) -> None:
        """Take a shared lock; the system drops it when the process ends, however it ends."""
        if group in self._held or not self._lockable(group):
            return  # Somebody else's store: its owner alone can remove anything.
        self._held[group] = self._lock(group, lambda lock: lock.acquire_read())

    @contextmanager
    def lock_exclusive(self, group: str, *, mine: bool = False) -> Iterator[bool]:
        """Take the lock for this process alone, if nobody has it."""
        if not self._lockable(group):
            raise StoreError(
                f"The store {self.name!r} is only to be read here: its locks cannot be taken, and "
                "nothing can be removed. Ask its owner."
            )
        if group in self._held and not mine:
            yield False
            return
        with ExitStack() as afterwards:
            if group in self._held:
                self._held.pop(group).close()
                afterwards.callback(self.lock_shared, group)
            taken = False
            with suppress(Timeout):
                lock = self._lock(group, lambda lock: lock.acquire_write(blocking=False))
                afterwards.callback(lock.close)
                taken = True
            yield taken

    def _lockable(self, group: str) -> bool:
        file = self.root / USE / f"{group}.db"
        return os.access(_nearest(file.absolute()), os.W_OK)

    def _lock(self, group: str, acquire: Callable[[ReadWriteLock], object]) -> ReadWriteLock:
        self.require_locks()
        file = self.root / USE / f"{group}.db"
        file.parent.mkdir(exist_ok=True)
        why = (
            "another process removes or repairs codes of this store, or the mount does not answer."
        )
        with said_if_long(file, why):
            try:
                return _acquired(file, acquire)
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", None)
                if code not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    raise StoreError(
                        f"The lock {str(file)!r} cannot be taken: {error}. Choose a --store (or "
                        "CNN_CODES_STORE) on a local disk."
                    ) from error
            file.unlink()  # Nobody can hold a corrupt lock file.
            return _acquired(file, acquire)


def _acquired(file: Path, acquire: Callable[[ReadWriteLock], object]) -> ReadWriteLock:
    lock = ReadWriteLock(file, is_singleton=False)
    try:
        acquire(lock)
    except BaseException:
        lock.close()
        raise
    return lock


def _nearest(path: Path) -> Path:
    """Give the path, or of the folders that it would lie in the first that is there."""
    return next(at for at in (path, *path.parents) if at.exists())


def _takes_files(folder: Path) -> bool:
    """Try it: what a system says of rights is not all (root in ``/proc``)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # That has a sentence of its own.


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
