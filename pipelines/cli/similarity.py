"""The command ``cnn-codes similarity``: images without labels, and what a network knows of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from codes.wording import counted
from pipelines.cli.shared_options import Images, only
from pipelines.cli.streams.terminal import stdout, terminal
from pipelines.extraction.options import ExtractionOptions

_OPTIONS = (
    "backbone", "weights", "image_size", "normalize", "intensity", "page", "device", "store",
    "skip_unreadable", "random_state",
)  # fmt: skip


def similarity(
    *images: Images,
    options: Annotated[ExtractionOptions, only(*_OPTIONS)],
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure how similar images, without labels, are to what a backbone was trained on.

    And whether its preprocessing fits it, where it has batch normalisation.

    Parameters
    ----------
    json_
        Print one JSON object: similarity and preprocessing_check, as in report.json.
    """
    from codes.data.readers.to_predict import list_to_predict
    from pipelines.diagnostics.border import BORDER
    from pipelines.diagnostics.unlabelled import compare_with_training
    from pipelines.extraction.left_out import say_ignored
    from pipelines.extraction.normalization import shown

    found = list_to_predict(images, page=options.page)
    say_ignored(found, terminal())
    measured, check = compare_with_training(found, options, progress=terminal())
    if check is not None and check.level is not None:
        terminal().info(f"{'Warning' if check.level == 'warn' else 'Note'}: {check.text}")
    if json_:
        checked = None if check is None else asdict(check)
        record = {"similarity": asdict(measured), "preprocessing_check": checked}
        stdout().print(json.dumps(record, indent=2, allow_nan=False))
        return
    say = stdout().print
    if measured.value is None:
        say(f"Similarity was not measured: {measured.witness}.")
    else:
        side = f", {measured.side} (border {BORDER})" if measured.side else ", no border"
        say(
            f"Similarity {measured.value:.2f}{side}; 95 % interval {measured.ci_low:.2f} to "
            f"{measured.ci_high:.2f}, {counted(measured.n_images, 'image')}, from "
            f"{measured.witness}"
        )
        say(measured.scale)
    if check is None:
        say("Preprocessing was not checked: no batch normalisation knows what it was trained with.")
    else:
        divergences = ", ".join(f"{how} {shown(value)}" for how, value in check.values.items())
        fits = {"warn": "does not seem to fit", "note": "may not fit", None: "fits"}[check.level]
        say(
            f"Preprocessing: {check.in_use} {fits}; divergence at the first batch normalisation: "
            f"{divergences}"
        )
