"""The command ``cnn-codes similarity``: images without labels, and what a network knows of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from codes.wording import counted
from pipelines.cli.shared_options import Images, like_field
from pipelines.cli.terminal import stdout, terminal
from pipelines.extraction.options import ExtractionOptions


def similarity(
    *images: Images,
    backbone: Annotated[str, like_field("backbone")],
    weights: Annotated[str | None, like_field("weights")] = None,
    image_size: Annotated[int | None, like_field("image_size")] = None,
    normalize: Annotated[str | None, like_field("normalize")] = None,
    page: Annotated[int | None, like_field("page")] = None,
    device: Annotated[str, like_field("device")] = "auto",
    store: Annotated[str | Path | None, like_field("store")] = None,
    skip_unreadable: Annotated[bool, like_field("skip_unreadable")] = False,
    random_state: Annotated[int, like_field("random_state")] = 0,
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure how similar images, without labels, are to what a backbone was trained on.

    And whether its preprocessing fits it, where it has batch normalisation.

    Parameters
    ----------
    json_
        Print one JSON object: similarity and preprocessing_check, as in report.json.
    """
    from pipelines.diagnostics.similarity import BORDER
    from pipelines.diagnostics.unlabelled import compare_with_training
    from pipelines.extraction.left_out import say_ignored
    from pipelines.extraction.normalization import shown
    from pipelines.labelled import list_to_predict

    options = ExtractionOptions(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        normalize=normalize,
        page=page,
        device=device,
        store=store,
        skip_unreadable=skip_unreadable,
        random_state=random_state,
    )
    found = list_to_predict(images, page=page)
    say_ignored(found, terminal())
    measured, check = compare_with_training(found, options, progress=terminal())
    if check is not None and check.level is not None:
        terminal().info(f"{'Warning' if check.level == 'warn' else 'Note'}: {check.text}")
    if json_:
        checked = None if check is None else asdict(check)
        record = {"similarity": asdict(measured), "preprocessing_check": checked}
        stdout().print(json.dumps(record, indent=2, allow_nan=False), soft_wrap=True)
        return
    say = partial(stdout().print, soft_wrap=True)
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
