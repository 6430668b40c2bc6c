"""Intensity: how the values of an image of more than 8 bits a channel become 0 to 255.

By the image's own range, by that of its type, or by one range for many images; what an image of 8
bits holds is of one range already, and is left as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

IMAGE, DTYPE, DATASET = "image", "dtype", "dataset"
"""Ranges that are known by a word: the image's own; its type's; and one that is still to be found,
on the images of a dataset. Others are two numbers, LOW:HIGH."""

ALLOWED = f"{IMAGE}, {DATASET}, {DTYPE}, or LOW:HIGH, two numbers such as 0:4095"


def parse_intensity(text: str) -> str:
    """Read which range is meant.

    Parameters
    ----------
    text : str
        ``"image"``, ``"dataset"``, ``"dtype"``, or ``"LOW:HIGH"``.

    Returns
    -------
    intensity : str
        The same; of one range, there is one way to write it.

    Raises
    ------
    ValueError
        If the word is unknown, or the numbers are not finite, or the first not below the second.

    Examples
    --------
    >>> parse_intensity("dtype"), parse_intensity("0.0:4.095e3"), parse_intensity("-0.5:1")
    ('dtype', '0:4095', '-0.5:1')
    """
    if text in (IMAGE, DTYPE, DATASET):
        return text
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise ValueError(f"intensity={text!r} is unknown. Allowed: {ALLOWED}.") from None
    if not low < high or not math.isfinite(high - low):
        raise ValueError(
            f"intensity={text!r} is not a range: LOW and HIGH are finite numbers, and LOW is below "
            f"HIGH. Allowed: {ALLOWED}."
        )
    return f"{_written(low)}:{_written(high)}"


def _written(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def window_of(intensity: str) -> tuple[float, float] | None:
    """Give the numbers of ``"LOW:HIGH"``; None of a word.

    Examples
    --------
    >>> window_of("0:4095"), window_of("dtype")
    ((0.0, 4095.0), None)
    """
    if ":" not in intensity:
        return None
    low, high = map(float, intensity.split(":"))
    return low, high


@dataclass(frozen=True, kw_only=True, eq=False)
class WideImage:
    """An image of more than 8 bits a channel, as its file holds it.

    Attributes
    ----------
    values : ndarray of shape (height, width) or (height, width, n_channels)
        Gray, gray and alpha, RGB, or RGB and alpha; integers or floats. Full alpha is the type's
        largest value, or 1 of floats.
    bits : int, optional
        Of an unsigned integer, where these are fewer than the type has.
    white : bool, default=False
        Whether zero is white.
    no_data : number of the type, optional
        The value that stands for no data. Such pixels are black, and have no part in a range.
    orientation : object, default=1
        Value of the orientation tag.

    Examples
    --------
    >>> camera = WideImage(values=np.array([[0, 1000, 4000]], np.uint16))
    >>> [np.asarray(camera.narrow(how)).tolist() for how in ("image", "0:2000", "dtype")]
    [[[0, 64, 255]], [[0, 128, 255]], [[0, 4, 16]]]
    """

    values: NDArray[Any]
    bits: int | None = None
    white: bool = False
    no_data: np.generic | None = None
    orientation: object = 1

    @property
    def is_float(self) -> bool:
        """Whether the values are floats."""
        return self.values.dtype.kind == "f"

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value of the type; of floats, 0 and 1."""
        if self.is_float:
            return 0.0, 1.0
        if self.values.dtype.kind == "u" and self.bits is not None:
            return 0.0, 2.0**self.bits - 1
        limits = np.iinfo(self.values.dtype)
        return float(limits.min), float(limits.max)

    @cached_property
    def extremes(self) -> tuple[float, float]:
        """The least and the largest value of its colours that is data.

        Raises
        ------
        ValueError
            If there is none, or values are not finite.
        """
        colors, _ = self._filled
        return float(colors.min()), float(colors.max())

    def sample(self, n: int) -> NDArray[np.float64]:
        """Take the colours of n × n pixels, or fewer, that are evenly spaced.

        Returns
        -------
        values : ndarray of shape (n_values,)
            Those that are data.

        Raises
        ------
        ValueError
            As `extremes`.
        """
        colors, missing = self._filled
        places = [np.unique(((np.arange(n) + 0.5) * side / n).astype(int)) for side in
                  colors.shape[:2]]  # fmt: skip
        grid = np.ix_(*places)
        return np.asarray(colors[grid][~missing[grid]], np.float64)

    def narrow(self, intensity: str = IMAGE) -> Image.Image:
        """Scale the colours to 0 … 255, all channels alike.

        Parameters
        ----------
        intensity : str
            ``"image"``: by their own range; ``"dtype"``: by their type's, which is 0 to 1 of
            floats; ``"LOW:HIGH"``: by that window, outside of which values are clipped.

        Returns
        -------
        image : PIL.Image.Image
            Mode ``"L"``, ``"LA"``, ``"RGB"`` or ``"RGBA"``, not turned.

        Raises
        ------
        ValueError
            If values are not finite, none is data, or floats are outside of 0 to 1 where that is
            the range.
        """
        colors, missing = self._filled
        shares = self._shares(colors, intensity)
        if self.white:
            shares = 1 - shares
        shares[missing] = 0
        full = 1.0 if self.is_float else np.iinfo(self.values.dtype).max
        pixels = np.dstack([shares, (self._alpha / full).clip(0, 1)])
        return to_image(np.rint(pixels * 255).astype(np.uint8))

    @property
    def _n_colors(self) -> int:
        return 1 if np.atleast_3d(self.values).shape[-1] < 3 else 3

    @property
    def _alpha(self) -> NDArray[Any]:
        return np.atleast_3d(self.values)[..., self._n_colors :]

    @cached_property
    def _filled(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Give the colours, with any that is data where there is none, and where that is."""
        colors = np.atleast_3d(self.values)[..., : self._n_colors]
        missing = np.zeros(colors.shape, bool)
        if self.no_data is not None:
            missing = np.isnan(colors) if np.isnan(self.no_data) else colors == self.no_data
            if missing.all():
                raise ValueError(
                    f"it holds no data: all its values are {self.no_data}, declared as none"
                )
            colors = np.where(missing, colors[~missing][0], colors)
        if not (np.isfinite(colors).all() and np.isfinite(self._alpha).all()):
            raise ValueError("it holds NaN or infinity: put numbers in their place")
        return colors, missing

    def _shares(self, colors: NDArray[Any], intensity: str) -> NDArray[np.float64]:
        """Scale colours to 0 … 1."""
        if intensity == IMAGE:
            return self._by_own_range(colors)
        low, high = window_of(intensity) or self.limits
        least, largest = self.extremes
        if intensity == DTYPE and self.is_float and not low <= least <= largest <= high:
            raise ValueError(
                f"its values are from {least:.6g} to {largest:.6g}, and --intensity dtype takes "
                "floats from 0 to 1: use --intensity LOW:HIGH or dataset"
            )
        # Clipped first: what lies far outside would overflow.
        return (colors.astype(np.float64).clip(low, high) - low) / (high - low)

    def _by_own_range(self, colors: NDArray[Any]) -> NDArray[np.float64]:
        if not self.is_float:
            # Subtracted as integers, of which large ones differ by less than floats can say.
            colors = (colors - colors.min()).astype(f"u{colors.dtype.itemsize}")
        colors = colors.astype(np.float64)
        low, high = colors.min(), colors.max()
        if not np.isfinite(high - low):
            raise ValueError(f"its values, from {low:.3g} to {high:.3g}, are too far apart")
        shares: NDArray[np.float64] = (colors - low) / (high - low or 1.0)
        return shares


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make an image of pixels of shape (height, width, n_channels)."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
