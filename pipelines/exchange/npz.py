"""NumPy's ``.npz`` files: zip archives with an array in each member."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pipelines.exchange.arrays import Labelled
from pipelines.reading.readers import cut_rows

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class NpzArrays:
    """The arrays of an ``.npz`` file; no pickle is loaded.

    Parameters
    ----------
    path : Path
    """

    path: Path
    label: ClassVar[str] = "y"
    order: ClassVar[str] = "in the file's order"

    @property
    def title(self) -> str:
        """What messages call it."""
        return repr(str(self.path))

    def names(self) -> list[str]:
        """List the arrays, in the file's order."""
        with self._opened() as found:
            return list(dict.fromkeys(found.files))

    def ignored(self) -> list[str]:
        """List what is not read: nothing."""
        return []

    def descriptions(self) -> dict[str, list[Any]]:
        """Give no descriptions: these are arrays."""
        return {}

    def read(self, name: str) -> NDArray[Any]:
        """Read an array.

        Raises
        ------
        ValueError
            If it is damaged, or holds Python objects, which need pickle.
        """
        with self._opened() as found, self._undamaged(name):
            try:
                array: object = found[name]
            except ValueError as error:
                raise ValueError(
                    f"{self.title}, array {name!r}: it cannot be read without running code "
                    f"({error}). Save text as np.array(labels, dtype=str), and codes as one array "
                    "of numbers, np.stack(rows)."
                ) from error
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{self.title}, member {name!r}: it is not an array of NumPy's.")
        return array

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read an array of two dimensions some rows at a time, any other as one block.

        Where columns come first (Fortran order), it is one block too.
        """
        with self._undamaged(name), zipfile.ZipFile(self.path) as archive:
            member = f"{name}.npy"
            header = None
            if member in archive.namelist():
                with archive.open(member) as opened:
                    header = _read_header(opened)
                    if header is not None:
                        yield from _read_rows(opened, *header)
        if header is None:
            yield self.read(name)

    @contextmanager
    def _undamaged(self, name: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise ValueError(f"{self.title}, array {name!r}: it is damaged ({error}).") from error

    @contextmanager
    def _opened(self) -> Iterator[NpzFile]:
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.title} is not an .npz file, or is damaged. Write one with "
                "np.savez(file, y=labels, layer=codes)."
            )
        with np.load(self.path, allow_pickle=False) as found:
            yield found


def _read_header(member: IO[bytes]) -> tuple[tuple[int, int], np.dtype[Any]] | None:
    """Read the shape and type of an array of rows; None of any other member."""
    known = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        version = npy.read_magic(member)
    except ValueError:  # A member that is no array.
        return None
    if version not in known:
        return None
    shape, by_columns, dtype = known[version](member)
    if by_columns or len(shape) != 2 or not math.prod(shape) or dtype.kind != "f":
        return None
    return shape, dtype


def _read_rows(
    member: IO[bytes], shape: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    n_rows, width = shape
    for rows in cut_rows(n_rows, width * dtype.itemsize):
        n = rows.stop - rows.start
        data = member.read(n * width * dtype.itemsize)
        if len(data) < n * width * dtype.itemsize:
            raise EOFError(f"it ends before row {rows.stop}")
        yield np.frombuffer(data, dtype).reshape(n, width)


def write_npz(file: Path, labelled: Labelled, advance: Callable[[int], None]) -> None:
    """Write an ``.npz`` file, some rows at a time.

    Parameters
    ----------
    file : Path
        Replaced where it is there.
    labelled : Labelled
        Codes keep their dtype.
    advance : callable
        Called with the number of rows that were written, of each layer.
    """
    small: dict[str, NDArray[Any]] = {
        "y" if name == "label" else name: column for name, column in labelled.columns.items()
    }
    small |= {name: np.array(values) for name, values in labelled.descriptions.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        for name, codes in labelled.layers.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {
                    "descr": npy.dtype_to_descr(codes.dtype),
                    "fortran_order": False,
                    "shape": codes.shape,
                }
                npy.write_array_header_1_0(member, header)
                for rows in cut_rows(len(labelled), codes.shape[1] * codes.dtype.itemsize):
                    member.write(codes[rows].tobytes())
                    advance(rows.stop - rows.start)
