"""Intensity by class: whether absolute brightness, which own ranges remove, may be a signal.

An image of more than 8 bits that is scaled by its own range loses where this range lies. Where the
ranges of the classes differ, what is lost may be what distinguishes them. Their ends are compared
by Kruskal and Wallis's test (*Use of ranks in one-criterion variance analysis*, JASA 1952), one
image of each group, at 1 in 1,000 for both ends together.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kruskal

from codes import ImageList
from codes.data.images import distinct_train, look_at_wide
from codes.decoding.intensity import DTYPE, IMAGE, WideImage, window_of
from codes.wording import counted

N_IMAGES, LEAST, MOST = 200, 5, 1000
"""Images that are looked at; as many of each class, where there are many classes, and of all."""
COMPARED = 3
"""Images of a class from which its ranges are compared with those of others."""
SIDE = 32
"""Pixels in each row and column that are compared with a range for all images."""
SURE = 0.001
CLIPPED, FILLED = 0.5, 0.1
"""Share of pixels outside of a range, and share of a range that images fill, from which on and up
to which it seems to be the wrong one."""


@dataclass(frozen=True, kw_only=True)
class IntensityCheck:
    """The range in use, and those of training images of more than 8 bits.

    Attributes
    ----------
    in_use : str
        ``"image"``, ``"dtype"`` or ``"LOW:HIGH"``.
    n_images : int
        Images of more than 8 bits that were looked at.
    by_class : dict of str to tuple of float
        Class → medians of its images' least and largest values.
    p_value : float or None
        Of ranges that do not depend on the class; None where a class has too few images.
    clipped : float
        Share of the values that the range in use clips.
    text : str
        A warning; empty where there is none.
    """

    in_use: str
    n_images: int
    by_class: dict[str, tuple[float, float]]
    p_value: float | None
    clipped: float
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looked:
    """What is noted of an image: its least and largest value, its type's, and some of its own."""

    extremes: tuple[float, float]
    limits: tuple[float, float]
    values: NDArray[np.float64]


def check_intensity(
    images: ImageList, digests: NDArray[np.uint8], in_use: str
) -> IntensityCheck | None:
    """Compare the ranges of the classes' training images, and with the one in use.

    Parameters
    ----------
    images : ImageList
        Those that cannot be decoded are ignored.
    digests : ndarray of shape (n_images, 32), uint8
    in_use : str
        ``"image"``, ``"dtype"`` or ``"LOW:HIGH"``.

    Returns
    -------
    check : IntensityCheck or None
        None where none of the images that are looked at has more than 8 bits a channel.
    """
    places = choose_images(images, digests)
    with closing(look_at_wide(images.take(places), _look)) as batches:
        found = [one for batch in batches for one in batch]
    wide = np.array([one is not None for one in found], bool)
    looked = [one for one in found if one is not None]
    if not looked:
        return None
    labels = images.labels[places][wide]
    ranges = np.array([one.extremes for one in looked])
    p_value = compare_ranges(ranges, labels)
    by_class = {str(name): _medians(ranges[labels == name]) for name in np.unique(labels)}
    clipped, filled = (0.0, 1.0) if in_use == IMAGE else _fit(looked, in_use)
    if in_use == IMAGE:
        text = _differ(by_class, p_value, len(looked))
    else:
        n_looked = counted(len(looked), "training image")
        text = _misfit(f"--intensity {in_use}", clipped, filled, n_looked)
        text += " --intensity dataset finds one." if text else ""
    return IntensityCheck(
        in_use=in_use,
        n_images=len(looked),
        by_class=by_class,
        p_value=p_value,
        clipped=clipped,
        text=text,
    )


