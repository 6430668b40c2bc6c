"""Layers: the activation outputs of a traced network, their depth, and the default choice.

Layers are found by what a graph node *is*, never by what it is called, so that any torchvision
classifier and any traceable module of one's own can be read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from codes.graph.blocks import count_class_tokens, find_blocks
from codes.graph.default_layers import choose_default, last_unaveraged
from codes.graph.heads import averaged_by, head_inputs
from codes.graph.traced_graph import (
    TracedGraph,
    canonical,
    depths,
    is_of_each_image,
    measure_shapes,
    reaching_output,
)
from codes.wording import counted

NO_ACTIVATIONS = ("penultimate", "pooled", "block", "norm")
"""Kinds of layers that have no side before an activation."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A place in a backbone where codes can be read.

    Attributes
    ----------
    name : str
        The torchvision graph node, such as ``"features.12.cat"`` or ``"layer4.1.relu_1"``.
    kind : str
        What stands there: ``"relu"``, ``"silu"``, …, ``"cat"`` (a concatenation of activations),
        ``"penultimate"`` (what the source classifier reads, where that is not an activation),
        ``"pooled"`` (what the first layer with weights behind the network's own pooling reads,
        where that is another), ``"block"`` (the end of a transformer's block), ``"norm"`` (its last
        normalisation) or ``"node"`` (any other node, asked for by name).
    depth : float
        Weight layers passed on the longest way from the input, over those on the way to the
        output: 0 is the input, 1 the output.
    shape : tuple of int
        One image's activations, channels first: ``(c,)``, ``(c, n_tokens)`` or ``(c, h, w)``.
    layout : str
        How the network holds a batch of them: ``"nc"``, ``"ntc"``, ``"nchw"`` or ``"nhwc"``.
    why : str
        Why ``--layers default`` takes it: ``"stage end"``, ``"between"``, ``"pooled"``, ``"head"``,
        ``"quarter"`` or ``"last norm"``, as `codes.graph.default_layers.choose_default` says; empty
        where it does not.
    average_of : str
        The layer whose average over all places of the map it is; empty where it is none.
    last_map : bool
        Whether it is the last map of the default layers and none of them is its average, so that
        its average is taken as well.
    n_class_tokens : int
        Tokens that stand before those of the patches: class tokens and registers.
    """

    name: str
    kind: str
    depth: float
    shape: tuple[int, ...]
    layout: str
    why: str = ""
    average_of: str = ""
    last_map: bool = False
    n_class_tokens: int = 0

    @property
    def default(self) -> bool:
        """Whether ``--layers default`` takes it."""
        return bool(self.why)


def find_layers(traced: TracedGraph, example: torch.Tensor) -> list[Layer]:
    """Find every layer of a network that is its own activation output.

    An activation inside a gate (squeeze-and-excitation) is left out, for it describes no place of
    the image; activations that only meet in a concatenation are listed as that concatenation.
    The network's own pooled features are added, what the source classifier reads where it is no
    activation (ConvNeXt, transformers), and the ends of a transformer's blocks.

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
    >>> from torch import nn
    >>> from codes.graph.tracing import trace
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    >>> layers = find_layers(trace(net.eval()), torch.zeros(1, 3, 8, 8))
    >>> [(layer.name, layer.depth, layer.shape, layer.why) for layer in layers]
    [('1', 0.5, (8, 6, 6), 'stage end')]
    """
    measure_shapes(traced, example)
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
    reasons = choose_default(traced, kinds, depths(traced))
    last = last_unaveraged(traced, reasons)
    averaged = {node: averaged_by(traced, node) for node in kinds}
    return [
        replace(
            layer,
            why=reasons.get(node, ""),
            average_of=traced.names[of] if (of := averaged[node]) in kinds else "",
            last_map=node is last,
        )
        for node, layer in zip(kinds, _layers(traced, kinds), strict=True)
    ]


def measure_layers(
    traced: TracedGraph, layers: Sequence[Layer], example: torch.Tensor
) -> list[Layer]:
    """Find the layers that are still there in another form of their network, as large as they are.

    Parameters
    ----------
    traced : TracedGraph
        Nodes that are layers have kept their names.
    layers : sequence of Layer
    example : Tensor of shape (1, 3, height, width)
        As for `find_layers`.
    """
    measure_shapes(traced, example)
    kept = [layer for layer in layers if layer.name in traced.nodes]
    now = _layers(traced, {traced.nodes[layer.name]: layer.kind for layer in kept})
    return [
        replace(layer, depth=at.depth, shape=at.shape, layout=at.layout)
        for layer, at in zip(kept, now, strict=True)
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
        ``"default"``: the last activation of every resolution stage, every activation after the
        last convolution, the network's own pooled features, and activations between two of these
        that are more than 0.15 apart in depth; of a transformer, the end of every quarter of its
        blocks, its last normalisation and what its head reads; ``"all"``; otherwise names and
        regular expressions, in a sequence or joined by commas. An expression must match a whole
        name and is looked for among `layers`; a name may be any node of the graph.

    Returns
    -------
    layers : list of Layer
        Each once, in forward order.

    Raises
    ------
    ValueError
        If a name or an expression matches nothing; the message gives the nearest names.
    """
    parts = wanted.split(",") if isinstance(wanted, str) else wanted
    found = {layer.name: layer for part in parts for layer in _match(traced, layers, part.strip())}
    if not found:
        raise ValueError("No layer was named. Allowed: default, all, names or regular expressions.")
    return [found[name] for name in traced.nodes if name in found]


