"""Array files: what is read of a file with named arrays, and what is written to one.

Each format reads and writes the same arrays: codes of shape ``(n_samples, n_features)``, one for
each layer; and, with a value for each row, the labels and perhaps ``split``, ``group`` and
``path``. A file may describe its layers by three lists of one length, `DESCRIPTIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DESCRIPTIONS = ("layers", "depths", "pools")
"""Lists that describe layers: their names in forward order, depths from 0 to 1, and poolings."""


class ArrayFile(Protocol):
    """A file of named arrays; it can be sent to another process."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def title(self) -> str:
        """What messages call it."""

    @property
    def label(self) -> str:
        """What the array of labels is called."""

    @property
    def order(self) -> str:
        """The order of `names`, in words."""

    def names(self) -> list[str]:
        """List the arrays, in the file's order, each once."""

    def ignored(self) -> list[str]:
        """List what is there and not read."""

    def descriptions(self) -> dict[str, list[Any]]:
        """Give the lists of `DESCRIPTIONS` that the file keeps beside its arrays."""

    def read(self, name: str) -> NDArray[Any]:
        """Read an array; text as str, and vectors as rows."""

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read an array of two dimensions some rows at a time, any other as one block."""


class Rows(Protocol):
    """Codes of which rows are read when they are indexed, such as `cache.CodesView`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and features."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a value is."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Read some rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Labelled codes, to be written.

    Attributes
    ----------
    columns : dict of str to ndarray of shape (n_samples,), str
        ``label``, ``path``, and where there are ``split`` and ``group``.
    layers : dict of str to Rows
        In forward order.
    descriptions : dict of str to list
        For each of `DESCRIPTIONS`, a value for each layer.
    """

    columns: Mapping[str, NDArray[np.str_]]
    layers: Mapping[str, Rows]
    descriptions: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.columns["label"])


def first_row(wrong: NDArray[np.bool_]) -> int | None:
    """Find the first row that is wrong, if one is."""
    return int(wrong.argmax()) if wrong.any() else None
