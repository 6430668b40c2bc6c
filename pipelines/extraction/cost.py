"""Cost: what the network computes for the codes of one layer or another, and how long it takes.

What is computed decides, as it is the same in every run; the time is shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from codes import Backbone
from pipelines.extraction.extract import Extraction, extractor_of

N_IMAGES = 8
N_PASSES = 5
ENOUGH = 2.0
"""Seconds after which no further pass is timed."""


def multiply_adds(backbone: Backbone, others: Iterable[str] = ()) -> dict[str, int]:
    """Count the multiplications, each with its addition, up to each layer of a network.

    Those of convolutions, matrix products and attention, as PyTorch's ``FlopCounterMode`` counts
    them. Operations that it does not know count nothing, such as custom kernels: where a network
    consists of these, all its layers have 0, and none is cheaper than another.

    Parameters
    ----------
    backbone : Backbone
    others : iterable of str, optional
        Nodes of the graph that are not among its layers.

    Returns
    -------
    counts : dict of str to int
        For one image at the size of the preprocessing, by the names of the layers, and of the
        others: of everything that runs before it in forward order, and of itself.

    Examples
    --------
    >>> from codes import load_backbone
    >>> counts = multiply_adds(load_backbone("bundled"))
    >>> counts["fc7.relu"] - counts["fc6.relu"]  # 512 values from 512
    262144
    """
    size = backbone.preprocessing.crop_size
    with _all_counted(), torch.inference_mode(), FlopCounterMode(display=False) as mode:
        counting = _Counting(backbone.graph.root, graph=backbone.graph.graph)
        counting.mode, counting.counts = mode, {}
        counting.run(torch.zeros(1, 3, size, size))
    nodes = backbone.graph.nodes
    names = dict.fromkeys([*(layer.name for layer in backbone.layers), *others])
    return {name: counting.counts[nodes[name]] // 2 for name in names}


class _Counting(fx.Interpreter):
    """Runs a graph, and notes what has been counted when each node is done."""

    mode: FlopCounterMode
    counts: dict[fx.Node, int]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.counts[n] = self.mode.get_total_flops()
        return result


@contextmanager
def _all_counted() -> Iterator[None]:
    """Compute attention by matrix products: its fused kernels on a CPU are not counted."""
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)


def measure_cost(extraction: Extraction, layers: Sequence[str]) -> dict[str, float]:
    """Time the network up to some of its layers, on the device of the extraction.

    Returned are seconds for an image by tap: the median of a few passes of eight images, the layers
    in turn. Reading and resizing the image is not part of it.
    """
    images = extraction.images
    preprocessing = extraction.backbone.preprocessing
    places = range(min(N_IMAGES, len(images)))
    decoded = (images.source.open(place, preprocessing.decoding) for place in places)
    pixels = torch.cat([preprocessing.crops(image) for image in decoded])
    extractors = {
        layer: extractor_of(extraction.backbone, extraction.options_of(layer))
        for layer in dict.fromkeys(layers)
    }
    times: dict[str, list[float]] = {layer: [] for layer in extractors}
    for number in range(1 + N_PASSES):
        for layer, extractor in extractors.items():
            start = time.perf_counter()
            for codes in extractor(pixels).values():
                codes.cpu()
            if number:  # The first pass tunes the network.
                times[layer].append((time.perf_counter() - start) / len(places))
        if number and np.sum(list(times.values())) * len(places) > ENOUGH:
            break
    return {layer: median(passes) for layer, passes in times.items()}
