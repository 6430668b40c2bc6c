"""PNGs of 16 bits a channel, of whose colours Pillow keeps the high byte; and orientation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes.decoding.intensity import WideImage

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


def is_png(start: bytes) -> bool:
    """Tell a PNG by its first bytes."""
    return start.startswith(_PNG)


def is_wide_png(start: bytes) -> bool:
    """Tell a PNG of 16 bits a channel by its first 25 bytes."""
    return is_png(start) and start[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1] == b"\x10"


def read_wide_png(image: Image.Image, file: BinaryIO) -> WideImage:
    """Read a PNG of 16 bits a channel, of whose file Pillow has read the beginning."""
    from imagecodecs import png_decode

    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it is animated, in 16 bits a channel: save its frames apart")
    orientation = orientation_of(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16)  # Of 32 bits where Pillow is old.
        hidden = image.info.get("transparency")
        if hidden is not None:
            alpha = np.where(values == hidden, 0, np.iinfo(values.dtype).max)
            values = np.dstack([values, alpha]).astype(values.dtype)
    else:
        file.seek(0)
        values = png_decode(file.read())
    return WideImage(values=values, orientation=orientation)


def mend_transparency(image: Image.Image, start: bytes) -> None:
    """Scale the gray that a PNG of few bits names transparent, as Pillow scales its pixels only.

    Images of other formats and depths, by the first 25 bytes of their files, stay as they are.
    """
    key = image.info.get("transparency")
    bits = start[_DEPTH_OF_PNG] if is_png(start) else 8
    if image.mode == "L" and isinstance(key, int) and key < 2**bits < 2**8:
        image.info["transparency"] = key * 255 // (2**bits - 1)
