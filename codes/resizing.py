"""Resizing: RGB images as tensors in channels-last memory, resized with antialiasing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

Image8 = NDArray[np.uint8] | Image.Image
"""An RGB image: an array of shape (height, width, 3), uint8, or one of Pillow's."""


def as_pixels(image: Image8) -> Tensor:
    """Make a tensor of shape (1, 3, height, width) of an RGB image; its memory, if it can be."""
    pixels = torch.from_numpy(np.require(image, np.uint8, ["C", "W"]))
    return pixels[None].permute(0, 3, 1, 2)


def join(images: Sequence[Tensor]) -> Tensor:
    """Join images of shape (n, 3, height, width) as they lie in memory, channels last."""
    if len(images) == 1:
        return images[0]
    return torch.cat([image.permute(0, 2, 3, 1) for image in images]).permute(0, 3, 1, 2)


def as_image(pixels: Tensor) -> Image.Image:
    """Make an image of Pillow's of a tensor of shape (1, 3, height, width)."""
    return Image.fromarray(pixels[0].permute(1, 2, 0).numpy())


def shorter_side(size: int, height: int, width: int) -> tuple[int, int]:
    """Give the height and width of an image whose shorter side is resized to a size.

    Examples
    --------
    >>> shorter_side(256, 480, 640)
    (256, 341)
    """
    longer = int(size * max(height, width) / min(height, width))  # As torchvision rounds it.
    return (size, longer) if height <= width else (longer, size)


def resize(pixels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize an image with antialiasing: what Pillow gives, up to one or two levels of 255.

    Parameters
    ----------
    pixels : Tensor of shape (1, 3, height, width), uint8
        In channels-last memory: others are several times as slow.
    height, width : int
    interpolation : {"nearest", "bilinear", "bicubic"}

    Returns
    -------
    pixels : Tensor of shape (1, 3, height, width), uint8
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    if interpolation == "nearest":  # PyTorch rounds halves in another way.
        return as_pixels(as_image(pixels).resize((width, height), RESAMPLING[interpolation]))
    return interpolate(pixels, (height, width), mode=interpolation, antialias=True)
