"""The default choice among the layers of a network: enough of them, spread over its depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import fx

from codes.graph.heads import averaged_by, last_reader
from codes.graph.traced_graph import TracedGraph, canonical, unavoidable

WIDEST_GAP = 0.15
"""Depth between two neighbours above which layers between them are taken as well."""
NARROWEST_GAP = WIDEST_GAP / 3
"""Depth below which two neighbours are not worth taking both."""
MOST = 12
"""Layers up to which gaps are filled."""


def choose_default(
    traced: TracedGraph, kinds: Mapping[fx.Node, str], depths: Mapping[fx.Node, float]
) -> dict[fx.Node, str]:
    """Choose the layers that ``--layers default`` takes, of all in forward order.

    Returns
    -------
    reasons : dict of fx.Node to str
        ``"stage end"`` (the last activation of a resolution), ``"head"`` (an activation after the
        last convolution), ``"pooled"`` (the network's own pooled features, or what else its head
        reads) or ``"between"`` (to fill a gap in depth of more than 0.15). Of a transformer:
        ``"quarter"`` (the end of a quarter of its blocks), ``"last norm"`` and ``"pooled"``.
    """
    if "block" in kinds.values():
        return _choose_blocks(kinds)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    classifier = last_reader(traced)
    convolutions = [n for n in order if traced.is_convolution(n) and n is not classifier]
    last = order[convolutions[-1]] if convolutions else -1
    end = order[classifier]
    passed = unavoidable(traced)
    reasons: dict[fx.Node, str] = {}
    stages = _stage_ends(traced, [node for node in kinds if order[node] < end], passed)
    for node, kind in kinds.items():
        if node in stages:
            reasons[node] = "stage end"
        elif kind in ("penultimate", "pooled"):
            reasons[node] = "pooled"
        elif order[node] > last:
            reasons[node] = "head"
    # First where everything passes, the ends of blocks; where there is none (linear bottlenecks,
    # ConvNeXt, DenseNet), within the blocks.
    inside = {node: depths[node] for node in kinds if order[node] < end}
    ends = {node: depth for node, depth in inside.items() if node in passed}
    for offered in (ends, inside):
        taken = sorted({depths[node] for node in reasons})
        room = MOST - len(reasons) - (last_unaveraged(traced, reasons) is not None)
        for depth in fill_gaps(taken, sorted(set(offered.values())), room):
            # Of several as deep, the last: the end of a block, not the branch within it.
            reasons[[node for node in offered if offered[node] == depth][-1]] = "between"
    return {node: reasons[node] for node in kinds if node in reasons}


def _choose_blocks(kinds: Mapping[fx.Node, str]) -> dict[fx.Node, str]:
    """Choose among the layers of a transformer, which has one resolution, or all of them early."""
    blocks = [node for node, kind in kinds.items() if kind == "block"]
    quarters = {blocks[math.ceil(len(blocks) * quarter / 4) - 1] for quarter in (1, 2, 3, 4)}
    words = {"norm": "last norm", "penultimate": "pooled", "pooled": "pooled"}
    reasons = {node: "quarter" if node in quarters else words.get(kinds[node]) for node in kinds}
    return {node: why for node, why in reasons.items() if why is not None}


def last_unaveraged(traced: TracedGraph, reasons: Mapping[fx.Node, str]) -> fx.Node | None:
    """Return the last map of the default layers, unless another of them is its average."""
    ends = [node for node, why in reasons.items() if why == "stage end"]
    if not ends or any(averaged_by(traced, node) is ends[-1] for node in reasons):
        return None
    return ends[-1]


def fill_gaps(taken: Sequence[float], offered: Sequence[float], room: int) -> list[float]:
    """Choose depths between others, so that the widest gap left is as narrow as there is room for.

    Parameters
    ----------
    taken, offered : sequences of float
        Depths, sorted, each once.
    room : int
        How many may be chosen.

    Returns
    -------
    chosen : list of float
        Sorted; as few as leave no gap above `WIDEST_GAP`, where those offered allow it, and none
        nearer than `NARROWEST_GAP` to another.

    Examples
    --------
    >>> fill_gaps([0.0, 0.1, 0.5, 1.0], [0.2, 0.25, 0.3, 0.4, 0.7, 0.8], 3)
    [0.3, 0.7, 0.8]
    """
    gaps = [pair for pair in pairwise(taken) if pair[1] - pair[0] > WIDEST_GAP]
    steps = sorted({b - a for a in (*taken, *offered) for b in (*taken, *offered) if b > a})

    def cross(gap: tuple[float, float], step: float) -> list[float]:
        """Cross a gap in steps of at most a length, where those offered allow it."""
        at, crossed = gap[0], []
        while gap[1] - at > step:
            within = [d for d in offered if at + NARROWEST_GAP <= d <= gap[1] - NARROWEST_GAP]
            if not within:
                break
            near = [depth for depth in within if depth - at <= step]
            at = near[-1] if near else within[0]
            crossed.append(at)
        return crossed

    def count(step: float) -> int:
        return sum(len(cross(gap, step)) for gap in gaps)

    widest = next((s for s in (WIDEST_GAP, *steps) if s >= WIDEST_GAP and count(s) <= room), None)
    if widest is None:
        return []
    chosen: list[float] = []
    for gap in gaps:
        n = len(cross(gap, widest))
        # As evenly as so many can be spread.
        chosen += next(found for s in steps if len(found := cross(gap, s)) <= n)
    return chosen


def _stage_ends(
    traced: TracedGraph, nodes: Sequence[fx.Node], passed: set[fx.Node | None]
) -> set[fx.Node]:
    stages: dict[tuple[int, ...], fx.Node] = {}
    for node in nodes:
        _, shape = canonical(traced, node)
        # A 1x1 map is no stage.
        if len(shape) != 3 or max(shape[1:]) == 1:
            continue
        # ResNet-50's layer2 begins at layer1's resolution, on one of two branches: the stage ends
        # with the block output before it, which every path passes.
        if node in passed or stages.get(shape[1:]) not in passed:
            stages[shape[1:]] = node
    return set(stages.values())
