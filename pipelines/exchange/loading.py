"""Codes that another tool computed, loaded from a file and checked row by row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes.data.names import CODES_SCHEMES
from codes.data.sources import CONTROL
from codes.wording import counted, some
from pipelines.comparison.results import ComparedLayer
from pipelines.exchange.arrays import DESCRIPTIONS, ArrayFile, first_row
from pipelines.exchange.columns import read_columns
from pipelines.exchange.given import GivenCodes
from pipelines.exchange.npz import NpzArrays
from pipelines.exchange.parquet import ParquetTable
from pipelines.exchange.zarr_groups import ZarrArrays
from pipelines.reading.readers import cut_rows

_FORMATS: dict[str, Callable[[Path], ArrayFile]] = {
    "npz:": NpzArrays,
    "parquet:": ParquetTable,
    "zarr:": ZarrArrays,
}


def load_given(dataset: str, layers: str | Sequence[str] = "default") -> GivenCodes:
    """Read labels of a file of codes, and check every code.

    Parameters
    ----------
    dataset : str
        ``npz:FILE``: every two-dimensional array of floating-point numbers is a layer; ``y`` holds
        the labels, and ``split``, ``group`` and ``path`` may be there. ``parquet:FILE``: a table
        with a column of vectors for each layer, and ``label``, ``split``, ``group`` and ``path``.
        ``zarr:FOLDER``: a group of the same arrays as ``npz``, whose attribute ``layers`` may order
        them.
    layers : str or sequence of str, default="default"
        Names and regular expressions, joined by commas in a str; ``"default"`` and ``"all"`` are
        all.

    Returns
    -------
    given : GivenCodes

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not such a file; an array is not of a row for each label, holds values that are not
        finite, or is not known; a split is unknown, or a group on both sides of the test split; or
        there are fewer than two classes.
    """
    scheme = next(scheme for scheme in CODES_SCHEMES if dataset.startswith(scheme))
    place = dataset.removeprefix(scheme)
    path = Path(place)
    if not place or not path.exists():
        raise FileNotFoundError(
            f"{place!r} does not exist. After {scheme} comes the path of a file"
            f"{' or folder' if scheme == 'zarr:' else ''} of codes."
        )
    if path.is_dir() != (scheme == "zarr:"):
        kind = "a folder" if path.is_dir() else "a file"
        allowed = "a folder, a Zarr group" if scheme == "zarr:" else "a file"
        raise ValueError(f"{dataset!r}: {str(path)!r} is {kind}; {scheme} reads {allowed}.")
    file = _FORMATS[scheme](path.absolute())  # It may be read from another folder.
    columns = read_columns(file, dataset)
    digests = np.zeros((len(columns.images), 32), np.uint8)
    found: dict[str, tuple[int, np.dtype[Any]]] = {}
    described = file.descriptions()
    for name in file.names():
        if name in columns.names:
            continue
        n_rows = 0
        for block in file.blocks(name):
            if name in DESCRIPTIONS and block.ndim == 1:
                described[name] = block.tolist()
                break
            _check(file, name, block)
            _add_to_digests(file, name, block, digests[n_rows:], n_rows)
            found[name] = block.shape[1], block.dtype
            n_rows += len(block)
        if name in found and n_rows != len(digests):
            raise ValueError(
                f"{file.title}, array {name!r}: it has {counted(n_rows, 'row')}, and there are "
                f"{counted(len(digests), 'label')} in {file.label!r}. Each label needs one row, in "
                "the same order."
            )
    if not found:
        raise ValueError(
            f"{file.title} has no codes: an array of shape (n_samples, n_features) of "
            "floating-point numbers for each layer."
        )
    every = _described(file, list(found), described)
    chosen = _choose([layer.layer for layer in every], layers, file)
    return GivenCodes(
        images=columns.images,
        digests=digests,
        layers=tuple(layer for layer in every if layer.layer in chosen),
        order="as the file lists them" if "layers" in described else file.order,
        has_depths="depths" in described,
        file=file,
        kinds=found,
        rows=np.arange(len(digests)),
    )


def _check(file: ArrayFile, name: str, array: NDArray[Any]) -> None:
    """Refuse what is not a layer: rows of floating-point numbers."""
    where = f"{file.title}, array {name!r}"
    is_float = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    if array.ndim == 2 and is_float:
        if not array.shape[1]:
            raise ValueError(f"{where}: its rows are empty. Leave it out.")
        if CONTROL.search(name) or not name.strip():
            raise ValueError(f"{where}: the name of a layer is a word without control characters.")
        return
    known = (file.label, "split", "group", "path", *DESCRIPTIONS)
    near = get_close_matches(name.lower(), known, 1, 0.6) if array.ndim == 1 else []
    if array.ndim != 2:
        remedy = "Pool or flatten it" if array.ndim > 2 else "Leave it out"
        found = f"of {counted(array.ndim, 'dimension')}"
    else:
        remedy = "Save it as float32 if it is a layer, or leave it out"
        found = f"of {array.dtype} numbers" if array.dtype.kind in "iufc" else f"of {array.dtype}"
    did = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"{where}: it is {found}. Allowed: layers, of two dimensions (n_samples, n_features) and "
        f"float16, float32 or float64; and {', '.join(known[:4])}. {remedy}.{did}"
    )


def _add_to_digests(
    file: ArrayFile, name: str, array: NDArray[Any], digests: NDArray[np.uint8], first: int
) -> None:
    """Digest each row with those of the layers before; refuse values that are not finite.

    `first` is the number of the first row, of which `digests` is the first.
    """
    for rows in cut_rows(len(array), array.shape[1] * array.dtype.itemsize):
        block = np.ascontiguousarray(array[rows])
        bad = ~np.isfinite(block)
        row = first_row(bad.any(axis=1))
        if row is not None:
            column, remedy = int(bad[row].argmax()), "Remove the row everywhere, or compute its "
            remedy += "codes again."
            always = np.flatnonzero(bad.all(axis=0)).tolist()
            if len(block) > 1 and always and first + rows.start == 0:
                column = always[0]
                remedy = (
                    f"So has each of the first {len(block):,} rows, in "
                    f"{counted(len(always), 'column')}: {some(map(str, always))}. "
                )
                remedy += "Compute the layer again." if bad.all() else "Leave these columns out."
            raise ValueError(
                f"{file.title}, array {name!r}: row {first + rows.start + row} (from 0) has a "
                f"value that is not finite in column {column}, {block[row, column]}. {remedy}"
            )
        for before, row in zip(digests[rows], block, strict=False):
            found = hashlib.sha256(before.tobytes() + row.tobytes()).digest()
            before[:] = np.frombuffer(found, np.uint8)


def _described(
    file: ArrayFile, found: Sequence[str], described: dict[str, list[Any]]
) -> list[ComparedLayer]:
    """Order layers, and say of each at which depth it is and how it was pooled."""
    names = described.get("layers", found)
    if sorted(map(str, names)) != sorted(found):
        raise ValueError(
            f"{file.title}: layers lists {some(map(str, names))}, and there are codes of "
            f"{some(found)}. List each layer once."
        )
    n = len(found)
    depths = described.get("depths", [(i + 1) / n for i in range(n)])
    pools = described.get("pools", [""] * n)
    for name, values in (("depths", depths), ("pools", pools)):
        if len(values) != n:
            raise ValueError(
                f"{file.title}: {name} has {counted(len(values), 'value')}, and there are "
                f"{counted(n, 'layer')}. Give one for each, in the order of the layers."
            )
    numbers = [depth for depth in depths if isinstance(depth, (int, float)) and 0 <= depth <= 1]
    if len(numbers) != n:
        raise ValueError(
            f"{file.title}: depths are {some(map(str, depths))}. Allowed: numbers from 0, the "
            "network's input, to 1, its output."
        )
    # Costs that are the same: no layer is recommended for being cheaper, which nobody knows.
    return [
        ComparedLayer(layer=str(name), depth=float(depth), pool=str(pool), multiply_adds=0.0)
        for name, depth, pool in zip(names, numbers, pools, strict=True)
    ]


def _choose(names: Sequence[str], wanted: str | Sequence[str], file: ArrayFile) -> set[str]:
    """Choose layers by name or regular expression."""
    if wanted in ("default", "all"):
        return set(names)
    chosen: set[str] = set()
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    for part in map(str.strip, parts):
        try:
            own = {part} & set(names) or {name for name in names if re.fullmatch(part, name)}
        except re.error as error:
            raise ValueError(
                f"Layer {part!r} is not a valid regular expression: {error}."
            ) from error
        if not own:
            raise ValueError(
                f"{file.title} has no layer {part!r}. Allowed: {some(names)}; regular expressions "
                "for these, or all."
            )
        chosen |= own
    return chosen
