"""Filling: images whose codes the store lacks pass the network, and their codes are stored."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, ExtractionKey
from cache.store import Gap, bytes_of
from codes import CodeExtractor, ImageList
from codes.extractor import PRECISIONS
from codes.inference.devices import computes_in
from codes.wording import counted
from pipelines.extraction.counts import Counts, count_images
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Narrator
from pipelines.provenance import versions


@dataclass(frozen=True, kw_only=True, eq=False)
class Filling:
    """Images of a dataset, and the place in the store where their codes belong.

    Attributes
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
    """

    store: CodeStore
    key: ExtractionKey
    arrays: dict[str, CodesKey]
    extractor: CodeExtractor
    images: ImageList
    digests: NDArray[np.uint8]
    options: ExtractionOptions
    narrator: Narrator

    def run(self) -> tuple[Counts, dict[bytes, str]]:
        """Extract what the store lacks: each image for those taps alone whose codes it has not.

        Returns
        -------
        counts : Counts
        unreadable : dict of bytes to str
            Digest → why the image cannot be decoded.
        """
        gaps = self._gaps()
        if self._make_room(gaps):
            gaps = self._gaps()
        self._announce(gaps)
        unreadable: dict[bytes, str] = {}
        for gap in gaps:
            unreadable |= self._fill(gap)
        return count_images(self.digests, self.arrays, gaps, unreadable), unreadable

    def _gaps(self) -> list[Gap]:
        return self.store.missing(self.key, list(self.arrays.values()), self.digests)

    def _bytes(self, gaps: list[Gap]) -> int:
        """Return how much room the codes of some gaps take at most."""
        widths = {self.arrays[tap.name]: tap.width for tap in self.extractor.taps}
        return sum(bytes_of({a: widths[a] for a in gap.arrays}, len(gap.images)) for gap in gaps)

    def _make_room(self, gaps: list[Gap]) -> bool:
        """Refuse what has no room; whether other codes had to go for it."""
        needed = self._bytes(gaps)
        self.store.require_space(needed)
        removed = self.store.require_limit(needed)
        if removed:
            self.narrator.say(f"Removed for CNN_CODES_STORE_LIMIT: {', '.join(removed)}.")
        return bool(removed)

    def _announce(self, gaps: list[Gap]) -> None:
        extractor, store, n_images = self.extractor, self.store, len(self.images)
        n_missing = sum(len(gap.images) for gap in gaps)
        if not n_missing:
            self.narrator.say(
                f"Nothing to extract: {store.name} holds the codes of {counted(n_images, 'image')}."
            )
            return
        wanted = {array for gap in gaps for array in gap.arrays}
        names = [tap.name for tap in extractor.taps if self.arrays[tap.name] in wanted]
        copies = count_images(self.digests, self.arrays, gaps, {}).copies
        copied = f" ({copies:,} {'is a copy' if copies == 1 else 'are copies'})" if copies else ""
        self.narrator.say(
            f"Extracting {n_missing:,} of {counted(n_images, 'image')}{copied} on "
            f"{extractor.device}: "
            f"{', '.join(names)}. At most {self._bytes(gaps) / 1e6:.3g} MB in {store.name}."
            f"{' The network is compiled first.' if extractor.compile else ''}"
        )
        if not computes_in(extractor.device, PRECISIONS[extractor.precision]):
            self.narrator.say(
                f"This {extractor.device.type} has no instructions for {extractor.precision} and "
                "imitates it: --precision float32 is faster here."
            )

    def _fill(self, gap: Gap) -> dict[bytes, str]:
        """Extract the images of one gap; return those that cannot be decoded, by digest."""
        arrays, options = self.arrays, self.options
        extractor = self.extractor.only([name for name in arrays if arrays[name] in gap.arrays])
        unreadable: dict[bytes, str] = {}
        wanted = self.images.take(gap.images)
        found = self.digests[gap.images]
        workers = _workers(extractor.device) if options.workers is None else options.workers
        batches = extractor.extract(
            wanted,
            batch_size=options.batch_size,
            workers=min(workers, len(wanted) // 64),
            digests=found,
        )
        widths = {arrays[tap.name]: tap.width for tap in extractor.taps}
        provenance = {
            "versions": versions(),
            "device": str(extractor.device),
            "backbone": options.backbone,
            "weights": options.weights,
            "dataset": self.images.name,
        }
        with (
            closing(batches),
            self.narrator.step("Extracting", len(wanted)) as advance,
            self.store.write(self.key, widths, found, provenance=provenance) as part,
        ):
            for batch in batches:
                rows = {arrays[name]: codes for name, codes in batch.codes.items()}
                part.write(rows, batch.unreadable)
                unreadable |= {found[i].tobytes(): why for i, why in batch.unreadable.items()}
                advance(len(next(iter(rows.values()))))
        if extractor.most is not None:
            self.narrator.say(
                f"{extractor.device} ran out of memory with more: "
                f"{counted(extractor.most, 'image')} passed the network together."
            )
        return unreadable


def _workers(device: torch.device) -> int:
    """Give the processes that decode, where nobody said how many."""
    if device.type != "cpu":
        return max(1, (os.cpu_count() or 2) - 1)
    # Networks take four times as long for an image as decoding does, or longer. With few cores the
    # threads that run the network decode as well.
    return torch.get_num_threads() // 4
