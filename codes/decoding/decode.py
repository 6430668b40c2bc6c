"""Decoding: one file becomes the pixels of one RGB image, or an error that says why not."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from codes.decoding.colors import as_wide, to_rgb
from codes.decoding.high_bit_depth import (
    is_png,
    is_wide_png,
    mend_transparency,
    orientation_of,
    read_wide_png,
    upright,
)
from codes.decoding.intensity import IMAGE, WideImage
from codes.decoding.jpegs import is_jpeg, read_jpeg
from codes.decoding.tiffs import (
    count_tiff_pages,
    declares_no_data,
    is_tiff,
    is_wide_tiff,
    read_tiff,
)
from codes.wording import counted

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
"""Endings of the files that are taken for images; others in a folder are ignored and counted."""

_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""That Pillow is asked for, whatever a file is called: others, such as EPS, run programs."""

Pixels = NDArray[np.uint8]
"""Of shape (height, width, 3): red, green and blue."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How image files are decoded.

    Attributes
    ----------
    enough : int, optional
        Pixels of the shorter side that are enough. A JPEG at least twice as large is decoded at
        1/2 or 1/4 of its size: the smallest that has as many, and divides both sides. Default: at
        its full size.
    intensity : str
        Which range the values of images of more than 8 bits are scaled by: ``"image"``,
        ``"dtype"`` or ``"LOW:HIGH"``, as for `codes.decoding.intensity.WideImage.narrow`.
    """

    enough: int | None = None
    intensity: str = IMAGE


WHOLE = Decoding()
"""At their full size, and by their own range."""


class UnreadableImageError(ValueError):
    """One image cannot be decoded; the message says why."""


class ArchiveChangedError(UnreadableImageError):
    """An image that can be read was not, as its archive was changed or removed meanwhile."""


class ChangedReason(str):
    """The message of an `ArchiveChangedError`, as it travels between processes."""

    __slots__ = ()


def is_image(name: str) -> bool:
    """Tell by its ending whether a file is taken for an image."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def decode(
    opened: Callable[[], BinaryIO], page: int | None = None, *, decoding: Decoding = WHOLE
) -> Pixels:
    """Decode an image file completely.

    Parameters
    ----------
    opened : callable
        Opens the file.
    page : int, optional
        Which page of a file with several, from 1. A file with one page is read as it is.
    decoding : Decoding
        Default: at its full size, and by its own range.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), uint8
        Red, green and blue, turned as the orientation tag says; transparency is laid on white (the
        alpha of a BMP that is zero everywhere is none), and images of more than 8 bits are scaled
        to 0 … 255. The value that a TIFF declares as no data has no part in an image's own range:
        such pixels are black.

    Raises
    ------
    UnreadableImageError
        If the file is empty, truncated, no image, a decompression bomb, has several pages and
        none was chosen, or fewer than the one that was; or its values are outside of the range.
    """
    with _reading(opened) as (file, start):
        pixels = _photograph(file, decoding.enough) if is_jpeg(start) else None
        if pixels is None:
            pixels = np.array(to_rgb(_read(file, start, page), decoding.intensity))
        return pixels


def read_wide(opened: Callable[[], BinaryIO], page: int | None = None) -> WideImage | None:
    """Read an image of more than 8 bits a channel as its file holds it.

    Parameters
    ----------
    opened, page
        As for `decode`.

    Returns
    -------
    image : WideImage or None
        None of 8 bits or fewer; such files are not decoded.

    Raises
    ------
    UnreadableImageError
        As `decode`.
    """
    with _reading(opened) as (file, start):
        if not _may_be_wide(file, start, page):
            return None
        file.seek(0)
        found = _read(file, start, page)
        return found if isinstance(found, WideImage) else None


def decode_file(path: str | Path, *, page: int | None = None) -> Image.Image:
    """Decode an image file on the disk, as `decode` does, to an image of Pillow's."""
    return Image.fromarray(decode(lambda: open_file(path), page))


def decode_bytes(content: bytes, *, page: int | None = None) -> Pixels:
    """Decode the content of an image file, as `decode` does."""
    return decode(lambda: io.BytesIO(content), page)


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a file for reading, or raise OSError; no pipe or device, which may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, a pipe or a device, and no file")
    return open(path, "rb")


