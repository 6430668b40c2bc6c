"""Starts: the places from which on a network can be trained, everything before left as it is.

A network can be cut where one value is all that what comes later depends on: behind a residual
block, a dense block or an inception module, not inside. What comes before such a value never
changes, and need not be computed twice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import fx, nn

from codes.graph.heads import head_input
from codes.graph.traced_graph import TracedGraph, canonical, depths

WHOLE = "input"
"""The start of the whole network."""
BLOCK = 0.15
"""Most that a block is deep."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A place from which on a network can be trained.

    Attributes
    ----------
    name : str
        The first module that is trained, such as ``"layer4"`` or ``"features.9"``; ``"input"`` for
        the whole network.
    reads : str
        The graph node whose values it reads; ``"input"`` for images.
    depth : float
        Of that node, from 0, the input, to 1, the output.
    shape : tuple of int
        Of one image's values there, channels first.
    layout : str
        As for `codes.graph.layers.Layer`.
    """

    name: str
    reads: str
    depth: float
    shape: tuple[int, ...]
    layout: str


def find_starts(traced: TracedGraph) -> list[Start]:
    """Find every place from which on a network can be trained.

    Each begins with a layer that has weights: pooling before it is not computed twice either.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.

    Returns
    -------
    starts : list of Start
        In forward order, ``"input"`` first; none where nothing with weights is trained.

    Examples
    --------
    >>> from codes import load_backbone
    >>> [start.name for start in find_starts(load_backbone("bundled").graph)]
    ['input', 'conv2', 'conv3', 'conv4', 'conv5', 'fc6', 'fc7']
    """
    end = head_input(traced)
    within = _ancestors(end)
    nodes = [node for node in traced.graph.nodes if node in within]
    image = _of_image(nodes)
    tied = _tied(traced, nodes, image)
    cuts = [i for i in range(len(nodes) - 1) if _is_cut(traced, nodes, i, image, tied)]
    shares = depths(traced)
    starts: list[Start] = []
    for place, following in pairwise([*cuts, len(nodes) - 1]):
        trained = [n for n in nodes[place + 1 : following + 1] if _has_parameters(traced, n)]
        if not trained:
            continue
        # What comes before the first weights, such as padding, leaves the whole network to train.
        whole = not starts
        node = nodes[0] if whole else nodes[place]
        layout, shape = canonical(traced, node)
        starts.append(
            Start(
                name=WHOLE if whole else _module_name(traced, trained[0], nodes[: place + 1]),
                reads=WHOLE if whole else traced.names[node],
                depth=0.0 if whole else round(shares[node], 4),
                shape=shape,
                layout=layout,
            )
        )
    return starts


def choose_starts(traced: TracedGraph, wanted: str | Sequence[str] = "auto") -> list[Start]:
    """Choose places from which on to train.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.
    wanted : str or sequence of str, default="auto"
        ``"auto"``: the last stage (the last change of resolution, or else the last layers), the
        last half by depth, and the whole network; otherwise names of modules or graph nodes, in a
        sequence or joined by commas, or ``"input"``.

    Returns
    -------
    starts : list of Start
        Each once, in forward order.

    Raises
    ------
    ValueError
        If a start does not exist, or the network cannot be cut there; the message names the
        nearest at which it can.

    Examples
    --------
    >>> from codes import load_backbone
    >>> graph = load_backbone("bundled").graph
    >>> [start.name for start in choose_starts(graph)]
    ['input', 'conv3', 'conv5']
    """
    starts = find_starts(traced)
    if not starts:
        raise ValueError(
            f"{type(traced.root).__name__} has no layer with weights before its classifier, so "
            "that there is nothing to fine-tune."
        )
    if wanted == "auto":
        return _default_starts(traced, starts)
    found = {_named(traced, starts, part).name for part in _parts(wanted)}
    return [start for start in starts if start.name in found]


def named_starts(traced: TracedGraph, wanted: str | Sequence[str]) -> list[tuple[str, str]]:
    """Find what each start that is asked for is called: where its first weights are.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.
    wanted : str or sequence of str
        As for `choose_starts`.

    Returns
    -------
    names : list of (str, str)
        What was asked for, and the start's name.

    Raises
    ------
    ValueError
        As `choose_starts`.

    Examples
    --------
    >>> from codes import load_backbone
    >>> named_starts(load_backbone("bundled").graph, "conv4.relu, fc6")
    [('conv4.relu', 'conv5'), ('fc6', 'fc6')]
    """
    if wanted == "auto":
        return [(start.name, start.name) for start in choose_starts(traced)]
    starts = find_starts(traced)
    return [(part, _named(traced, starts, part).name) for part in _parts(wanted)]


def _parts(wanted: str | Sequence[str]) -> list[str]:
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    return [part.strip() for part in parts]


def _default_starts(traced: TracedGraph, starts: Sequence[Start]) -> list[Start]:
    """Take the last stage (or last quarter), the last half, and the whole network."""
    nodes = list(traced.graph.nodes)
    places = [nodes.index(read_by(traced, start)) for start in starts]
    sides = [
        (i, canonical(traced, node)[1][1:])
        for i, node in enumerate(nodes)
        if traced.has_weights(node) and len(node.meta.get("shape", ())) == 4
    ]
    sides = [(i, side) for i, side in sides if max(side) > 1]  # Not in a gate.
    earlier = [i for i, side in sides if side != sides[-1][1]]
    last = min(starts, key=lambda start: abs(start.depth - 0.75))  # As in a vision transformer.
    if earlier:
        # The last stage begins behind the last layer whose maps have another size, or where no
        # start lies between that layer and the next, with the block that holds both, if any does.
        changed = min(i for i, _ in sides if i > max(earlier))
        later = [n for n, place in enumerate(places) if place >= max(earlier)]
        first = min(later, default=len(starts) - 1)
        around = places[first] >= changed and starts[first].depth - starts[first - 1].depth < BLOCK
        last = starts[first - around]
    half = min(starts, key=lambda start: abs(start.depth - 0.5))
    names = {WHOLE, _outer(starts, half), _outer(starts, last)}
    return [start for start in starts if start.name in names]


def _outer(starts: Sequence[Start], start: Start) -> str:
    """Name the start of the block that another is within, if it is not much earlier."""
    around = [
        other.name
        for other in starts
        if _is_within(start.name, other.name) and other.depth >= start.depth - BLOCK
    ]
    return around[0]


def read_by(traced: TracedGraph, start: Start) -> fx.Node:
    """Return the node that a start reads."""
    [image] = [node for node in traced.graph.nodes if node.op == "placeholder"]
    return image if start.name == WHOLE else traced.nodes[start.reads]


def _named(traced: TracedGraph, starts: Sequence[Start], name: str) -> Start:
    for start in starts:
        if name in (start.name, start.reads if start.name == WHOLE else None):
            return start
    nodes = list(traced.graph.nodes)
    named = ((i, traced.names.get(node)) for i, node in enumerate(nodes))
    own = [i for i, node in named if node is not None and _is_within(node, name)]
    allowed = [start.name for start in starts]
    if not own:
        near = ", ".join(difflib.get_close_matches(name, allowed, 3, 0.4))
        raise ValueError(
            f"The start {name!r} is not in this backbone. "
            f"{f'Nearest: {near}. ' if near else ''}Allowed: {', '.join(allowed)}."
        )
    first = own[0]
    places = [nodes.index(read_by(traced, start)) for start in starts]
    for start, place in zip(starts, places, strict=True):
        # Nothing that is trained lies between: the same layers are, whatever they are called.
        between = nodes[min(place, first - 1) + 1 : max(place + 1, first)]
        if not any(_has_parameters(traced, node) for node in between):
            return start
    before = [start.name for start, place in zip(starts, places, strict=True) if place < first]
    after = [start.name for start, place in zip(starts, places, strict=True) if place >= first]
    rest = nodes[first + 1 : nodes.index(head_input(traced)) + 1]
    why = (
        "what comes later also depends on values from before it"
        if after or any(_has_parameters(traced, node) for node in rest)
        else "no layer that is trained comes between it and the classifier"
    )
    raise ValueError(
        f"The network cannot be cut at {name!r}: {why}. Nearest: "
        f"{', '.join([*before[-1:], *after[:1]])}."
    )


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        at = waiting.pop()
        if at not in found:
            found.add(at)
            waiting.extend(at.all_input_nodes)
    return found


def _of_image(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Find the images and all that is computed from them; the rest depends on weights alone."""
    image: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(i in image for i in node.all_input_nodes):
            image.add(node)
    return image


