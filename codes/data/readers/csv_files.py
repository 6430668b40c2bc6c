"""CSV files: one row for each image, which says where it lies, its label, and its split and group.

A row that is read in another way than it was meant gives an image the wrong label or patient
without a word. So what is not certain is refused: a row of more or fewer fields than the header,
a column that is there twice, and a column whose name is almost one that is read.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from codes.data.images import ImageList
from codes.data.names import SPLIT_NAMES, SPLITS, composed
from codes.data.sources import FileSource, printable
from codes.wording import counted, some

COLUMNS = ("path", "label", "split", "group")
_NEAR = 0.8
"""Of difflib's ratio: ``lable``, ``labels`` and ``spilt`` are near; ``patient`` is not."""


class _Row(NamedTuple):
    """A row of a CSV file: `line` is its first, as the file numbers them, from 1."""

    line: int
    fields: list[str]


def load_csv(file: Path, page: int | None = None, *, labelled: bool = True) -> ImageList:
    """List the images that a CSV file names.

    Parameters
    ----------
    file : Path
        In UTF-8, separated by commas, with the columns ``path`` (relative to the file) and
        ``label``, and perhaps ``split`` and ``group``; others are ignored.
    page : int, optional
        As for `codes.load_images`.
    labelled : bool, default=True
        Whether each image needs a label. Without, the column may be missing, or empty in a row.

    Returns
    -------
    images : ImageList
        Where there is no label, it is empty.

    Raises
    ------
    FileNotFoundError
        If an image does not exist.
    ValueError
        If the file is not a valid CSV file; a row has more or fewer fields than the header; a
        column is missing, there twice, empty in a row, or near to one that is read; a split is
        unknown; or a group is in the test split and outside it.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header, *rows = list(_read(file, lines)) or [_Row(line=1, fields=[])]
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is not a CSV file in UTF-8: {error}.") from error
    needed = ("path", "label") if labelled else ("path",)
    places = _find_columns(file, header, needed)
    if not rows:
        raise ValueError(f"{str(file)!r} has no rows below its header.")
    filled = [place for column, place in places.items() if labelled or column != "label"]
    _refuse_odd_rows(file, header, rows, filled)
    values = {
        column: [composed(row.fields[place].strip()) for row in rows]
        for column, place in places.items()
        if column != "path"
    }
    images = ImageList(
        name=printable(str(file)),
        source=FileSource(_find_images(file, rows, places["path"]), page=page),
        labels=np.array(values.get("label", [""] * len(rows))),
        splits=_splits(file, rows, values["split"]) if "split" in values else None,
        groups=np.array(values["group"]) if "group" in values else None,
        ignored={
            f"column {printable(name)!r}": len(rows)
            for place, name in enumerate(map(_plain, header.fields))
            if place not in places.values()
        },
    )
    refuse_split_groups(images)
    return images


def _read(file: Path, lines: TextIO) -> Iterator[_Row]:
    """Give the rows, header first; blank lines count, and are no rows."""
    reader = csv.reader(lines, strict=True)  # Else a quote without an end takes all that follows.
    line = 1
    try:
        for fields in reader:
            if fields:
                yield _Row(line=line, fields=fields)
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{str(file)!r}, line {line}: it is not a valid row of a CSV file: {error}. A value in "
            'quotes ends with one, and a quote within it is doubled: "a 6"" ruler".'
        ) from error


def _plain(name: str) -> str:
    """Give the name of a column in the form in which they are compared."""
    return composed(name).strip().lower()


def refuse_misspelt(name: str, absent: Sequence[str], where: str) -> None:
    """Refuse a column that is not read, if it seems to be one of those that are absent.

    Raises
    ------
    ValueError
        With both names.
    """
    near = get_close_matches(_plain(name), absent, 1, _NEAR)
    if near:
        raise ValueError(
            f"{where}: the column {name!r} is not read, and is near to {near[0]!r}. Rename it to "
            f"{near[0]}; or, if it holds something else, to a name of its own."
        )


def _find_columns(file: Path, header: _Row, needed: Sequence[str]) -> dict[str, int]:
    """Find the places of the columns that are read."""
    names = [_plain(name) for name in header.fields]
    for column in COLUMNS:
        twice = [name for name in header.fields if _plain(name) == column]
        if len(twice) > 1:
            raise ValueError(
                f"{str(file)!r}, line {header.line}: the column {column} is there {len(twice)} "
                f"times ({', '.join(map(repr, twice))}). Keep one, and rename or remove the others."
            )
    absent = [column for column in COLUMNS if column not in names]
    for name in names:
        if name not in COLUMNS:
            refuse_misspelt(name, absent, f"{str(file)!r}, line {header.line}")
    missing = [column for column in needed if column in absent]
    if missing:
        raise ValueError(
            f"{str(file)!r} lacks the column {' and '.join(missing)}; it has "
            f"{', '.join(names) or 'none'}. Needed, separated by commas: {','.join(needed)}; "
            f"optional: {','.join(column for column in COLUMNS if column not in needed)}."
        )
    return {column: names.index(column) for column in COLUMNS if column in names}


def _refuse_odd_rows(file: Path, header: _Row, rows: list[_Row], filled: list[int]) -> None:
    """Refuse rows of another length than the header, or without a value where one must be."""
    n_columns = len(header.fields)
    # Spreadsheets write commas for empty columns behind the last.
    nameless = [place for place, name in enumerate(header.fields) if place and not name.strip()]
    for row in rows:
        where = f"{str(file)!r}, line {row.line}"
        if len(row.fields) != n_columns:
            raise ValueError(
                f"{where}: it has {_count(row.fields)}, and the header has "
                f'{_count(header.fields)}. Quote a value that holds a comma: "Melanoma, NOS"; '
                "where a column is empty, keep its comma."
            )
        for place in filled:
            if not row.fields[place].strip():
                column = _plain(header.fields[place])
                raise ValueError(f"{where}: the column {column} is empty.")
        for place in nameless:
            if row.fields[place].strip():
                raise ValueError(
                    f"{where}: {row.fields[place]!r} is in column {place + 1}, which has no name. "
                    'Name the column; or quote a value that holds a comma: "Melanoma, NOS".'
                )


def _count(fields: list[str]) -> str:
    return f"{counted(len(fields), 'field')} ({some(map(repr, fields))})"


def _find_images(file: Path, rows: list[_Row], place: int) -> list[Path]:
    paths = [_existing(file.parent, row.fields[place]) for row in rows]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent):,} of {counted(len(paths), 'image')} in {str(file)!r} "
            f"{'does' if len(absent) == 1 else 'do'} not exist: {some(absent)}. Paths are relative "
            "to the CSV file."
        )
    return paths


def _existing(folder: Path, name: str) -> Path:
    """Find a file whose name may be there in another of Unicode's forms, as macOS writes them."""
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
    paths = [folder / form for form in forms]
    return next((path for path in paths if path.is_file()), paths[0])


def _splits(file: Path, rows: list[_Row], names: list[str]) -> NDArray[np.str_]:
    for row, name in zip(rows, names, strict=True):
        if name.lower() not in SPLIT_NAMES:
            raise ValueError(
                f"{str(file)!r}, line {row.line}: it has the split {name!r}. Allowed: "
                f"{', '.join(SPLITS)}."
            )
    return np.array([SPLIT_NAMES[name.lower()] for name in names])


def refuse_split_groups(images: ImageList) -> None:
    """Refuse groups that are in the test split and outside it.

    Raises
    ------
    ValueError
        With their names.
    """
    if images.groups is None or images.test is None:
        return
    both = np.intersect1d(images.groups[images.test], images.groups[~images.test])
    if len(both):
        raise ValueError(
            f"{images.name!r} has {counted(len(both), 'group')} both in the test split and outside "
            f"it: {some(both.tolist())}. Images of a group belong on one side: correct the split, "
            "or drop the column group if the images are independent."
        )
