"""Figures: score against depth and against C, as SVG in the colours of the page.

Widths are of the page, in inches; rows are records of ``report.json``'s ``layers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from codes.wording import counted
from pipelines.comparison.protocol import FINETUNE, SCRATCH
from pipelines.report.figures.svg import (
    INK,
    LETTER,
    LINE,
    WIDE,
    drawing,
    legend,
    letters,
    look,
    power,
    short_names,
    spread,
    to_svg,
)

MOST_CURVES = 12
"""More than that could not be distinguished: the others are drawn without a name."""

HEIGHT = 3.4
"""Inches, without legends and names of layers."""

DASHED: dict[str, Any] = {"color": INK, "alpha": 0.45, "linewidth": 1, "linestyle": (0, (4, 3))}


def depth_curve(
    rows: Sequence[dict[str, Any]],
    scoring: str,
    controls: Sequence[dict[str, Any]],
    axis: str,
    width: float,
) -> str:
    """Draw each layer's score and interval against its depth, and controls as levels.

    The rows are of one training size, each with its ``roles``; ``axis`` says what a depth is.
    """
    with drawing():
        figure, axes = new_axes(width, HEIGHT)
        _depths(axes, axis)
        entries: list[tuple[Any, str]] = []
        for i, series in enumerate(dict.fromkeys(map(_series, rows))):
            of = [row for row in rows if _series(row) == series]
            entries.append((_with_intervals(axes, of, i), series))
        few = _count(rows) <= MOST_CURVES
        for role, dash, title in (("chosen", "-", "chosen"), ("tied", ":", "tied with it")):
            ringed = [row for row in rows if role in row["roles"]]
            if ringed:
                ring = axes.scatter(
                    [row["depth"] for row in ringed], [row["score"] for row in ringed],
                    s=200 if few or role == "chosen" else 60, facecolors="none",
                    edgecolors=INK, linestyles=dash, linewidths=1.5 if few else 0.8, zorder=5,
                )  # fmt: skip
                entries.append((ring, title))
        axes.set_ylabel(f"{scoring}, 95 % interval")
        _levels(axes, controls, name=width == WIDE)
        if controls:
            entries.append((Line2D([], [], **DASHED), "controls"))
        _name_layers(figure, axes, rows)
        legend(figure, entries)
        return to_svg(figure, "Score against depth")


def _count(rows: Sequence[dict[str, Any]]) -> int:
    """Count the layers that linear classifiers read."""
    return len({row["layer"] for row in rows if row["classifier"] != FINETUNE})


def _series(row: dict[str, Any]) -> str:
    """Say which curve a row belongs to: those of fine-tuning stand where training starts."""
    if row["classifier"] != FINETUNE:
        return str(row["classifier"])
    return "from scratch" if row["layer"] == SCRATCH else "fine-tuned from here on"


def depth_curves(
    reports: Sequence[dict[str, Any]], labels: Sequence[str], axis: str, width: float
) -> str:
    """Draw score against depth of several reports, each by its chosen classifier."""
    with drawing():
        figure, axes = new_axes(width, HEIGHT)
        _depths(axes, axis)
        entries = []
        for i, (report, label) in enumerate(zip(reports, labels, strict=True)):
            best = report["best"]
            keys = ("classifier", "train_size")
            rows = [row for row in report["layers"] if all(row[k] == best[k] for k in keys)]
            entries.append((_with_intervals(axes, rows, i), f"{label}, {best['classifier']}"))
        axes.set_ylabel("score, 95 % interval")
        legend(figure, entries)
        return to_svg(figure, "Score against depth of every comparison")


def C_curves(  # noqa: N802
    rows: Sequence[dict[str, Any]],
    Cs: Sequence[float],
    scoring: str,
    width: float,
    *,
    noun: str = "depth",
) -> str:
    """Draw each layer's cross-validation score against C.

    The rows are of one training size and classifier, each with its ``roles``; ``noun`` is what the
    page calls them.
    """
    named = list(rows)
    if len(rows) > MOST_CURVES:  # Those that matter; in forward order.
        first = sorted(rows, key=lambda row: (not row["roles"], -row["cv_score"]))[
            : MOST_CURVES // 2
        ]
        named = [row for row in rows if row in first]
    with drawing():
        figure, axes = new_axes(width, HEIGHT)
        entries: list[tuple[Any, str]] = []
        names = short_names([row["layer"] for row in named], min(30, letters(width) - 20))
        for i, (row, name) in enumerate(zip(named, names, strict=True)):
            curve = _curve(row)
            axes.plot(Cs, curve, **look(i) | {"marker": ""})
            mark = {"marker": "X", "markersize": 10} if row["C_at_edge"] else {}
            axes.plot(row["C"], row["cv_score"], **look(i) | mark)
            handle = Line2D([], [], **look(i) | mark)
            entries.append((handle, name + (" (edge)" if row["C_at_edge"] else "")))
        others = [row for row in rows if row not in named]
        for row in others:
            [line] = axes.plot(Cs, _curve(row), color=INK, alpha=0.25, linewidth=0.8, zorder=1)
        if others:
            entries.append((line, counted(len(others), f"other {noun}")))
        shown = _searched(rows, Cs)
        margin = max(1.1, (shown[-1] / shown[0]) ** 0.05)
        axes.set(xscale="log", xlim=(shown[0] / margin, shown[-1] * margin))
        axes.set_xlabel("C")
        axes.set_ylabel(f"cross-validated {scoring}")
        # At the values that there are: written out, as the log axis would write TeX.
        step = 1 + (len(shown) - 1) // int(1.7 * width)
        axes.set_xticks(shown[::step], [power(C) for C in shown[::step]])
        axes.minorticks_off()
        legend(figure, entries)
        return to_svg(figure, "Cross-validation score against C")


def _searched(rows: Sequence[dict[str, Any]], Cs: Sequence[float]) -> list[float]:
    """Give the part of the grid within which any fit looked, by ``report.json``'s ``layers``."""
    shares = np.sum([row.get("cv_searched") or [1.0] * len(Cs) for row in rows], axis=0)
    places = np.flatnonzero(shares)
    return list(Cs[places[0] : places[-1] + 1])


