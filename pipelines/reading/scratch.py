"""Scratch files: codes that do not fit into memory, decoded once, and mapped from then on."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import NDArray

from codes.wording import megabytes
from pipelines.linear.mapped import MappedCodes
from pipelines.reading.memory import fits_in_memory
from pipelines.reading.readers import Block, Reader

Codes = NDArray[Any] | Callable[[], NDArray[Any] | MappedCodes]
"""Of a layer: in memory, or a function that reads them or maps them into it."""


class ScratchSpaceError(OSError):
    """The disk has no room for a scratch file."""


@dataclass(frozen=True, kw_only=True)
class ScratchFile:
    """Codes of a layer in a scratch file; calling it maps them into memory.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        ``(n_samples, n_features)``, or ``(n_samples, n_views, n_features)``.
    dtype : numpy.dtype
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __call__(self) -> MappedCodes:
        """Map the codes into memory."""
        return MappedCodes(self.path, self.shape, self.dtype)


def scratch_folder() -> Path:
    """Say where scratch files are written: in TMPDIR, or in /var/tmp.

    /tmp is in memory on many systems, which is what there is too little of.

    Raises
    ------
    ScratchSpaceError
        If nothing can be written to the folder that TMPDIR names.
    """
    named, usual = os.environ.get("TMPDIR"), Path("/var/tmp")
    if named:
        if not (os.path.isdir(named) and os.access(named, os.W_OK)):
            raise ScratchSpaceError(
                f"TMPDIR={named!r}: codes that do not fit into memory cannot be written there. "
                "Name a folder on a local disk that can be written to, or unset it."
            )
        return Path(named)
    return usual if os.access(usual, os.W_OK) else Path(tempfile.gettempdir())


def find_large(readers: Mapping[str, object], n_jobs: int) -> dict[str, Reader]:
    """Find the layers whose codes are read from a scratch file.

    Parameters
    ----------
    readers : mapping of str to object
        By layer. What is not a `Reader` is in memory, or cannot be read in parts.
    n_jobs : int
        Processes, as in joblib.

    Returns
    -------
    large : dict of str to Reader
        Those that are too large for each process to hold them in memory.
    """
    n_processes = effective_n_jobs(n_jobs)
    return {
        name: reader
        for name, reader in readers.items()
        if isinstance(reader, Reader) and not fits_in_memory(reader.nbytes, n_processes)
    }


@contextmanager
def scratch_file(reader: Reader) -> Iterator[ScratchFile]:
    """Write the codes of a layer to a scratch file, which is removed in the end.

    Parameters
    ----------
    reader : Reader

    Yields
    ------
    file : ScratchFile

    Raises
    ------
    ScratchSpaceError
        If the disk has no room for it.
    """
    place = scratch_folder()
    free = shutil.disk_usage(place).free
    if reader.nbytes > free:
        raise _no_space(reader, f"{megabytes(free)} are free")
    with tempfile.TemporaryDirectory(prefix="cnn-codes-", dir=place) as folder:
        path = Path(folder, "codes")
        try:
            with path.open("wb") as file:
                for block in reader.blocks():
                    _write(file, block, reader)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _no_space(reader, os.strerror(error.errno)) from error
            raise
        yield ScratchFile(path=path, shape=reader.shape, dtype=reader.dtype)


def in_turns(
    codes: Mapping[str, Codes], n_jobs: int, *, here: bool, unread: Collection[str] = ()
) -> Generator[dict[str, Codes], None, None]:
    """Give codes in the groups in which they are read: what fits into memory, then file by file.

    Parameters
    ----------
    codes : mapping of str to ndarray, or function that reads them
    n_jobs : int
        Processes, as in joblib.
    here : bool
        Whether processes of this machine read them. Workers of a cluster have other memory and
        disks: each opens what it reads.
    unread : collection of str
        Those that are not read.

    Yields
    ------
    codes : dict of str to ndarray, or function that reads them
        A large layer is a `ScratchFile`, which is removed when the next group is asked for.
    """
    asked = {name: of for name, of in codes.items() if name not in unread}
    large = find_large(asked, n_jobs) if here else {}
    yield {name: of for name, of in codes.items() if name not in large}
    for name, reader in large.items():
        with scratch_file(reader) as file:
            yield {name: file}


@contextmanager
def opened(codes: Codes) -> Iterator[NDArray[Any] | MappedCodes]:
    """Read the codes of a layer into memory, or map them where they do not fit.

    Parameters
    ----------
    codes : ndarray, or function that reads them
        A `Reader` may read them into a scratch file, others are called.

    Yields
    ------
    codes : ndarray or MappedCodes
    """
    if isinstance(codes, Reader) and not fits_in_memory(codes.nbytes, 1):
        with scratch_file(codes) as file:
            yield file()
        return
    yield codes() if callable(codes) else np.asarray(codes)


def _write(file: BinaryIO, block: Block, reader: Reader) -> None:
    """Write a block to its place, in one piece if it is one."""
    width, itemsize = reader.shape[-1], reader.dtype.itemsize
    n_views = 1 if block.codes.ndim == 2 else block.codes.shape[1]
    rows = (block.rows[:, None] * n_views + np.arange(n_views)).ravel()
    codes = np.ascontiguousarray(block.codes.reshape(len(rows), -1))
    whole = codes.shape[1] == width and (np.diff(rows) == 1).all()
    pieces = [(rows[0], codes)] if whole and len(rows) else list(zip(rows, codes, strict=True))
    for row, values in pieces:
        file.seek((int(row) * width + block.first) * itemsize)
        file.write(values.data)


def _no_space(reader: Reader, why: str) -> ScratchSpaceError:
    return ScratchSpaceError(
        f"Codes of {megabytes(reader.nbytes)} do not fit into memory, and neither into a scratch "
        f"file in {str(scratch_folder())!r}: {why}. Name a folder on a larger disk in the "
        "environment variable TMPDIR, or use fewer images or --pool avg."
    )
