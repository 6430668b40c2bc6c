"""Datasets: the forms in which people keep labelled images, each read into an image list."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codes.archives import ArchiveTree, is_archive
from codes.decoding import EXTENSIONS, is_image
from codes.images import (
    ArraySource,
    FileSource,
    ImageList,
    ImageSource,
    JoinedSource,
    printable,
)
from codes.published import load_torchvision
from codes.shards import load_shards, load_tables
from codes.trees import FolderTree, Tree

_COLUMNS = ("path", "label", "split", "group")
_REPEATED = "followed by another file of the same name"
SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation",
                "val": "validation", "valid": "validation", "test": "test",
                "testing": "test"}  # fmt: skip


def load_images(dataset: str | Path, *, page: int | None = None, min_classes: int = 2) -> ImageList:
    """List the images of a dataset; no image is decoded.

    Parameters
    ----------
    dataset : str or Path
        A folder of class folders; a folder with ``train/`` and ``test/`` (and ``validation/``)
        folders of class folders; a ``.zip`` or ``.tar`` archive of either, or a folder with
        ``train.zip`` and ``test.zip``; a CSV file with the columns ``path,label`` and, if wanted,
        ``split,group`` (paths are relative to the file); ``"torchvision:NAME"``, downloaded by
        torchvision; ``"hf:NAME"``, downloaded by Hugging Face's ``datasets``;
        ``"wds:birds-*.tar"``, WebDataset shards; or ``"sklearn:digits"``.
    page : int, optional
        Which page of files with several (TIFF, GIF), from 1.
    min_classes : int, default=2
        Fewer are refused: there is nothing to classify.

    Returns
    -------
    images : ImageList

    Raises
    ------
    FileNotFoundError
        If the folder, the CSV file or an image that it names does not exist.
    ValueError
        If there is nothing to classify: no class folders, no images, too few classes, a
        missing column, an unknown split.

    Examples
    --------
    >>> digits = load_images("sklearn:digits")
    >>> len(digits), str(digits.labels[0]), digits.source.open(0).size
    (1797, '0', (8, 8))
    """
    _check_page(page)
    name = str(dataset)
    if not name:
        raise ValueError("The dataset's name is empty. Say . for the current folder.")
    if name.startswith("sklearn:"):
        images = _load_sklearn(name)
    elif name.startswith("torchvision:"):
        images = load_torchvision(name.removeprefix("torchvision:"))
    elif name.startswith("wds:"):
        images = load_shards(name.removeprefix("wds:"), page)
    elif name.startswith("hf:"):
        images = load_tables(name.removeprefix("hf:"), _SPLIT_NAMES, page)
    elif not Path(name).is_dir() and not Path(name).is_file():
        raise FileNotFoundError(
            f"Dataset {name!r} does not exist, or is no file. Allowed: a folder of class folders, "
            "a .zip or .tar of one, a CSV file with the columns path,label, torchvision:NAME, "
            "hf:NAME, wds:PATTERN, or sklearn:digits."
        )
    else:
        images = _load_path(Path(name), page)
    classes = np.unique(images.labels)
    if len(classes) < min_classes:
        raise ValueError(
            f"{name!r} has one class, {str(classes[0])!r}; at least two are needed. Put the "
            "images of each class in a folder of its own."
        )
    return replace(images, page=page)


def list_images(paths: Sequence[str | Path], *, page: int | None = None) -> ImageList:
    """List files, and the image files in folders and archives, as one list without labels.

    Parameters
    ----------
    paths : sequence of str or Path
    page : int, optional
        As for `load_images`.

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
    _check_page(page)
    sources: list[ImageSource] = []
    ignored: Counter[str] = Counter()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(
                f"{str(path)!r} does not exist. Give images, or folders or archives of them."
            )
        if path.is_dir() or is_archive(path):
            tree: Tree = FolderTree(path) if path.is_dir() else ArchiveTree(path)
            ignored[_REPEATED] += len(tree.repeated)
            sources.append(tree.source(_image_files(tree.below(), ignored), page))
        else:
            sources.append(FileSource([path], page=page))
    source = JoinedSource(sources)
    if not source.names:
        raise ValueError(
            f"There is no image in {', '.join(map(str, paths)) or 'nothing'}. Read are the endings "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return ImageList(
        name=printable(", ".join(map(str, paths))),
        source=source,
        labels=np.full(len(source.names), ""),
        ignored=dict(+ignored),
        page=page,
    )


def _check_page(page: int | None) -> None:
    if page is not None and page < 1:
        raise ValueError(f"page={page}: pages count from 1.")


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


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A place whose folders are classes; `split` is empty where a dataset is not cut."""

    tree: Tree
    at: str = ""
    split: str = ""


def _load_path(path: Path, page: int | None) -> ImageList:
    if path.is_dir():
        return _load_parts(str(path), _folder_parts(path), page)
    if is_archive(path):
        tree = ArchiveTree(path)
        found, others = _split_names(tree.folders())
        return _load_parts(str(path), _cut(tree, found, others), page)
    return _load_csv(path, page)


def _folder_parts(folder: Path) -> list[_Part]:
    tree = FolderTree(folder)
    packed, _ = _split_names([file for file in tree.files() if is_archive(folder / file)])
    found, others = _split_names(tree.folders())
    if not packed or len(packed | found) < 2:
        return _cut(tree, found, others)
    _refuse_others(tree.name, packed | found, others)
    archives = [_Part(tree=ArchiveTree(folder / f), split=split) for f, split in packed.items()]
    return archives + [_Part(tree=tree, at=name, split=split) for name, split in found.items()]


def _split_names(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Tell names of splits, of folders or archives, from others."""
    stems = {name: name.lower().removesuffix(Path(name.lower()).suffix) for name in names}
    found = {name: _SPLIT_NAMES[stem] for name, stem in stems.items() if stem in _SPLIT_NAMES}
    return found, [name for name in names if name not in found]


def _cut(tree: Tree, found: dict[str, str], others: list[str]) -> list[_Part]:
    """Take a tree as splits, or as classes."""
    if "train" not in found.values() or len(found) < 2:
        return [_Part(tree=tree)]
    _refuse_others(tree.name, found, others)
    return [_Part(tree=tree, at=name, split=split) for name, split in found.items()]


def _refuse_others(name: str, found: Iterable[str], others: list[str]) -> None:
    if others:
        raise ValueError(
            f"{name!r} holds the splits {', '.join(found)} beside other folders "
            f"({', '.join(others[:5])}). Give a folder with splits only or classes only."
        )


def _load_parts(name: str, parts: list[_Part], page: int | None) -> ImageList:
    sources: list[ImageSource] = []
    labels: list[str] = []
    splits: list[str] = []
    ignored: Counter[str] = Counter()
    for tree in {part.tree.name: part.tree for part in parts}.values():
        ignored[_REPEATED] += len(tree.repeated)
    for part in parts:
        ignored["beside the class folders"] += sum(map(is_image, part.tree.files(part.at)))
        files: list[str] = []
        for folder in _class_folders(part):
            found = _image_files(part.tree.below(folder), ignored)
            ignored["empty folder"] += not found
            files += found
            labels += [printable(Path(folder).name)] * len(found)
        splits += [part.split] * len(files)
        sources.append(part.tree.source(files, page))
    if not labels:
        raise ValueError(
            f"{name!r} has class folders but no image in them. Read are the endings "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return ImageList(
        name=printable(name),
        source=sources[0] if len(sources) == 1 else JoinedSource(sources),
        labels=np.array(labels),
        splits=np.array(splits) if len(parts) > 1 else None,
        ignored=dict(+ignored),
    )


def _class_folders(part: _Part) -> list[str]:
    classes = part.tree.folders(part.at)
    if not classes:
        place = str(Path(part.tree.name) / part.at)
        raise ValueError(
            f"{place!r} has no class folders. Expected one folder for each class, such as "
            f"{str(Path(place) / 'cat')!r}, with that class's images in it."
        )
    return classes


def _image_files(files: Sequence[str], ignored: Counter[str]) -> list[str]:
    ignored.update(Path(file).suffix.lower() or "(none)" for file in files if not is_image(file))
    return [file for file in files if is_image(file)]


def _load_csv(file: Path, page: int | None) -> ImageList:
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
        name=printable(str(file)),
        source=FileSource(paths, page=page),
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
