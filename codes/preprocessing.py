"""Preprocessing: an RGB image becomes the network's input."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import functional as F

from codes.decoding.decode import Decoding
from codes.decoding.intensity import DATASET, IMAGE, parse_intensity
from codes.resizing import RESAMPLING, Image8, as_image, as_pixels, join, resize, shorter_side

VIEWS = {"center": 1, "hflip": 2, "five-crop": 5, "ten-crop": 10}
"""Views of an image → how many crops they are."""

STRIP_PIXELS = 2**24
"""Of a resized image. A larger one is so long that hardly any of it is in the crop."""

DECODINGS = ("scaled", "full")
"""Sizes that photographs are decoded at."""

ENOUGH = 2.5
"""Shorter side of a photograph decoded at less than its size, at least, over that which it is
resized to: what is missing are frequencies that resizing removes. Crops of photographs differ by up
to 0.4 of 255 levels on average, those of black and white stripes of a few pixels by up to 6."""

_CAFFE = (123.68 / 255, 116.779 / 255, 103.939 / 255)
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "channels": "RGB"},
    "none": {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": "RGB"},
    "half": {"mean": (0.5,) * 3, "std": (0.5,) * 3, "channels": "RGB"},
    "caffe": {"mean": _CAFFE, "std": (1 / 255,) * 3, "channels": "BGR"},
    "caffe-rgb": {"mean": _CAFFE, "std": (1 / 255,) * 3, "channels": "RGB"},
}
"""Normalisations in use, by name: torchvision's, values in [0, 1], values in [-1, 1], and 0 to 255
less the means of ImageNet with the channels in Caffe's order or in the usual one."""


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
        Of red, green and blue, for values in [0, 1]; a deviation is positive.
    interpolation : str
        ``"nearest"``, ``"bilinear"`` or ``"bicubic"``; images are resized with antialiasing.
    views : str
        What of an image is seen, its codes averaged: ``"center"``, ``"hflip"`` (and mirrored),
        ``"five-crop"`` (and the corners) or ``"ten-crop"`` (and those mirrored).
    channels : str
        Their order in the network's input: ``"RGB"`` or ``"BGR"``.
    decode : str
        ``"scaled"``: JPEG files are decoded at 1/2 or 1/4 of their size where the shorter side
        still is at least 2.5 times `resize_size`; or ``"full"``.
    squash : bool
        Whether both sides are resized to `resize_size`, so that proportions are not kept.
    intensity : str
        What the values of images of more than 8 bits are scaled by: ``"image"``, their own range;
        ``"dtype"``, that of their type; or ``"LOW:HIGH"``, outside of which they are clipped.

    Raises
    ------
    ValueError
        If the views, channels, decoding or intensity are unknown, corners are wanted of what is not
        larger than the crop, or means and deviations are not three numbers each, the latter
        positive.

    Examples
    --------
    >>> import numpy as np
    >>> pixels = Preprocessing().crop(np.full((480, 640, 3), 255, np.uint8))
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
    channels: str = "RGB"
    decode: str = "scaled"
    squash: bool = False
    intensity: str = IMAGE

    def __post_init__(self) -> None:
        object.__setattr__(self, "intensity", parse_intensity(self.intensity))
        if self.intensity == DATASET:
            raise ValueError(
                f"intensity={DATASET!r} is a range that is still to be found. Allowed here: image, "
                "dtype or LOW:HIGH; pipelines.compare and pipelines.extract find it."
            )
        if self.decode not in DECODINGS:
            raise ValueError(f"decode={self.decode!r} is unknown. Allowed: {', '.join(DECODINGS)}.")
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"channels={self.channels!r} is unknown. Allowed: RGB, BGR.")
        if not len(self.mean) == len(self.std) == 3:
            raise ValueError(
                f"mean={self.mean} and std={self.std}: allowed are 3 numbers each, for red, green "
                "and blue."
            )
        if not all(
            math.isfinite(m) and math.isfinite(s) and s > 0
            for m, s in zip(self.mean, self.std, strict=True)
        ):
            raise ValueError(
                f"mean={self.mean} and std={self.std}: allowed are finite numbers, and every "
                "standard deviation above 0."
            )
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

    @property
    def decoding(self) -> Decoding:
        """How files are decoded: what size a photograph must have left, and by which range."""
        enough = None if self.decode == "full" else math.ceil(ENOUGH * self._side)
        return Decoding(enough=enough, intensity=self.intensity)

    @property
    def _side(self) -> int:
        """What the shorter side of an image is resized to."""
        return self.resize_size

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Give the height and width that an image is resized to."""
        if self.squash:
            return self._side, self._side
        return shorter_side(self._side, height, width)

    def fields(self) -> dict[str, Any]:
        """Return the steps as plain values, as they stand in the key of the codes.

        Returns
        -------
        fields : dict
            Without the order of the channels, the range of intensities and the proportions where
            these are the usual ones, as in keys made before there were others.
        """
        fields = asdict(self)
        for name, usual in (("channels", "RGB"), ("intensity", IMAGE), ("squash", False)):
            if fields[name] == usual:
                del fields[name]
        return fields

    def normalized(self, how: str) -> Preprocessing:
        """Return the same steps with another normalisation.

        Parameters
        ----------
        how : str
            A name among `NORMALIZATIONS`, or ``"MEAN:STD"``: one number each, or three of red,
            green and blue joined by commas, for values in [0, 1]; with ``":BGR"`` behind it where
            the network takes blue first.

        Returns
        -------
        preprocessing : Preprocessing

        Raises
        ------
        ValueError
            If the name is unknown, or these are not numbers that can normalise.

        Examples
        --------
        >>> Preprocessing().normalized("0.5:0.2,0.25,0.2").std
        (0.2, 0.25, 0.2)
        """
        if how in NORMALIZATIONS:
            return replace(self, **NORMALIZATIONS[how])
        try:
            numbers, channels = how.removesuffix(":BGR"), "BGR" if how.endswith(":BGR") else "RGB"
            mean, std = (tuple(map(float, part.split(","))) for part in numbers.split(":"))
        except ValueError:
            raise ValueError(
                f"The normalisation {how!r} is unknown. Allowed: {', '.join(NORMALIZATIONS)}, or "
                "MEAN:STD or MEAN:STD:BGR, such as 0.5:0.25 or 0.5,0.5,0.5:0.2,0.2,0.2."
            ) from None
        three = [part * 3 if len(part) == 1 else part for part in (mean, std)]
        try:
            return replace(self, mean=three[0], std=three[1], channels=channels)
        except ValueError as error:
            raise ValueError(f"The normalisation {how!r} is not valid: {error}") from None

    @property
    def normalization(self) -> str:
        """How values are normalised, as `normalized` takes it."""
        own = {"mean": tuple(self.mean), "std": tuple(self.std), "channels": self.channels}
        for name, steps in NORMALIZATIONS.items():
            if own == steps:
                return name
        mean, std = (
            ",".join(f"{value:.6g}" for value in (values if len(set(values)) > 1 else values[:1]))
            for values in (self.mean, self.std)
        )
        return f"{mean}:{std}" + (":BGR" if self.channels == "BGR" else "")

    @classmethod
    def from_torchvision(cls, preset: Any) -> Preprocessing:
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
            return cls(
                resize_size=int(preset.resize_size[0]),
                crop_size=int(preset.crop_size[0]),
                mean=tuple(preset.mean),
                std=tuple(preset.std),
                interpolation=preset.interpolation.value,
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

    def crops(self, image: Image8, digest: bytes = b"") -> Tensor:
        """Resize an image and crop its views.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), uint8, or PIL.Image.Image
            Red, green and blue.
        digest : bytes, default=b""
            What the image is known by, for views that are drawn by chance; these are not.

        Returns
        -------
        pixels : Tensor of shape (n_views, 3, crop_size, crop_size), uint8
            Channels last, as a view of the image's memory where that can be; the centre first,
            those of the mirrored image last.
        """
        seen = as_pixels(image)
        height, width = self._resized(*seen.shape[-2:])
        cut: Callable[[Tensor], list[Tensor]] = self._of_resized
        if height * width > STRIP_PIXELS:
            cut = partial(self._of_strip, height=height, width=width)
        else:
            seen = resize(seen, height, width, self.interpolation)
        sides = [seen, seen.flip(-1)] if self.views in ("hflip", "ten-crop") else [seen]
        return join([window for side in sides for window in cut(side)])

    def crop(self, image: Image8) -> Tensor:
        """Resize an image and crop its centre.

        Parameters
        ----------
        image : ndarray of shape (height, width, 3), uint8, or PIL.Image.Image
            Red, green and blue.

        Returns
        -------
        pixels : Tensor of shape (3, crop_size, crop_size), uint8
            In channels-last memory.
        """
        pixels: Tensor = replace(self, views="center").crops(image)[0]
        return pixels

    def _of_resized(self, resized: Tensor) -> list[Tensor]:
        size = [self.crop_size]
        if resized.shape[-2:] == (self.crop_size, self.crop_size) and self.n_views == 1:
            return [resized]
        corners = F.five_crop(resized, size)[:4] if "crop" in self.views else ()
        return [F.center_crop(resized, size), *corners]

    def _of_strip(self, pixels: Tensor, height: int, width: int) -> list[Tensor]:
        """Resize no more of a strip than its windows; up to rounding, as if it were resized."""
        image = as_image(pixels)
        scale_x, scale_y = image.width / width, image.height / height
        down, across = (min(self.crop_size, side) for side in (height, width))
        right, bottom = width - across, height - down
        corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
        places = [(round(right / 2), round(bottom / 2)), *corners[: 4 * ("crop" in self.views)]]
        how = RESAMPLING[self.interpolation]
        windows = []
        for x, y in places:
            box = (x * scale_x, y * scale_y, (x + across) * scale_x, (y + down) * scale_y)
            inside = (*box[:2], min(box[2], image.width), min(box[3], image.height))
            window = as_pixels(image.resize((across, down), how, box=inside))
            windows.append(F.center_crop(window, [self.crop_size]))
        return windows

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
        order = [0, 1, 2] if self.channels == "RGB" else [2, 1, 0]
        if self.channels == "BGR":
            pixels = pixels.flip(1)
        rows = pixels.permute(0, 2, 3, 1).reshape(n, -1).to(torch.float32)
        mean, std = (
            torch.tensor([values[i] for i in order], device=rows.device).repeat(height * width)
            for values in (self.mean, self.std)
        )
        rows = rows.div_(255).sub_(mean).div_(std)
        return rows.view(n, height, width, 3).permute(0, 3, 1, 2)
