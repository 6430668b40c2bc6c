"""Zarr groups: a folder with an array for each layer, and one for the labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr
from numpy.typing import NDArray

from pipelines.exchange.arrays import DESCRIPTIONS, Labelled
from pipelines.reading.readers import BLOCK_BYTES, cut_rows

_NAME = "layer"
"""Attribute of an array with the layer's name, where a folder cannot be called so."""


@dataclass(frozen=True)
class ZarrArrays:
    """The arrays right in a Zarr group of format 2 or 3; no pickle is loaded.

    Parameters
    ----------
    path : Path
    """

    path: Path
    label: ClassVar[str] = "y"
    order: ClassVar[str] = "in alphabetical order, as the group has no attribute layers"

    @property
    def title(self) -> str:
        """What messages call it."""
        return repr(str(self.path))

    def names(self) -> list[str]:
        """List the arrays in alphabetical order: a group has none of its own.

        Raises
        ------
        ValueError
            If there are groups in it.
        """
        arrays = self._arrays()
        below = sorted(name for name, _ in self._group().groups())
        if below:
            raise ValueError(
                f"{self.title} holds the group {below[0]!r}; only arrays right in the group are "
                "read. Move them there, or name the group that holds the arrays."
            )
        return sorted(arrays)

    def ignored(self) -> list[str]:
        """List what is not read: nothing."""
        return []

    def descriptions(self) -> dict[str, list[Any]]:
        """Give the descriptions among the group's attributes.

        Raises
        ------
        ValueError
            If one is not a list.
        """
        found: dict[str, list[Any]] = {}
        for name, values in self._group().attrs.asdict().items():
            if name not in DESCRIPTIONS:
                continue
            if not isinstance(values, list):
                raise ValueError(
                    f"{self.title}: the attribute {name} is {values!r}. Allowed: a list with a "
                    "value for each layer."
                )
            found[name] = values
        return found

    def read(self, name: str) -> NDArray[Any]:
        """Read an array."""
        values = np.asarray(self._arrays()[name][...])
        return np.array(values.tolist(), dtype=str) if values.dtype.kind in "OT" else values

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """Read an array of two dimensions by whole chunks of rows, any other as one block."""
        array = self._arrays()[name]
        if array.ndim != 2 or not array.size:
            yield self.read(name)
            return
        chunk = (array.shards or array.chunks)[0]
        step = chunk * max(1, BLOCK_BYTES // (chunk * array.shape[1] * array.dtype.itemsize))
        for start in range(0, array.shape[0], step):
            yield np.asarray(array[start : start + step])

    def _arrays(self) -> dict[str, zarr.Array[Any]]:
        """Find the arrays by the names of their layers."""
        group = self._group()
        try:
            arrays = list(group.arrays())
        except ValueError as error:  # Zarr knows no array of Python objects, which are pickles.
            raise ValueError(
                f"{self.title}: an array is of a kind that is not read ({error}). Store codes as "
                "floating-point numbers, and text as strings of Zarr's."
            ) from error
        found: dict[str, zarr.Array[Any]] = {}
        for key, array in arrays:
            name = str(array.attrs.get(_NAME, key))
            if name in found:
                raise ValueError(f"{self.title}: two arrays are of the layer {name!r}. Keep one.")
            found[name] = array
        return found

    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.path, mode="r")
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise ValueError(
                f"{self.title} is not a Zarr group. Name the folder that holds zarr.json or "
                ".zgroup."
            ) from error


def write_zarr(folder: Path, labelled: Labelled, advance: Callable[[int], None]) -> None:
    """Write a Zarr group of format 3, some rows at a time.

    Parameters
    ----------
    folder : Path
        Not there yet.
    labelled : Labelled
        Codes keep their dtype.
    advance : callable
        Called with the number of rows that were written, of each layer.
    """
    group = zarr.create_group(folder, attributes={k: list(v) for k, v in (
        labelled.descriptions.items())})  # fmt: skip
    for name, column in labelled.columns.items():
        text = group.create_array("y" if name == "label" else name, shape=column.shape, dtype=str)
        text[...] = column.astype(object)
    taken = {"y", *labelled.columns}
    for name, codes in labelled.layers.items():
        key = _folder_name(name, taken)
        taken.add(key)
        row_bytes = codes.shape[1] * codes.dtype.itemsize
        blocks = list(cut_rows(len(labelled), row_bytes))
        array = group.create_array(
            key,
            shape=codes.shape,
            dtype=codes.dtype,
            chunks=(blocks[0].stop, codes.shape[1]),
            attributes={_NAME: name},
        )
        for rows in blocks:
            array[rows] = codes[rows]
            advance(rows.stop - rows.start)


def _folder_name(layer: str, taken: set[str]) -> str:
    """Name a folder after a layer, as every system allows it, and differently from others."""
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f]|^[._]+', "_", layer) or "_"
    found, n = plain, 1
    while found in taken:
        n += 1
        found = f"{plain}_{n}"
    return found
