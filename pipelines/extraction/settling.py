"""Settling: options that the training images decide become those that they decide for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codes import Backbone, ImageList
from codes.decoding.intensity import IMAGE
from pipelines.extraction.intensity import settle_intensity
from pipelines.extraction.normalization import choose, normalized
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress, timed


@dataclass(frozen=True, kw_only=True, eq=False)
class Settled:
    """Options of which nothing is left to be found, and a network whose preprocessing is theirs.

    Attributes
    ----------
    options : ExtractionOptions
    backbone : Backbone
    normalization, intensity : str
        What was found, and by what; empty where nothing was.
    """

    options: ExtractionOptions
    backbone: Backbone
    normalization: str = ""
    intensity: str = ""


def settle(
    images: ImageList,
    digests: NDArray[np.uint8],
    backbone: Backbone,
    options: ExtractionOptions,
    *,
    seconds: dict[str, float],
    progress: Progress,
) -> Settled:
    """Find the normalisation "auto", and the range of intensities "dataset".

    Parameters
    ----------
    images : ImageList
    digests : ndarray of shape (n_images, 32), uint8
    backbone : Backbone
        As `pipelines.extraction.extract.backbone_of` loads it.
    options : ExtractionOptions
    seconds : dict of str to float
        Takes the time of each stage.
    progress : Progress
        Is told what is found.

    Raises
    ------
    ValueError
        If there is no such range.
    """
    intensity = normalization = ""
    if options.intensity not in (None, IMAGE):
        with timed(seconds, "intensity"):
            options, intensity = settle_intensity(images, digests, options, progress)
        seen = replace(backbone.preprocessing, intensity=str(options.intensity))
        backbone = replace(backbone, preprocessing=seen)
    if options.normalize == "auto":
        with timed(seconds, "normalization"):
            options, normalization = choose(images, digests, backbone, options)
        backbone = normalized(backbone, options)
    for found in (intensity, normalization):
        if found:
            progress.info(found)
    return Settled(
        options=options, backbone=backbone, normalization=normalization, intensity=intensity
    )
