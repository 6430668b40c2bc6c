"""The grid of C: where the chosen values are in it, and what that means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
