"""Figures: the depth curve and the map of depth and size, as SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

_INK = "#010203"
"""Stands for the page's text colour, which follows the reader's light or dark mode."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's palette, told apart with every common colour vision."""

_MARKERS = ("o", "s", "^", "D")

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
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


def depth_curve(
    rows: Sequence[dict[str, Any]],
    best: dict[str, Any],
    scoring: str,
    controls: Sequence[dict[str, Any]] = (),
) -> str:
    """Draw each layer's score and interval against its depth.

    Parameters
    ----------
    rows : sequence of dict
        Records of ``report.json``'s ``layers``, of one training size.
    best : dict
        ``report.json``'s ``best``.
    scoring : str
        Title of the score.
    controls : sequence of dict
        ``report.json``'s ``controls``, drawn as levels.

    Returns
    -------
    svg : str
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
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
        chosen = [row for row in rows if "chosen" in row["roles"]]
        axes.scatter(
            [row["depth"] for row in chosen], [row["score"] for row in chosen],
            s=220, facecolors="none", edgecolors=_INK, linewidths=1.5, zorder=5, label="chosen",
        )  # fmt: skip
        tied = [row for row in rows if "tied" in row["roles"]]
        axes.scatter(
            [row["depth"] for row in tied], [row["score"] for row in tied],
            s=220, facecolors="none", edgecolors=_INK, linestyles=":", linewidths=1.5, zorder=5,
            label="tied with it" if tied else None,
        )  # fmt: skip
        axes.set_xlabel("depth: 0 is the input, 1 the output")
        axes.set_ylabel(f"{scoring}, 95 % interval")
        axes.set_xlim(0, 1.03)
        for control in controls:
            axes.axhline(
                control["score"], color=_INK, alpha=0.45, linewidth=1, linestyle=(0, (4, 3))
            )
        for level, names in _close(controls, 0.04 * (axes.get_ylim()[1] - axes.get_ylim()[0])):
            axes.text(0.008, level, names, fontsize=8, va="bottom", alpha=0.8)
        top = axes.secondary_xaxis("top")
        top.set_xticks([row["depth"] for row in first], [_short(row["layer"]) for row in first])
        top.tick_params(labelsize=8, rotation=40, length=3)
        for label in top.get_xticklabels():
            label.set_horizontalalignment("left")
        axes.legend(loc="best", fontsize=9, markerscale=0.6)
        return _svg(figure, "Score against depth")


def _close(controls: Sequence[dict[str, Any]], apart: float) -> list[tuple[float, str]]:
    """Write controls whose levels are close to each other as one."""
    levels: list[tuple[float, str]] = []
    for control in sorted(controls, key=lambda control: float(control["score"])):
        if levels and control["score"] - levels[-1][0] < apart:
            levels[-1] = (control["score"], f"{levels[-1][1]}, {control['name']}")
        else:
            levels.append((control["score"], control["name"]))
    return levels


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
                axes.text(
                    j, i, f"{values[i][j]:.3f}" + (" ★" if i == best else ""),
                    ha="center", va="center", fontsize=9, color=_on(image, values[i][j]),
                )  # fmt: skip
        return _svg(figure, "Score by layer and training size")


def depth_curves(reports: Sequence[dict[str, Any]]) -> str:
    """Draw score against depth of several reports, each by its chosen classifier.

    Parameters
    ----------
    reports : sequence of dict

    Returns
    -------
    svg : str
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for i, report in enumerate(reports):
            best = report["best"]
            keys = ("classifier", "train_size")
            rows = [row for row in report["layers"] if all(row[k] == best[k] for k in keys)]
            error = [
                [row["score"] - row["ci_low"] for row in rows],
                [row["ci_high"] - row["score"] for row in rows],
            ]
            axes.errorbar(
                [row["depth"] for row in rows], [row["score"] for row in rows], yerr=error,
                color=_COLOURS[i % 4], marker=_MARKERS[i // 4 % 4], capsize=3, linewidth=1.5,
                linestyle=("-", "--", ":")[i // 4 % 3],
                label=f"{i + 1}: {report['backbone']['name']}, {best['classifier']}",
            )  # fmt: skip
        axes.set_xlabel("depth: 0 is the input, 1 the output")
        axes.set_ylabel("score, 95 % interval")
        axes.set_xlim(0, 1.03)
        axes.legend(loc="lower right", fontsize=9)
        return _svg(figure, "Score against depth of every comparison")


def C_curves(  # noqa: N802
    rows: Sequence[dict[str, Any]], Cs: Sequence[float], scoring: str
) -> str:
    """Draw each layer's cross-validation score against C.

    Parameters
    ----------
    rows : sequence of dict
        Records of ``report.json``'s ``layers``, of one training size and classifier.
    Cs : sequence of float
    scoring : str
        Title of the score.

    Returns
    -------
    svg : str
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        colours = colormaps["cividis"].resampled(len(rows) + 2)
        for i, row in enumerate(rows):
            axes.plot(
                Cs, row["cv_curve"], color=colours(i + 1), linewidth=1.6,
                label=f"{_short(row['layer'])}{' (edge)' if row['C_at_edge'] else ''}",
            )  # fmt: skip
            at = max(range(len(Cs)), key=lambda j: (row["cv_curve"][j], -j))
            axes.plot(
                Cs[at], row["cv_curve"][at], marker="X" if row["C_at_edge"] else "o",
                color=colours(i + 1), markersize=9 if row["C_at_edge"] else 6,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("C")
        axes.set_ylabel(f"cross-validated {scoring}")
        figure.legend(loc="outside right center", fontsize=8)
        return _svg(figure, "Cross-validation score against C")


def confusion_matrix(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str | None:
    """Draw how many test images of each class got which prediction.

    Parameters
    ----------
    classes : sequence of str
    counts : sequence of sequence of int
        Of each class, by predicted class.

    Returns
    -------
    svg : str or None
        None above 30 classes, where nothing could be read.
    """
    k = len(classes)
    if k > 30:
        return None
    shares = [[n / max(1, sum(row)) for n in row] for row in counts]
    with matplotlib.rc_context(_STYLE):
        side = 1.8 + 0.42 * k
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        axes.set_xticks(range(k), [_short(name) for name in classes], rotation=90)
        axes.set_yticks(range(k), [_short(name) for name in classes])
        axes.set_xlabel("predicted")
        axes.set_ylabel("class")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for i in range(k):
            for j in range(k):
                if counts[i][j]:
                    colour = _on(image, shares[i][j])
                    axes.text(j, i, str(counts[i][j]), ha="center", va="center", fontsize=8,
                              color=colour)  # fmt: skip
        return _svg(figure, "Confusion matrix")


def similarity_by_layer(similarity: dict[str, Any], border: float) -> str | None:
    """Draw the similarity at each batch normalisation against depth.

    Parameters
    ----------
    similarity : dict
        ``report.json``'s ``similarity``.
    border : float
        Drawn where the dataset has a side of it.

    Returns
    -------
    svg : str or None
        None where there are none.
    """
    layers = similarity["by_layer"]
    if not layers:
        return None
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        if similarity["similar"] is not None:
            axes.axhline(border, color=_INK, linewidth=0.8, linestyle="--")
        axes.plot(
            [layer["depth"] for layer in layers], [layer["value"] for layer in layers],
            color=_COLOURS[2], marker="o", markersize=4, linewidth=1.2,
        )  # fmt: skip
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("depth")
        axes.set_ylabel("similarity")
        return _svg(figure, "Similarity at each batch normalisation against depth")


def _on(image: AxesImage, value: float) -> str:
    """Choose the colour of text that can be read on a cell of the map."""
    red, green, blue, _ = image.to_rgba(np.array([value]))[0]
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"


def _short(layer: str) -> str:
    return layer if len(layer) <= 22 else f"…{layer[-21:]}"


def _svg(figure: Figure, title: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters are drawn by the browser, which has fonts for all scripts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Sized by the page, not by itself; named for those who do not see it.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
