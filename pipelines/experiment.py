"""Experiments: fill what the store lacks, compare the depths, and ask what that is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes import load_images
from codes.backbones import pixels_backbone
from pipelines.advice import Advice, advise
from pipelines.comparison import compare_layers
from pipelines.controls import CHEAP, CONTROLS, DEFAULT_CONTROLS, Control, run_controls
from pipelines.draws import Protocol, make_draws
from pipelines.extraction import Extraction, extract
from pipelines.leaks import group_copies
from pipelines.options import ExtractionOptions
from pipelines.progress import Narrator, Silent, duration, timed
from pipelines.reproducibility import Reproducibility, measure_reproducibility
from pipelines.results import Comparison
from pipelines.similarity import Similarity, measure_similarity


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
    advice : Advice
    reproducibility : Reproducibility
    """

    extraction: Extraction
    comparison: Comparison
    controls: tuple[Control, ...]
    similarity: Similarity
    advice: Advice
    reproducibility: Reproducibility


def compare_depths(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    n_jobs: int = 1,
    narrator: Narrator,
) -> Compared:
    """Extract what is missing, then compare the depths.

    Parameters
    ----------
    dataset, options, protocol, n_jobs, narrator
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
    images = extraction.images
    groups = images.groups
    if protocol.group_duplicates:
        groups = group_copies(extraction.digests, groups)
    n_fits = len(extraction.taps) * len(protocol.classifiers) * len(draws)
    narrator.say(
        f"Comparing {', '.join(tap.name for tap in extraction.taps)}: {n_fits:,} classifiers to "
        f"train, each with the best of {len(protocol.Cs)} values of C by {protocol.cv}-fold "
        "cross-validation."
    )
    with timed(extraction.seconds, "compare"), narrator.step("Comparing", n_fits) as advance:
        comparison = compare_layers(
            extraction.readers,
            images.labels,
            protocol=protocol,
            test=images.test,
            groups=groups,
            n_jobs=n_jobs,
            advance=advance,
        )
    return Compared(extraction=extraction, groups=groups, comparison=comparison)


def compare(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    controls: Sequence[str] = DEFAULT_CONTROLS,
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
        Of `pipelines.controls.CONTROLS`.
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
    compared = compare_depths(dataset, options, protocol, n_jobs=n_jobs, narrator=narrator)
    extraction, comparison = compared.extraction, compared.comparison
    images = extraction.images
    with timed(extraction.seconds, "controls"):
        readers = _control_readers(controls, extraction, comparison, options, narrator)
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
            extraction, random_state=options.random_state, narrator=narrator
        )
    with timed(extraction.seconds, "reproducibility"):
        reproducibility = measure_reproducibility(extraction, options)
    pool = ~images.test if images.test is not None else np.ones(len(images), bool)
    n_train = int(pool.sum())
    if images.test is None:
        n_train = n_train * (protocol.cv - 1) // protocol.cv
    return Experiment(
        extraction=extraction,
        comparison=comparison,
        controls=tuple(scored),
        similarity=similarity,
        reproducibility=reproducibility,
        advice=advise(
            comparison,
            similarity,
            {tap.name: tap.layer.depth for tap in extraction.taps},
            n_train,
            n_train / len(comparison.classes),
        ),
    )


def _control_readers(
    controls: Sequence[str],
    extraction: Extraction,
    comparison: Comparison,
    options: ExtractionOptions,
    narrator: Narrator,
) -> dict[str, Callable[[], NDArray[Any]]]:
    """Find how to read each control's codes; extract those of other networks."""
    best = comparison.best.layer
    readers: dict[str, Callable[[], NDArray[Any]]] = {}
    for name in dict.fromkeys(controls):
        if name in ("majority", "shuffled"):
            readers[name] = extraction.readers[best]
        elif name == "concatenated" and len(extraction.taps) > 1:
            readers[name] = partial(_side_by_side, list(extraction.readers.values()))
        elif name == "pixels":
            backbone = pixels_backbone(extraction.backbone.preprocessing)
            pixels = replace(
                options, layers="pixels", activation="post", pool="grid:16", dtype="float32"
            )
            found = extract(extraction.images, pixels, backbone=backbone, narrator=narrator)
            readers[name] = found.readers["pixels"]
        elif name == "random" and ":" not in options.backbone and options.weights != "none":
            random = replace(extraction.options_of(best, options), weights="none", dtype="float32")
            found = extract(extraction.images, random, narrator=narrator)
            [readers[name]] = found.readers.values()
        elif name == "pre" and options.activation == "post":
            before = replace(extraction.options_of(best, options), activation="pre")
            found = extract(extraction.images, before, narrator=narrator)
            [readers[name]] = found.readers.values()
    return readers


def _side_by_side(readers: Sequence[Callable[[], NDArray[Any]]]) -> NDArray[Any]:
    return np.concatenate([read() for read in readers], axis=-1)
