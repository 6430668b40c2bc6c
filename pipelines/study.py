"""Experiments: fill what the store lacks, compare the depths, and ask what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes import Backbone, ImageList, load_images
from codes.backbones.backbone import pixels_backbone
from codes.wording import counted
from pipelines.comparison.compare import compare_layers
from pipelines.comparison.controls import CHEAP, CONTROLS, DEFAULT_CONTROLS, Control, run_controls
from pipelines.comparison.duplicates import copies_in_test, group_copies, without_leaks
from pipelines.comparison.results import Comparison
from pipelines.comparison.splits import Protocol, make_draws
from pipelines.diagnostics.advice import Advice, advise
from pipelines.diagnostics.reproducibility import Reproducibility, measure_reproducibility
from pipelines.diagnostics.similarity import Similarity, measure_similarity
from pipelines.extraction.cost import measure_cost
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.normalization import NormalizationCheck, check_normalization
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Narrator, Silent, duration, timed


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """A comparison of the depths of a dataset.

    Attributes
    ----------
    extraction : Extraction
    groups : ndarray of shape (n_samples,), str, or None
        The dataset's own, with copies of an image put together.
    comparison : Comparison
    """

    extraction: Extraction
    groups: NDArray[np.str_] | None
    comparison: Comparison


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """A comparison, and what belongs to it.

    Attributes
    ----------
    extraction : Extraction
    comparison : Comparison
    controls : tuple of Control
    similarity : Similarity
    preprocessing_check : NormalizationCheck or None
        Of the normalisation in use; None without batch normalisation.
    advice : Advice
    reproducibility : Reproducibility
    cost : dict of str to float
        Seconds of the network for an image, up to the chosen and to the recommended layer.
    """

    extraction: Extraction
    comparison: Comparison
    controls: tuple[Control, ...]
    similarity: Similarity
    preprocessing_check: NormalizationCheck | None
    advice: Advice
    reproducibility: Reproducibility
    cost: dict[str, float]


def compare_depths(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    drop_leaks: bool = False,
    n_jobs: int = 1,
    narrator: Narrator,
) -> Compared:
    """Extract what is missing, then compare the depths.

    Parameters
    ----------
    dataset, options, protocol, drop_leaks, n_jobs, narrator
        As for `compare`.

    Returns
    -------
    compared : Compared

    Raises
    ------
    ValueError
        As `extract`, and if a class is too small for the folds.
    """
    images = load_images(dataset, page=options.page)
    draws, _ = make_draws(images.labels, protocol, test=images.test, groups=images.groups)
    extraction = extract(images, options, narrator=narrator)
    if drop_leaks:
        extraction = _without_leaks(extraction, narrator)
    images = extraction.images
    groups = images.groups
    notes = _shared_groups(images)
    if protocol.group_duplicates:
        groups = group_copies(extraction.digests, groups)
    order = {name: float(i) for i, name in enumerate(extraction.backbone.graph.nodes)}
    n_fits = len(extraction.taps) * len(protocol.classifiers) * len(draws)
    narrator.say(
        f"Comparing {', '.join(tap.name for tap in extraction.taps)}: "
        f"{counted(n_fits, 'classifier')} to train, each with the best of "
        f"{counted(len(protocol.Cs), 'value')} of C by {protocol.cv}-fold cross-validation."
    )
    with timed(extraction.seconds, "compare"), narrator.step("Comparing", n_fits) as advance:
        comparison = compare_layers(
            extraction.readers,
            images.labels,
            protocol=protocol,
            test=images.test,
            groups=groups,
            copied=copies_in_test(extraction.digests, images.test),
            costs={tap.name: order[tap.layer.name] for tap in extraction.taps},
            n_jobs=n_jobs,
            advance=advance,
        )
    comparison = replace(comparison, notes=(*notes, *comparison.notes))
    return Compared(extraction=extraction, groups=groups, comparison=comparison)


def _without_leaks(extraction: Extraction, narrator: Narrator) -> Extraction:
    """Leave out the images that leak, and say how many they are."""
    images = extraction.images
    kept = np.flatnonzero(without_leaks(extraction.digests, images.labels, images.test))
    if len(kept) == len(images):
        return extraction
    n_left_out = len(images) - len(kept)
    leaking = "image that leaks" if n_left_out == 1 else "images that leak"
    narrator.say(f"Left out: {n_left_out:,} {leaking} (--drop-leaks).")
    return replace(
        extraction,
        images=images.take(kept),
        digests=extraction.digests[kept],
        dropped=n_left_out,
    )


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


def compare(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    controls: Sequence[str] = DEFAULT_CONTROLS,
    drop_leaks: bool = False,
    n_jobs: int = 1,
    narrator: Narrator | None = None,
) -> Experiment:
    """Extract what is missing, compare the depths, and measure controls and similarity.

    Parameters
    ----------
    dataset : str
        As for `codes.load_images`.
    options : ExtractionOptions
    protocol : Protocol
    controls : sequence of str
        Of `pipelines.comparison.controls.CONTROLS`.
    drop_leaks : bool, default=False
        Leave out the images that `pipelines.comparison.duplicates.without_leaks` finds.
    n_jobs : int, default=1
        Processes that train classifiers.
    narrator : Narrator, optional

    Returns
    -------
    experiment : Experiment

    Raises
    ------
    ValueError
        As `extract`, and if a class is too small for the folds or a control is unknown.
    """
    narrator = narrator or Silent()
    unknown = [name for name in controls if name not in CONTROLS]
    if unknown:
        raise ValueError(
            f"Controls {', '.join(unknown)} are unknown. Allowed: {', '.join(CONTROLS)}, or none."
        )
    compared = compare_depths(
        dataset, options, protocol, drop_leaks=drop_leaks, n_jobs=n_jobs, narrator=narrator
    )
    extraction, comparison = compared.extraction, compared.comparison
    options = extraction.options  # With the normalisation that was chosen.
    images = extraction.images
    with timed(extraction.seconds, "controls"):
        readers, notes = _control_readers(controls, extraction, comparison, options, narrator)
        comparison = replace(comparison, notes=(*comparison.notes, *notes))
        if set(readers) - set(CHEAP):
            narrator.say(
                f"Training the controls {', '.join(readers)}: at most about as long as the "
                f"comparison took, {duration(extraction.seconds['compare'])}."
            )
        with narrator.step("Controls", len(readers)) as advance:
            scored = run_controls(
                readers,
                comparison,
                images.labels,
                protocol=protocol,
                test=images.test,
                groups=compared.groups,
                n_jobs=n_jobs,
                advance=advance,
            )
    with timed(extraction.seconds, "similarity"):
        similarity = measure_similarity(
            images,
            extraction.digests,
            extraction.backbone,
            store=extraction.store,
            device=extraction.device,
            random_state=options.random_state,
            narrator=narrator,
        )
        preprocessing_check = check_normalization(
            images, extraction.digests, extraction.backbone, device=extraction.device
        )
    with timed(extraction.seconds, "reproducibility"):
        reproducibility = measure_reproducibility(extraction, options)
    best = comparison.best
    cost = measure_cost(extraction, options, [best.layer, best.taken[0]])
    return Experiment(
        extraction=extraction,
        comparison=comparison,
        controls=tuple(scored),
        similarity=similarity,
        preprocessing_check=preprocessing_check,
        reproducibility=reproducibility,
        cost=cost,
        advice=advise(
            comparison, similarity, {tap.name: tap.layer.depth for tap in extraction.taps}
        ),
    )


def _control_readers(
    controls: Sequence[str],
    extraction: Extraction,
    comparison: Comparison,
    options: ExtractionOptions,
    narrator: Narrator,
) -> tuple[dict[str, Callable[[], NDArray[Any]]], list[str]]:
    """Find how to read each control's codes; extract those of other networks.

    Also say which controls are left out, and why.
    """
    best = comparison.best.layer
    of_best = extraction.options_of(best, options)
    readers: dict[str, Callable[[], NDArray[Any]]] = {}
    notes = []
    for name in dict.fromkeys(controls):
        try:
            if name in ("majority", "shuffled"):
                readers[name] = extraction.readers[best]
            elif name == "concatenated":
                readers[name] = partial(_side_by_side, _several(extraction))
            else:
                other, backbone = _control_options(name, of_best, extraction)
                found = extract(extraction.images, other, backbone=backbone, narrator=narrator)
                [readers[name]] = found.readers.values()
        except _LeftOutError as why:
            notes.append(f"the control {name} was left out: {why}")
    return readers, notes


class _LeftOutError(Exception):
    """A control does not make sense here; the message says why."""


def _several(extraction: Extraction) -> list[Callable[[], NDArray[Any]]]:
    if len(extraction.taps) == 1:
        raise _LeftOutError("there is only one depth")
    return list(extraction.readers.values())


def _control_options(
    name: str, of_best: ExtractionOptions, extraction: Extraction
) -> tuple[ExtractionOptions, Backbone | None]:
    """Say what a control is extracted with."""
    best = next(t.layer for t in extraction.taps if t.layer.name == of_best.layers)
    if name == "pixels":
        pixels = replace(
            of_best, layers="pixels", activation="post", pool="grid:16", dtype="float32"
        )
        return pixels, pixels_backbone(extraction.backbone.preprocessing)
    if name == "pre":
        if of_best.activation == "pre":
            raise _LeftOutError("the codes are those before the activation already")
        if best.kind in ("penultimate", "pooled", "node") and not best.average_of:
            raise _LeftOutError(f"{best.name} is not an activation")
        return replace(of_best, activation="pre"), extraction.backbone
    if of_best.weights == "none":
        raise _LeftOutError("the weights are random already")
    random = replace(of_best, weights="none", dtype="float32")
    if ":" not in of_best.backbone:
        return random, None
    try:
        return random, backbone_of(random)
    except ValueError as error:
        raise _LeftOutError(str(error).rstrip(".")) from error


def _side_by_side(readers: Sequence[Callable[[], NDArray[Any]]]) -> NDArray[Any]:
    return np.concatenate([read() for read in readers], axis=-1)
