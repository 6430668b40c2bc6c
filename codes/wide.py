"""Wide: images of more than 8 bits a channel, brought to 8 by their own smallest and largest value.

Pillow keeps the high byte of 16-bit colours, and misreads TIFFs of unsigned 32 bits, of signed
bytes, of 16 bits with white as zero, and of 16 bits channel by channel.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from tifffile import TiffPage

ORIENTATION = 0x0112
"""Number of the tag, in TIFF and in EXIF."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH_OF_PNG = 24
"""Where a PNG says how many bits its channels have."""

# tifffile warns of damaged metadata; what matters to the pixels is an error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(start: bytes) -> bool:
    """Tell a TIFF, or a BigTIFF, by its first four bytes."""
    return start[:4] in _TIFF


def is_wide_png(start: bytes) -> bool:
    """Tell a PNG of 16 bits a channel by its first 25 bytes."""
    return start.startswith(_PNG) and start[_DEPTH_OF_PNG : _DEPTH_OF_PNG + 1] == b"\x10"


def count_tiff_pages(file: BinaryIO) -> int:
    """Count the pages of a TIFF."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        return len(tiff.pages)


def read_wide_png(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Read a PNG of 16 bits a channel.

    Parameters
    ----------
    image : PIL.Image.Image
        Opened, not decoded.
    file : binary file
        The same.

    Returns
    -------
    image : PIL.Image.Image
        Of 8 bits a channel, turned as its orientation tag says.
    """
    from imagecodecs import png_decode

    if getattr(image, "n_frames", 1) > 1:
        raise ValueError("it is animated, in 16 bits a channel: save its frames apart")
    orientation = image.getexif().get(ORIENTATION, 1)
    if image.mode.startswith("I"):
        values = np.asarray(image)
        hidden = image.info.get("transparency")
        if hidden is not None:
            full = np.iinfo(values.dtype).max
            values = np.dstack([values, np.where(values == hidden, 0, full)]).astype(values.dtype)
    else:
        file.seek(0)
        values = png_decode(file.read())
    return _upright(narrow(values), orientation)


def read_wide_tiff(file: BinaryIO, choose: Callable[[int], int]) -> Image.Image | None:
    """Read a page of a TIFF, if its values are not plain bytes.

    Parameters
    ----------
    file : binary file
    choose : callable
        From the number of pages to the place of the one that is wanted.

    Returns
    -------
    image : PIL.Image.Image or None
        Of 8 bits a channel, turned as its orientation tag says; None where Pillow reads the page.

    Raises
    ------
    ValueError
        If the page is damaged, too large, or of other channels than gray or RGB, with or without
        transparency.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        stack = (tiff.imagej_metadata or {}).get("images", 1)
        if stack > len(tiff.pages) == 1:
            raise ValueError(f"it is a stack of {stack} images behind one page: save them apart")
        page: Any = tiff.pages[choose(len(tiff.pages))]
        if page.dtype is None or page.dtype in (np.uint8, np.bool_):
            return None
        if page.imagewidth * page.imagelength > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError
        orientation = page.tags.valueof(ORIENTATION, default=1)
        return _upright(narrow(_channels(page), white=page.photometric == 0), orientation)


def _channels(page: TiffPage) -> NDArray[Any]:
    """Decode a page, shape (height, width, n_channels): gray or RGB, and transparency if any."""
    gray, rgb = page.photometric in (0, 1), page.photometric == 2
    n_colors = 1 if gray else 3
    # What is beside the colours: transparency that they are not multiplied with (2), or nothing
    # that is said (0), which beside gray may well be a second stain.
    extra = page.extrasamples
    known = extra in ((), (2,)) or (rgb and extra == (0,))
    if not (gray or rgb) or not known or page.samplesperpixel != n_colors + len(extra):
        kind = f"{page.samplesperpixel} channels of {page.dtype}, {page.photometric!r}"
        raise ValueError(
            f"it has {kind}: of more than 8 bits, gray and RGB are read, with or without "
            "transparency that the colours are not multiplied with"
        )
    if not all(page.databytecounts):
        raise ValueError("parts of it are missing")
    if page.imagedepth > 1:
        raise ValueError(f"it is {page.imagedepth} images deep: save them apart")
    values = page.asarray()
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    values = np.atleast_3d(values)
    return values[..., :n_colors] if extra == (0,) else values


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
    wide = np.atleast_3d(values).astype(np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("it holds values that are not finite")
    n_colors = 1 if wide.shape[-1] < 3 else 3
    colors, alpha = wide[..., :n_colors], wide[..., n_colors:]
    low, high = colors.min(), colors.max()
    colors = (colors - low) / (high - low or 1.0)
    full = np.iinfo(values.dtype).max if np.issubdtype(values.dtype, np.integer) else 1
    shares = np.dstack([1 - colors if white else colors, (alpha / full).clip(0, 1)])
    pixels = np.rint(shares * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(image)
