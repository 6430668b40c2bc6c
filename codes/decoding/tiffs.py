"""TIFFs: pages of gray or RGB, of every type of number, as microscopes write them.

Pillow misreads unsigned 32 bits, signed bytes, 16 bits with white as zero or channel by channel,
and takes no notice of checksums and second stains.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes.decoding.high_bit_depth import ORIENTATION, upright
from codes.decoding.intensity import WideImage, to_image

if TYPE_CHECKING:
    from tifffile import TiffPage

_NO_DATA = 42113
"""Number of GDAL's tag for the value that stands for no data, in ASCII."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG = (6, 7)
_CCITT = (2, 3, 4)
"""Numbers of compressions."""
_NARROW = (np.uint8, np.bool_)
"""Types of pages of 8 bits a channel, or fewer."""

# tifffile warns of damaged metadata; what matters to the pixels is an error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def is_tiff(start: bytes) -> bool:
    """Tell a TIFF, or a BigTIFF, by its first four bytes."""
    return start[:4] in _TIFF


def count_tiff_pages(file: BinaryIO) -> int:
    """Count the pages of a TIFF."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        return len(tiff.pages)


def read_tiff(file: BinaryIO, choose: Callable[[int], int]) -> Image.Image | WideImage | None:
    """Read a page of a TIFF, if it is gray or RGB.

    Parameters
    ----------
    file : binary file
    choose : callable
        From the number of pages to the place of the one that is wanted.

    Returns
    -------
    image : PIL.Image.Image, WideImage or None
        Of 8 bits a channel, turned as its orientation tag says; or of more, as it is. None where
        Pillow reads the page: palettes, CMYK, YCbCr, L*a*b*, JPEG and fax.

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
        if page.dtype not in _NARROW:
            return WideImage(
                values=values,
                bits=page.bitspersample,
                white=white,
                no_data=_no_data(page),
                orientation=orientation,
            )
        pixels = np.rint(values * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
        return upright(to_image(255 - pixels if white else pixels), orientation)


def is_wide_tiff(file: BinaryIO, choose: Callable[[int], int]) -> bool:
    """Tell whether a page of a TIFF has more than 8 bits a channel; `choose` as for `read_tiff`."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        page: Any = tiff.pages[choose(len(tiff.pages))]
        return page.dtype not in _NARROW


def _is_pillows(page: TiffPage) -> bool:
    """Tell whether a page is of a kind that Pillow turns into RGB, and reads right."""
    if page.dtype not in _NARROW:
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


def declares_no_data(file: BinaryIO) -> bool:
    """Tell whether a page of a TIFF of more than 8 bits declares a value for no data."""
    from tifffile import TiffFile

    with TiffFile(file) as tiff:
        return any(_no_data(page) is not None for page in tiff.pages)


def _no_data(page: Any) -> np.generic | None:
    """Give the value that a page declares as no data, in the page's type, if that can hold it."""
    declared = page.tags.valueof(_NO_DATA)
    if declared is None or page.dtype is None or page.dtype in _NARROW:
        return None
    text = str(declared).strip(" \0")
    try:
        if page.dtype.kind == "f":
            with np.errstate(over="ignore"):
                value: np.generic = page.dtype.type(float(text))
            return None if np.isinf(value) and not np.isinf(float(text)) else value
        number = _whole(text)
        limits = np.iinfo(page.dtype)
    except ValueError:  # Of what is no number, and of types that are not read.
        return None
    if number is None or not limits.min <= number <= limits.max:
        return None
    whole: np.generic = page.dtype.type(number)
    return whole


def _whole(text: str) -> int | None:
    """Read a whole number, exactly, however it is written."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        return int(number) if number.is_integer() else None
