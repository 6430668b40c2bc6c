"""Dense: fully-connected layers run as convolutions, so that larger images give maps of codes."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

from codes.graph.traced_graph import TracedGraph, main_input

_FLATTENS = {torch.flatten, "flatten", torch.reshape, "reshape", "view"}
_ADAPTIVE_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_ADAPTIVE_POOL_CALLS = {F.adaptive_avg_pool2d, F.adaptive_max_pool2d}


def as_convolutions(traced: TracedGraph) -> TracedGraph:
    """Run the fully-connected layers of a network as convolutions.

    The first becomes a convolution as large as the map that it reads, those after it convolutions
    of 1×1, and class scores are averaged over their map. At the network's own size the codes are
    the same; of a larger image, each place of the map holds what the network sees in one window.

    Parameters
    ----------
    traced : TracedGraph
        Measured (`codes.graph.traced_graph.measure_shapes`) at the network's own size. It stays as
        it is.

    Returns
    -------
    dense : TracedGraph
        Nodes keep their names.

    Raises
    ------
    ValueError
        If the network has no fully-connected layers behind a map, pools its map before them at its
        own size too, or has something between them that is not known to work on maps.

    References
    ----------
    Simonyan and Zisserman, *Very deep convolutional networks for large-scale image recognition*,
    ICLR 2015, section 3.2.

    Examples
    --------
    >>> from codes.graph.traced_graph import measure_shapes
    >>> from codes.graph.tracing import trace
    >>> traced = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 5)).eval())
    >>> measure_shapes(traced, torch.zeros(1, 3, 8, 8))
    >>> as_convolutions(traced).root(torch.zeros(1, 3, 20, 20)).shape
    torch.Size([1, 5])
    """
    flatten = _flatten_before_linear(traced)
    pool = _before(traced, flatten)
    source = pool
    if traced.is_module(pool, _ADAPTIVE_POOLS) or traced.calls(pool, _ADAPTIVE_POOL_CALLS):
        source = _before(traced, pool)
    if _shape(source) != _shape(pool) or _shape(source)[1:] == (1, 1):
        raise _refusal(
            traced, "its fully-connected layers read the average of a map, at its own size too"
        )
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    end = graph.graph_copy(traced.graph, copies)
    if not isinstance(end, fx.Node):
        raise _refusal(traced, "it answers with more than class scores")
    graph.output(graph.call_method("mean", (end, (2, 3))))
    copies[flatten].replace_all_uses_with(copies[source])
    root = fx.GraphModule(traced.root, graph)
    kernel = _shape(source)[1:]
    for node in _after(traced, flatten):
        module = traced.module(node) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            root.set_submodule(str(node.target), _as_convolution(module, kernel))
            kernel = (1, 1)
        elif not (traced.is_activation(node) or _passes_through(traced, node)):
            raise _refusal(traced, f"{traced.names[node]!r}, after them, needs vectors, not maps")
    for node in (flatten, pool):
        if node is not source:
            graph.erase_node(copies.pop(node))
    root.recompile()
    names = {copies[node]: name for node, name in traced.names.items() if node in copies}
    nodes = {name: node for node, name in names.items()}
    return TracedGraph(root=root, graph=graph, names=names, nodes=nodes)


def _flatten_before_linear(traced: TracedGraph) -> fx.Node:
    """Return the node that makes vectors of a map for the first fully-connected layer."""
    for node in traced.graph.nodes:
        if traced.is_module(node, nn.Linear):
            flatten = _before(traced, node)
            flattens = traced.is_module(flatten, nn.Flatten) or traced.calls(flatten, _FLATTENS)
            if flattens and len(_shape(_before(traced, flatten))) == 3:
                return flatten
    raise _refusal(traced, "it has no fully-connected layers that read a map")


def _before(traced: TracedGraph, node: fx.Node) -> fx.Node:
    """Return what a node reads, or what that was made of without a change."""
    source = main_input(node) or node
    while _passes_through(traced, source):
        source = main_input(source) or source
    return source


def _passes_through(traced: TracedGraph, node: fx.Node) -> bool:
    return traced.is_module(node, (nn.Dropout, nn.Identity)) or traced.calls(node, {F.dropout})


def _after(traced: TracedGraph, start: fx.Node) -> list[fx.Node]:
    """Return the nodes that depend on one, in forward order, without the output."""
    reached = {start: None}
    for node in traced.graph.nodes:
        if node.op != "output" and reached.keys() & set(node.all_input_nodes):
            reached[node] = None
    return list(reached)[1:]


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of one image's values."""
    shape: tuple[int, ...] = node.meta.get("shape", (0,))
    return shape[1:]


def _as_convolution(linear: nn.Linear, kernel: tuple[int, ...]) -> nn.Conv2d:
    channels = linear.in_features // (kernel[0] * kernel[1])
    with torch.device("meta"):
        convolution = nn.Conv2d(
            channels, linear.out_features, (kernel[0], kernel[1]), bias=linear.bias is not None
        )
    weight = linear.weight.detach().view(linear.out_features, channels, *kernel)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        convolution.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
    return convolution.eval()


def _refusal(traced: TracedGraph, why: str) -> ValueError:
    return ValueError(
        f"{type(traced.root).__name__} cannot be run densely: {why}. Leave --dense out: most "
        "networks without fully-connected layers behind a map (ResNets and since) take another "
        "--image-size as they are."
    )
