"""Preprocessing: an RGB image becomes the network's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

VIEWS = {"center": 1, "hflip": 2, "five-crop": 5, "ten-crop": 10}
"""Views of an image → how many crops they are."""

STRIP_PIXELS = 2**24
"""Of a resized image. A larger one is so long that hardly any of it is in the crop."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resize the shorter side, crop the centre, scale to [0, 1], normalise.

    The steps and defaults are torchvision's for image classification
    (``torchvision.transforms._presets.ImageClassification``), with plain values that can stand in
    a key.

    Attributes
    ----------
    resize_size : int
        Shorter side after resizing, in pixels.
    crop_size : int
        Side of the square cut from the centre, in pixels.
    mean, std : tuple of float
        Of each RGB channel, for values in [0, 1].
    interpolation : str
        ``"nearest"``, ``"bilinear"`` or ``"bicubic"``; images are resized with antialiasing.
    views : str
        What of an image is seen, its codes averaged: ``"center"``, ``"hflip"`` (and mirrored),
        ``"five-crop"`` (and the corners) or ``"ten-crop"`` (and those mirrored).

    Raises
    ------
    ValueError
        If the views are unknown, or corners are wanted of what is not larger than the crop.

    Examples
    --------
    >>> image = Image.new("RGB", (640, 480), "white")
    >>> pixels = Preprocessing().crop(image)
    >>> pixels.shape, pixels.dtype
    (torch.Size([3, 224, 224]), torch.uint8)
    >>> Preprocessing().normalize(pixels[None]).shape
    torch.Size([1, 3, 224, 224])
    """

    resize_size: int = 256
    crop_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    views: str = "center"

    def __post_init__(self) -> None:
        if self.views not in VIEWS:
            raise ValueError(f"views={self.views!r} is unknown. Allowed: {', '.join(VIEWS)}.")
        if "crop" in self.views and self.resize_size < self.crop_size:
            raise ValueError(
                f"views={self.views!r} cuts corners of {self.crop_size} pixels out of images whose "
                f"shorter side is {self.resize_size}. Use views center or hflip."
            )

    @property
    def n_views(self) -> int:
        """How many crops are made of an image."""
        return VIEWS[self.views]

    @classmethod
    def from_torchvision(cls, preset: object) -> Preprocessing:
        """Read the preset that belongs to torchvision weights.

        Parameters
        ----------
        preset : torchvision.transforms._presets.ImageClassification

        Returns
        -------
        preprocessing : Preprocessing

        Raises
        ------
        ValueError
            If the preset is of another kind.
        """
        try:
            sides: list[Sequence[int]] = [preset.resize_size, preset.crop_size]  # type: ignore[attr-defined]
            return cls(
                resize_size=int(sides[0][0]),
                crop_size=int(sides[1][0]),
                mean=tuple(preset.mean),  # type: ignore[attr-defined]
                std=tuple(preset.std),  # type: ignore[attr-defined]
                interpolation=preset.interpolation.value,  # type: ignore[attr-defined]
            )
        except (AttributeError, IndexError, TypeError) as error:
            raise ValueError(
                f"The transforms {type(preset).__name__} are not torchvision's "
                "ImageClassification; give a codes.Preprocessing instead."
            ) from error

    def at_size(self, image_size: int) -> Preprocessing:
        """Return the same steps for another input size, resizing in proportion.

        Parameters
        ----------
        image_size : int
            Side of the network's input, in pixels, at least 1.

        Returns
        -------
        preprocessing : Preprocessing

        Raises
        ------
        ValueError
            If the size is not positive.
        """
        if image_size < 1:
            raise ValueError(f"image_size={image_size} is not a size; allowed: 1 or more pixels.")
        resize_size = round(image_size * self.resize_size / self.crop_size)
        return replace(self, resize_size=resize_size, crop_size=image_size)

    def crops(self, image: Image.Image) -> Tensor:
        """Resize an image and crop its views.

        Parameters
        ----------
        image : PIL.Image.Image
            Mode ``"RGB"``.

        Returns
        -------
        pixels : Tensor of shape (n_views, 3, crop_size, crop_size), uint8
            In channels-last memory; the centre first, those of the mirrored image last.
        """
        short, long = sorted(image.size)
        height = self.resize_size
        length = int(height * long / short)
        cut: Callable[[Image.Image], list[Image.Image]] = self._of_resized
        if height * length > STRIP_PIXELS:
            upright = image.height > image.width
            size = (height, length) if upright else (length, height)
            seen, cut = image, partial(self._of_strip, size=size)
        else:
            seen = self._resized(image)
        sides = [seen, F.hflip(seen)] if self.views in ("hflip", "ten-crop") else [seen]
        windows = [window for side in sides for window in cut(side)]
        values = [torch.from_numpy(np.array(window)) for window in windows]
        return torch.stack(values).permute(0, 3, 1, 2)

    def crop(self, image: Image.Image) -> Tensor:
        """Resize an image and crop its centre.

        Parameters
        ----------
        image : PIL.Image.Image
            Mode ``"RGB"``.

        Returns
        -------
        pixels : Tensor of shape (3, crop_size, crop_size), uint8
            In channels-last memory.
        """
        pixels: Tensor = replace(self, views="center").crops(image)[0]
        return pixels

    def _of_resized(self, resized: Image.Image) -> list[Image.Image]:
        size = [self.crop_size]
        corners = F.five_crop(resized, size)[:4] if "crop" in self.views else ()
        return [F.center_crop(resized, size), *corners]

    def _of_strip(self, image: Image.Image, size: tuple[int, int]) -> list[Image.Image]:
        """Resize no more of a strip than its windows; up to rounding, as if it were resized."""
        scale_x, scale_y = image.width / size[0], image.height / size[1]
        width, height = (min(self.crop_size, side) for side in size)
        right, bottom = size[0] - width, size[1] - height
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
        places = [(round(right / 2), round(bottom / 2)), *corners[: 4 * ("crop" in self.views)]]
        windows = []
        for x, y in places:
            box = (x * scale_x, y * scale_y, (x + width) * scale_x, (y + height) * scale_y)
            inside = (*box[:2], min(box[2], image.width), min(box[3], image.height))
            window = image.resize((width, height), RESAMPLING[self.interpolation], box=inside)
            windows.append(F.center_crop(window, [self.crop_size]))
        return windows

    def _resized(self, image: Image.Image) -> Image.Image:
        mode = InterpolationMode(self.interpolation)
        size = [self.resize_size]
        resized: Image.Image = F.resize(image, size, interpolation=mode, antialias=True)
        return resized

    def normalize(self, pixels: Tensor) -> Tensor:
        """Scale to [0, 1] and normalise, on the device where the pixels are.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, height, width), uint8

        Returns
        -------
        images : Tensor of shape (n, 3, height, width), float32
            In channels-last memory, the very values that torchvision's own steps give.
        """
        n, _, height, width = pixels.shape
        # Rows of interleaved channels: six times as fast as channel by channel.
        rows = pixels.permute(0, 2, 3, 1).reshape(n, -1).to(torch.float32)
        mean, std = (
            torch.tensor(values, device=rows.device).repeat(height * width)
            for values in (self.mean, self.std)
        )
        rows = rows.div_(255).sub_(mean).div_(std)
        return rows.view(n, height, width, 3).permute(0, 3, 1, 2)
