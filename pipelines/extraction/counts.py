"""Counts: how many images were extracted, and how many had their codes in the store before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache import CodesKey
from cache.store import Gap
from codes.wording import counted


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of the images of a dataset: each is extracted, a copy of such a one, or reused.

    Attributes
    ----------
    extracted : int
        Images that went through the network.
    copies : int
        Images that are copies, byte by byte, of one of these.
    reused : int
        Images whose codes of all layers were in the store before.
    layers : dict of str to int
        Tap → images whose codes of it were in the store before.
    """

    extracted: int
    copies: int
    reused: int
    layers: Mapping[str, int]

    def sentence(self, store: str = "the store", *, n_skipped: int = 0) -> str:
        """Say it.

        Parameters
        ----------
        store : str, default="the store"
            What it is called.
        n_skipped : int, default=0
            Images that could not be decoded.

        Returns
        -------
        sentence : str
            Without a full stop.

        Examples
        --------
        >>> Counts(extracted=1563, copies=237, reused=0, layers={"fc7": 0}).sentence()
        '1,563 images extracted, 237 are copies of others, 0 found in the store'
        >>> Counts(extracted=90, copies=0, reused=0, layers={"fc6": 0, "fc7": 90}).sentence()
        '90 images extracted, 1 of 2 layers found in the store for 90 images'
        """
        partly = Counter(n - self.reused for n in self.layers.values() if n > self.reused)
        words = [f"{counted(self.extracted, 'image')} extracted"]
        if self.copies:
            words.append(
                f"{self.copies:,} {'is a copy' if self.copies == 1 else 'are copies'} of others"
            )
        if self.reused or not partly:
            words.append(f"{self.reused:,} found in {store}")
        words += [
            f"{n_layers} of {counted(len(self.layers), 'layer')} found in {store} for "
            f"{counted(n_images, 'image')}"
            for n_images, n_layers in sorted(partly.items(), reverse=True)
        ]
        if n_skipped:
            words.append(f"{n_skipped:,} skipped")
        return ", ".join(words)


def count_images(
    digests: NDArray[np.uint8],
    arrays: Mapping[str, CodesKey],
    gaps: list[Gap],
    unreadable: Mapping[bytes, str],
) -> Counts:
    """Count what became of the images.

    ``digests`` are of shape (n_images, 32), ``gaps`` what the store lacked; ``unreadable`` images,
    by digest, could not be decoded and are left out.
    """
    _, number, n_alike = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    n_alike = n_alike[number.ravel()]
    lacking = dict.fromkeys(arrays, 0)
    extracted = copies = 0
    for gap in gaps:
        readable = [i for i in gap.images.tolist() if digests[i].tobytes() not in unreadable]
        n_files = int(n_alike[readable].sum())
        extracted += len(readable)
        copies += n_files - len(readable)
        for name, array in arrays.items():
            lacking[name] += n_files if array in gap.arrays else 0
    n_readable = sum(digest.tobytes() not in unreadable for digest in digests)
    return Counts(
        extracted=extracted,
        copies=copies,
        reused=n_readable - extracted - copies,
        layers={name: n_readable - n for name, n in lacking.items()},
    )
