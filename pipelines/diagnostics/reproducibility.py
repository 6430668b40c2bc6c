"""Reproducibility: how much the codes of some images differ when they are extracted otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from codes import CodeExtractor
from pipelines.extraction.extract import Extraction, extractor_of

N_IMAGES = 8

Rows = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Reproducibility:
    """Largest differences of codes, as shares of their layer's largest code.

    Attributes
    ----------
    n_images : int
        Images that were extracted again.
    again : float
        Between two runs that are alike.
    batch : float
        Between all of them at once and one by one.
    precision : float or None
        Between the precision asked for and float32; None where they are the same.
    compiled : float or None
        Between the compiled network and the network as it is; None where it is not compiled.
    """

    n_images: int
    again: float
    batch: float
    precision: float | None
    compiled: float | None


def measure_reproducibility(extraction: Extraction) -> Reproducibility:
    """Extract a few images again in other ways; nothing is stored."""
    options = extraction.options
    images = extraction.images.take(np.arange(min(N_IMAGES, len(extraction.images))))

    def rows(extractor: CodeExtractor, batch_size: int) -> Rows:
        batches = list(extractor.extract(images, batch_size=batch_size))
        return {
            layer: np.concatenate([batch.codes[layer] for batch in batches])
            for layer in batches[0].codes
        }

    asked = extractor_of(extraction.backbone, options)
    plain = extractor_of(extraction.backbone, replace(options, compile=False))
    first, together = rows(asked, N_IMAGES), rows(plain, N_IMAGES)
    in_float32 = None
    if options.precision != "float32":
        exact = replace(options, precision="float32", compile=False)
        in_float32 = _difference(rows(extractor_of(extraction.backbone, exact), N_IMAGES), first)
    return Reproducibility(
        n_images=len(images),
        again=_difference(first, rows(asked, N_IMAGES)),
        batch=_difference(together, rows(plain, 1)),
        precision=in_float32,
        compiled=_difference(together, first) if options.compile else None,
    )


def _difference(left: Rows, right: Rows) -> float:
    shares = [
        np.abs(left[layer] - right[layer]).max() / max(np.abs(left[layer]).max(), 1e-30)
        for layer in left
    ]
    return float(max(shares))
