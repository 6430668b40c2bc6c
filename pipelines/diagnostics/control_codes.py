"""The codes of controls: of other networks, of pixels, or of all depths side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes import Backbone
from codes.backbones.backbone import pixels_backbone
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Progress


def read_controls(
    controls: Sequence[str], extraction: Extraction, best: str, progress: Progress
) -> tuple[dict[str, Callable[[], NDArray[Any]]], list[str]]:
    """Find how to read each control's codes; extract those of other networks.

    Parameters
    ----------
    controls : sequence of str
        Of `pipelines.comparison.controls.CONTROLS`.
    extraction : Extraction
    best : str
        The chosen tap's name.
    progress : Progress

    Returns
    -------
    readers : dict of str to callable
        Control → a function that returns codes of shape (n_samples, n_features).
    notes : list of str
        Which controls are left out, and why.
    """
    of_best = extraction.options_of(best, extraction.options)
    images = replace(extraction.images, ignored={})  # What is ignored was said before.
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
                found = extract(images, other, backbone=backbone, progress=progress)
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
