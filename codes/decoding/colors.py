"""Colours: images of every mode of Pillow's, and wider ones, become RGB of 8 bits a channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from codes.decoding.high_bit_depth import upright
from codes.decoding.intensity import IMAGE, WideImage

_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def as_wide(image: Image.Image, orientation: object = 1) -> WideImage | None:
    """Take the values of an image of Pillow's that has more than 8 bits a channel; None of others.

    ``orientation`` is the value of its tag, where it is not turned yet.
    """
    if image.mode not in _WIDE_MODES:
        return None
    return WideImage(values=np.array(image), orientation=orientation)


def to_rgb(image: Image.Image | WideImage, intensity: str = IMAGE) -> Image.Image:
    """Convert any image to RGB.

    Parameters
    ----------
    image : PIL.Image.Image or WideImage
        Any mode. Where values are wider than 8 bits (``I;16``, ``I``, ``F``), Pillow's ``convert``
        would clip them at 255; here they are scaled.
    intensity : str
        As for `codes.decoding.intensity.WideImage.narrow`.

    Returns
    -------
    image : PIL.Image.Image
        Mode ``"RGB"``; of a `WideImage`, turned as its orientation tag says.

    Examples
    --------
    >>> wide = Image.fromarray(np.array([[0, 30_000, 60_000]], dtype=np.uint16))
    >>> [np.asarray(to_rgb(wide, how))[0, :, 0].tolist() for how in ("image", "dtype")]
    [[0, 128, 255], [0, 117, 233]]
    """
    if isinstance(image, Image.Image):
        image = as_wide(image) or image
    if isinstance(image, WideImage):
        image = upright(image.narrow(intensity), image.orientation)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
