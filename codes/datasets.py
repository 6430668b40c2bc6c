"""Datasets: the forms in which people keep labelled images, each read into an image list."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codes.decoding import EXTENSIONS
from codes.images import ArraySource, FileSource, ImageList

_COLUMNS = ("path", "label", "split", "group")
SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation",
                "val": "validation", "valid": "validation", "test": "test",
                "testing": "test"}  # fmt: skip


def load_images(dataset: str | Path) -> ImageList:
    """List the images of a dataset; no image is decoded.

    Parameters
    ----------
    dataset : str or Path
        A folder of class folders; a folder with ``train/`` and ``test/`` (and ``validation/``)
        folders of class folders; a CSV file with the columns ``path,label`` and, if wanted,
        ``split,group`` (paths are relative to the file); or ``"sklearn:digits"``.

    Returns
    -------
    images : ImageList

    Raises
    ------
    FileNotFoundError
        If the folder, the CSV file or an image that it names does not exist.
    ValueError
        If there is nothing to classify: no class folders, no images, fewer than two classes, a
        missing column, an unknown split.

    Examples
    --------
    >>> digits = load_images("sklearn:digits")
    >>> len(digits), str(digits.labels[0]), digits.source.open(0).size
    (1797, '0', (8, 8))
    """
    name = str(dataset)
    if name.startswith("sklearn:"):
        images = _load_sklearn(name)
    elif name.startswith("torchvision:"):
        raise ValueError(
            f"{name!r} is not read yet. Allowed: a folder of class folders, a CSV file, "
            "sklearn:digits. Save the dataset's images in class folders."
        )
    elif not Path(name).exists():
        raise FileNotFoundError(
            f"Dataset {name!r} does not exist. Allowed: a folder of class folders, a CSV file "
            "with the columns path,label, or sklearn:digits."
        )
    elif Path(name).is_dir():
        images = _load_folder(Path(name))
    else:
        images = _load_csv(Path(name))
    classes = np.unique(images.labels)
    if len(classes) < 2:
        raise ValueError(
            f"{name!r} has one class, {str(classes[0])!r}; at least two are needed. Put the "
            "images of each class in a folder of its own."
        )
    return images


def list_images(paths: Sequence[str | Path]) -> ImageList:
    """List files, and the image files in folders, as one list without labels.

    Parameters
    ----------
    paths : sequence of str or Path

    Returns
    -------
    images : ImageList
        Its labels are empty.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If there is no image.
    """
    found: list[Path] = []
    ignored: dict[str, int] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{str(path)!r} does not exist. Give images, or folders of them."
            )
        found += _image_files(path, ignored) if path.is_dir() else [path]
    if not found:
        raise ValueError(
            f"There is no image in {', '.join(map(str, paths)) or 'nothing'}. Read are the endings "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return ImageList(
        name=", ".join(map(str, paths)),
        source=FileSource(found),
        labels=np.full(len(found), ""),
        ignored=ignored,
    )


def _load_sklearn(name: str) -> ImageList:
    if name != "sklearn:digits":
        raise ValueError(f"Dataset {name!r} is unknown. Of scikit-learn's, sklearn:digits is read.")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Ink counts from 0 to 16 in each cell of 4x4 scanned pixels.
    values = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    return ImageList(
        name=name,
        source=ArraySource(values, name=name),
        labels=digits.target.astype(str),
        ignored={},
    )


def _load_folder(folder: Path) -> ImageList:
    children = sorted(child.name for child in folder.iterdir() if child.is_dir())
    found = {name: _SPLIT_NAMES[name.lower()] for name in children if name.lower() in _SPLIT_NAMES}
    if "train" in found.values() and len(found) > 1:
        others = [name for name in children if name not in found and not name.startswith(".")]
        if others:
            raise ValueError(
                f"{str(folder)!r} holds the splits {', '.join(found)} beside other folders "
                f"({', '.join(others[:5])}). Give a folder with splits only or classes only."
            )
        parts = [(_class_folders(folder / name), split) for name, split in found.items()]
    else:
        parts = [(_class_folders(folder), "")]
    paths: list[Path] = []
    labels: list[str] = []
    splits: list[str] = []
    ignored: dict[str, int] = {}
    for classes, split in parts:
        stray = [path for path in classes[0].parent.iterdir() if _is_image(path)]
        if stray:
            beside = "beside the class folders"
            ignored[beside] = ignored.get(beside, 0) + len(stray)
        for label in classes:
            files = _image_files(label, ignored)
            if not files:
                ignored["empty folder"] = ignored.get("empty folder", 0) + 1
            paths += files
            labels += [label.name] * len(files)
            splits += [split] * len(files)
    if not paths:
        raise ValueError(
            f"{str(folder)!r} has class folders but no image in them. Read are the endings "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return ImageList(
        name=str(folder),
        source=FileSource(paths),
        labels=np.array(labels),
        splits=np.array(splits) if len(parts) > 1 else None,
        ignored=ignored,
    )


def _class_folders(folder: Path) -> list[Path]:
    classes = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not classes:
        raise ValueError(
            f"{str(folder)!r} has no class folders. Expected one folder for each class, such as "
            f"{str(folder / 'cat')!r}, with that class's images in it."
        )
    return sorted(classes)


def _image_files(folder: Path, ignored: dict[str, int]) -> list[Path]:
    # A broken link is kept, to be reported with the images that cannot be read.
    files = sorted(
        path
        for path in folder.rglob("*")
        if (path.is_file() or (path.is_symlink() and not path.exists()))
        and not path.name.startswith(".")
    )
    for path in files:
        if not _is_image(path):
            ending = path.suffix.lower() or "(none)"
            ignored[ending] = ignored.get(ending, 0) + 1
    return [path for path in files if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _load_csv(file: Path) -> ImageList:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(file)!r} is not a CSV file in UTF-8: {error}.") from error
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise ValueError(
            f"{str(file)!r} lacks the column {' and '.join(missing)}; it has "
            f"{', '.join(columns) or 'none'}. Needed, separated by commas: path,label; optional: "
            "split,group."
        )
    if not rows:
        raise ValueError(f"{str(file)!r} has no rows below its header.")
    _refuse_empty(file, rows, [column for column in _COLUMNS if column in columns])
    paths = [file.parent / row["path"] for row in rows]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{len(absent)} of the {len(paths)} images in {str(file)!r} do not exist: "
            f"{_some(absent)}. Paths are relative to the CSV file."
        )
    images = ImageList(
        name=str(file),
        source=FileSource(paths),
        labels=np.array([row["label"].strip() for row in rows]),
        splits=_csv_splits(file, rows) if "split" in columns else None,
        groups=np.array([row["group"].strip() for row in rows]) if "group" in columns else None,
        ignored={f"column {name!r}": len(rows) for name in columns if name not in _COLUMNS},
    )
    _refuse_split_groups(images)
    return images


def _refuse_split_groups(images: ImageList) -> None:
    if images.groups is None or images.test is None:
        return
    both = np.intersect1d(images.groups[images.test], images.groups[~images.test])
    if len(both):
        raise ValueError(
            f"{images.name!r} has {len(both)} groups both in the test split and outside it: "
            f"{_some(both.tolist())}. Images of a group belong on one side: correct the split, or "
            "drop the column group if the images are independent."
        )


def _refuse_empty(file: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    for number, row in enumerate(rows, start=2):
        for column in columns:
            if not (row[column] or "").strip():
                raise ValueError(f"{str(file)!r}, line {number}: the column {column} is empty.")


def _csv_splits(file: Path, rows: list[dict[str, str]]) -> NDArray[np.str_]:
    names = [row["split"].strip().lower() for row in rows]
    unknown = sorted(set(names) - _SPLIT_NAMES.keys())
    if unknown:
        raise ValueError(
            f"{str(file)!r} has the split {unknown[0]!r}. Allowed: {', '.join(SPLITS)}."
        )
    return np.array([_SPLIT_NAMES[name] for name in names])


def _some(names: Iterable[str], most: int = 10) -> str:
    listed = list(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
