"""Locks of files: whether a file system has any, and word of a long wait for one."""

from __future__ import annotations

import errno
import fcntl
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

PATIENCE = 10.0
"""Seconds of waiting before a word about it."""

_NONE = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}

WAITING = "Waiting for the lock of %r: %s"

log = logging.getLogger("cache")
"""Where nobody configures logging, warnings go to standard error."""


def missing_locks(folder: Path) -> OSError | None:
    """Try whether the file system of a folder has locks.

    SQLite does not tell: it takes ENOLCK for a lock that somebody holds, and waits.

    Parameters
    ----------
    folder : Path
        One that is there.

    Returns
    -------
    error : OSError or None
        What the system says where it has none. None as well where no file can be made to try it.
    """
    try:
        # A file of its own: closing a file drops all locks that its process has on it.
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error if error.errno in _NONE else None
    return None


@contextmanager
def said_if_long(file: Path, why: str) -> Iterator[None]:
    """Say what is waited for, should a block take more than `PATIENCE` seconds.

    Parameters
    ----------
    file : Path
    why : str
        Who may hold its lock, and what for.
    """
    # A thread: a mount whose lock server is gone does not answer the system's own call.
    timer = Timer(PATIENCE, log.warning, (WAITING, str(file), why))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