def _is_cut(
    traced: TracedGraph,
    nodes: Sequence[fx.Node],
    place: int,
    image: set[fx.Node],
    tied: Sequence[set[fx.Node]],
) -> bool:
    """Tell whether a node's values are all that what comes later depends on."""
    node = nodes[place]
    if "shape" not in node.meta or node.op == "get_attr":
        return False
    if traced.calls(node, {F.pad}):
        return False  # Padding belongs to the convolution behind it.
    users = [user for user in node.users if user in image]
    if traced.has_weights(node) and any(_has_parameters(traced, user) for user in users):
        return False  # A normalisation belongs to the convolution before it.
    later = {node}
    for other in nodes[place + 1 :]:
        if any(i in later for i in other.all_input_nodes):
            later.add(other)
    behind = later - {node}
    if any(i in image and i not in later for other in behind for i in other.all_input_nodes):
        return False
    # Weights that are read on both sides would be frozen on one and trained on the other.
    return all(readers <= behind or not readers & behind for readers in tied)


def _tied(traced: TracedGraph, nodes: Sequence[fx.Node], image: set[fx.Node]) -> list[set[fx.Node]]:
    """Find the nodes that share each of the weights that several read.

    A weight counts as read where it meets what is computed from images: what is made of weights
    alone, as where they are standardised, passes them on, and their shapes are no weights.
    """
    readers: dict[int, set[fx.Node]] = {}
    made_of: dict[fx.Node, set[int]] = {}
    for node in nodes:
        weights = {id(parameter) for parameter in _parameters(traced, node)}
        weights.update(*(made_of.get(given, ()) for given in node.all_input_nodes))
        if node in image:
            for weight in weights:
                readers.setdefault(weight, set()).add(node)
        elif "shape" in node.meta:
            made_of[node] = weights
    return [found for found in readers.values() if len(found) > 1]


def _has_parameters(traced: TracedGraph, node: fx.Node) -> bool:
    return any(True for _ in _parameters(traced, node))


def _parameters(traced: TracedGraph, node: fx.Node) -> Iterator[nn.Parameter]:
    """List the parameters of a node's module, or those that a function is given."""
    if node.op == "call_module":
        yield from traced.module(node).parameters()
    for given in node.all_input_nodes:
        if given.op == "get_attr":
            path, _, name = str(given.target).rpartition(".")
            value = getattr(traced.root.get_submodule(path), name)
            if isinstance(value, nn.Parameter):
                yield value


def _module_name(traced: TracedGraph, first: fx.Node, before: Sequence[fx.Node]) -> str:
    """Name the largest module that a node is within and those before it are not."""
    parts = traced.names[first].split(".")
    names = [traced.names[n] for n in before if n in traced.names and n.op != "get_attr"]
    for length in range(1, len(parts)):
        name = ".".join(parts[:length])
        if not any(_is_within(other, name) for other in names):
            return name
    return traced.names[first]


def _is_within(node: str, module: str) -> bool:
    return node == module or node.startswith(f"{module}.")
