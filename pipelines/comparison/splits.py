"""Splits: which images train, which test, and which folds choose C, shared by every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedGroupKFold, StratifiedKFold

from codes.wording import counted, some
from pipelines.comparison.protocol import Protocol, TrainSize
from pipelines.comparison.samples import Samples

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]

CUTS = 2
"""How often the folds of each draw are cut, where it is asked how stable scores are."""
ATTEMPTS = 20
"""Ways to cut folds that keep groups together, until every class is on all training sides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Some training images, the images to test on, and the folds that choose C.

    Attributes
    ----------
    train_size : int or "all"
    repeat, fold : int
    cut : int
        Of the folds that choose C: 0, or which one it is of those that were cut again.
    train, test : ndarray of intp
        Places in the dataset.
    inner : list of (train, test)
        Places in `train`.
    groups : ndarray of shape (n_train,), str, or None
        Of the training images; None where each is its own.
    """

    train_size: TrainSize
    repeat: int
    fold: int
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    inner: list[Fold]
    groups: NDArray[np.str_] | None = None
    cut: int = 0


def make_splits(samples: Samples, protocol: Protocol) -> tuple[list[Split], list[str]]:
    """Split the training and test images that every layer shares.

    Parameters
    ----------
    samples : Samples
        Without a test split, every image is tested once in each repeat of an outer
        cross-validation.
    protocol : Protocol

    Returns
    -------
    splits : list of Split
    notes : list of str
        What the scores leave out, and train sizes that were dropped, and why.

    Raises
    ------
    ValueError
        If a class has fewer images (or groups) than there are folds, or is missing from a side.
    """
    _check_classes(samples, protocol)
    y, test = samples.y, samples.test
    splits: list[Split] = []
    notes: list[str] = []
    outer = _outer_splits(samples, protocol)
    smallest = min(
        int(np.unique(y[train], return_counts=True)[1].min()) for _, _, (train, _) in outer
    )
    if test is not None:
        untested = np.setdiff1d(y[~test], y[test]).tolist()
        if untested:
            notes.append(f"no test image is of {', '.join(untested)}: the scores leave it out")
    for size in protocol.sizes:
        if size != "all" and int(size) > smallest:
            notes.append(
                f"train size {size} was dropped: the smallest class has "
                f"{counted(smallest, 'training image')}"
            )
            continue
        repeats = protocol.draws(5) if test is not None and size != "all" else 1
        of_size = [
            _split(samples, protocol, size, repeat + again, fold, sides)
            for repeat, fold, sides in outer
            for again in range(repeats)
        ]
        if all(len(split.inner) > 1 for split in of_size):
            splits += of_size
        else:
            why = (
                f"{counted(protocol.cv, 'fold')} leave a split one training image of a class, and "
                "to choose C takes two: add images of it, or leave it out"
                if samples.groups is None and size == "all"
                else "a split has all its images of a class from one group, or but one image of "
                "it, so that no folds can choose C"
            )
            notes.append(f"train size {size} was dropped: {why}")
    if not splits:
        raise ValueError(f"No train size is left to compare: {'; '.join(notes)}.")
    return splits, notes


def _check_classes(samples: Samples, protocol: Protocol) -> None:
    y, test, groups = samples.y, samples.test, samples.groups
    pool = np.ones(len(y), bool) if test is None else ~test
    if test is not None:
        if not test.any():
            raise ValueError("The test split has no image. Add some, or leave the split out.")
        absent = sorted(set(y.tolist()) - set(y[pool].tolist()))
        if absent:
            raise ValueError(
                f"The class {absent[0]!r} has test images and no training image. Add some, or "
                "leave it out."
            )
    classes, counts = np.unique(y[pool], return_counts=True)
    pairs = zip(classes.tolist(), counts.tolist(), strict=True)
    few = [f"{name!r} has {n}" for name, n in pairs if n < protocol.cv]
    if few:
        raise ValueError(
            f"{protocol.cv} folds need {protocol.cv} images of each class outside the test split; "
            f"{some(few)}. {_remedy(int(counts.min()))}"
        )
    if groups is not None:
        for name in classes.tolist():
            n = len(np.unique(groups[pool & (y == name)]))
            if n < protocol.cv:
                raise ValueError(
                    f"The class {name!r} comes from {counted(n, 'group')} (copies of an image "
                    f"are one), and {protocol.cv} folds that keep groups together need "
                    f"{protocol.cv}. {_remedy(n)}"
                )


def _remedy(n: int) -> str:
    """Say what to do where a class has so many images or groups, fewer than there are folds."""
    fewer = " Or use fewer folds, with --cv." if n > 1 else ""
    return f"Add images, or leave the class out.{fewer}"


def _outer_splits(samples: Samples, protocol: Protocol) -> list[tuple[int, int, Fold]]:
    y, test, groups = samples.y, samples.test, samples.groups
    if test is not None:
        return [(0, 0, (np.flatnonzero(~test), np.flatnonzero(test)))]
    repeats = protocol.draws(int(np.clip(2000 // len(y), 1, 5)))
    cv, seed = protocol.cv, protocol.random_state
    if groups is None:
        splitter = RepeatedStratifiedKFold(n_splits=cv, n_repeats=repeats, random_state=seed)
        splits = list(splitter.split(y, y))
    else:
        splits = [
            split
            for repeat in range(repeats)
            for split in _group_folds(y, groups, cv, seed + repeat)
        ]
    return [(i // cv, i % cv, split) for i, split in enumerate(splits)]


def _group_folds(y: NDArray[np.str_], groups: NDArray[np.str_], cv: int, seed: int) -> list[Fold]:
    """Cut folds that keep groups together and leave every class on the training side of each."""
    n_classes = len(np.unique(y))
    for attempt in range(ATTEMPTS):
        # Other seeds than those of the repeats, which count on from the first.
        folds = StratifiedGroupKFold(n_splits=cv, shuffle=True, random_state=seed + 1000 * attempt)
        splits = list(folds.split(y, y, groups))
        if all(len(np.unique(y[train])) == n_classes and len(test) for train, test in splits):
            return splits
    raise ValueError(
        f"In {ATTEMPTS} ways to cut {cv} folds that keep groups together, a class is missing from "
        "the training images of one: too few groups hold it, or one holds most of it. Use fewer "
        "folds with --cv, or add groups."
    )


def _split(
    samples: Samples,
    protocol: Protocol,
    size: TrainSize,
    repeat: int,
    fold: int,
    sides: Fold,
) -> Split:
    # One stream for each split: adding a size or a repeat changes no other split.
    y, groups = samples.y, samples.groups
    number = 0 if size == "all" else int(size)
    rng = np.random.default_rng([protocol.random_state, number, repeat, fold])
    train = sides[0] if size == "all" else _of_each_class(y, sides[0], int(size), rng)
    groups = None if groups is None else groups[train]
    inner = inner_splits(y[train], groups, protocol.cv, rng)
    return Split(
        train_size=size, repeat=repeat, fold=fold, train=train, test=sides[1], inner=inner,
        groups=groups,
    )  # fmt: skip


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
        As `make_splits` makes them.

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


def inner_splits(
    y: NDArray[np.str_], groups: NDArray[np.str_] | None, cv: int, rng: np.random.Generator
) -> list[Fold]:
    """Return the folds that choose C; none where there is no way to cut them.

    Parameters
    ----------
    y : ndarray of shape (n_train,), str
    groups : ndarray of shape (n_train,), str, or None
    cv : int
        Folds; fewer where a class has fewer images or groups.
    rng : numpy.random.Generator

    Returns
    -------
    splits : list of (train, test)
    """
    seed = int(rng.integers(2**31))
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None  # Each image is a group: a copy in the test split changes no fold.
    apart = np.arange(len(y)) if groups is None else groups
    n_folds = min(cv, *(len(np.unique(apart[y == name])) for name in np.unique(y)))
    if n_folds < 2:
        return []
    if groups is None:
        return list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(y, y))
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    splits = list(folds.split(y, y, groups))
    whole = all(len(np.unique(y[train])) == len(np.unique(y)) for train, _ in splits)
    return splits if whole else []


def _of_each_class(
    y: NDArray[np.str_], pool: NDArray[np.intp], size: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    taken = [rng.choice(pool[y[pool] == name], size, replace=False) for name in np.unique(y[pool])]
    return np.sort(np.concatenate(taken))
