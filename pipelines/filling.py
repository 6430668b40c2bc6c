"""Filling: images whose codes the store lacks pass the network, and their codes are stored."""

from __future__ import annotations

import os
from contextlib import closing

import numpy as np
import torch
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, ExtractionKey
from cache.store import Gap, bytes_of
from codes import CodeExtractor, ImageList
from codes.devices import computes_in
from codes.extractor import PRECISIONS
from pipelines.options import ExtractionOptions
from pipelines.progress import Narrator
from pipelines.provenance import versions


def fill(
    store: CodeStore,
    key: ExtractionKey,
    arrays: dict[str, CodesKey],
    extractor: CodeExtractor,
    images: ImageList,
    digests: NDArray[np.uint8],
    options: ExtractionOptions,
    narrator: Narrator,
) -> tuple[int, dict[bytes, str]]:
    """Extract what the store lacks: each image for those taps alone whose codes it has not.

    Parameters
    ----------
    store : CodeStore
    key : ExtractionKey
    arrays : dict of str to CodesKey
        By the taps' names.
    extractor : CodeExtractor
        Of these taps.
    images : ImageList
    digests : ndarray of shape (n_images, 32), uint8
        What the images are known by.
    options : ExtractionOptions
        How many images at once, how many processes, and what the codes are said to come from.
    narrator : Narrator

    Returns
    -------
    n_missing : int
        Images that passed the network, or could not be decoded.
    unreadable : dict of bytes to str
        Digest → why the image cannot be decoded.
    """
    unreadable: dict[bytes, str] = {}
    n_missing = 0
    gaps = store.missing(key, list(arrays.values()), digests)
    if _announce(gaps, extractor, arrays, store, len(images), narrator):
        gaps = store.missing(key, list(arrays.values()), digests)
    for gap in gaps:
        n_missing += len(gap.images)
        part = extractor.only([name for name, array in arrays.items() if array in gap.arrays])
        unreadable |= _fill(store, key, gap, part, arrays, images, digests, options, narrator)
    return n_missing, unreadable


def _announce(
    gaps: list[Gap],
    extractor: CodeExtractor,
    arrays: dict[str, CodesKey],
    store: CodeStore,
    n_images: int,
    narrator: Narrator,
) -> bool:
    """Say what will be done, or refuse it for want of room; whether room had to be made."""
    widths = {arrays[tap.name]: tap.width for tap in extractor.taps}
    needed = sum(bytes_of({a: widths[a] for a in gap.arrays}, len(gap.images)) for gap in gaps)
    store.require_space(needed)
    removed = store.require_limit(needed)
    if removed:
        narrator.say(f"Removed for CNN_CODES_STORE_LIMIT: {', '.join(removed)}.")
    n_missing = sum(len(gap.images) for gap in gaps)
    if not n_missing:
        narrator.say(f"All {n_images} images have their codes in {store.name}; none is extracted.")
        return bool(removed)
    names = [tap.name for tap in extractor.taps]
    wanted = {array for gap in gaps for array in gap.arrays}
    narrator.say(
        f"Extracting {n_missing} of {n_images} images on {extractor.device}: "
        f"{', '.join(name for name in names if arrays[name] in wanted)}. "
        f"At most {needed / 1e6:.3g} MB in {store.name}."
        f"{' The network is compiled first.' if extractor.compile else ''}"
    )
    if not computes_in(extractor.device, PRECISIONS[extractor.precision]):
        narrator.say(
            f"This {extractor.device.type} has no instructions for {extractor.precision} and "
            "imitates it: --precision float32 is faster here."
        )
    return bool(removed)


def _fill(
    store: CodeStore,
    key: ExtractionKey,
    gap: Gap,
    extractor: CodeExtractor,
    arrays: dict[str, CodesKey],
    images: ImageList,
    digests: NDArray[np.uint8],
    options: ExtractionOptions,
    narrator: Narrator,
) -> dict[bytes, str]:
    """Extract the images of one gap; return those that cannot be decoded, by digest."""
    unreadable: dict[bytes, str] = {}
    wanted = images.take(gap.images)
    found = digests[gap.images]
    widths = {arrays[tap.name]: tap.width for tap in extractor.taps}
    workers = _workers(extractor.device) if options.workers is None else options.workers
    batches = extractor.extract(
        wanted,
        batch_size=options.batch_size,
        workers=min(workers, len(wanted) // 64),
        digests=found,
    )
    provenance = {
        "versions": versions(),
        "device": str(extractor.device),
        "backbone": options.backbone,
        "dataset": images.name,
    }
    with (
        closing(batches),
        narrator.step("Extracting", len(wanted)) as advance,
        store.write(key, widths, found, provenance=provenance) as part,
    ):
        for batch in batches:
            part.write({arrays[name]: rows for name, rows in batch.codes.items()}, batch.unreadable)
            unreadable |= {found[i].tobytes(): why for i, why in batch.unreadable.items()}
            advance(len(next(iter(batch.codes.values()))))
    if extractor.most is not None:
        narrator.say(
            f"{extractor.device} ran out of memory with more: {extractor.most} images passed the "
            "network together."
        )
    return unreadable


def _workers(device: torch.device) -> int:
    """Give the processes that decode, where nobody said how many."""
    if device.type != "cpu":
        return max(1, (os.cpu_count() or 2) - 1)
    # Networks take four times as long for an image as decoding does, or longer. With few cores the
    # threads that run the network decode as well.
    return torch.get_num_threads() // 4
