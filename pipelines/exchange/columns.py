"""Columns: what a file of codes says of each row, its label and perhaps split, group and path."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from codes import ImageList
from codes.data.names import SPLIT_NAMES, SPLITS, composed
from codes.data.readers.csv_files import refuse_split_groups
from codes.data.sources import printable
from codes.decoding.decode import Pixels, UnreadableImageError
from codes.wording import counted, some
from pipelines.exchange.arrays import ArrayFile, first_row


class NamedRows:
    """Rows of codes as a source of images, which cannot be opened: only names are known.

    Parameters
    ----------
    names : sequence of str
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def digest(self, index: int, memory: object = None) -> bytes:
        """Refuse: there are no pixels."""
        self._refuse(index)

    def holds(self, index: int, digest: bytes) -> bool:
        """Refuse: there are no pixels."""
        self._refuse(index)

    def open(self, index: int, decoding: object = None) -> Pixels:
        """Refuse: there are no pixels."""
        self._refuse(index)

    def open_wide(self, index: int) -> None:
        """Refuse: there are no pixels."""
        self._refuse(index)

    def _refuse(self, index: int) -> NoReturn:
        raise UnreadableImageError(f"{self.names[index]}: its codes were given, and no image.")


class Columns(NamedTuple):
    """What a file says of each row.

    Attributes
    ----------
    images : ImageList
    names : tuple of str
        Arrays that are no layers.
    """

    images: ImageList
    names: tuple[str, ...]


def read_columns(file: ArrayFile, dataset: str) -> Columns:
    """Read labels, and where they are there splits, groups and paths.

    Parameters
    ----------
    file : ArrayFile
    dataset : str
        What the user called it.

    Returns
    -------
    columns : Columns

    Raises
    ------
    ValueError
        If there are no labels, a column is not of one word for each row, a split is unknown, a
        group on both sides of the test split, or there are fewer than two classes.
    """
    names = file.names()
    if file.label not in names:
        raise ValueError(
            f"{file.title} has no labels: {file.label!r}, of strings or whole numbers, one for "
            f"each row. It holds {some(map(repr, names)) or 'nothing'}."
        )
    labels = _read_words(file, file.label, None)
    found = {
        name: _read_words(file, name, len(labels))
        for name in ("split", "group", "path")
        if name in names
    }
    classes = np.unique(labels)
    if len(classes) < 2:
        names_of = f" ({some(map(repr, classes.tolist()))})" if len(classes) else ""
        raise ValueError(
            f"{file.title} has {counted(len(classes), 'class')}{names_of} in {file.label!r}; at "
            "least 2 are needed."
        )
    paths = [printable(path) for path in found["path"].tolist()] if "path" in found else [
        f"row {row}" for row in range(len(labels))
    ]  # fmt: skip
    images = ImageList(
        name=printable(dataset),
        source=NamedRows(paths),
        labels=labels,
        splits=_known_splits(file, found["split"]) if "split" in found else None,
        groups=found.get("group"),
        ignored={f"column {printable(name)}": 1 for name in file.ignored()},
    )
    refuse_split_groups(images)
    return Columns(images=images, names=(file.label, *found))


def _read_words(file: ArrayFile, name: str, n: int | None) -> NDArray[np.str_]:
    """Read a column of strings or whole numbers as strings; `n` is how many there should be."""
    values: NDArray[Any] = file.read(name)
    where = f"{file.title}, {name!r}"
    if values.ndim != 1:
        raise ValueError(
            f"{where}: its shape is {values.shape}. Allowed: one value for each row, (n_samples,)."
        )
    if values.dtype.kind not in "UiubS":
        raise ValueError(
            f"{where}: its values are {values.dtype}. Allowed: strings or whole numbers, one for "
            "each row."
        )
    if n is not None and len(values) != n:
        raise ValueError(
            f"{where}: it has {counted(len(values), 'value')}, and there are "
            f"{counted(n, 'label')} in {file.label!r}. Give one for each row."
        )
    try:
        words = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(str)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: its text is not UTF-8: {error}. Save it as str.") from error
    found = np.array([composed(word.strip()) for word in words.tolist()], np.str_)
    empty = first_row(found == "")
    if empty is not None:
        raise ValueError(f"{where}: row {empty} (from 0) is empty. Fill it in, or remove the row.")
    return found


def _known_splits(file: ArrayFile, names: NDArray[np.str_]) -> NDArray[np.str_]:
    for row, name in enumerate(names.tolist()):
        if name.lower() not in SPLIT_NAMES:
            raise ValueError(
                f"{file.title}, 'split': row {row} (from 0) is {name!r}. Allowed: "
                f"{', '.join(SPLITS)}."
            )
    return np.array([SPLIT_NAMES[name.lower()] for name in names.tolist()])
