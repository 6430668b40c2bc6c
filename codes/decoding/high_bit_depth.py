"""Wide: images of more than 8 bits a channel, which become 8 by their own range; PNGs among them.

Pillow keeps the high byte of 16-bit colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112
"""Number of the tag, in TIFF and in EXIF."""

_TURNS: Mapping[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Value of the orientation tag → how an image is turned upright."""

_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH_OF_PNG = 24
"""Where a PNG says how many bits its channels have."""


def narrow(values: NDArray[Any], *, white: bool = False) -> Image.Image:
    """Scale the colours of an image by their own range to 0 … 255, all channels alike.

    Parameters
    ----------
    values : ndarray of shape (height, width) or (height, width, n_channels)
        Gray, gray and alpha, RGB, or RGB and alpha; of any type. Full alpha is the type's largest
        value, or 1 of floats.
    white : bool, default=False
        Whether zero is white.

    Returns
    -------
    image : PIL.Image.Image
        Mode ``"L"``, ``"LA"``, ``"RGB"`` or ``"RGBA"``.

    Raises
    ------
    ValueError
        If values are not finite.

    Examples
    --------
    >>> camera = np.array([[[0, 2000, 4000]]], np.uint16)
    >>> np.asarray(narrow(camera)).tolist()
    [[[0, 128, 255]]]
    """
    values = np.atleast_3d(values)
    n_colors = 1 if values.shape[-1] < 3 else 3
    colors, alpha = values[..., :n_colors], values[..., n_colors:]
    full = 1.0
    if values.dtype.kind in "iu":
        full = np.iinfo(values.dtype).max
        # Subtracted as integers, of which large ones differ by less than floats can say.
        colors = (colors - colors.min()).astype(f"u{values.dtype.itemsize}")
    elif not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity: put numbers in their place")
    colors = colors.astype(np.float64)
    low, high = colors.min(), colors.max()
    if not np.isfinite(high - low):
        raise ValueError(f"its values, from {low:.3g} to {high:.3g}, are too far apart")
    colors = (colors - low) / (high - low or 1.0)
    shares = np.dstack([1 - colors if white else colors, (alpha / full).clip(0, 1)])
    return to_image(np.rint(shares * 255).astype(np.uint8))


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """Make an image of pixels of shape (height, width, n_channels)."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def upright(image: Image.Image, orientation: object) -> Image.Image:
    """Turn an image as the value of an orientation tag says; what is no such value turns nothing.

    Where Pillow turns an image it writes its metadata anew, and fails where these are odd.

    Examples
    --------
    >>> upright(Image.new("L", (40, 20)), 6).size
    (20, 40)
    """
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def upright_pixels(pixels: NDArray[np.uint8], orientation: object) -> NDArray[np.uint8]:
    """Turn pixels of shape (height, width, 3) as `upright` turns an image.

    Examples
    --------
    >>> upright_pixels(np.zeros((20, 40, 3), np.uint8), 6).shape
    (40, 20, 3)
    """
    if orientation not in _TURNS:
        return pixels
    return np.array(upright(Image.fromarray(pixels), orientation))


def orientation_of(image: Image.Image) -> object:
    """Decode an image, and read its orientation tag, in EXIF or XMP; 1 if there is none."""
    image.load()  # What is behind the pixels is read with them; damage to these is an error.
    return exif_orientation(image)


def exif_orientation(image: Image.Image) -> object:
    """Read the orientation tag in what is known of an image's metadata; 1 if there is none."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # Metadata that are damaged: SyntaxError, struct.error, ValueError, …
        return 1


def is_wide_png(start: bytes) -> bool:
    """Tell a PNG of 16 bits a channel by its first 25 bytes."""
    return start.startswith(_PNG) and start[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1] == b"\x10"


def read_wide_png(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Read a PNG of 16 bits a channel, of whose file Pillow has read the beginning.

    It becomes one of 8 bits a channel, turned as its orientation tag says.
    """
    from imagecodecs import png_decode

    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it is animated, in 16 bits a channel: save its frames apart")
    orientation = orientation_of(image)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        hidden = image.info.get("transparency")
        if hidden is not None:
            full = np.iinfo(values.dtype).max
            values = np.dstack([values, np.where(values == hidden, 0, full)]).astype(values.dtype)
    else:
        file.seek(0)
        values = png_decode(file.read())
    return upright(narrow(values), orientation)


def mend_transparency(image: Image.Image, start: bytes) -> None:
    """Scale the gray that a PNG of few bits names transparent, as Pillow scales its pixels only.

    Images of other formats and depths, by the first 25 bytes of their files, stay as they are.
    """
    key = image.info.get("transparency")
    bits = start[_DEPTH_OF_PNG] if start.startswith(_PNG) else 8
    if image.mode == "L" and isinstance(key, int) and key < 2**bits < 2**8:
        image.info["transparency"] = key * 255 // (2**bits - 1)
