"""Published datasets: torchvision's, downloaded by torchvision."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets
from torchvision.datasets.vision import VisionDataset

from codes.data.images import ImageList
from codes.data.sources import DigestMemory, JoinedSource, no_digest
from codes.decoding.colors import as_wide, to_rgb
from codes.decoding.decode import (
    WHOLE,
    Decoding,
    Pixels,
    UnreadableImageError,
)
from codes.decoding.intensity import WideImage

# What torchvision's datasets call their splits, in the order in which they are tried.
_SPLITS = {"train": ("train", "trainval"), "validation": ("val", "valid"), "test": ("test",)}


class DatasetSource:
    """Images of a torchvision dataset, whose items are pairs of a PIL image and a label.

    They are known by the SHA-256 of their pixels; `name` begins their names.
    """

    def __init__(self, dataset: VisionDataset, *, name: str) -> None:
        self._dataset = dataset
        self.names = [f"{name}:{index}" for index in range(len(dataset))]

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of an image's mode, size and pixels."""
        try:
            image = self._image(index)
        except UnreadableImageError:
            return no_digest()
        return hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes()).digest()

    def holds(self, index: int, digest: bytes) -> bool:
        """Read the image again, and tell whether it is the same."""
        return self.digest(index) == digest

    def open(self, index: int, decoding: Decoding = WHOLE) -> Pixels:
        """Decode an image."""
        image = self._image(index)
        try:
            return np.array(to_rgb(image, decoding.intensity))
        except ValueError as error:  # Of values that no range fits.
            raise UnreadableImageError(str(error)) from error

    def open_wide(self, index: int) -> WideImage | None:
        """Take an image of more than 8 bits a channel."""
        return as_wide(self._image(index))

    def _image(self, index: int) -> Image.Image:
        try:
            image = self._dataset[index][0]
            image.load()
        except Exception as error:  # Whatever the dataset's own reader raises.
            raise UnreadableImageError(str(error) or type(error).__name__) from error
        found: Image.Image = image
        return found


def load_torchvision(name: str) -> ImageList:
    """List the images of one of torchvision's datasets, downloading it if it is not there.

    It lies in ``CNN_CODES_DATA``, otherwise in the user's cache folder.

    Parameters
    ----------
    name : str
        Such as ``"CIFAR10"``: a class of `torchvision.datasets` for image classification.

    Raises
    ------
    ValueError
        If there is no such dataset, or it is no classification of images.
    OSError
        If it is not there and cannot be downloaded, or there is no folder for it.

    Examples
    --------
    >>> images = load_torchvision("FakeData")  # noise, for tests
    >>> len(images), images.source.open(0).shape
    (1000, (224, 224, 3))
    """
    made = getattr(datasets, name, None)
    if not (inspect.isclass(made) and issubclass(made, VisionDataset)):
        raise ValueError(
            f"torchvision has no dataset {name!r}. Allowed are its datasets for image "
            "classification, such as CIFAR10, Flowers102, EuroSAT, DTD, OxfordIIITPet."
        )
    takes = _takes(made)
    if takes is None:
        raise ValueError(
            f"torchvision:{name} needs arguments of its own, or is not a classification of images. "
            "Save its images in class folders."
        )
    folder = os.environ.get("CNN_CODES_DATA") or _user_folder()
    own: dict[str, Any] = {"root": Path(folder) / name} if "root" in takes else {}
    own |= {"download": True} if "download" in takes else {}
    parts = _parts(made, takes, own, name)
    sources = [DatasetSource(p, name=f"torchvision:{name}/{split}") for split, p in parts.items()]
    return ImageList(
        name=f"torchvision:{name}",
        source=JoinedSource(sources),
        labels=np.concatenate([_labels(part) for part in parts.values()]),
        splits=np.repeat(list(parts), [len(part) for part in parts.values()])
        if len(parts) > 1
        else None,
        ignored={},
    )


def _user_folder() -> Path:
    try:
        return platformdirs.user_cache_path("cnn-codes").expanduser() / "data"
    except RuntimeError as error:
        raise OSError(
            "The user's cache folder, where datasets are kept, is not known: HOME is not set, and "
            "the system does not know this user. Name a folder with CNN_CODES_DATA, or set HOME."
        ) from error


def _takes(made: Any) -> Sequence[str] | None:
    """Name the arguments of a dataset; none where it asks for more than we know to give."""
    parameters = inspect.signature(made).parameters
    needed = {
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD
    }
    known = needed <= {"root"} and made not in (datasets.ImageFolder, datasets.DatasetFolder)
    return list(parameters) if known else None


def _parts(made: Any, takes: Sequence[str], own: dict[str, Any], name: str) -> dict[str, Any]:
    if "root" in own:
        own["root"].mkdir(parents=True, exist_ok=True)
    try:
        if "train" in takes:
            return {s: made(**own, train=s == "train") for s in ("train", "test")}
        if "split" not in takes:
            return {"": made(**own)}
        parts = {}
        for split, names in _SPLITS.items():
            for theirs in names:
                try:
                    parts[split] = made(**own, split=theirs)
                    break
                except ValueError:  # It has no such split.
                    continue
        return parts
    except Exception as error:  # URLError, RuntimeError, … of each dataset's own downloading.
        raise OSError(
            f"torchvision:{name} is not in {str(own.get('root'))!r} and could not be downloaded: "
            f"{error} Download it where there is a network, with torchvision.datasets.{name}"
            "(root, download=True), and copy that folder there; or set CNN_CODES_DATA."
        ) from error


def _labels(dataset: Any) -> NDArray[np.str_]:
    """Name the class of each image."""
    for attribute in ("targets", "labels", "_labels", "y"):
        numbers = getattr(dataset, attribute, None)
        if numbers is not None and len(numbers) == len(dataset):
            break
    else:
        numbers = [dataset[index][1] for index in range(len(dataset))]
    numbers = np.asarray(numbers)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuUS":
        raise ValueError(
            f"torchvision:{type(dataset).__name__} has no single label an image; only "
            "classification is done here."
        )
    classes = getattr(dataset, "classes", None)
    if numbers.dtype.kind in "iu" and classes is not None and numbers.max() < len(classes):
        return np.array([str(classes[number]) for number in numbers])
    return numbers.astype(str)