def choose_images(images: ImageList, digests: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Choose distinct training images to look at, evenly over classes, and one of each group.

    Parameters
    ----------
    images : ImageList
    digests : ndarray of shape (n_images, 32), uint8

    Returns
    -------
    places : ndarray of shape (n_chosen,), intp
        In an order by chance that is the same in any dataset.
    """
    places = distinct_train(images, digests)
    if images.groups is not None:
        places = places[np.sort(np.unique(images.groups[places], return_index=True)[1])]
    seen: Counter[str] = Counter()
    turns = np.empty(len(places), int)  # The first of each class, then the second, …
    for number, label in enumerate(images.labels[places].tolist()):
        turns[number] = seen[label]
        seen[label] += 1
    n = min(MOST, max(N_IMAGES, LEAST * len(seen)))
    return places[np.argsort(turns, kind="stable")[:n]]


def _look(wide: WideImage) -> _Looked:
    return _Looked(extremes=wide.extremes, limits=wide.limits, values=wide.sample(SIDE))


def compare_ranges(ranges: NDArray[np.float64], labels: NDArray[np.str_]) -> float | None:
    """Test whether images' ranges differ by class.

    Parameters
    ----------
    ranges : ndarray of shape (n_images, 2)
        The least and the largest value of each.
    labels : ndarray of shape (n_images,), str

    Returns
    -------
    p_value : float or None
        The lesser one of both ends, twice. None with fewer than two classes of three images.

    Examples
    --------
    >>> ranges = np.array([[0, n] for n in range(20)])
    >>> bool(compare_ranges(ranges, np.repeat(["dark", "bright"], 10)) < 0.001)
    True
    >>> bool(compare_ranges(ranges, np.tile(["left", "right"], 10)) < 0.5)
    False
    """
    names, counts = np.unique(labels, return_counts=True)
    compared = names[counts >= COMPARED]
    if len(compared) < 2:
        return None
    p_values = [
        float(kruskal(*(ends[labels == name] for name in compared)).pvalue)
        for ends in ranges.T
        if len(np.unique(ends[np.isin(labels, compared)])) > 1
    ]
    return min(1.0, 2 * min(p_values, default=1.0))


def _medians(ranges: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.median(ranges, axis=0).tolist()
    return low, high


def _shown(value: float) -> str:
    """Write a value of an image.

    Examples
    --------
    >>> _shown(16310.5), _shown(-1000), _shown(0.12345678)
    ('16,310', '-1,000', '0.1235')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def _fit(looked: list[_Looked], in_use: str) -> tuple[float, float]:
    """Give the share of values that a range clips, and the share of it that images fill."""
    window = window_of(in_use)
    clipped, filled = [], []
    for one in looked:
        low, high = window or one.limits
        clipped.append(np.mean((one.values < low) | (one.values > high)))
        least, largest = np.clip(one.extremes, low, high)
        filled.append((largest - least) / (high - low))
    return float(np.mean(clipped)), float(max(filled))


def _differ(by_class: dict[str, tuple[float, float]], p_value: float | None, n: int) -> str:
    """Warn where ranges that are removed differ by class."""
    if p_value is None or p_value >= SURE:
        return ""
    dark, *_, bright = sorted(by_class, key=lambda name: sum(by_class[name]))
    ends = [f"{_shown(by_class[name][0])} to {_shown(by_class[name][1])} in {name}" for name in
            (dark, bright)]  # fmt: skip
    return (
        "Absolute brightness differs by class, and is removed: images of more than 8 bits are "
        "scaled each by its own range, and these ranges differ beyond chance "
        f"(p = {p_value:.1g}, {counted(n, 'training image')}; medians {ends[0]}, {ends[1]}). "
        "--intensity dataset keeps brightness, by one range for all images; if it is a matter of "
        "exposure and not of the class, leave it as it is."
    )


def _misfit(named: str, clipped: float, filled: float, images: str) -> str:
    """Warn where a range for all images does not seem to be theirs."""
    if clipped >= CLIPPED:
        return (
            f"The range {named} does not seem to fit: it clips {100 * clipped:.0f} % of the values "
            f"of {images}."
        )
    if filled <= FILLED:
        return (
            f"The range {named} does not seem to fit: none of {images} fills more than "
            f"{100 * filled:.2g} % of it, so that all are seen as nearly one gray."
        )
    return ""


def check_new(images: ImageList, in_use: str) -> str:
    """Warn where images to predict do not seem to have the range of those that were fitted.

    Parameters
    ----------
    images : ImageList
        Some are looked at, evenly spaced. Those that cannot be decoded are ignored.
    in_use : str
        ``"image"``, ``"dtype"`` or ``"LOW:HIGH"``.

    Returns
    -------
    text : str
        Empty where they seem to have it, or each image is scaled by its own.
    """
    if in_use == IMAGE or not len(images):
        return ""
    places = np.unique(np.linspace(0, len(images) - 1, N_IMAGES).round().astype(np.intp))
    with closing(look_at_wide(images.take(places), _look)) as batches:
        looked = [one for batch in batches for one in batch if one is not None]
    named = f"{in_use}, with which the pipeline was fitted,"
    if not looked:
        return (
            f"None of {counted(len(places), 'image')} has more than 8 bits a channel, so that the "
            f"range {named} has no use: were they saved otherwise than those it was fitted on?"
        )
    text = _misfit(named, *_fit(looked, in_use), counted(len(looked), "image"))
    return f"{text} Save them as those were." if text else ""


def intensity_sentence(backbone: dict[str, Any], check: dict[str, Any] | None) -> str:
    """Say how images of more than 8 bits are scaled; empty where there are none.

    Parameters
    ----------
    backbone, check : dict
        ``report.json``'s ``backbone`` and ``intensity_check``.
    """
    found = str(backbone.get("intensity_found") or "")
    if check is None:
        return found
    in_use = check["in_use"]
    if in_use == IMAGE:
        how = "each by its own range, so that absolute brightness is lost"
    elif in_use == DTYPE:
        how = "by the range of their type, of floats 0 to 1"
    else:
        how = f"by one range, {' to '.join(in_use.split(':'))}"
    if in_use != IMAGE:
        how += f"; of the training images looked at, it clips {100 * check['clipped']:.2g} %"
    return f"images of more than 8 bits are scaled {how}{f' ({found})' if found else ''}"
