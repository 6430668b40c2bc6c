"""JPEG: photographs, decoded by libjpeg-turbo, and no larger than is needed.

What Pillow decodes is decoded to the same pixels, in less time. Whatever is not a whole file of
gray or RGB is left to Pillow, which says what is wrong with it.
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes.decoding.high_bit_depth import exif_orientation, upright_pixels

_START = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Inside the values of a scan, 255 is followed by 0 or by a restart."""
_END, _ALONE = 0xD9, (0x01, 0xD8)
"""Markers: of the end, and those that no length follows."""


def is_jpeg(start: bytes) -> bool:
    """Tell a JPEG by its first bytes."""
    return start.startswith(_START)


def read_jpeg(image: Image.Image, file: BinaryIO, enough: int | None) -> NDArray[np.uint8] | None:
    """Decode a JPEG of which Pillow has read the beginning.

    Parameters
    ----------
    image : PIL.Image.Image
        Opened, its pixels not read yet.
    file : file
        The same.
    enough : int, optional
        Pixels of the shorter side that are enough: the file is decoded at 1/2 or 1/4 of its size
        where that still has as many, and no column or row is a part of one. A scaled inverse cosine
        transform leaves out the high frequencies of each block, those that resizing would remove
        (Wallace, *The JPEG still picture compression standard*, 1992); at 1/8, which is the mean of
        each block, fine stripes would become coarse ones.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), uint8, or None
        Upright. None where this is left to Pillow.
    """
    if image.mode not in ("RGB", "L"):
        return None
    size = _smallest(image.size, enough)
    if size != image.size:
        image.draft(image.mode, size)
        pixels = np.array(image)
    else:
        file.seek(0)
        found = _decode(file.read())
        if found is None or found.shape[:2] != image.size[::-1]:
            return None
        pixels = found
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return upright_pixels(pixels, exif_orientation(image))


def _smallest(size: tuple[int, int], enough: int | None) -> tuple[int, int]:
    """Give the width and height at which an image is decoded."""
    if enough is not None:
        for factor in (4, 2):
            if min(size) >= factor * enough and all(side % factor == 0 for side in size):
                return size[0] // factor, size[1] // factor
    return size


def _decode(content: bytes) -> NDArray[Any] | None:
    """Decode a whole file; None if it cannot be."""
    from imagecodecs import Jpeg8Error, jpeg8_decode  # Here: other files do not need it.

    if not _is_whole(content):
        return None
    try:
        pixels: NDArray[Any] = jpeg8_decode(content)
    except (Jpeg8Error, ValueError):
        return None
    return pixels if pixels.dtype == np.uint8 else None


def _is_whole(content: bytes) -> bool:
    """Tell whether an image's end marker is there; libjpeg makes one up where a file ends early."""
    place = 2
    while (found := _MARKER.search(content, place)) is not None:
        place = found.end()
        marker = content[place - 1]
        if marker == _END:
            return True
        if marker not in _ALONE:
            place += int.from_bytes(content[place : place + 2], "big")
    return False