def count_pages(file: BinaryIO) -> int:
    """Count the pages or frames of an image file; 1 also where decoding it says why it cannot."""
    try:
        start = file.read(4)
        file.seek(0)
        if is_tiff(start):
            return count_tiff_pages(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as image:
                return _pages_of(image)
    except Exception:  # As of decoding.
        return 1


def _pages_of(image: Image.Image) -> int:
    # Cameras and phones keep previews and brightness maps behind the picture of a JPEG.
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


@contextmanager
def _reading(opened: Callable[[], BinaryIO]) -> Iterator[tuple[BinaryIO, bytes]]:
    """Open an image file, at its start, and give it with its first bytes."""
    try:
        with opened() as file, _understood():
            start = file.read(32)
            file.seek(0)
            if not start:
                raise UnreadableImageError("the file is empty")
            yield file, start
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error


@contextmanager
def _understood() -> Iterator[None]:
    """Say of whatever is raised what is wrong with the image."""
    try:
        with warnings.catch_warnings():
            # Of metadata that is damaged; what matters to the pixels is an error.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"it is not an image of the formats that are read ({', '.join(_FORMATS)})"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise UnreadableImageError(f"refused as a decompression bomb: over {most}") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, …
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _photograph(file: BinaryIO, enough: int | None) -> Pixels | None:
    """Decode a JPEG, where that is not left to Pillow."""
    with Image.open(file, formats=("JPEG",)) as image:
        pixels = read_jpeg(image, file, enough)
    file.seek(0)
    return pixels


def _may_be_wide(file: BinaryIO, start: bytes, page: int | None) -> bool:
    """Tell whether an image may have more than 8 bits a channel, without decoding it."""
    if is_tiff(start):
        return is_wide_tiff(file, lambda n_pages: _place(page, n_pages))
    return is_wide_png(start) if is_png(start) else start.startswith(b"P")


def _read(file: BinaryIO, start: bytes, page: int | None) -> Image.Image | WideImage:
    """Decode an image: of 8 bits a channel, turned as its orientation tag says, or of more."""
    if is_tiff(start):
        picture = read_tiff(file, lambda n_pages: _place(page, n_pages))
        if picture is not None:
            return picture
        file.seek(0)
    with Image.open(file, formats=_FORMATS) as image:
        if is_wide_png(start):
            return read_wide_png(image, file)
        place = _place(page, _pages_of(image))
        if place:
            image.seek(place)
        mend_transparency(image, start)
        orientation = orientation_of(image)
        wide = as_wide(image, orientation)
        if wide is not None:
            return wide
        return upright(image.convert("RGB") if _hides_all(image) else image.copy(), orientation)


def _hides_all(image: Image.Image) -> bool:
    """Tell whether it is a BMP with no alpha: many programs leave the byte for it at zero."""
    if image.format != "BMP" or image.mode != "RGBA":
        return False
    return image.getchannel("A").getextrema() == (0, 0)


def was_misread(file: BinaryIO) -> bool:
    """Tell whether an image file is one whose pixels earlier versions read in another way.

    These are TIFFs of more than 8 bits that declare a value for no data, and BMPs whose alpha is
    zero everywhere. Codes of theirs that were stored then are not those of what is now seen. The
    file is at its start.
    """
    start = file.read(4)
    file.seek(0)
    if not is_tiff(start) and not start.startswith(b"BM"):
        return False
    try:
        if is_tiff(start):
            return declares_no_data(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("BMP",)) as image:
                return _hides_all(image)
    except Exception:  # As of decoding.
        return False


def _place(page: int | None, n_pages: int) -> int:
    """Find the page that was asked for, of an image that has several."""
    if n_pages == 1:
        return 0
    if n_pages == 0:
        raise UnreadableImageError("it is truncated: it has no page")
    if page is None:
        raise UnreadableImageError(
            f"it has {n_pages} pages or frames, and one was expected: choose with --page"
        )
    if page > n_pages:
        raise UnreadableImageError(
            f"it has {counted(n_pages, 'page')}, and --page {page} was asked for"
        )
    return page - 1
