"""Cuts: the folds that choose C, cut again for the same training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split, inner_splits
from pipelines.comparison.stability import CUTS

ATTEMPTS = 20
"""Ways to cut folds that keep groups together, until one has every class on all its sides."""


def cut_again(
    samples: Samples, protocol: Protocol, splits: Sequence[Split]
) -> tuple[list[list[Split]], list[str]]:
    """Cut the folds of splits again: once for each draw, or as often as all draws of another size.

    Parameters
    ----------
    samples : Samples
        Without a test split nothing is cut again: repeats change training images and folds
        together.
    protocol : Protocol
        With its `seeds` at 1 nothing is cut again.
    splits : sequence of Split
        As `pipelines.comparison.splits.make_splits` makes them.

    Returns
    -------
    cuts : list of list of Split
        The first cut again of every split that has one, the second, …
    notes : list of str
        Training sizes whose folds could not be cut in another way, and why.
    """
    if samples.test is None or protocol.seeds == 1:
        return [], []
    cuts: list[list[Split]] = [[] for _ in range(max(CUTS, protocol.seeds) - 1)]
    notes = []
    for size in dict.fromkeys(split.train_size for split in splits):
        of_size = [split for split in splits if split.train_size == size]
        n_cuts = CUTS if len(of_size) > 1 else max(CUTS, protocol.seeds)
        again = [
            [_cut(samples, protocol, split, cut) for split in of_size] for cut in range(1, n_cuts)
        ]
        if all(split.inner for of_cut in again for split in of_cut):
            for known, of_cut in zip(cuts, again, strict=False):
                known += of_cut
        else:
            notes.append(
                f"with {size} training images a class, the groups leave no other way to cut folds: "
                "how much these change the score is not known"
            )
    return [of_cut for of_cut in cuts if of_cut], notes


def _cut(samples: Samples, protocol: Protocol, split: Split, cut: int) -> Split:
    """Cut the folds of a split in another way; it has none where none was found."""
    size = 0 if split.train_size == "all" else int(split.train_size)
    # As the split's own stream, and one number more: none of the splits is drawn from it.
    rng = np.random.default_rng([protocol.random_state, size, split.repeat, split.fold, cut])
    for _ in range(ATTEMPTS):
        inner = inner_splits(samples.y[split.train], split.groups, protocol.cv, rng)
        if inner:
            break
    return replace(split, cut=cut, inner=inner)
