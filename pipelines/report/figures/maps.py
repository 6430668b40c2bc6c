"""Maps: scores by layer and training size, and which classes are confused.

Widths are of the page, in inches; rows are records of ``report.json``'s ``layers``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from pipelines.report.figures.svg import LETTER, LINE, drawing, letters, short_names, to_svg

MOST_CLASSES = 50
"""Largest confusion matrix that can be read."""
SHORT = 14
"""Letters of a name that needs no second line."""


def size_map(rows: Sequence[dict[str, Any]], width: float) -> str:
    """Draw the score of every layer at every training size, by one classifier."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    sizes = list(dict.fromkeys(row["train_size"] for row in rows))
    cells = {(row["layer"], row["train_size"]): row["score"] for row in rows}
    room = max(0.4 * width, width - 0.6 * len(sizes) - 0.2)
    names = short_names(layers, min(30, letters(room)))
    side = LETTER * max(map(len, names)) + 0.2
    with drawing():
        figure = Figure(
            figsize=(max(side + 0.6 * len(sizes), min(width, side + 1.1 * len(sizes), 6)),
                     0.6 + 0.34 * len(layers)),
            layout="constrained",
        )  # fmt: skip
        axes = figure.add_subplot()
        values = [[cells[layer, size] for size in sizes] for layer in layers]
        image = axes.imshow(values, cmap="cividis", aspect="auto")
        _ticks(axes, [str(size) for size in sizes], names)
        axes.set_xlabel("training images of each class")
        for j in range(len(sizes)):
            best = max(range(len(layers)), key=lambda i: values[i][j])
            for i in range(len(layers)):
                axes.text(
                    j, i, f"{values[i][j]:.3f}" + ("★" if i == best else ""),
                    ha="center", va="center", color=_on(image, values[i][j]),
                )  # fmt: skip
        return to_svg(figure, "Score by layer and training size")


def confusion_matrix(
    classes: Sequence[str], counts: Sequence[Sequence[int]], width: float
) -> str | None:
    """Draw how many test images of each class got which prediction.

    With many classes the figure is wider than ``width``; above `MOST_CLASSES` there is none.
    """
    k = len(classes)
    if k > MOST_CLASSES:
        return None
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    digits = len(str(max(max(row) for row in counts)))
    n_lines = 1 if max(map(len, classes)) <= SHORT else 2
    cell = max(n_lines * LINE + 0.02 / n_lines, LETTER * digits + 0.06)
    most = max(SHORT, min(24, letters(width - cell * k - 0.4)))
    names = _wrapped(classes, most, n_lines)
    side = LETTER * max(len(line) for name in names for line in name.splitlines()) + 0.4
    cell = max(cell, min(0.4, (width - side) / k))
    with drawing():
        figure = Figure(figsize=(side + cell * k, side + cell * k), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        _ticks(axes, names, names)
        axes.tick_params(axis="x", rotation=90)
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        for i, j in np.ndindex(k, k):
            if counts[i][j]:
                colour = _on(image, shares[i][j])
                axes.text(j, i, str(counts[i][j]), ha="center", va="center", color=colour)
        return to_svg(figure, "Confusion matrix")


def _wrapped(names: Sequence[str], length: int, n_lines: int) -> list[str]:
    """Break names into lines, and shorten them as far as needed to fit."""
    for most in range(n_lines * length, length, -1):
        lines = [textwrap.wrap(name, length) for name in short_names(names, most)]
        if max(map(len, lines)) <= n_lines:
            return ["\n".join(of) for of in lines]
    return short_names(names, length)


def _ticks(axes: Axes, columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _on(image: AxesImage, value: float) -> str:
    """Choose the colour of text that can be read on a cell of the map."""
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
