"""Figures: the depth curve and the map of depth and size, as SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure

_INK = "#010203"
"""Stands for the page's text colour, which follows the reader's light or dark mode."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's palette, told apart with every common colour vision."""

_MARKERS = ("o", "s", "^", "D")

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cnn-codes",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


def depth_curve(rows: Sequence[dict[str, Any]], best: dict[str, Any], scoring: str) -> str:
    """Draw each layer's score and interval against its depth.

    Parameters
    ----------
    rows : sequence of dict
        Records of ``report.json``'s ``layers``, of one training size.
    best : dict
        ``report.json``'s ``best``.
    scoring : str
        Name of the score.

    Returns
    -------
    svg : str
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        classifiers = list(dict.fromkeys(row["classifier"] for row in rows))
        for i, classifier in enumerate(classifiers):
            of = [row for row in rows if row["classifier"] == classifier]
            score = [row["score"] for row in of]
            error = [
                [row["score"] - row["ci_low"] for row in of],
                [row["ci_high"] - row["score"] for row in of],
            ]
            axes.errorbar(
                [row["depth"] for row in of], score, yerr=error, color=_COLOURS[i], capsize=3,
                marker=_MARKERS[i], markersize=6, linewidth=1.5, label=classifier,
            )  # fmt: skip
        first = [row for row in rows if row["classifier"] == classifiers[0]]
        chosen = [row for row in rows if all(row[k] == best[k] for k in ("layer", "classifier"))]
        axes.scatter(
            [row["depth"] for row in chosen], [row["score"] for row in chosen],
            s=220, facecolors="none", edgecolors=_INK, linewidths=1.5, zorder=5, label="chosen",
        )  # fmt: skip
        tied = [
            r for r in rows if r["layer"] in best["tied"] and r["classifier"] == best["classifier"]
        ]
        axes.scatter(
            [row["depth"] for row in tied], [row["score"] for row in tied],
            s=220, facecolors="none", edgecolors=_INK, linestyles=":", linewidths=1.5, zorder=5,
            label="tied with it" if tied else None,
        )  # fmt: skip
        axes.set_xlabel("depth: 0 is the input, 1 the output")
        axes.set_ylabel(f"{scoring.replace('_', ' ')}, 95 % interval")
        axes.set_xlim(0, 1.03)
        top = axes.secondary_xaxis("top")
        top.set_xticks([row["depth"] for row in first], [_short(row["layer"]) for row in first])
        top.tick_params(labelsize=8, rotation=40, length=3)
        for label in top.get_xticklabels():
            label.set_horizontalalignment("left")
        axes.legend(loc="best")
        return _svg(figure, "Score against depth")


def size_map(rows: Sequence[dict[str, Any]]) -> str:
    """Draw the score of every layer at every training size.

    Parameters
    ----------
    rows : sequence of dict
        Records of ``report.json``'s ``layers``, of one classifier.

    Returns
    -------
    svg : str
    """
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    sizes = list(dict.fromkeys(row["train_size"] for row in rows))
    cells = {(row["layer"], row["train_size"]): row["score"] for row in rows}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(
            figsize=(max(3.6, 1.6 + 1.0 * len(sizes)), 1.3 + 0.38 * len(layers)),
            layout="constrained",
        )
        axes = figure.add_subplot()
        values = [[cells[layer, size] for size in sizes] for layer in layers]
        image = axes.imshow(values, cmap="cividis", aspect="auto")
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_yticks(range(len(layers)), [_short(layer) for layer in layers])
        axes.set_xlabel("training images of each class")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for j in range(len(sizes)):
            best = max(range(len(layers)), key=lambda i: values[i][j])
            for i in range(len(layers)):
                red, green, blue, _ = colormaps["cividis"](image.norm(values[i][j]))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                axes.text(
                    j, i, f"{values[i][j]:.3f}" + (" ★" if i == best else ""),
                    ha="center", va="center", fontsize=9, color="white" if dark else "black",
                )  # fmt: skip
        return _svg(figure, "Score by layer and training size")


def _short(layer: str) -> str:
    return layer if len(layer) <= 22 else f"…{layer[-21:]}"


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Sized by the page, not by itself; named for those who do not see it.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
