"""Similarity: how near a dataset is to what the backbone was trained on, without having that.

Read for a sample of the images and kept in the store, by one of two witnesses:

- Batch normalisations, where the network has them: they keep the mean and variance of each channel
  over the training images. Kullback and Leibler's divergence between these and the same of the
  images (`codes.similarity_statistics.divergences`), its median over a layer's channels, then over
  the layers, is of one scale across networks. From 64 images each, under six networks (ResNet-152
  and -50, EfficientNet-B0, Lite0, Lite1 and Lite2):

      ======================================  ==============
      ImageNet's photographs                  0.006 to 0.02
      photographs of clothing                 0.02 to 0.03
      brain scans                             0.04 to 0.15
      hands on white                          0.07 to 0.13
      CIFAR-10, enlarged                      0.05 to 0.27
      ImageNet in shuffled tiles of 8 pixels  0.13 to 0.24
      scanned digits                          0.13 to 0.60
      noise                                   0.32 to 6.5
      ======================================  ==============

  `BORDER_DIVERGENCE`, the geometric middle of the largest in the first two rows and the least in
  the others, separates photographs from the rest. A divergence d has the value
  1 / (1 + (d / `BORDER_DIVERGENCE`)²): 1 at d = 0, `BORDER` at the border, towards 0 beyond. With
  the square, what training images themselves give in 64 (0.006 to 0.02) comes to 0.75 to 0.97.
  It is steady from 32 images on; of fewer it is too low, so that these have no side of the border.
- The source classifier otherwise: see `pipelines.diagnostics.similarity_by_classifier`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, ExtractionKey
from codes import Backbone, ImageList
from codes.data.images import distinct
from codes.similarity_statistics import (
    N_IMAGES,
    N_STEADY,
    OUTPUT,
    StatisticsReader,
    divergences,
    find_norms,
)
from pipelines.diagnostics.border import BORDER
from pipelines.diagnostics.similarity_by_classifier import (
    MEANING,
    recognition_of,
    why_unrecognising,
)
from pipelines.extraction.extract import key_of
from pipelines.progress import Progress, Silent
from pipelines.provenance import versions

BORDER_DIVERGENCE = 0.035
N_RECOGNISED = 200
"""Images that are shown to the source classifier."""
N_RESAMPLES = 1000
N_COSTLY_RESAMPLES = 300
"""Resamples where a network has thousands of channels, each with a divergence of its own."""


@dataclass(frozen=True, kw_only=True)
class LayerSimilarity:
    """The similarity at one batch normalisation.

    Attributes
    ----------
    layer : str
        Its name.
    depth : float
    value : float
        On the scale of `Similarity.value`.
    """

    layer: str
    depth: float
    value: float


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How near a dataset is to what the backbone was trained on.

    Attributes
    ----------
    value : float or None
        From 0, unlike anything it was trained on, to 1, as its training images. None: see
        `witness`.
    ci_low, ci_high : float or None
        95 % interval over the images, by bootstrap.
    witness : str
        What the value is read from, or why there is none.
    n_images : int
        Images that were looked at.
    by_layer : tuple of LayerSimilarity
        In forward order, on the same scale; empty without batch normalisation.
    similar : bool or None
        On which side of `BORDER` the value is. None where the interval holds the border, and where
        there is none: without batch normalisation, or of fewer images than 32.
    side : str
        The same in words: ``"similar"``, ``"dissimilar"``, ``"close to the border"``, or empty
        where there is none.
    scale : str
        What the value means, in a sentence or two.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    witness: str
    n_images: int
    by_layer: tuple[LayerSimilarity, ...]
    similar: bool | None = None
    side: str = ""
    scale: str = ""


def measure_similarity(
    images: ImageList,
    digests: NDArray[np.uint8],
    backbone: Backbone,
    *,
    store: CodeStore,
    device: str = "cpu",
    random_state: int = 0,
    progress: Progress | None = None,
) -> Similarity:
    """Measure how near a dataset is to what the backbone was trained on.

    Parameters
    ----------
    images : ImageList
        All of them can be decoded.
    digests : ndarray of shape (n_images, 32), uint8
        The images looked at are those whose digests come first, so that a dataset that grows keeps
        most of its sample.
    backbone : Backbone
    store : CodeStore
        Where the statistics are kept.
    device : str, default="cpu"
    random_state : int, default=0
        Of the bootstrap.
    progress : Progress, optional
    """
    if backbone.random:
        return _none("the weights are random: there is nothing that they were trained on")
    reader = StatisticsReader(backbone, list(find_norms(backbone.graph)) or None, device=device)
    if not reader.norms and (why := why_unrecognising(reader, backbone)) is not None:
        return _none(f"no batch normalisation keeps statistics of the training images, and {why}")
    sample = distinct(digests)[: sample_size(backbone)]
    statistics = _read(
        images.take(sample),
        digests[sample],
        reader,
        store,
        key_of(backbone, "float32"),
        progress or Silent(),
    )
    rng = np.random.default_rng(random_state)
    shape = N_COSTLY_RESAMPLES if reader.norms else N_RESAMPLES, len(sample)
    resamples = rng.integers(0, len(sample), shape)
    if reader.norms:
        return _of_statistics(reader, statistics, resamples)
    return _of_classifier(statistics[OUTPUT].astype(np.float64), resamples)


def sample_size(backbone: Backbone) -> int:
    """Return how many distinct images are looked at, where there are as many."""
    return N_IMAGES if find_norms(backbone.graph) else N_RECOGNISED


def _none(why: str) -> Similarity:
    return Similarity(value=None, ci_low=None, ci_high=None, witness=why, n_images=0, by_layer=())


def _read(
    images: ImageList,
    digests: NDArray[np.uint8],
    reader: StatisticsReader,
    store: CodeStore,
    key: ExtractionKey,
    progress: Progress,
) -> dict[str, NDArray[Any]]:
    """Read the statistics of each image of a sample, out of the store where it is there."""
    arrays = {
        name: CodesKey(layer=name, activation="pre", pool="surrogate:2", dtype="float32")
        for name in reader.widths
    }
    gaps = store.missing(key, list(arrays.values()), digests)
    with progress.step("Similarity", sum(len(gap.images) for gap in gaps)) as advance:
        for gap in gaps:
            found = digests[gap.images]
            widths = {array: reader.widths[name] for name, array in arrays.items()}
            provenance = {"versions": versions(), "dataset": images.name}
            with store.write(key, widths, found, provenance=provenance) as part:
                for batch in reader.read(images.take(gap.images), found):
                    part.write({arrays[name]: rows for name, rows in batch.items()}, {})
                    advance(len(next(iter(batch.values()))))
    return {name: store.codes(key, array, digests) for name, array in arrays.items()}


def _of_statistics(
    reader: StatisticsReader, statistics: dict[str, NDArray[Any]], resamples: NDArray[np.intp]
) -> Similarity:
    """Compare the moments of the images with what batch normalisations remember."""
    n_resamples, n = resamples.shape
    counts = np.zeros((n_resamples, n))
    np.add.at(counts, (np.arange(n_resamples)[:, None], resamples), 1 / n)
    found, again = [], []
    for name, (_, norm) in reader.norms.items():
        moments = statistics[name].astype(np.float64)
        found.append(np.median(divergences(norm, moments.mean(0))))
        # Some at a time: a layer can have thousands of channels.
        again.append(
            np.concatenate(
                [np.median(divergences(norm, some @ moments), axis=-1)
                 for some in np.array_split(counts, 1 + n_resamples // 100)]
            )
        )  # fmt: skip
    divergence = float(np.median(found))
    spread = np.median(again, axis=0)
    # Of images drawn with replacement fewer are distinct, so that all of `spread` is a little too
    # far away: only its width counts.
    low, high = divergence * np.quantile(spread, [0.025, 0.975]) / np.median(spread)
    value, steady = similarity_of(divergence), n >= N_STEADY
    ci_low, ci_high = min(value, similarity_of(float(high))), max(value, similarity_of(float(low)))
    similar = value >= BORDER if steady and not ci_low < BORDER <= ci_high else None
    sides = {True: "similar", False: "dissimilar", None: "close to the border"}
    scale = (
        "1 is like the network's training images, 0 unlike any of them. The scale is the same for "
        f"all networks with batch normalisation, and {BORDER} its border: photographs such as "
        "those of ImageNet lie above it under networks that were trained on these; scans, "
        "thumbnails, digits and noise below."
    )
    if not steady:
        scale += f" {n} images are too few to say on which side these lie: it takes {N_STEADY}."
    return Similarity(
        value=value,
        ci_low=ci_low,
        ci_high=ci_high,
        witness="the statistics of batch normalisation",
        n_images=n,
        by_layer=tuple(
            LayerSimilarity(layer=name, depth=depth, value=similarity_of(float(at)))
            for (name, (depth, _)), at in zip(reader.norms.items(), found, strict=True)
        ),
        similar=similar,
        side=sides[similar] if steady else "",
        scale=scale,
    )


def similarity_of(divergence: float) -> float:
    """Put a divergence, from 0 up, on the scale of similarity, from 1 down to 0.

    Examples
    --------
    >>> [round(similarity_of(divergence), 2) for divergence in (0, 0.01, BORDER_DIVERGENCE, 0.3)]
    [1.0, 0.92, 0.5, 0.01]
    """
    return 1 / (1 + (divergence / BORDER_DIVERGENCE) ** 2)


def _of_classifier(output: NDArray[np.float64], resamples: NDArray[np.intp]) -> Similarity:
    """Measure how much more the source classifier recognises than in scrambled images."""
    value = float(recognition_of(output.mean(0)))
    low, high = np.quantile(recognition_of(output[resamples].mean(1)), [0.025, 0.975])
    return Similarity(
        value=value,
        ci_low=min(value, float(low)),
        ci_high=max(value, float(high)),
        witness="the source classifier",
        n_images=len(output),
        by_layer=(),
        scale=MEANING,
    )