def _curve(row: dict[str, Any]) -> NDArray[np.float64]:
    """Give a row's score at each C; NaN, which is not drawn, where not every split looked."""
    return np.array(row["cv_curve"], np.float64)


def similarity_by_layer(
    similarity: dict[str, Any], border: float, axis: str, width: float
) -> str | None:
    """Draw the similarity at each batch normalisation against depth, if there are any.

    The border is drawn where the dataset has a side of it.
    """
    layers = similarity["by_layer"]
    if not layers:
        return None
    with drawing():
        figure, axes = new_axes(width, 2.6)
        _depths(axes, axis)
        if similarity["side"]:
            axes.axhline(border, color=INK, linewidth=0.8, linestyle="--")
        axes.plot(
            [layer["depth"] for layer in layers], [layer["value"] for layer in layers],
            **look(2) | {"linestyle": "-", "markersize": 4},
        )  # fmt: skip
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("similarity")
        return to_svg(figure, "Similarity at each batch normalisation against depth")


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Begin a figure of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _depths(axes: Axes, axis: str) -> None:
    axes.set_xlabel(axis)
    axes.set_xlim(0, 1.03)


def _with_intervals(axes: Axes, rows: Sequence[dict[str, Any]], number: int) -> Any:
    """Draw scores and intervals against depth, as the curve of a number; what stands for it."""
    error = [
        [row["score"] - row["ci_low"] for row in rows],
        [row["ci_high"] - row["score"] for row in rows],
    ]
    few = len(rows) <= MOST_CURVES
    size = {"capsize": 3} if few else {"markersize": 3, "linewidth": 0.8}
    return axes.errorbar(
        [row["depth"] for row in rows], [row["score"] for row in rows], yerr=error,
        **look(number) | size,
    )  # fmt: skip


def _levels(axes: Axes, controls: Sequence[dict[str, Any]], *, name: bool) -> None:
    """Draw controls as levels; their names beside them, where there is room."""
    controls = sorted(controls, key=lambda control: float(control["score"]))
    for control in controls:
        axes.axhline(control["score"], **DASHED)
    if not name:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    line = LINE / (HEIGHT - 0.7) * (high - low)
    levels = spread([control["score"] for control in controls], line)
    for control, level in zip(controls, levels, strict=True):
        axes.annotate(
            control["name"], (1, level), xycoords=("axes fraction", "data"),
            xytext=(4, 0), textcoords="offset points", va="center",
        )  # fmt: skip


def _name_layers(figure: Figure, axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Write layers above their depths where there is room; of many, only the chosen one."""
    layers = {row["layer"]: row["depth"] for row in rows}
    roles = {row["layer"]: sum(role != "tied" for role in row["roles"]) for row in rows}
    many = _count(rows) > MOST_CURVES
    width = figure.get_figwidth()
    gap = 1.03 * 1.5 * LINE / (width - 1)
    shown: dict[str, float] = {}
    for layer in sorted(layers, key=lambda layer: -roles[layer]):
        apart = all(abs(layers[layer] - depth) >= gap for depth in shown.values())
        if apart and (roles[layer] or not many):
            shown[layer] = layers[layer]
    top = axes.secondary_xaxis("top")
    names = short_names(list(shown), 30 if many else 22)
    top.set_xticks(list(shown.values()), names)
    wide = width == WIDE
    top.tick_params(rotation=40 if wide else 90, length=3)
    for label in top.get_xticklabels():
        label.set_horizontalalignment("left" if wide else "center")
    height = LETTER * max(map(len, names)) * (0.7 if wide else 1)
    figure.set_figheight(figure.get_figheight() + height)
