"""Filling the store: images whose codes it lacks pass the network, and their codes are stored."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, ExtractionKey
from cache.store import bytes_of
from codes import CodeExtractor, ImageList
from codes.extractor import PRECISIONS, CodesBatch
from codes.inference.devices import computes_in
from codes.wording import counted
from pipelines.extraction.counts import Counts, count_images
from pipelines.extraction.estimate import say_if_bfloat16_is_faster
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress
from pipelines.provenance import versions


class Extractor(Protocol):
    """What reads arrays of the store, each under a name of its own: `codes.CodeExtractor`."""

    device: torch.device
    precision: str
    compile: bool

    @property
    def taps(self) -> Sequence[Any]:
        """What is read: each has a name and a width."""

    @property
    def most(self) -> int | None:
        """Crops that fit into the device's memory together, once more did not."""

    def only(self, names: Collection[str]) -> Self:
        """Return one that reads some of the taps."""

    def extract(
        self,
        images: ImageList,
        *,
        batch_size: int | None,
        workers: int,
        digests: NDArray[np.uint8],
    ) -> Generator[CodesBatch, None, None]:
        """Yield the rows of some consecutive images, in the order of the list."""


def fill_missing(
    store: CodeStore,
    key: ExtractionKey,
    arrays: dict[str, CodesKey],
    images: ImageList,
    digests: NDArray[np.uint8],
    extractor: Extractor,
    *,
    options: ExtractionOptions,
    progress: Progress,
) -> tuple[Counts, dict[bytes, str]]:
    """Extract what the store lacks: each image only for those taps whose codes it does not have.

    Parameters
    ----------
    store, key
        Where the codes go.
    arrays : dict of str to CodesKey
        By the names of the extractor's taps.
    images, digests
        The images, and what they are known by: uint8 of shape (n_images, 32).
    extractor : Extractor
    options : ExtractionOptions
        How many images at once, how many processes, and what the codes are recorded to come from.
    progress : Progress

    Returns
    -------
    counts : Counts
    unreadable : dict of bytes to str
        Digest → why the image cannot be decoded.
    """
    widths = {arrays[tap.name]: tap.width for tap in extractor.taps}

    def bytes_needed() -> int:
        return sum(bytes_of({a: widths[a] for a in gap.arrays}, len(gap.images)) for gap in gaps)

    gaps = store.missing(key, list(arrays.values()), digests)
    store.storage.require_space(bytes_needed())
    removed = store.require_limit(bytes_needed())
    if removed:
        progress.info(f"Removed for CNN_CODES_STORE_LIMIT: {', '.join(removed)}.")
        gaps = store.missing(key, list(arrays.values()), digests)
    counts = count_images(digests, arrays, gaps, {})
    if gaps:
        wanted = {array for gap in gaps for array in gap.arrays}
        names = [tap.name for tap in extractor.taps if arrays[tap.name] in wanted]
        n_missing = sum(len(gap.images) for gap in gaps)
        are = "is a copy" if counts.copies == 1 else "are copies"
        copied = f" ({counts.copies:,} {are})" if counts.copies else ""
        progress.info(
            f"Extracting {n_missing:,} of {counted(len(images), 'image')}{copied} on "
            f"{extractor.device} in {extractor.precision}: "
            f"{', '.join(names)}. At most {bytes_needed() / 1e6:.3g} MB in {store.name}."
            f"{' The network is compiled first.' if extractor.compile else ''}"
        )
        _say_if_imitated(extractor, progress)
        if isinstance(extractor, CodeExtractor):  # Others read several views of an image.
            say_if_bfloat16_is_faster(extractor, images, n_missing, progress)
    else:
        progress.info(
            f"Nothing to extract: {store.name} holds the codes of {counted(len(images), 'image')}."
        )
    unreadable: dict[bytes, str] = {}
    for gap in gaps:
        names = [name for name, array in arrays.items() if array in gap.arrays]
        part, found = images.take(gap.images), digests[gap.images]
        batches = _batches(extractor.only(names), part, found, options, progress)
        provenance = {
            "versions": versions(),
            "device": str(extractor.device),
            "backbone": options.backbone,
            "weights": options.weights,
            "dataset": images.name,
        }
        columns = {arrays[name]: widths[arrays[name]] for name in names}
        with (
            closing(batches),
            progress.step("Extracting", len(part)) as advance,
            store.write(key, columns, found, provenance=provenance) as written,
        ):
            for batch in batches:
                rows = {arrays[name]: codes for name, codes in batch.codes.items()}
                written.write(rows, batch.unreadable)
                unreadable |= {found[i].tobytes(): why for i, why in batch.unreadable.items()}
                advance(len(next(iter(rows.values()))))
    if unreadable:
        counts = count_images(digests, arrays, gaps, unreadable)
    return counts, unreadable


def _say_if_imitated(extractor: Extractor, progress: Progress) -> None:
    if not computes_in(extractor.device, PRECISIONS[extractor.precision]):
        progress.info(
            f"This {extractor.device.type} has no instructions for {extractor.precision} and "
            "imitates it: --precision float32 is faster here."
        )


def _batches(
    extractor: Extractor,
    images: ImageList,
    digests: NDArray[np.uint8],
    options: ExtractionOptions,
    progress: Progress,
) -> Generator[CodesBatch, None, None]:
    """Extract, and report afterwards whether the device's memory held fewer images than asked."""
    workers = _workers(extractor.device) if options.workers is None else options.workers
    yield from extractor.extract(
        images,
        batch_size=options.batch_size,
        workers=min(workers, len(images) // 64),
        digests=digests,
    )
    if extractor.most is not None:
        progress.info(
            f"{extractor.device} ran out of memory with more: "
            f"{counted(extractor.most, 'image')} passed the network together."
        )


def _workers(device: torch.device) -> int:
    """Give the default number of processes that decode."""
    if device.type != "cpu":
        return max(1, (os.cpu_count() or 2) - 1)
    # Networks take four times as long for an image as decoding does, or longer. With few cores the
    # threads that run the network decode as well.
    return torch.get_num_threads() // 4
