"""Layers: the activation outputs of a traced network, their depth, and the default choice.

Layers are found by what a graph node *is*, never by what it is called, so that any torchvision
classifier and any traceable module of one's own can be read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.nn import functional as F

from codes.graph import (
    TracedGraph,
    channels_last,
    depths,
    main_input,
    measure_shapes,
    reaching_output,
    source_classifier,
    unavoidable,
)

_PASS_THROUGH = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)
_PASS_THROUGH_CALLS = {torch.flatten, F.dropout, torch.squeeze,
                       "flatten", "view", "reshape", "squeeze"}  # fmt: skip
_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool2d)
_POOL_CALLS = {F.adaptive_avg_pool2d, F.avg_pool2d, F.max_pool2d, torch.mean, "mean"}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A place in a backbone where codes can be read.

    Attributes
    ----------
    name : str
        The torchvision graph node, such as ``"features.12.cat"`` or ``"layer4.1.relu_1"``.
    kind : str
        What stands there: ``"relu"``, ``"silu"``, …, ``"cat"`` (a concatenation of activations),
        ``"penultimate"`` (what the source classifier reads, where that is no activation) or
        ``"node"`` (any other node, asked for by name).
    depth : float
        Weight layers passed on the longest way from the input, over those on the way to the
        output: 0 is the input, 1 the output.
    shape : tuple of int
        One image's activations, channels first: ``(c,)``, ``(c, n_tokens)`` or ``(c, h, w)``.
    layout : str
        How the network holds a batch of them: ``"nc"``, ``"ntc"``, ``"nchw"`` or ``"nhwc"``.
    default : bool
        Whether ``--layers default`` takes it.
    """

    name: str
    kind: str
    depth: float
    shape: tuple[int, ...]
    layout: str
    default: bool = False


def find_layers(traced: TracedGraph, example: torch.Tensor) -> list[Layer]:
    """Find every layer of a network that is its own activation output.

    An activation inside a gate (squeeze-and-excitation) is left out, for it describes no place of
    the image; activations that only meet in a concatenation are listed as that concatenation.
    What the source classifier reads is added where it is no activation (ConvNeXt, transformers).

    Parameters
    ----------
    traced : TracedGraph
    example : Tensor of shape (1, 3, height, width)
        An input of the size that will be used.

    Returns
    -------
    layers : list of Layer
        In forward order.

    Raises
    ------
    ValueError
        If the network has no activation, or does not take the example.

    Examples
    --------
    >>> from codes.graph import trace
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    >>> find_layers(trace(net.eval()), torch.zeros(1, 3, 8, 8))
    [Layer(name='1', kind='relu', depth=0.5, shape=(8, 6, 6), layout='nchw', default=True)]
    """
    measure_shapes(traced, example)
    shares = depths(traced)
    kinds = _taps(traced)
    if not kinds and any("missing" in node.meta for node in traced.graph.nodes):
        raise ValueError(
            f"The file of weights has none of the layers of {type(traced.root).__name__}: the "
            "first that it lacks comes before every activation."
        )
    if not kinds:
        raise ValueError(
            f"{type(traced.root).__name__} has no activation that is known here. Name the nodes to "
            "read with --layers: " + ", ".join(list(traced.nodes)[:20])
        )
    chosen = _default_choice(traced, list(kinds))
    return [_layer(traced, node, kinds[node], shares, node in chosen) for node in kinds]


def measure_layers(
    traced: TracedGraph, layers: Sequence[Layer], example: torch.Tensor
) -> list[Layer]:
    """Find layers that are known by name in another form of their network.

    Parameters
    ----------
    traced : TracedGraph
        Nodes that are layers have kept their names.
    layers : sequence of Layer
    example : Tensor of shape (1, 3, height, width)

    Returns
    -------
    layers : list of Layer
        Those that are still there, as large as they are for this example.

    Raises
    ------
    ValueError
        If the network does not take the example.
    """
    measure_shapes(traced, example)
    shares = depths(traced)
    return [
        _layer(traced, traced.nodes[layer.name], layer.kind, shares, layer.default)
        for layer in layers
        if layer.name in traced.nodes
    ]


def select_layers(
    traced: TracedGraph, layers: Sequence[Layer], wanted: str | Sequence[str] = "default"
) -> list[Layer]:
    """Choose among the layers of a network.

    Parameters
    ----------
    traced : TracedGraph
    layers : sequence of Layer
        As `find_layers` returns them for this graph.
    wanted : str or sequence of str, default="default"
        ``"default"``: the last activation of every resolution stage and every activation after
        the last convolution; ``"all"``; otherwise names and regular expressions, in a sequence or
        joined by commas. An expression must match a whole name and is looked for among `layers`; a
        name may be any node of the graph.

    Returns
    -------
    layers : list of Layer
        Each once, in forward order.

    Raises
    ------
    ValueError
        If a name or an expression matches nothing; the message gives the nearest names.
    """
    if wanted == "all":
        return list(layers)
    if wanted == "default":
        return [layer for layer in layers if layer.default]
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    found = {layer.name: layer for part in parts for layer in _match(traced, layers, part.strip())}
    if not found:
        raise ValueError("No layer was named. Allowed: default, all, names or regular expressions.")
    return [found[name] for name in traced.nodes if name in found]


