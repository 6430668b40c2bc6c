"""Normalisation: does the one in use fit the network? Its first batch normalisation remembers.

The statistics that it keeps are those of the training images under the right normalisation. With a
wrong one, photographs are as far from them as 0.4 to 8 (the median over its channels of
`codes.similarity_statistics.divergences`, from 64 images), with the right one 0.01 to 0.07. Hands,
scans and thumbnails are further away; in 25 of 25 combinations with five networks the right one is
still the least, or less than 0.25 above it. Photographs bleached to near white make a false trace,
0.80 for the right one and 0.40 for another, for which a warning takes more than twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from codes import Backbone, ImageList, Preprocessing
from codes.data.images import distinct
from codes.decoding.decode import UnreadableImageError
from codes.preprocessing import NORMALIZATIONS
from codes.similarity_statistics import N_IMAGES, StatisticsReader, divergences, find_norms
from pipelines.extraction.options import ExtractionOptions

ABOVE = 0.25
"""Divergence above the least from which a normalisation may be wrong."""
WARNED, NOTED = 3.0, 1.5
"""Times the least from which that is a warning, and a line in the report."""
CHOICES = f"{'|'.join(NORMALIZATIONS)}|MEAN:STD[:BGR]|auto"


@dataclass(frozen=True, kw_only=True)
class NormalizationCheck:
    """The normalisation in use among others.

    Attributes
    ----------
    in_use : str
        A name, MEAN:STD or MEAN:STD:BGR, as ``--normalize`` takes it.
    best : str
        The one with the least divergence.
    values : dict of str to float
        Normalisation → divergence at the first batch normalisation, from 0 up.
    n_images : int
        Images that were looked at.
    level : str or None
        ``"warn"``, ``"note"``, or None where the one in use may well be right.
    text : str
        The warning or note; empty where there is none.
    """

    in_use: str
    best: str
    values: dict[str, float]
    n_images: int
    level: str | None
    text: str


def check_normalization(
    images: ImageList, digests: NDArray[np.uint8], backbone: Backbone, *, device: str = "cpu"
) -> NormalizationCheck | None:
    """Compare the normalisation in use with the usual ones.

    Parameters
    ----------
    images : ImageList
        Those that cannot be decoded are ignored.
    digests : ndarray of shape (n_images, 32), uint8
    backbone : Backbone
    device : str, default="cpu"

    Returns
    -------
    check : NormalizationCheck or None
        None without a batch normalisation that knows what went in during training, or without an
        image that can be decoded.
    """
    steps = backbone.preprocessing
    name = next(iter(find_norms(backbone.graph)), None)
    crops = [] if name is None else _crops(images, digests, steps)
    if name is None or not crops:
        return None
    reader = StatisticsReader(backbone, [name], device=device)
    usual = {how: steps.normalized(how) for how in NORMALIZATIONS}
    values = {}
    for how, other in ({steps.normalization: steps} | usual).items():
        [moments] = reader.moments(torch.stack(crops), other).values()
        values[how] = float(np.median(divergences(reader.norms[name][1], moments)))
    in_use, best = steps.normalization, min(values, key=lambda how: values[how])
    level = compare_divergences(values[in_use], values[best])
    return NormalizationCheck(
        in_use=in_use,
        best=best,
        values=values,
        n_images=len(crops),
        level=level,
        text=_say(values, in_use, best, level),
    )


def _crops(
    images: ImageList, digests: NDArray[np.uint8], preprocessing: Preprocessing
) -> list[torch.Tensor]:
    """Crop the first of the distinct images that can be decoded."""
    crops: list[torch.Tensor] = []
    for place in distinct(digests):
        if len(crops) == N_IMAGES:
            break
        try:
            image = images.source.open(int(place), preprocessing.decoding)
            crops.append(preprocessing.crop(image))
        except UnreadableImageError:
            continue  # `extract` lists every one.
    return crops


def compare_divergences(in_use: float, best: float) -> str | None:
    """Decide what another normalisation's smaller divergence is worth: "warn", "note" or nothing.

    Examples
    --------
    >>> [compare_divergences(*pair) for pair in ((0.9, 0.3), (0.8, 0.4), (0.3, 0.06))]
    ['warn', 'note', None]
    """
    if in_use - best <= ABOVE:
        return None
    return "warn" if in_use >= WARNED * best else "note" if in_use >= NOTED * best else None


def shown(divergence: float) -> str:
    """Write a divergence with two decimals, or as a whole number where it is large.

    Examples
    --------
    >>> shown(0.0712), shown(8.7512), shown(32514.2743)
    ('0.07', '8.75', '32,514')
    """
    return f"{divergence:.2f}" if divergence < 100 else f"{divergence:,.0f}"


def _say(values: dict[str, float], in_use: str, best: str, level: str | None) -> str:
    if level is None:
        return ""
    measured = (
        f"the divergence from the statistics of the network's first batch normalisation is "
        f"{shown(values[in_use])} with the normalisation in use ({in_use}) and "
        f"{shown(values[best])} "
        f"with {best!r}"
    )
    if level == "warn":
        return (
            f"The preprocessing does not seem to fit this network: {measured}. Scores, depths and "
            f"advice may be wrong. Try --normalize {best} (allowed: {CHOICES})."
        )
    return (
        f"The preprocessing may not fit this network: {measured}. Images unlike photographs can "
        f"make such a difference too; to try the other, use --normalize {best} (allowed: "
        f"{CHOICES})."
    )


def require_norm(backbone: Backbone) -> None:
    """Refuse to choose a normalisation for a network that does not remember its own.

    Raises
    ------
    ValueError
        If the weights are random, or no batch normalisation knows what went in during training.
    """
    why = (
        "its weights are random, so that there is no normalisation that it was trained with"
        if backbone.random
        else None
        if find_norms(backbone.graph)
        else "it has no batch normalisation, whose statistics would distinguish them"
    )
    if why is not None:
        raise ValueError(
            f"--normalize auto: a normalisation of {backbone.name!r} cannot be measured, as {why}. "
            f"Name one of {', '.join(NORMALIZATIONS)} or MEAN:STD, or leave the option out for the "
            "network's own."
        )


def normalized(backbone: Backbone, options: ExtractionOptions) -> Backbone:
    """Give a network the normalisation that some options name; its own for None and "auto"."""
    if options.normalize in (None, "auto"):
        return backbone
    steps = backbone.preprocessing.normalized(str(options.normalize))
    return replace(backbone, preprocessing=steps)


def choose(
    images: ImageList, digests: NDArray[np.uint8], backbone: Backbone, options: ExtractionOptions
) -> tuple[ExtractionOptions, str]:
    """Choose a normalisation on the training images, in place of "auto".

    The backbone has its own normalisation. Returned are the options with the one that was chosen,
    None for the backbone's own, and a sentence on what was chosen, and by what.
    """
    train, device = images.train, options.device
    check = check_normalization(images.take(train), digests[train], backbone, device=device)
    if check is None:
        return replace(options, normalize=None), (
            "--normalize auto: no image could be read; the network's own is used."
        )
    best = check.best if check.level == "warn" else None
    which = repr(best) if best else f"the network's own ({check.in_use})"
    measured = ", ".join(f"{how} {shown(value)}" for how, value in check.values.items())
    return replace(options, normalize=best), (
        f"--normalize auto: {which} is used; divergences at the first batch normalisation, from "
        f"{check.n_images} training images: {measured}."
    )
