"""Shards and tables: datasets as WebDataset and Hugging Face keep them."""

from __future__ import annotations

import glob
import io
import os
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from codes.data.images import ImageList
from codes.data.names import SPLIT_NAMES, is_hidden
from codes.data.readers.archives import ArchiveTree
from codes.data.sources import EncodedSource, ImageSource, JoinedSource
from codes.decoding.decode import UnreadableImageError, is_image
from codes.wording import counted


def load_shards(pattern: str, page: int | None = None, *, labelled: bool = True) -> ImageList:
    """List the images of WebDataset shards: of each sample an image and its ``.cls``.

    Parameters
    ----------
    pattern : str
        Tar files, such as ``"birds-*.tar"``.
    page, labelled
        As for `codes.data.readers.csv_files.load_csv`.

    Returns
    -------
    images : ImageList
        Labels as they stand in the ``.cls`` files; empty without one.

    Raises
    ------
    FileNotFoundError
        If no file is of this pattern.
    ValueError
        If a shard cannot be read, or a sample has no label and needs one.
    """
    pattern_parts = Path(pattern).parts
    shards = [
        shard
        for shard in sorted(glob.glob(os.path.expanduser(pattern)))
        if not any(is_hidden(p) for p in Path(shard).parts if p not in pattern_parts)
    ]
    if not shards:
        raise FileNotFoundError(
            f"No file is of the pattern {pattern!r}. Give tar files, such as 'wds:birds-*.tar' in "
            "quotes, with the signs *, ? and [0-9] of a shell; braces are not read."
        )
    sources: list[ImageSource] = []
    labels: list[str] = []
    ignored: Counter[str] = Counter()
    for shard in shards:
        tree = ArchiveTree(Path(shard))
        files = tree.below()
        ignored.update(tree.hidden())
        label_of = {_sample(file): file for file in files if file.endswith(".cls")}
        found = [file for file in files if is_image(file)]
        keys = Counter(map(_sample, found))
        several = [*tree.repeated, *(key for key, n in keys.items() if n > 1)]
        if several:
            raise ValueError(
                f"{counted(len(several), 'sample')} of {shard!r} with several images or labels, "
                f"such as {several[0]!r}. A sample is one image and its .cls, of the same name up "
                "to the first dot; pack them again, without masks and under names of their own."
            )
        ignored[".cls without an image"] += len(label_of.keys() - keys.keys())
        without = [file for file in found if _sample(file) not in label_of]
        if without and labelled:
            raise ValueError(
                f"{counted(len(without), 'image')} of {shard!r} without a .cls beside it, such as "
                f"{without[0]!r}. A sample's files share their name up to the first dot."
            )
        ignored.update(
            PurePosixPath(file).suffix
            for file in files
            if not is_image(file) and file[-4:] != ".cls"
        )
        told = [label_of[_sample(file)] for file in found if _sample(file) in label_of]
        texts = dict(zip(told, tree.read(told), strict=True))
        words = [
            texts.get(label_of.get(_sample(file), ""), b"").decode("utf-8").strip()
            for file in found
        ]
        if "" in words and labelled:
            empty = label_of[_sample(found[words.index("")])]
            raise ValueError(f"{empty!r} of {shard!r} is empty, and must hold the sample's label.")
        labels += words
        sources.append(tree.source(found, page))
    return ImageList(
        name=f"wds:{pattern}",
        source=JoinedSource(sources),
        labels=np.array(labels),
        ignored=dict(+ignored),
    )


def _sample(file: str) -> str:
    """Give what the files of a sample share: folders, and the name up to its first dot."""
    path = PurePosixPath(file)
    return str(path.with_name(path.name.partition(".")[0]))


class TableSource(EncodedSource):
    """Images in a column of a Hugging Face dataset; known by the SHA-256 of their files.

    The column of the `datasets.Dataset` is not decoded; `name` begins the images' names.
    """

    def __init__(self, table: Any, column: str, *, name: str, page: int | None) -> None:
        super().__init__([f"{name}:{index}" for index in range(len(table))], page=page)
        self._table, self._column = table, column

    def opened(self, index: int) -> BinaryIO:
        """Open the file of an image, in the table or beside it."""
        kept = self._table[index][self._column] or {"bytes": None, "path": None}
        if kept["bytes"] is not None:
            return io.BytesIO(kept["bytes"])
        if kept["path"] is None:
            raise UnreadableImageError("the table has no image there")
        try:
            return open(kept["path"], "rb")
        except OSError as error:
            raise UnreadableImageError(str(error)) from error


def load_tables(name: str, page: int | None = None, *, labelled: bool = True) -> ImageList:
    """List the images of a Hugging Face dataset, downloaded by ``datasets``.

    Parameters
    ----------
    name : str
        As for ``datasets.load_dataset``, or a folder of ``save_to_disk``.
    page, labelled
        As for `codes.data.readers.csv_files.load_csv`.

    Returns
    -------
    images : ImageList
        Where there is no label (-1, as hidden ones are kept, or nothing), it is empty.

    Raises
    ------
    OSError
        If it is neither there nor to be downloaded.
    ValueError
        If it has no column of images, or of class labels where these are needed; if one of these
        is missing; or without the package ``datasets``.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"hf:{name} needs the package datasets: pip install 'cnn-codes[huggingface]'."
        ) from error
    try:
        on_disk = Path(name).is_dir()
        found = datasets.load_from_disk(name) if on_disk else datasets.load_dataset(name)
    except Exception as error:  # Whatever datasets, its hub and its readers raise.
        raise OSError(f"hf:{name} cannot be loaded: {error}") from error
    tables = dict(found) if isinstance(found, dict) else {"": found}
    known = {split: SPLIT_NAMES[split] for split in tables if split in SPLIT_NAMES}
    if len(known) < 2:
        known = dict.fromkeys(tables, "")
    sources: list[ImageSource] = []
    labels: list[str] = []
    splits: list[str] = []
    for split, ours in known.items():
        image, label = _columns(name, tables[split].features, labelled=labelled)
        table = tables[split].cast_column(image, datasets.Image(decode=False))
        title = f"hf:{name}/{split}".rstrip("/")
        sources.append(TableSource(table, image, name=title, page=page))
        own = [""] * len(table) if label is None else _words(table.features[label], table[label])
        if "" in own and labelled:
            raise ValueError(
                f"{own.count(''):,} of {counted(len(own), 'image')} of {title} without a label, "
                f"the first in row {own.index('')}. Leave them out, or label them."
            )
        labels += own
        splits += [ours] * len(table)
    return ImageList(
        name=f"hf:{name}",
        source=JoinedSource(sources),
        labels=np.array(labels),
        splits=np.array(splits) if any(splits) else None,
        ignored={f"split {s!r}": len(tables[s]) for s in tables if s not in known},
    )


def _words(feature: Any, values: Any) -> list[str]:
    """Read labels; a number below zero stands for one that is not told."""
    names = getattr(feature, "names", None)
    if names is None:
        return ["" if value is None else str(value) for value in values]
    return ["" if value is None or value < 0 else names[value] for value in values]


def _columns(name: str, features: Any, *, labelled: bool) -> tuple[str, str | None]:
    """Find the column of images, and that of labels."""
    kinds = {column: type(feature).__name__ for column, feature in features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    classes = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    classes = classes or [column for column in ("label", "labels") if column in kinds]
    if len(images) != 1 or not labelled <= len(classes) <= 1:
        raise ValueError(
            f"hf:{name} has the columns {', '.join(f'{c} ({k})' for c, k in kinds.items())}. "
            "Needed: one of images, and one of class labels."
        )
    return images[0], next(iter(classes), None)
