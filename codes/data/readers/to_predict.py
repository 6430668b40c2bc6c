"""Images to predict: files, folders and archives, with labels where these can be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from codes.data.images import ImageList
from codes.data.names import CODES_SCHEMES
from codes.data.readers.archives import is_archive
from codes.data.readers.datasets import list_images, load_images
from codes.data.sources import JoinedSource, printable

_NAMED = ("sklearn:", "torchvision:", "hf:", "wds:", *CODES_SCHEMES)


def list_to_predict(places: Sequence[str], *, page: int | None = None) -> ImageList:
    """List images to predict, with their labels where these can be seen.

    Parameters
    ----------
    places : sequence of str
        Image files; folders and archives, of which every image is listed; and what
        `codes.load_images` takes otherwise: a CSV file, ``torchvision:NAME`` and the like.
    page : int, optional
        As for `codes.load_images`.

    Returns
    -------
    images : ImageList
        The label of an image that has none is empty; others may be no class of a pipeline.

    Raises
    ------
    FileNotFoundError, ValueError
        As `codes.load_images` and `codes.data.readers.datasets.list_images`.
    """
    lists = [_list_place(place, page) for place in places]
    if len(lists) == 1:
        return lists[0]
    ignored: Counter[str] = Counter()
    for images in lists:
        ignored.update(images.ignored)
    return ImageList(
        name=printable(", ".join(places)),
        source=JoinedSource([images.source for images in lists]),
        labels=np.concatenate([images.labels for images in lists]),
        ignored=dict(ignored),
        page=page,
    )


def _list_place(place: str, page: int | None) -> ImageList:
    path = Path(place)
    named = not path.exists() and place.startswith(_NAMED)
    if named or (path.is_file() and path.suffix.lower() == ".csv"):
        return load_images(place, page=page, min_classes=0)
    if not path.is_dir() and not (path.is_file() and is_archive(path)):
        return list_images([place], page=page)
    try:
        labelled = load_images(place, page=page, min_classes=0)
    except ValueError:  # There are no class folders, or there are splits and more.
        images = list_images([place], page=page)
        return replace(images, labels=np.array([_folder(n, path) for n in images.source.names]))
    try:
        images = list_images([place], page=page)
    except ValueError:  # The images are in a train.zip and a test.zip there.
        return labelled
    label_of = dict(zip(labelled.source.names, labelled.labels.tolist(), strict=True))
    labels = [label_of.get(name, "") for name in images.source.names]
    return replace(images, labels=np.array(labels))


def _folder(name: str, place: Path) -> str:
    """Give the first folder below a place that an image is in; nothing where it is right there."""
    parts = Path(name).parts[len(place.parts) :]
    return parts[0] if len(parts) > 1 else ""
