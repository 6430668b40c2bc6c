"""Cost: how long the network takes for the codes of one layer or another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from pipelines.extraction.extract import Extraction, extractor_of
from pipelines.extraction.options import ExtractionOptions

N_IMAGES = 8
N_PASSES = 5
ENOUGH = 2.0
"""Seconds after which no further pass is timed."""


def measure_cost(
    extraction: Extraction, options: ExtractionOptions, layers: Sequence[str]
) -> dict[str, float]:
    """Time the network up to some of its layers, on the device of the extraction.

    Parameters
    ----------
    extraction : Extraction
    options : ExtractionOptions
        That it was made with.
    layers : sequence of str
        Names of taps.

    Returns
    -------
    seconds : dict of str to float
        For an image, by layer: the median of a few passes of eight images, the layers in turn.
        Reading and resizing the image is not part of it.
    """
    images = extraction.images
    preprocessing = extraction.backbone.preprocessing
    places = range(min(N_IMAGES, len(images)))
    pixels = torch.cat([preprocessing.crops(images.source.open(i)) for i in places])
    extractors = {
        layer: extractor_of(extraction.backbone, extraction.options_of(layer, options))
        for layer in dict.fromkeys(layers)
    }
    taken: dict[str, list[float]] = {layer: [] for layer in extractors}
    for number in range(1 + N_PASSES):
        for layer, extractor in extractors.items():
            start = time.perf_counter()
            for codes in extractor(pixels).values():
                codes.cpu()
            if number:  # The first pass tunes the network.
                taken[layer].append((time.perf_counter() - start) / len(places))
        if number and np.sum(list(taken.values())) * len(places) > ENOUGH:
            break
    return {layer: median(passes) for layer, passes in taken.items()}
