"""The comparison of codes that are there: in the store, or in a file that another tool wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from codes.wording import counted, megabytes
from pipelines.comparison.compare import Comparison, compare_layers
from pipelines.comparison.duplicates import (
    copies_in_test,
    group_copies,
    repeated_images,
    without_leaks,
)
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import ComparedLayer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split, cut_again, make_splits
from pipelines.progress import Progress, timed
from pipelines.reading.labelled import LabelledCodes
from pipelines.reading.scratch import find_large, scratch_folder

if TYPE_CHECKING:
    from codes import ImageList
    from pipelines.cluster.connection import Cluster


Codes = TypeVar("Codes", bound=LabelledCodes)


def count_splits(images: ImageList, protocol: Protocol) -> int:
    """Count the splits of a dataset; needs no codes.

    Raises
    ------
    ValueError
        As `pipelines.comparison.splits.make_splits`, if a class is too small for the folds.
    """
    return len(_all_splits(images, protocol))


def _all_splits(images: ImageList, protocol: Protocol) -> list[Split]:
    """List the splits of a dataset, those with folds that are cut again too."""
    samples = Samples(y=images.labels, test=images.test, groups=images.groups)
    splits = make_splits(samples, protocol)[0]
    return [*splits, *chain(*cut_again(samples, protocol, splits)[0])]


def _cost_of_seeds(images: ImageList, protocol: Protocol) -> str:
    """Say how much longer a comparison takes for its seeds; nothing where there is one."""
    if protocol.seeds == 1:
        return ""
    once, often = (
        sum(len(split.train) for split in _all_splits(images, replace(protocol, seeds=seeds)))
        for seeds in (1, protocol.seeds)
    )
    times = f"{often / once:.2g} times as"
    return (
        f" With --seeds {protocol.seeds} they train on {times} many images as without it, and take "
        f"about {times} long."
    )


def leave_out_leaks(codes: Codes, progress: Progress) -> Codes:
    """Leave out the images that leak, and say how many they are.

    Parameters
    ----------
    codes : LabelledCodes
    progress : Progress

    Returns
    -------
    codes : LabelledCodes
        Of the images that `pipelines.comparison.duplicates.without_leaks` finds.
    """
    images = codes.images
    kept = np.flatnonzero(without_leaks(codes.digests, images.labels, images.test))
    if len(kept) == len(images):
        return codes
    n_left_out = len(images) - len(kept)
    leaking = "image that leaks" if n_left_out == 1 else "images that leak"
    progress.info(f"Left out: {n_left_out:,} {leaking} (--drop-leaks).")
    return codes.keep(kept)


def compare_stored(
    codes: LabelledCodes,
    layers: Sequence[ComparedLayer],
    *,
    protocol: Protocol,
    n_splits: int,
    n_jobs: int,
    cluster: Cluster | None = None,
    progress: Progress,
) -> Comparison:
    """Compare the layers of codes that are there; copies of an image stay together.

    Parameters
    ----------
    codes : LabelledCodes
    layers : sequence of ComparedLayer
        What is known of each, in the order of ``codes.readers``.
    protocol : Protocol
    n_splits : int
        As `count_splits` counts them.
    n_jobs : int
    cluster : Cluster, optional
        A Dask cluster, each of whose workers can read the codes.
    progress : Progress

    Returns
    -------
    comparison : Comparison
        Its notes name repeated images, and groups on both sides of the test split.
    """
    if cluster is not None:
        cluster.require(codes.check)
    images, digests = codes.images, codes.digests
    notes = [
        *_shared_groups(images),
        *repeated_images(
            digests, images.labels, images.test, kept_together=protocol.group_duplicates
        ),
    ]
    groups = images.groups
    if protocol.group_duplicates:
        groups = group_copies(digests, groups)
    n_fits = len(layers) * len(protocol.classifiers) * n_splits
    where = "" if cluster is None else f" on {counted(cluster.n_workers, 'worker')}"
    progress.info(
        f"Comparing {', '.join(layer.layer for layer in layers)}: "
        f"{counted(n_fits, 'classifier')} to train{where}, each with {_choice_of_C(protocol)}."
        f"{_cost_of_seeds(images, protocol)}"
    )
    readers = codes.readers
    large = find_large(readers, n_jobs) if cluster is None else {}
    if large:
        size = max(reader.nbytes for reader in large.values())
        progress.info(
            f"Codes of {', '.join(large)} are too large for memory: they are read from a scratch "
            f"file of up to {megabytes(size)} in {str(scratch_folder())!r} (TMPDIR)."
        )
    with timed(codes.seconds, "compare"), progress.step("Comparing", n_fits) as advance:
        comparison = compare_layers(
            readers,
            images.labels,
            protocol=protocol,
            test=images.test,
            groups=groups,
            copied=copies_in_test(digests, images.test),
            layers=layers,
            n_jobs=n_jobs,
            cluster=cluster,
            advance=advance,
        )
    return replace(comparison, notes=(*notes, *comparison.notes))


def _choice_of_C(protocol: Protocol) -> str:  # noqa: N802
    """Say how each classifier gets its C."""
    if len(protocol.grid) == 1:
        return f"C = {protocol.grid[0]:g}"
    return f"the best of {len(protocol.grid)} values of C by {protocol.cv}-fold cross-validation"


def _shared_groups(images: ImageList) -> list[str]:
    """Say how many groups have images on both sides of the test split."""
    if images.groups is None or images.test is None:
        return []
    both = np.intersect1d(images.groups[images.test], images.groups[~images.test])
    if not len(both):
        return []
    n = int(np.isin(images.groups[images.test], both).sum())
    return [
        f"{n:,} of {counted(int(images.test.sum()), 'test image')} "
        f"{'belongs' if n == 1 else 'belong'} to {counted(len(both), 'group')} with training "
        f"images too, such as {str(both[0])!r}: the test score may be too good"
    ]
