"""Figures of fine-tuning: losses epoch by epoch, and confidence against accuracy.

Widths are of the page, in inches; records are those of ``report.json``'s ``finetune``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from codes.wording import counted
from pipelines.report.figures.curves import DASHED, HEIGHT, new_axes
from pipelines.report.figures.svg import drawing, legend, look, to_svg

LARGEST = 160
"""Size of the mark of a bin that holds every prediction, in square points."""
BEYOND = 2.0
"""Times the losses of guessing and of the chosen settings, where the figure ends."""


def loss_curves(records: Sequence[dict[str, Any]], width: float) -> str | None:
    """Draw the loss of every setting that was tried, epoch by epoch; None where none was.

    The figure ends at `BEYOND` times the losses of guessing and of the chosen settings: those that
    diverge would flatten the others. It counts the settings that go beyond.
    """
    if not records:
        return None
    with drawing():
        figure, axes = new_axes(width, HEIGHT)
        entries: list[tuple[Any, str]] = []
        for i, record in enumerate(records):
            own = look(i) | {"marker": ""}
            for trial in record["trials"]:
                losses = _finite(trial["loss"])
                axes.plot(range(1, 1 + len(losses)), losses, **own | {"alpha": 0.35})
            losses = _finite(record["loss"])
            [line] = axes.plot(range(1, 1 + len(losses)), losses, **own | {"linewidth": 2.2})
            entries.append((line, record["start"]))
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss")
        bound = BEYOND * max(
            loss
            for record in records
            for loss in (record["loss_of_guessing"], *record["loss"])
            if loss is not None
        )
        tried = [_finite(trial["loss"]) for record in records for trial in record["trials"]]
        n_beyond = sum(any(math.isnan(x) or x > bound for x in losses) for losses in tried)
        axes.set_ylim(0, min(bound, 1.05 * axes.get_ylim()[1]))
        if n_beyond:
            axes.set_title(
                f"{counted(n_beyond, 'setting')} beyond {bound:.2g}", loc="right", fontsize="small"
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, entries)
        return to_svg(figure, "Training loss of every setting that was tried")


def _finite(losses: Sequence[float | None]) -> list[float]:
    """Leave a gap where a loss is not a number: ``report.json`` has null there."""
    return [math.nan if loss is None else loss for loss in losses]


def reliability_curves(records: Sequence[dict[str, Any]], width: float) -> str | None:
    """Draw accuracy against confidence, each start's own curve; None where neither is known."""
    known = [(i, record) for i, record in enumerate(records) if record["reliability"]]
    if not known:
        return None
    with drawing():
        figure, axes = new_axes(width, HEIGHT)
        axes.plot([0, 1], [0, 1], **DASHED)
        entries: list[tuple[Any, str]] = []
        for i, record in known:
            own, bins = look(i), record["reliability"]["bins"]
            places = [bin["confidence"] for bin in bins], [bin["accuracy"] for bin in bins]
            total = sum(bin["n"] for bin in bins)
            sizes = [max(9.0, LARGEST * bin["n"] / total) for bin in bins]
            axes.plot(*places, **own | {"marker": ""})
            axes.scatter(*places, s=sizes, color=own["color"], marker=own["marker"], alpha=0.8)
            entries.append((Line2D([], [], **own), record["start"]))
        entries.append((Line2D([], [], **DASHED), "as sure as right"))
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        legend(figure, entries)
        return to_svg(figure, "Accuracy against confidence on test images")
