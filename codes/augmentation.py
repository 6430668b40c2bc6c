"""Augmentation: random views of an image, each the same whenever and wherever it is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from codes.preprocessing import Preprocessing
from codes.resizing import Image8, as_image, as_pixels, resize

AUGMENTATIONS = ("crop", "flip", "rotate", "color")
"""A random place of the crop, a mirrored image, up to 15 degrees, brightness and the like."""

ROOM = 8 / 7
"""Shorter side of the image over that of the crop, at least: 256 over 224."""
DEGREES = 15.0
JITTER = 0.2
"""Most that brightness, contrast and saturation change, as a share."""
MOST_ELONGATED = 4
"""Longer side over the shorter one; of longer images the middle is taken."""


def parse_augmentations(text: str) -> tuple[str, ...]:
    """Read which augmentations are meant.

    Parameters
    ----------
    text : str
        Of `AUGMENTATIONS`, joined by commas; or none.

    Raises
    ------
    ValueError
        If one is unknown.

    Examples
    --------
    >>> parse_augmentations("flip, crop"), parse_augmentations("none")
    (('crop', 'flip'), ())
    """
    parts = [] if text == "none" else [part.strip() for part in text.split(",")]
    unknown = [part for part in parts if part not in AUGMENTATIONS]
    if unknown:
        raise ValueError(
            f"augment={text!r}: {', '.join(unknown)} is unknown. Allowed: "
            f"{', '.join(AUGMENTATIONS)}, joined by commas, or none."
        )
    return tuple(name for name in AUGMENTATIONS if name in parts)


@dataclass(frozen=True, kw_only=True)
class AugmentedPreprocessing(Preprocessing):
    """Random views of an image, in the place of its centre.

    View *v* of an image depends on the seed, on the image's content and on *v* only: not on other
    images, their order, or the process that decodes it.

    Attributes
    ----------
    augment : tuple of str
        Of `AUGMENTATIONS`.
    random_state : int
    numbers : tuple of int
        Which views are made.

    Examples
    --------
    >>> views = AugmentedPreprocessing(augment=("crop", "flip"), numbers=(1, 2, 3))
    >>> views.crops(np.full((480, 640, 3), 255, np.uint8), b"content").shape
    torch.Size([3, 3, 224, 224])
    """

    augment: tuple[str, ...] = ("crop", "flip")
    random_state: int = 0
    numbers: tuple[int, ...] = (1,)

    @classmethod
    def of(cls, preprocessing: Preprocessing, augment: tuple[str, ...], random_state: int) -> Self:
        """Make random views by the steps of a preprocessing, in the place of its own views.

        Examples
        --------
        >>> AugmentedPreprocessing.of(Preprocessing(crop_size=56), ("flip",), 3).crop_size
        56
        """
        steps = {field.name: getattr(preprocessing, field.name) for field in fields(Preprocessing)}
        steps["views"] = "center"
        return cls(**steps, augment=augment, random_state=random_state)

    @property
    def n_views(self) -> int:
        """How many crops are made of an image."""
        return len(self.numbers)

    def fields(self) -> dict[str, Any]:
        """Return the steps as plain values; which views they are is no part of it."""
        fields = super().fields()
        del fields["numbers"]
        return fields

    @property
    def _side(self) -> int:
        return max(self.resize_size, math.ceil(ROOM * self.crop_size))

    def crops(self, image: Image8, digest: bytes = b"") -> Tensor:
        """Draw the views of an image.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), uint8, or PIL.Image.Image
            Red, green and blue.
        digest : bytes
            What the image is known by.

        Returns
        -------
        pixels : Tensor of shape (n_views, 3, crop_size, crop_size), uint8
            In channels-last memory.
        """
        pixels = as_pixels(image)
        short = min(pixels.shape[-2:])
        middle = F.center_crop(pixels, [min(n, MOST_ELONGATED * short) for n in pixels.shape[-2:]])
        height, width = self._resized(*middle.shape[-2:])
        resized = resize(middle, height, width, self.interpolation)
        whole = as_image(resized)
        seed = int.from_bytes(digest[:16], "big")
        views = [
            self._view(whole, np.random.default_rng([self.random_state, seed, number]))
            for number in self.numbers
        ]
        return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)

    def _view(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        # Every number is drawn in every view: one augmentation less changes no other.
        places, mirrored, angle, factors = (
            rng.random(2), rng.random() < 0.5, rng.uniform(-DEGREES, DEGREES),
            rng.uniform(1 - JITTER, 1 + JITTER, 3),
        )  # fmt: skip
        size = self.crop_size
        if "rotate" in self.augment:
            fill = [int(value) for value in np.asarray(image).mean((0, 1))]
            image = F.rotate(image, float(angle), InterpolationMode.BILINEAR, fill=fill)
        if "crop" in self.augment:
            down = int(places[0] * (image.height - size + 1))
            across = int(places[1] * (image.width - size + 1))
            image = F.crop(image, down, across, size, size)
        else:
            image = F.center_crop(image, [size])
        if "flip" in self.augment and mirrored:
            image = F.hflip(image)
        if "color" in self.augment:
            for adjust, factor in zip(
                (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True
            ):
                image = adjust(image, float(factor))
        return np.asarray(image)