def _match(traced: TracedGraph, layers: Sequence[Layer], part: str) -> Iterator[Layer]:
    lacks = traced.nodes[part].meta.get("missing") if part in traced.nodes else None
    if lacks is not None:
        raise ValueError(
            f"Layer {part!r} has no codes: it depends on {lacks!r}, which the file of weights "
            "lacks. Choose --layers before it."
        )
    named = [layer for layer in layers if layer.name == part]
    if not named and part in traced.nodes and "shape" in traced.nodes[part].meta:
        named = [_layer(traced, traced.nodes[part], "node", depths(traced), False)]
    if not named:
        try:
            named = [layer for layer in layers if re.fullmatch(part, layer.name)]
        except re.error as error:
            raise ValueError(f"Layer {part!r} is no regular expression: {error}.") from error
    if not named:
        names = [layer.name for layer in layers]
        near = difflib.get_close_matches(part, [*names, *traced.nodes], 5, 0.4) or names
        raise ValueError(
            f"Layer {part!r} is not in this backbone. Nearest: {', '.join(dict.fromkeys(near))}. "
            "`cnn-codes layers` lists them all."
        )
    yield from named


def _taps(traced: TracedGraph) -> dict[fx.Node, str]:
    """Kinds of the nodes to read, in forward order."""
    reaching = reaching_output(traced)
    taps: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        if node not in reaching or "shape" not in node.meta or "missing" in node.meta:
            continue
        if traced.is_activation(node):
            module = node.op == "call_module"
            target = node.target
            name = (
                type(traced.module(node)).__name__
                if module
                else getattr(target, "__name__", target)
            )
            taps[node] = str(name).lower().strip("_")
        elif traced.is_concatenation(node) and all(i in taps for i in node.all_input_nodes):
            taps[node] = "cat"
    merged = {
        node for node in taps if all(taps.get(user) == "cat" for user in node.users) and node.users
    }
    taps = {node: kind for node, kind in taps.items() if node not in merged}
    penultimate = _penultimate(traced, taps)
    if penultimate is not None:
        taps[penultimate] = "penultimate"
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    return dict(sorted(taps.items(), key=lambda item: order[item[0]]))


def _penultimate(traced: TracedGraph, taps: dict[fx.Node, str]) -> fx.Node | None:
    classifier = source_classifier(traced)
    node = None if classifier is None else main_input(classifier)
    while node is not None and (
        traced.is_module(node, _PASS_THROUGH) or traced.calls(node, _PASS_THROUGH_CALLS)
    ):
        node = main_input(node)
    behind = node
    while behind is not None and (
        traced.is_module(behind, (*_PASS_THROUGH, *_POOLS))
        or traced.calls(behind, _PASS_THROUGH_CALLS | _POOL_CALLS)
    ):
        behind = main_input(behind)
    if node is None or behind is None or behind in taps or behind.op == "placeholder":
        return None
    if "missing" in node.meta:
        return None
    return node if "shape" in node.meta else None


def _default_choice(traced: TracedGraph, taps: Sequence[fx.Node]) -> set[fx.Node]:
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    classifier = source_classifier(traced)
    convolutions = [n for n in order if traced.is_convolution(n) and n is not classifier]
    last = order[convolutions[-1]] if convolutions else -1
    end = len(order) if classifier is None else order[classifier]
    passed = unavoidable(traced)
    stages: dict[tuple[int, ...], fx.Node] = {}
    for node in taps:
        _, shape = _canonical(traced, node)
        # A 1x1 map is no stage, and rectified class scores (SqueezeNet) do not end one.
        if len(shape) != 3 or max(shape[1:]) == 1 or order[node] >= end:
            continue
        # ResNet-50's layer2 begins at layer1's resolution, on one of two branches: the stage ends
        # with the block output before it, which every path passes.
        if node in passed or stages.get(shape[1:]) not in passed:
            stages[shape[1:]] = node
    return {*stages.values(), *(node for node in taps if order[node] > last)}


def _canonical(traced: TracedGraph, node: fx.Node) -> tuple[str, tuple[int, ...]]:
    """Return a node's layout and one image's shape with the channels first."""
    shape = node.meta["shape"]
    if len(shape) == 2:
        return "nc", shape[1:]
    if len(shape) == 3:
        return "ntc", (shape[2], shape[1])
    if channels_last(traced, node):
        return "nhwc", (shape[3], shape[1], shape[2])
    return "nchw", shape[1:]


def _layer(
    traced: TracedGraph, node: fx.Node, kind: str, shares: dict[fx.Node, float], default: bool
) -> Layer:
    layout, shape = _canonical(traced, node)
    return Layer(
        name=traced.names[node],
        kind=kind,
        depth=round(shares[node], 4),
        shape=shape,
        layout=layout,
        default=default,
    )
