"""Experiments: fill what the store lacks, then compare the depths."""

from __future__ import annotations

from codes import load_images
from pipelines.comparison import compare_layers
from pipelines.draws import Protocol, make_draws
from pipelines.extraction import Extraction, extract, timed
from pipelines.leaks import group_copies
from pipelines.options import ExtractionOptions
from pipelines.progress import Narrator, Silent
from pipelines.results import Comparison


def compare(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    n_jobs: int = 1,
    narrator: Narrator | None = None,
) -> tuple[Extraction, Comparison]:
    """Extract what is missing, then compare the depths.

    Parameters
    ----------
    dataset : str
        As for `codes.load_images`.
    options : ExtractionOptions
    protocol : Protocol
    n_jobs : int, default=1
        Processes that train classifiers.
    narrator : Narrator, optional

    Returns
    -------
    extraction : Extraction
    comparison : Comparison

    Raises
    ------
    ValueError
        As `extract`, and if a class is too small for the folds.
    """
    narrator = narrator or Silent()
    images = load_images(dataset)
    make_draws(images.labels, protocol, test=images.test, groups=images.groups)  # Fail early.
    extraction = extract(images, options, narrator=narrator)
    images = extraction.images
    groups = images.groups
    if protocol.group_duplicates:
        groups = group_copies(extraction.digests, groups)
    n_fits = len(extraction.taps) * len(protocol.classifiers)
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
    return extraction, comparison
