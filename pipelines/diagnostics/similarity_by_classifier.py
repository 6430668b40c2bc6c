"""Similarity by the source classifier, for networks without batch normalisation.

How much more it recognises in the images than in the same images with their Fourier phases
scrambled: the difference of the mean energies (log-sum-exp of the scores), in units of the standard
deviation of the scores over the classes. Nothing recognised is 0. This orders datasets under one
network; across networks it means different things (photographs of ImageNet: 0.95 for SqueezeNet,
0.65 for EfficientNet-Lite0), so that it has no border. And it separates only strongly different
images: under SqueezeNet, on 64 images each,

    ==================================================  ====
    photographs of clothing (another draw: 0.69)        0.81
    their negatives with a little noise                 0.81
    the same as thumbnails of 128 pixels                0.77
    the photographs in shuffled tiles of 8 pixels       0.68
    their negatives as thumbnails of 64 pixels          0.38
    scanned digits                                      0.33
    CIFAR-10, drawings, pages, noise          up to     0.03
    ==================================================  ====

Nothing else that the class scores or the last features say of these separates photographs from
their negatives: mean energy 18.8 and 20.5 (CIFAR-10: 12.6), greatest probability 0.59 and 0.60
(0.24), average of the last features 9.0 and 10.7 (6.6), mutual information of image and class 2.6
and 2.5 nats (1.3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import fx

from codes import Backbone
from codes.graph.heads import class_weights
from codes.similarity_statistics import StatisticsReader
from codes.untrained_heads import looks_untrained

SCALE = 1.6
"""Gain, in deviations of the scores, that makes a value of 1 - 1/e. SqueezeNet gains 2.5 on
photographs of clothing, which come to 0.8, and 0.5 on scanned digits, which come to 0.3."""
MEANING = (
    "0 is nothing recognised: how much more the network's own classifier recognises in the "
    "images than in the same images with their Fourier phases scrambled. This network has "
    "no batch normalisation, so that the value is an order under this one network: more is "
    "more similar, but there is no border, and other networks' values do not compare. It "
    "separates only strongly different images: under SqueezeNet, photographs from noise and "
    "small thumbnails, but not from their negatives."
)


def why_unrecognising(reader: StatisticsReader, backbone: Backbone) -> str | None:
    """Say why a source classifier cannot be used, where it cannot.

    Its class weights are missing or look untrained, or there are no class scores.
    """
    classes = class_weights(backbone.graph)
    end = next(node for node in backbone.graph.graph.nodes if node.op == "output").args[0]
    lacking = end.meta.get("missing") if isinstance(end, fx.Node) else None
    if lacking is not None:
        return f"the file of weights lacks {lacking!r}, without which there are no class scores"
    if not reader.widths:
        return "there are no class scores at its end"
    if classes is not None and looks_untrained(classes[1]):
        return (
            f"its class weights {classes[0]!r} cannot be distinguished from random ones, as of a "
            "head that was made anew"
        )
    return None


def recognition_of(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn mean energy, mean energy when scrambled and spread, (..., 3), into values from 0 to 1.

    They are as `codes.similarity_statistics.StatisticsReader` orders them, averaged over images.

    Examples
    --------
    >>> recognition_of(np.array([[18.8, 13.9, 1.83], [12.6, 13.8, 1.65]])).round(2)
    array([0.81, 0.  ])
    """
    gain = (means[..., 0] - means[..., 1]) / np.maximum(means[..., 2], 1e-12)
    value: NDArray[np.float64] = 1 - np.exp(-np.maximum(gain, 0) / SCALE)
    return value
