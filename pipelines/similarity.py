"""Similarity: how near a dataset is to what the backbone was trained on, without having that.

Two witnesses, each read for a sample of the images and kept in the store:

- The source classifier. How much more it recognises in the images than in the same images with
  their Fourier phases scrambled: the difference of the mean energies (log-sum-exp of the scores),
  in units of the standard deviation of the scores over the classes, so that the scale of a
  network's scores does not matter. Nothing recognised is 0.
- Batch normalisations. How much the Gaussians of each channel's input, in this dataset and as
  remembered from training, overlap: Bhattacharyya's coefficient, 1 where they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import CodesKey
from codes.evidence import OUTPUT, EvidenceReader
from pipelines.extraction import Extraction
from pipelines.progress import Narrator, Silent
from pipelines.provenance import versions

N_IMAGES = 200
SCALE = 1.6
"""Gain, in deviations of the scores, that makes a value of 1 - 1/e. SqueezeNet gains 2.5 on
photographs of clothing, which come to 0.8, and 0.5 on scanned digits, which come to 0.3."""
N_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class LayerSimilarity:
    """The overlap at one batch normalisation.

    Attributes
    ----------
    layer : str
        Its name.
    depth : float
    value : float
        From 0 to 1, the same Gaussians.
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
        From 0, nothing in it is recognised, to 1, as its training images. None: see `witness`.
    ci_low, ci_high : float or None
        95 % interval over the images, by bootstrap.
    witness : str
        What the value is read from, or why there is none.
    n_images : int
        Images that were looked at.
    by_layer : tuple of LayerSimilarity
        In forward order; empty without batch normalisation.
    """

    value: float | None
    ci_low: float | None
    ci_high: float | None
    witness: str
    n_images: int
    by_layer: tuple[LayerSimilarity, ...]


def measure_similarity(
    extraction: Extraction, *, random_state: int = 0, narrator: Narrator | None = None
) -> Similarity:
    """Measure how near a dataset is to what the backbone was trained on.

    Parameters
    ----------
    extraction : Extraction
    random_state : int, default=0
        Of the bootstrap. The images are those whose digests come first, so that a dataset that
        grows keeps most of its sample.
    narrator : Narrator, optional

    Returns
    -------
    similarity : Similarity
    """
    if extraction.backbone.weights.startswith("random"):
        return _none("the weights are random: there is nothing that they were trained on")
    reader = EvidenceReader(extraction.backbone, device=extraction.device)
    if not reader.widths:
        return _none("the network has neither class scores at its end nor batch normalisation")
    _, first = np.unique(extraction.digests, axis=0, return_index=True)
    sample = first[:N_IMAGES]  # `unique` sorts: by digest, which is by chance.
    evidence = _read(extraction, reader, sample, narrator or Silent())
    rng = np.random.default_rng(random_state)
    resamples = rng.integers(0, len(sample), (N_RESAMPLES, len(sample)))
    by_layer = tuple(
        LayerSimilarity(layer=name, depth=depth, value=_overlap(norm, evidence[name].mean(0)))
        for name, (depth, norm) in reader.norms.items()
    )
    if OUTPUT in evidence:
        output = evidence[OUTPUT].astype(np.float64)
        value = float(_recognised(output.mean(0)))
        spread = _recognised(output[resamples].mean(1))
        witness = "the source classifier"
    else:
        value = float(np.mean([layer.value for layer in by_layer]))
        spread = np.array([_mean_overlap(reader, evidence, rows) for rows in resamples[:200]])
        witness = "the statistics of batch normalisation"
    low, high = np.quantile(spread, [0.025, 0.975])
    return Similarity(
        value=value,
        ci_low=min(value, float(low)),
        ci_high=max(value, float(high)),
        witness=witness,
        n_images=len(sample),
        by_layer=by_layer,
    )


def _none(why: str) -> Similarity:
    return Similarity(value=None, ci_low=None, ci_high=None, witness=why, n_images=0, by_layer=())


def _read(
    extraction: Extraction, reader: EvidenceReader, sample: NDArray[np.intp], narrator: Narrator
) -> dict[str, NDArray[Any]]:
    """Read the evidence of each image of a sample, out of the store where it is there."""
    store, key = extraction.store, replace(extraction.key, precision="float32")
    arrays = {
        name: CodesKey(layer=name, activation="pre", pool="surrogate:2", dtype="float32")
        for name in reader.widths
    }
    digests = extraction.digests[sample]
    gaps = store.missing(key, list(arrays.values()), digests)
    with narrator.step("Similarity", sum(len(gap.images) for gap in gaps)) as advance:
        for gap in gaps:
            images = extraction.images.take(sample[gap.images])
            found = digests[gap.images]
            widths = {array: reader.widths[name] for name, array in arrays.items()}
            provenance = {"versions": versions(), "dataset": extraction.images.name}
            with store.write(key, widths, found, provenance=provenance) as part:
                for batch in reader.read(images, found):
                    part.write({arrays[name]: rows for name, rows in batch.items()}, {})
                    advance(len(next(iter(batch.values()))))
    return {name: store.codes(key, array, digests) for name, array in arrays.items()}


def _recognised(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn mean energy, mean energy when scrambled and spread into a value from 0 to 1."""
    gain = (means[..., 0] - means[..., 1]) / np.maximum(means[..., 2], 1e-12)
    value: NDArray[np.float64] = 1 - np.exp(-np.maximum(gain, 0) / SCALE)
    return value


def _overlap(norm: Any, moments: NDArray[Any]) -> float:
    """Average over the channels the overlap of what came in now and in training."""
    mean, square = np.split(moments.astype(np.float64), 2)
    variance = np.maximum(square - mean**2, 0) + norm.eps
    mean0 = norm.running_mean.double().cpu().numpy()
    variance0 = norm.running_var.double().cpu().numpy() + norm.eps
    total = variance + variance0
    spread = np.sqrt(2 * np.sqrt(variance * variance0) / total)
    return float((spread * np.exp(-((mean - mean0) ** 2) / (4 * total))).mean())


def _mean_overlap(
    reader: EvidenceReader, evidence: Mapping[str, NDArray[Any]], rows: NDArray[np.intp]
) -> float:
    overlaps = [
        _overlap(norm, evidence[name][rows].mean(0)) for name, (_, norm) in reader.norms.items()
    ]
    return float(np.mean(overlaps))
