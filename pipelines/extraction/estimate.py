"""Estimate: how long an extraction takes in float32, and in bfloat16 where the hardware has it."""

from __future__ import annotations

import time

import numpy as np

from codes import CodeExtractor, ImageList
from codes.inference.devices import has_bfloat16, n_lanes
from pipelines.progress import Progress, duration

LONG = 60.0
"""Seconds from which it is worth a line."""


def say_if_bfloat16_is_faster(
    extractor: CodeExtractor, images: ImageList, n_missing: int, progress: Progress
) -> None:
    """Say how long float32 takes and how long bfloat16 would, where it is long and that is faster.

    A few images are timed: in float32 one for each that the device works on at a time, and if that
    makes it long, as many in both.

    Parameters
    ----------
    extractor : CodeExtractor
    images : ImageList
        Of which the first are timed.
    n_missing : int
        Images that are to be extracted.
    progress : Progress
    """
    if extractor.precision != "float32" or not has_bfloat16(extractor.device):
        return
    n = n_lanes(extractor.device)
    if n_missing <= 8 * n or _seconds(extractor, images, n) * n_missing / n < LONG:
        return
    n = min(len(images), n * extractor.default_batch_size)
    exact, rounded = (
        _seconds(one, images, n) * n_missing / n
        for one in (extractor, extractor.in_precision("bfloat16"))
    )
    if exact >= LONG and rounded < exact:
        progress.info(
            f"This takes about {duration(exact)} in float32, and about {duration(rounded)} with "
            "--precision bfloat16 (or auto: bfloat16 wherever the hardware has it), whose codes "
            "differ from these by a percent or two."
        )


def _seconds(extractor: CodeExtractor, images: ImageList, n: int) -> float:
    """Time the extraction of the first images, once the network is ready."""
    first = images.take(np.arange(min(n, len(images))))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for _ in extractor.extract(first, batch_size=max(1, n // n_lanes(extractor.device))):
            pass
        times.append(time.perf_counter() - start)
    return min(times)
