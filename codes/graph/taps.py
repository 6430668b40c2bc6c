"""Taps: the layers to read, each in the ways in which it is pooled, and no codes twice."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from codes.graph.cutting import Tap
from codes.graph.layers import NO_ACTIVATIONS, Layer, select_layers
from codes.graph.pooling import pooled_width, resolve_poolings
from codes.graph.traced_graph import TracedGraph

_POOLED = re.compile(r"(.+?):(avg|max|flatten|token|patches|grid(?::[0-9]+)?)")


def choose_taps(
    traced: TracedGraph,
    layers: Sequence[Layer],
    wanted: str | Sequence[str] = "default",
    pool: str = "grid",
    *,
    activation: str = "post",
    n_views: int = 1,
) -> list[Tap]:
    """Choose what to read of a network.

    Parameters
    ----------
    traced : TracedGraph
    layers : sequence of Layer
        As `codes.graph.layers.find_layers` returns them for this graph.
    wanted : str or sequence of str, default="default"
        As for `codes.graph.layers.select_layers`; a name may end with a pooling of its own, as in
        ``"conv5.relu:avg"``. Of ``"default"`` and ``"all"``, the network's own
        average of a map is left out where that map is averaged as well: the codes are the same;
        and, before activations, what has no side before one.
    pool : str, default="grid"
        As for `codes.graph.pooling.resolve_poolings`. With ``"grid"``, the last map of the default
        layers is read as its average as well, unless one of them is just that; and of the default
        blocks of a transformer, the class token, if there is one.
    activation : {"post", "pre"}, default="post"
        With ``"pre"``, the network's own average of a map becomes the average before the map's
        activation.
    n_views : int, default=1
        Views whose codes are kept apart.

    Returns
    -------
    taps : list of Tap
        In forward order.

    Raises
    ------
    ValueError
        If a name, an expression or a pooling is not valid.

    Examples
    --------
    >>> from codes import load_backbone
    >>> bundled = load_backbone("bundled")
    >>> [tap.name for tap in choose_taps(bundled.graph, bundled.layers)][-4:]
    ['conv5.relu', 'conv5.relu:avg', 'fc6.relu', 'fc7.relu']
    """
    named = wanted not in ("default", "all")
    taps: list[Tap] = []
    for layer, asked in _wishes(traced, layers, wanted):
        own = taps_of(layer, asked or pool, n_views)
        if asked:
            own = [replace(tap, name=f"{layer.name}:{asked}") for tap in own]
        elif wanted == "default" and pool == "grid":
            own += [
                replace(tap, name=f"{layer.name}:{also}")
                for also in _beside_grid(layer)
                for tap in taps_of(layer, also, n_views)
            ]
        averaged = [at for at in layers if at.name == layer.average_of]
        if activation == "pre" and averaged and averaged[0].kind not in NO_ACTIVATIONS:
            own = [replace(tap, name=layer.name) for tap in taps_of(averaged[0], "avg", n_views)]
        elif activation == "pre" and layer.kind in NO_ACTIVATIONS and not named:
            own = []
        taps += own
    if named:
        return taps
    distinct: dict[tuple[str, str], Tap] = {}
    for tap in taps:
        distinct.setdefault(_codes(tap), tap)
    return list(distinct.values())


def _beside_grid(layer: Layer) -> list[str]:
    """Name the poolings in which a default layer is read besides its grid."""
    token = layer.kind == "block" and layer.n_class_tokens
    return ["avg"] * layer.last_map + ["token"] * bool(token)


def _wishes(
    traced: TracedGraph, layers: Sequence[Layer], wanted: str | Sequence[str]
) -> list[tuple[Layer, str | None]]:
    """Find the layers that are wanted, in forward order, and the poolings that are said of them."""
    if wanted in ("default", "all"):
        return [(layer, None) for layer in select_layers(traced, layers, wanted)]
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    pooled = {part: _POOLED.fullmatch(part.strip()) for part in parts}
    plain = [part for part, match in pooled.items() if match is None]
    wishes: list[tuple[Layer, str | None]] = []
    if plain or not pooled:
        wishes += [(layer, None) for layer in select_layers(traced, layers, plain)]
    for match in filter(None, pooled.values()):
        wishes += [(layer, match[2]) for layer in select_layers(traced, layers, [match[1]])]
    order = {name: place for place, name in enumerate(traced.nodes)}
    return sorted(wishes, key=lambda wish: order[wish[0].name])


def _codes(tap: Tap) -> tuple[str, str]:
    """Say what is read, the same for what comes to the same codes."""
    if tap.layer.average_of:
        return tap.layer.average_of, "avg"
    return tap.layer.name, "avg" if tap.pool == "grid:1" else tap.pool


def taps_of(layer: Layer, pool: str = "grid", n_views: int = 1) -> list[Tap]:
    """Make the taps of one layer, one for each pooling that is another for it."""
    pools = resolve_poolings(pool, layer.shape, layer.n_class_tokens)
    return [
        Tap(
            name=layer.name if len(pools) == 1 else f"{layer.name}:{resolved}",
            layer=layer,
            pool=resolved,
            n_features=pooled_width(resolved, layer.shape),
            n_views=n_views,
        )
        for resolved in pools
    ]