def _match(traced: TracedGraph, layers: Sequence[Layer], part: str) -> Iterator[Layer]:
    if part in ("default", "all"):
        yield from (layer for layer in layers if layer.default or part == "all")
        return
    lacks = traced.nodes[part].meta.get("missing") if part in traced.nodes else None
    if lacks is not None:
        raise ValueError(
            f"Layer {part!r} has no codes: it depends on {lacks!r}, which the file of weights "
            "lacks. Choose --layers before it."
        )
    named = [layer for layer in layers if layer.name == part]
    if not named and part in traced.nodes and "shape" in traced.nodes[part].meta:
        named = [_layers(traced, {traced.nodes[part]: "node"})[0]]
    if not named:
        try:
            named = [layer for layer in layers if re.fullmatch(part, layer.name)]
        except re.error as error:
            raise ValueError(
                f"Layer {part!r} is not a valid regular expression: {error}."
            ) from error
    if not named:
        names = [layer.name for layer in layers]
        inside = [name for name in names if name.startswith(f"{part}.")]
        if len(inside) > 1:
            every = re.escape(f"{part}.") + ".*"
            raise ValueError(
                f"{part!r} is not one layer: it has {counted(len(inside), 'layer')} in it. Name "
                f"{inside[-1]}, its last one, or '{every}', all of them."
            )
        near = inside or difflib.get_close_matches(part, names, 5, 0.4) or names[:10]
        raise ValueError(
            f"Layer {part!r} is not in this backbone. Nearest: {', '.join(near)}. `cnn-codes "
            "layers` lists them all."
        )
    yield from named


def _taps(traced: TracedGraph) -> dict[fx.Node, str]:
    """Kinds of the nodes to read, in forward order."""
    reaching = reaching_output(traced)
    taps: dict[fx.Node, str] = {}
    for node in traced.graph.nodes:
        if node not in reaching or "shape" not in node.meta or "missing" in node.meta:
            continue
        if not is_of_each_image(node):
            continue
        if traced.is_activation(node):
            called = type(traced.module(node)) if node.op == "call_module" else node.target
            called = "silu" if traced.is_self_gated(node) else called
            taps[node] = str(getattr(called, "__name__", called)).lower().strip("_")
        elif traced.is_concatenation(node) and all(i in taps for i in node.all_input_nodes):
            taps[node] = "cat"
    merged = {
        node for node in taps if all(taps.get(user) == "cat" for user in node.users) and node.users
    }
    taps = {node: kind for node, kind in taps.items() if node not in merged}
    taps = find_blocks(traced) | taps | head_inputs(traced, taps)
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    return dict(sorted(taps.items(), key=lambda item: order[item[0]]))


def _layers(traced: TracedGraph, kinds: Mapping[fx.Node, str]) -> list[Layer]:
    """Describe nodes as layers, as they are without the others."""
    shares, n_class_tokens = depths(traced), count_class_tokens(traced)
    found = []
    for node, kind in kinds.items():
        layout, shape = canonical(traced, node)
        found.append(
            Layer(
                name=traced.names[node],
                kind=kind,
                depth=round(shares[node], 4),
                shape=shape,
                layout=layout,
                n_class_tokens=n_class_tokens.get(node, 0),
            )
        )
    return found
