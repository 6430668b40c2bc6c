"""One range of intensities for all images of more than 8 bits, found on the training images."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codes import ImageList
from codes.data.images import distinct_train, look_at_wide
from codes.decoding.intensity import DATASET, IMAGE, WideImage, parse_intensity
from codes.wording import counted
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress

PERCENTILES = (0.1, 99.9)
"""Of pixels of all images: a few dead or hot ones decide nothing."""
N_PIXELS = 2**22
"""That are looked at in all, at most."""
MOST_SIDE = 64
"""That are looked at in each row and column of an image, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sampled:
    """Some values of an image of more than 8 bits."""

    values: NDArray[np.float64]
    is_float: bool


def settle_intensity(
    images: ImageList,
    digests: NDArray[np.uint8],
    options: ExtractionOptions,
    progress: Progress,
) -> tuple[ExtractionOptions, str]:
    """Find the range that some options ask for.

    Parameters
    ----------
    images : ImageList
        Those that cannot be decoded are ignored.
    digests : ndarray of shape (n_images, 32), uint8
    options : ExtractionOptions
    progress : Progress

    Returns
    -------
    options : ExtractionOptions
        With LOW:HIGH in place of "dataset"; with "image" where no image has more than 8 bits, so
        that codes are those that are stored already.
    found : str
        In these cases, what was found, in a sentence; otherwise empty.

    Raises
    ------
    ValueError
        If there is no such range.
    """
    asked = options.intensity
    if asked in (None, IMAGE):
        return options, ""
    if not has_wide(images):
        return replace(options, intensity=IMAGE), (
            f"--intensity {asked} changes nothing: no image has more than 8 bits a channel."
        )
    if asked != DATASET:
        return options, ""
    train = images.take(distinct_train(images, digests))
    intensity, found = find_range(train, progress)
    return replace(options, intensity=intensity), found


def has_wide(images: ImageList) -> bool:
    """Tell whether an image has more than 8 bits a channel; no other image is decoded."""
    with closing(look_at_wide(images, lambda wide: True)) as found:
        return any(any(some) for some in found)


def find_range(images: ImageList, progress: Progress) -> tuple[str, str]:
    """Find one range for the values of images of more than 8 bits.

    Parameters
    ----------
    images : ImageList
        Each counts, in whatever order; the memory needed does not grow with them.
    progress : Progress

    Returns
    -------
    intensity : str
        LOW:HIGH, three digits of the range's length.
    found : str
        How it was found, in a sentence.

    Raises
    ------
    ValueError
        If no image has more than 8 bits, all values are the same, or some are integers and others
        floats, which one range does not fit.
    """
    side = max(1, min(MOST_SIDE, math.isqrt(N_PIXELS // max(1, len(images)))))

    def sample(wide: WideImage) -> _Sampled:
        return _Sampled(values=wide.sample(side), is_float=wide.is_float)

    sampled: list[_Sampled] = []
    with (
        closing(look_at_wide(images, sample)) as batches,
        progress.step("Reading intensities", len(images)) as advance,
    ):
        for batch in batches:
            sampled += [one for one in batch if one is not None]
            advance(len(batch))
    _require_alike(sampled)
    low, high, what = _range_of(np.concatenate([one.values for one in sampled]))
    intensity = parse_intensity(f"{low!r}:{high!r}")
    others = len(images) - len(sampled)
    left = f" {counted(others, 'other')} of 8 bits stay as they are." if others else ""
    return intensity, (
        f"--intensity dataset: {intensity} is used, the {what} of evenly spaced pixels of "
        f"{counted(len(sampled), 'distinct training image')}; values outside are clipped.{left} "
        f"Once images are added, --intensity {intensity} keeps the range, and the codes."
    )


def _require_alike(sampled: list[_Sampled]) -> None:
    if not sampled:
        raise ValueError(
            "--intensity dataset: no training image has more than 8 bits a channel, and others "
            "have. Name their range, --intensity LOW:HIGH, or use image or dtype."
        )
    n_floats = sum(one.is_float for one in sampled)
    if 0 < n_floats < len(sampled):
        raise ValueError(
            f"--intensity dataset: {counted(len(sampled) - n_floats, 'training image')} hold "
            f"integers and {n_floats:,} hold floats, which one range does not fit. Save them as "
            "one type, or use --intensity dtype or image."
        )


def _range_of(values: NDArray[np.float64]) -> tuple[float, float, str]:
    """Give the ends of a range of values, and what they are."""
    least, low, high, largest = np.percentile(values, [0, *PERCENTILES, 100]).tolist()
    what = f"{PERCENTILES[0]} and {PERCENTILES[1]} % percentiles"
    if low == high:  # Nearly all is background of one value.
        low, high, what = least, largest, "least and largest value"
    if low == high:
        raise ValueError(
            f"--intensity dataset: every pixel that was looked at has the value {low:g}, which is "
            "no range. Name one, --intensity LOW:HIGH, or use image or dtype."
        )
    return *_rounded(low, high), what


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Widen a range to numbers that are short to write.

    Examples
    --------
    >>> _rounded(111.96, 3889.2), _rounded(0.01234567, 0.98)
    ((111.0, 3890.0), (0.0123, 0.98))
    """
    digits = 3 - math.floor(math.log10(high - low))
    step = 10.0**-digits
    return (
        round(math.floor(low / step) * step, digits),
        round(math.ceil(high / step) * step, digits),
    )
