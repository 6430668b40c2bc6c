"""The grid of C: where the chosen values are in it, how it was searched, and what that means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.linear.folds import SUMS
from pipelines.linear.search import CLEARLY_WORSE, WORSE

NEAR_UNIFORM = 0.1
"""Share of the way from equal probabilities to certainty below which these are called uniform."""
MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A chosen C at an edge of its grid, towards which scores still rise.

    Attributes
    ----------
    name : str
        Whose it is: layer, classifier, and what else is known.
    C : float
    side : {"low", "high"}
    """

    name: str
    C: float
    side: str


def edges_of(rows: Sequence[dict[str, Any]]) -> list[Edge]:
    """List the edges among ``report.json``'s ``layers``."""
    several = len({row["train_size"] for row in rows}) > 1
    return [
        Edge(
            name=f"{row['layer']} ({row['classifier']}"
            + (f", {row['train_size']} a class)" if several else ")"),
            C=row["C"],
            side=row["C_at_edge"],
        )
        for row in rows
        if row["C_at_edge"]
    ]


def edge_sentence(edges: Sequence[Edge], Cs: Sequence[float]) -> str:
    """Say which values of C are at an edge of the grid, and what grid would show more, if any are.

    Examples
    --------
    >>> edge = Edge(name="fc7.relu (svm)", C=100.0, side="high")
    >>> edge_sentence([edge], [0.01, 0.1, 1.0, 10.0, 100.0]).partition(": ")[2]
    'fc7.relu (svm) has C = 100, the largest. A wider grid may raise the score: --Cs 0.01:10000:7.'
    """
    if not edges:
        return ""
    named = [
        f"{edge.name} has C = {edge.C:g}, the {'smallest' if edge.side == 'low' else 'largest'}"
        for edge in edges[:MOST_NAMED]
    ]
    rest = f"; and {len(edges) - MOST_NAMED} more" if len(edges) > MOST_NAMED else ""
    low, high = Cs[0], Cs[-1]
    sides = {edge.side for edge in edges}
    wider = low / 100 if "low" in sides else low, high * 100 if "high" in sides else high
    n = 1 + math.ceil((len(Cs) - 1) * math.log(wider[1] / wider[0]) / math.log(high / low) - 1e-6)
    return (
        f"C is at an edge of its grid, {low:g} to {high:g}, and scores still rise towards it: "
        f"{'; '.join(named)}{rest}. A wider grid may raise the "
        f"{'score' if len(edges) == 1 else 'scores'}: --Cs {wider[0]:g}:{wider[1]:g}:{n}."
    )


def searched_sentence(protocol: dict[str, Any]) -> str:
    """Say which values of C there were to choose from, by ``report.json``'s ``protocol``.

    Examples
    --------
    >>> searched_sentence({"Cs": [0.1, 1.0, 10.0], "Cs_search": "full"})
    '3 values from 0.1 to 10, all looked at'
    """
    Cs, n = protocol["Cs"], len(protocol["Cs"])
    if n == 1:
        return f"{Cs[0]:g}, the only value"
    # Reports of versions without a search looked at all.
    if protocol.get("Cs_search", "full") == "full" or protocol["scoring"] not in SUMS:
        how = "all looked at"
    else:
        how = (
            f"looked at from {Cs[(n - 1) // 2]:g} outwards by each choice of C, until on either "
            f"side a value is worse than the best by more than {CLEARLY_WORSE:g} standard errors "
            f"of the paired difference over the held-out images, or two in a row by more than "
            f"{WORSE:g}; --Cs-search full looks at all"
        )
    return f"{n} values from {Cs[0]:g} to {Cs[-1]:g}, {how}"


def not_searched_sentence(rows: Sequence[dict[str, Any]], Cs: Sequence[float]) -> str:
    """Say which values of C no fit looked at, and which some did not; empty where all did.

    The rows, of ``report.json``'s ``layers``, are of one training size: of as many fits each.

    Examples
    --------
    >>> rows = [{"cv_searched": [0.0, 1.0, 0.5]}, {"cv_searched": [0.0, 1.0, 1.0]}]
    >>> not_searched_sentence(rows, [0.1, 1.0, 10.0])
    'No fit looked at C = 0.1; 25 % did not at 10.'
    """
    searched = np.mean([row.get("cv_searched") or [1.0] * len(Cs) for row in rows], axis=0)
    left = 1 - searched[(searched > 0) & (searched < 1)]
    parts = []
    if (searched == 0).any():
        parts.append(f"No fit looked at C = {_ranges(Cs, searched == 0)}")
    if left.size:
        least, most = (_percent(share) for share in (left.min(), left.max()))
        shares = f"{most} %" if least == most else f"{least} to {most} %"
        if left.min() < 0.01 <= left.max():
            shares = f"up to {most} %"
        at = _ranges(Cs, (searched > 0) & (searched < 1))
        parts.append(
            f"{shares} did not at {at}" if parts else f"{shares} of fits did not look at C = {at}"
        )
    return f"{'; '.join(parts)}." if parts else ""


def _ranges(Cs: Sequence[float], chosen: NDArray[np.bool_]) -> str:
    """Name chosen values; three or more in a row by their ends."""
    places = np.flatnonzero(chosen)
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    parts = []
    for run in runs:
        values = [f"{Cs[i]:g}" for i in run]
        parts += [f"{values[0]} to {values[-1]}"] if len(values) > 2 else values
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _percent(share: float) -> str:
    """Write a share that is neither none nor all."""
    return "under 1" if share < 0.01 else f"{min(round(100 * share), 99)}"


def uniform_sentence(
    name: str, probabilities: NDArray[np.floating[Any]], C: float, Cs: Sequence[float]
) -> str:
    """Say where a C that is small enough for the labels is too small for the probabilities.

    These are of the images that it was trained on, (n_samples, n_classes). Empty where they are not
    near uniform.
    """
    largest, least = float(probabilities.max(1).mean()), 1 / probabilities.shape[1]
    if largest - least >= NEAR_UNIFORM * (1 - least):
        return ""
    return (
        f"the probabilities of {name} are near uniform: the largest of each training image is "
        f"{largest:.3f} on average, and {probabilities.shape[1]} equal ones are {least:.3f}. Of "
        f"the values of C that score best in cross-validation the smallest is chosen: here {C:g}, "
        f"of the grid from {Cs[0]:g} to {Cs[-1]:g}. The labels do not suffer, but the "
        "probabilities say next to nothing: choose C by them, with --scoring neg_log_loss, or "
        "give --Cs larger values only."
    )
