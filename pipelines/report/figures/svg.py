"""SVG: figures drawn at the width at which they are shown, in one size of type.

The text is left to the browser, which has fonts for all scripts; the ink is the page's own, which
follows the reader's light or dark mode. Nothing in it is read as TeX.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the page's text colour, which follows the reader's light or dark mode."""

WIDE, NARROW = 7.5, 3.7
"""Widths in inches, of 96 pixels each: for windows of 752 pixels or more, and for phones."""

LETTER, LINE = 0.085, 0.17
"""Width of a letter and height of a line in inches, generously."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's palette: distinct to every common colour vision, on white and on black."""

_MARKERS = ("o", "s", "^", "D")
_DASHES = ("-", "--", ":")

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "svg.hashsalt": "cnn-codes",
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(
        ("axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize",
         "legend.fontsize"), 10),
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}  # fmt: skip


def drawing() -> AbstractContextManager[None]:
    """Set matplotlib up for a page, whatever the user's own settings are."""
    return style.context(_STYLE, after_reset=True)


def look(number: int) -> dict[str, Any]:
    """Give a curve a colour, a dash and a marker of its own, up to 48 of them."""
    return {
        "color": _COLOURS[number % 4],
        "linestyle": _DASHES[number % 3],
        "marker": _MARKERS[(number + number // 12) % 4],
        "linewidth": 1.5,
        "markersize": 6,
    }


def legend(figure: Figure, entries: Sequence[tuple[Any, str]]) -> None:
    """Write a legend below a figure, which it makes higher, in as many columns as fit.

    Labels are shown as they are, also those that start with an underscore.
    """
    width = figure.get_figwidth()
    names = [textwrap.fill(name, int((width - 0.7) / LETTER)) for _, name in entries]
    lines = [name.splitlines() for name in names]
    longest = max(len(line) for of in lines for line in of)
    n_columns = max(1, min(len(entries), int(width / (longest * LETTER + 0.6))))
    n_lines = math.ceil(len(entries) / n_columns) * max(map(len, lines))
    figure.set_figheight(figure.get_figheight() + 1.25 * LINE * n_lines)
    shown = figure.legend(
        [artist for artist, _ in entries],
        # matplotlib leaves out labels that start with an underscore, so that they come after.
        [str(number) for number in range(len(entries))],
        loc="outside lower left",
        ncols=n_columns,
        markerscale=0.8,
        borderaxespad=0,
    )
    for text, name in zip(shown.get_texts(), names, strict=True):
        text.set_text(name)


def short(name: str, length: int) -> str:
    """Cut out the middle of a long name: its ends say most.

    Examples
    --------
    >>> short("features.12.expand3x3_activation", 20)
    'features.1…ctivation'
    """
    if len(name) <= length:
        return name
    return f"{name[: length // 2]}…{name[len(name) - (length - length // 2 - 1) :]}"


def short_names(names: Sequence[str], length: int) -> list[str]:
    """Shorten different names, each to another one: those that would be the same are numbered.

    Examples
    --------
    >>> short_names(["a", "Nevus, of the left arm", "Nevus, of the right arm"], 12)
    ['a', 'Nevus… arm 2', 'Nevus… arm 3']
    """
    cut = [short(name, length) for name in names]
    return [
        name if cut.count(name) == 1 else f"{short(full, length - len(f' {i}'))} {i}"
        for i, (full, name) in enumerate(zip(names, cut, strict=True), start=1)
    ]


def power(value: float) -> str:
    """Write a number for an axis of powers, without TeX.

    Examples
    --------
    >>> power(1e-6), power(0.02), power(100.0), power(3e-5)
    ('10⁻⁶', '0.02', '100', '3·10⁻⁵')
    """
    if 0.01 <= value < 1000:
        return f"{value:.2g}" if value < 100 else f"{value:.0f}"
    digits, _, exponent = f"{value:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1.0" else f"{float(digits):g}·10{raised}"


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Move increasing places apart from each other, upwards and no further than needed.

    Examples
    --------
    >>> spread([0.0, 0.5, 3.0], 1.0)
    [0.0, 1.0, 3.0]
    """
    return list(itertools.accumulate(places, lambda last, place: max(place, last + apart)))


def to_svg(figure: Figure, title: str) -> str:
    """Write a figure as part of a page, of its own width unless the page is narrower.

    The title is for those who do not see it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Letters are drawn by the browser, which has fonts for all scripts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    # Names of groups, the same in every figure, which nothing refers to.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def both_widths(draw: Callable[[float], str | None]) -> str | None:
    """Draw a figure for wide windows and for phones, of which the page shows one.

    ``draw(width)`` gives the SVG, or None where there is nothing to draw.
    """
    parts = []
    for name, width in (("wide", WIDE), ("narrow", NARROW)):
        svg = draw(width)
        if svg is None:
            return None
        [points] = re.findall(r'^<svg[^>]*? width="([\d.]+)pt"', svg)
        if float(points) / 72 > width + 0.01:
            note = "Wider than the page: it scrolls sideways →"
            sign = f'<p class="sign">{note}</p>' if name == "narrow" else ""
            svg = (
                f'{sign}<div class="scroll" tabindex="0" role="region" aria-label="Figure, '
                f'scrolls sideways">{svg}</div>'
            )
        parts.append(f'<div class="{name}">{svg}</div>')
    return "".join(parts)


def letters(width: float) -> int:
    """Count the letters that fit into a width in inches."""
    return math.floor(width / LETTER)
