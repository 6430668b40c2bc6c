"""Wide: TIFFs, and images of more than 8 bits a channel, which become 8 by their own range.

Pillow keeps the high byte of 16-bit colours, and misreads TIFFs of unsigned 32 bits, of signed
bytes, of 16 bits with white as zero, and of 16 bits channel by channel; it takes no notice of the
checksums of TIFFs, nor of their second stains.
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

_JPEG = (6, 7)
_CCITT = (2, 3, 4)
"""Numbers of compressions in TIFF."""

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
        The same file.

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


def mend_transparency(image: Image.Image, start: bytes) -> None:
    """Scale the gray that a PNG of few bits names transparent, as Pillow scales its pixels only.

    Parameters
    ----------
    image : PIL.Image.Image
        Opened. Of other formats and depths, it stays as it is.
    start : bytes
        The first 25 of the file.
    """
    key = image.info.get("transparency")
    bits = start[_DEPTH_OF_PNG] if start.startswith(_PNG) else 8
    if image.mode == "L" and isinstance(key, int) and key < 2**bits < 2**8:
        image.info["transparency"] = key * 255 // (2**bits - 1)


def read_tiff(file: BinaryIO, choose: Callable[[int], int]) -> Image.Image | None:
    """Read a page of a TIFF, if it is gray or RGB.

    Parameters
    ----------
    file : binary file
    choose : callable
        From the number of pages to the place of the one that is wanted.

    Returns
    -------
    image : PIL.Image.Image or None
        Of 8 bits a channel, turned as its orientation tag says; None where Pillow reads the page:
        palettes, CMYK, YCbCr, L*a*b*, JPEG and fax.

    Raises
    ------
    ValueError
        If the page is damaged, too large, or has other channels.
    """
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        pages = len(tiff.pages)
        if pages == 1 and (tiff.is_imagej or tiff.is_shaped):
            [series, *_] = tiff.series
            stack = series.size // series.keyframe.size
            if stack > 1:
                raise ValueError(
                    f"it is a stack of {stack} images behind one page: save them apart"
                )
        page: Any = tiff.pages[choose(pages)]
        if page.imagewidth * page.imagelength > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise Image.DecompressionBombError
        if _is_pillows(page):
            return None
        white, orientation = page.photometric == 0, page.tags.valueof(ORIENTATION, default=1)
        values = _channels(page)
        if page.dtype in (np.uint8, np.bool_):
            pixels = np.rint(values * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
            picture = _image(255 - pixels if white else pixels)
        else:
            picture = narrow(values, white=white)
        return _upright(picture, orientation)


def _is_pillows(page: TiffPage) -> bool:
    """Tell whether a page is of a kind that Pillow turns into RGB, and reads right."""
    if page.dtype not in (np.uint8, np.bool_):
        return False
    if page.photometric == 3 and page.colormap is not None and page.colormap.max() < 256:
        raise ValueError("its palette is of 8 bits, where TIFF has 16: save it as RGB")
    other_alpha = page.photometric == 2 and page.samplesperpixel == 4
    other_alpha = other_alpha and page.extrasamples not in ((0,), (2,))
    return page.photometric not in (0, 1, 2) or page.compression in (*_JPEG, *_CCITT) or other_alpha


def _channels(page: TiffPage) -> NDArray[Any]:
    """Decode a page, shape (height, width, n_channels): gray or RGB, and transparency if any."""
    gray, rgb = page.photometric in (0, 1), page.photometric == 2
    n_colors = 1 if gray else 3
    # What is beside the colours: transparency that they are not multiplied with (2), or nothing
    # that is said (0), which beside gray may well be a second stain.
    extra = page.extrasamples
    known = extra in ((), (2,)) or (rgb and extra == (0,))
    if not (gray or rgb) or not known or page.samplesperpixel != n_colors + len(extra):
        kind = getattr(page.photometric, "name", page.photometric)
        raise ValueError(
            f"it has {page.samplesperpixel} channels of {page.bitspersample} bits ({kind}); read "
            "are one, gray, or three, RGB, and transparency that they are not multiplied with. "
            "Save what you want to be seen as such an image"
        )
    bits = page.bitspersample
    odd = page.dtype is None or page.dtype.kind not in "biuf" or (bits > 16 and bits % 32)
    if odd:
        raise ValueError(f"its values are of {bits} bits ({page.dtype}), which are not read")
    if page.imagedepth > 1:
        raise ValueError(f"it is {page.imagedepth} images deep: save them apart")
    if not all(page.databytecounts):
        raise ValueError("parts of it are missing")
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
    return _image(np.rint(shares * 255).astype(np.uint8))


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    return ImageOps.exif_transpose(image)
