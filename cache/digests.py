"""Digests of files, remembered: a folder that is known is listed without being read again."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from cache.storage.locks import PATIENCE, WAITING, log, missing_locks

# A file changed within this time may change again without another modification time.
SETTLED = 2.0
KEPT_TOGETHER = 1024
"""Files between two writings to the disk."""
LONGEST_WAIT = 50.0
"""Seconds of waiting for another process, once it was said, until nothing is remembered."""


class DigestMemory:
    """SHA-256 of files by path, size and the times of their last change.

    A file is read again when its size, its modification time or, where the system keeps one, the
    time its entry changed is another: the last catches a file whose modification time was put
    back. Use it as a context manager; what was learnt is kept when it ends.

    Parameters
    ----------
    file : Path
        An SQLite database, made if need be. Where it cannot be written or locked, nothing is
        remembered.

    Examples
    --------
    >>> import hashlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     image = Path(folder, "image.png")
    ...     _ = image.write_bytes(b"pixels")
    ...     os.utime(image, (0, 0))
    ...     with DigestMemory(Path(folder, "digests.sqlite")) as memory:
    ...         first = memory.of(str(image), lambda: hashlib.sha256(b"pixels").digest())
    ...         first[:3].hex()
    '6ec9c2'
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = Lock()
        self._learnt: dict[str, tuple[int, int, int, bytes]] = {}
        self._base: sqlite3.Connection | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if missing_locks(file.parent) is None:
                self._base = sqlite3.connect(file, timeout=PATIENCE, check_same_thread=False)
                self._patiently(
                    self._base.execute,
                    "CREATE TABLE IF NOT EXISTS files "
                    "(path TEXT PRIMARY KEY, size INT, modified INT, changed INT, sha256 BLOB)",
                )
        except (OSError, sqlite3.Error):
            self._base = None

    def __enter__(self) -> DigestMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep()
        if self._base is not None:
            self._base.close()

    def _patiently(self, run: Callable[..., sqlite3.Cursor], *given: Any) -> sqlite3.Cursor:
        """Run a statement; say what is waited for while another process keeps the database."""
        try:
            return run(*given)
        except sqlite3.OperationalError as error:
            if self._base is None or error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        why = "another process writes digests of images to it."
        log.warning(WAITING, str(self._file), why)
        self._base.execute(f"PRAGMA busy_timeout = {1000 * LONGEST_WAIT:.0f}")
        return run(*given)

    def _keep(self) -> None:
        """Write what was learnt to the disk."""
        rows = [(name, *learnt) for name, learnt in self._learnt.items()]
        self._learnt = {}
        if self._base is None:
            return
        # Where the disk is full or read-only, the files are read again next time.
        with suppress(sqlite3.Error), self._base:
            insert = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)"
            self._patiently(self._base.executemany, insert, rows)

    def _known(self, name: str) -> tuple[int, int, int, bytes] | None:
        # Asked one by one: the memory may know of many more files than are wanted.
        if self._base is None or name in self._learnt:
            return self._learnt.get(name)
        try:
            select = "SELECT size, modified, changed, sha256 FROM files WHERE path = ?"
            found = self._patiently(self._base.execute, select, (name,))
            row: tuple[int, int, int, bytes] | None = found.fetchone()
        except sqlite3.Error:
            return None
        return row

    def of(self, path: str, compute: Callable[[], bytes], *, member: str = "") -> bytes:
        """Recall the digest of a file, or of a member of an archive; or compute and remember it.

        Several threads may ask at once.

        Parameters
        ----------
        path : str
        compute : callable
            Reads the file.
        member : str, optional
            Which file in the archive.

        Returns
        -------
        digest : bytes
            32 of them.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        path = os.path.abspath(path)
        before = _state(path)
        name = f"{path}/{member}" if member else path
        name = name.encode("utf-8", "backslashreplace").decode("utf-8")  # As SQLite wants it.
        with self._lock:
            known = self._known(name)
        if known is not None and known[:3] == before:
            return known[3]
        digest = compute()
        if _state(path) == before and max(before[1:]) < time.time_ns() - SETTLED * 1e9:
            with self._lock:
                self._learnt[name] = (*before, digest)
                if len(self._learnt) == KEPT_TOGETHER:
                    self._keep()
        return digest


def _state(path: str) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
