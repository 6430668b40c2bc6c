"""Datasets: the forms in which people keep labelled images, each read into an image list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codes.data.images import ImageList
from codes.data.names import CODES_SCHEMES, SPLIT_NAMES, composed, refuse_unnamed_codes
from codes.data.readers.archives import ArchiveTree, is_archive
from codes.data.readers.csv_files import load_csv
from codes.data.readers.folders import FolderTree, Tree
from codes.data.readers.published_datasets import load_torchvision
from codes.data.readers.shards import load_shards, load_tables
from codes.data.sources import ArraySource, FileSource, ImageSource, JoinedSource, printable
from codes.decoding.decode import EXTENSIONS, is_image
from codes.wording import counted, some

_REPEATED = "followed by another file of the same name"
_NO_IMAGE = "folder without images"
_BESIDE = "beside the class folders"


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
        ``"wds:birds-*.tar"``, WebDataset shards; or ``"sklearn:digits"``. In folders, archives and
        shards, what is hidden or a system's own (``@eaDir``, ``__MACOSX``) is ignored, and so
        are folders without images.
    page : int, optional
        Which page of files with several (TIFF, GIF), from 1.
    min_classes : int, default=2
        Fewer are refused: there is nothing to classify. With 0, images of a CSV file, a table or
        shards need no label; it is empty then.

    Returns
    -------
    images : ImageList
        Labels in Unicode's form NFC: names that differ in form only are one class.

    Raises
    ------
    FileNotFoundError
        If the folder, the CSV file or an image that it names does not exist.
    ValueError
        If there is nothing to classify: no class folders, no images, too few classes; if these are
        codes (``npz:FILE`` and the like); or a CSV file is not as
        `codes.data.readers.csv_files.load_csv` reads it.

    Examples
    --------
    >>> digits = load_images("sklearn:digits")
    >>> len(digits), str(digits.labels[0]), digits.source.open(0).shape
    (1797, '0', (8, 8, 3))
    """
    _check_page(page)
    name = str(dataset)
    if not name:
        raise ValueError("The dataset's name is empty. Say . for the current folder.")
    if name.startswith(CODES_SCHEMES):
        raise ValueError(
            f"{name!r} is a file of codes, and images are needed here. Of codes, `cnn-codes "
            "compare` makes a report; in Python, pipelines.compare takes them too."
        )
    refuse_unnamed_codes(name)
    if name.startswith("sklearn:"):
        images = _load_sklearn(name)
    elif name.startswith("torchvision:"):
        images = load_torchvision(name.removeprefix("torchvision:"))
    elif name.startswith("wds:"):
        images = load_shards(name.removeprefix("wds:"), page, labelled=min_classes > 0)
    elif name.startswith("hf:"):
        images = load_tables(name.removeprefix("hf:"), page, labelled=min_classes > 0)
    elif not Path(name).is_dir() and not Path(name).is_file():
        raise FileNotFoundError(
            f"Dataset {name!r} does not exist, or is not a file. Allowed: a folder of class "
            "folders, a .zip or .tar of one, a CSV file with the columns path,label, "
            "torchvision:NAME, hf:NAME, wds:PATTERN, or sklearn:digits."
        )
    else:
        images = _load_path(Path(name), page, labelled=min_classes > 0)
    labels = np.array(list(map(composed, images.labels.tolist())), np.str_)
    images = replace(images, labels=labels, page=page)
    classes = np.unique(images.labels)
    if len(classes) < min_classes:
        raise ValueError(
            f"{name!r} has {counted(len(classes), 'class')} ({some(map(repr, classes.tolist()))}); "
            f"at least {min_classes} are needed. Put the images of each class in a folder of its "
            "own, or name their classes in a CSV file with the columns path,label."
        )
    return images


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
            _count_left_aside(tree, ignored)
            sources.append(tree.source(_image_files(tree.below(), ignored), page))
        else:
            sources.append(FileSource([path], page=page))
    source = JoinedSource(sources)
    if not source.names:
        raise ValueError(
            f"There is no image in {', '.join(map(str, paths)) or 'an empty list'}. Read are the "
            f"endings {', '.join(sorted(EXTENSIONS))}."
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


class _Part(NamedTuple):
    """A place whose folders are classes; `split` is empty where a dataset is not cut."""

    tree: Tree
    at: str = ""
    split: str = ""


def _load_path(path: Path, page: int | None, *, labelled: bool) -> ImageList:
    if path.is_dir():
        tree: Tree = FolderTree(path)
        return _load_parts(tree, _folder_parts(tree, path), page)
    if is_archive(path):
        tree = ArchiveTree(path)
        return _load_parts(tree, _cut(tree, {}), page)
    return load_csv(path, page, labelled=labelled)


def _folder_parts(tree: Tree, folder: Path) -> list[_Part]:
    packed = _splits_of(file for file in tree.files() if is_archive(folder / file))
    if len(packed | _splits_of(tree.folders())) < 2:
        packed = {}
    archives = [_Part(tree=ArchiveTree(folder / f), split=split) for f, split in packed.items()]
    return archives + _cut(tree, packed)


def _splits_of(names: Iterable[str]) -> dict[str, str]:
    """Find the names, of folders or archives, that are those of splits."""
    stems = {name: name.lower().removesuffix(Path(name.lower()).suffix) for name in names}
    return {name: SPLIT_NAMES[stem] for name, stem in stems.items() if stem in SPLIT_NAMES}


def _cut(tree: Tree, packed: dict[str, str]) -> list[_Part]:
    """Take a tree as splits, beside those that are packed, or as classes."""
    found = _splits_of(tree.folders())
    splits = packed | found
    if not packed and ("train" not in found.values() or len(found) < 2):
        if found:
            _refuse_splits_as_classes(tree, found)
        return [_Part(tree=tree)]
    others = [name for name in tree.folders() if name not in found]
    others = [name for name in others if any(map(is_image, tree.below(name)))]
    if others:
        raise ValueError(
            f"{tree.name!r} holds the splits {', '.join(splits)} beside other folders of images "
            f"({', '.join(others[:5])}). Give a folder with splits only or classes only."
        )
    return [_Part(tree=tree, at=name, split=split) for name, split in found.items()]


def _refuse_splits_as_classes(tree: Tree, found: Iterable[str]) -> None:
    """Refuse folders with the same folders in them, one of which has the name of a split."""
    inside = {name: {Path(at).name for at in tree.folders(name)} for name in tree.folders()}
    for split in found:
        alike = [
            name
            for name, classes in inside.items()
            if name != split and len(classes & inside[split]) >= max(2, len(inside[split]) / 2)
        ]
        if alike:
            raise ValueError(
                f"{tree.name!r} holds {split!r} and {', '.join(map(repr, alike[:5]))}, with the "
                f"same folders in them ({some(sorted(inside[split]), 3)}), which look like splits. "
                f"Splits are called {', '.join(SPLIT_NAMES)}, one of them train; if these folders "
                "are the classes, name them in a CSV file with the columns path,label."
            )


def _load_parts(root: Tree, parts: list[_Part], page: int | None) -> ImageList:
    sources: list[ImageSource] = []
    labels: list[str] = []
    splits: list[str] = []
    ignored: Counter[str] = Counter()
    for tree in {tree.name: tree for tree in (root, *(part.tree for part in parts))}.values():
        _count_left_aside(tree, ignored)
    if all(part.split for part in parts):
        ignored[_BESIDE] += sum(map(is_image, root.files()))
        ignored[_NO_IMAGE] += len(set(root.folders()) - {part.at for part in parts})
    for part in parts:
        ignored[_BESIDE] += sum(map(is_image, part.tree.files(part.at)))
        files: list[str] = []
        classes = part.tree.folders(part.at)
        if not classes:
            place = str(Path(part.tree.name) / part.at)
            loose = sum(map(is_image, part.tree.files(part.at)))
            but = f", but {counted(loose, 'image')}" if loose else ""
            raise ValueError(
                f"{place!r} has no class folders{but}. "
                "Expected one folder for each class, such as "
                f"{str(Path(place) / 'cat')!r}, with that class's images in it, or a CSV file with "
                "the columns path,label."
            )
        for folder in classes:
            found = _image_files(part.tree.below(folder), ignored)
            ignored[_NO_IMAGE] += not found
            files += found
            labels += [printable(Path(folder).name)] * len(found)
        splits += [part.split] * len(files)
        sources.append(part.tree.source(files, page))
    if not labels:
        raise ValueError(
            f"{root.name!r} has class folders but no image in them. Read are the endings "
            f"{', '.join(sorted(EXTENSIONS))}."
        )
    return ImageList(
        name=printable(root.name),
        source=sources[0] if len(sources) == 1 else JoinedSource(sources),
        labels=np.array(labels),
        splits=np.array(splits) if len(parts) > 1 else None,
        ignored=dict(+ignored),
    )


def _count_left_aside(tree: Tree, ignored: Counter[str]) -> None:
    ignored[_REPEATED] += len(tree.repeated)
    ignored.update(tree.hidden())


def _image_files(files: Sequence[str], ignored: Counter[str]) -> list[str]:
    ignored.update(Path(file).suffix.lower() or "(none)" for file in files if not is_image(file))
    return [file for file in files if is_image(file)]
