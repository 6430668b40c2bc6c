"""NumPy's ``.npz`` files: zip archives with an array in each member."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from pipelines.exchange.arrays import Labelled, cut_rows

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
        with self._opened() as found:
            try:
                array: object = found[name]
            except _DAMAGED as error:
                raise ValueError(f"{self.title}, array {name!r}: it is damaged ({error}).") from (
                    error
                )
            except ValueError as error:
                raise ValueError(
                    f"{self.title}, array {name!r}: it cannot be read without running code "
                    f"({error}). Save text as np.array(labels, dtype=str), and codes as one array "
                    "of numbers, np.stack(rows)."
                ) from error
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{self.title}, member {name!r}: it is not an array of NumPy's.")
        return array

    @contextmanager
    def _opened(self) -> Iterator[NpzFile]:
        if not zipfile.is_zipfile(self.path):
            raise ValueError(
                f"{self.title} is not an .npz file, or is damaged. Write one with "
                "np.savez(file, y=labels, layer=codes)."
            )
        with np.load(self.path, allow_pickle=False) as found:
            yield found


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
