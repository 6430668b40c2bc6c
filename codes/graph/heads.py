"""Heads: the pooled features of a network, and what its source classifier reads.

They are found by what happens to the shape, whether a module, a function or a method does it: where
a map becomes one value a channel, without a convolution, the network pools.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from codes.graph.traced_graph import (
    TracedGraph,
    canonical,
    main_input,
    source_classifier,
    unavoidable,
)

_PASS_THROUGH = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)
_PASS_THROUGH_CALLS = {torch.flatten, F.dropout, F.dropout2d, torch.squeeze, torch.reshape,
                       "flatten", "view", "reshape", "squeeze"}  # fmt: skip
_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.MaxPool2d)
_POOL_CALLS = {F.adaptive_avg_pool2d, F.avg_pool2d, F.max_pool2d, torch.mean, "mean"}
_MEANS = {torch.mean, "mean"}


def last_reader(traced: TracedGraph) -> fx.Node:
    """Return the source classifier; of a network that was cut before it, the output."""
    output: fx.Node = next(node for node in traced.graph.nodes if node.op == "output")
    classifier = source_classifier(traced)
    if classifier is None:
        return output
    passed = classifier in unavoidable(traced)
    if traced.is_convolution(classifier):
        return classifier if passed and _is_pointwise(traced, classifier) else output
    # The last linear layer of a transformer without a head is one of a block's own.
    return classifier if passed or len(classifier.meta.get("shape", ())) == 2 else output


def head_input(traced: TracedGraph) -> fx.Node:
    """Return what the source classifier reads, as it is before dropout and flattening.

    Parameters
    ----------
    traced : TracedGraph

    Returns
    -------
    node : fx.Node

    Raises
    ------
    ValueError
        If the network has several outputs, or no classifier with weights.
    """
    [output] = [node for node in traced.graph.nodes if node.op == "output"]
    [answer] = output.args
    if not isinstance(answer, fx.Node):
        names = ", ".join(traced.names.get(node, node.name) for node in output.all_input_nodes)
        raise ValueError(
            f"{type(traced.root).__name__} has several outputs ({names}): its last layer is not "
            "the only head that a new classifier would take the place of. Give a network that "
            "answers with one tensor."
        )
    reader = last_reader(traced)
    before = _behind(traced, main_input(reader))
    if before is None:
        raise ValueError(f"{type(traced.root).__name__} has no layer before its classifier.")
    return before


def class_weights(traced: TracedGraph) -> tuple[str, torch.Tensor] | None:
    """Find the name and the weights (n_classes, n_features, ...) of the source classifier.

    None where it keeps them otherwise.
    """
    classifier = source_classifier(traced)
    if classifier is None or classifier.op != "call_module":
        return None
    weight = getattr(traced.module(classifier), "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim < 2:
        return None
    return f"{classifier.target}.weight", weight


def head_inputs(traced: TracedGraph, activations: Collection[fx.Node]) -> dict[fx.Node, str]:
    """Find what the head of a network reads, where that is none of the activations.

    Returns
    -------
    kinds : dict of fx.Node to str
        ``"penultimate"``: what the source classifier reads; ``"pooled"``: what the first layer
        with weights behind the network's own pooling reads, where other layers follow it.
    """
    classifier = last_reader(traced)
    first = _first_behind_pooling(traced, classifier)
    kinds: dict[fx.Node | None, str] = {}
    if first is not None and first is not classifier:
        kinds[_behind(traced, main_input(first))] = "pooled"
    penultimate = _behind(traced, main_input(classifier))
    if first is classifier or not _is_activation_pooled(traced, penultimate, activations):
        kinds[penultimate] = "penultimate"
    return {
        node: kind
        for node, kind in kinds.items()
        if node is not None
        and node not in activations
        and node.op != "placeholder"
        and "shape" in node.meta
        and "missing" not in node.meta
    }


def averaged_by(traced: TracedGraph, node: fx.Node) -> fx.Node | None:
    """Find the node that another is the average of, over all places of its map, if it is one."""
    averaged = False
    at: fx.Node | None = node
    while at is not None and "shape" in at.meta:
        if _averages(traced, at):
            averaged = True
        elif not _passes_through(traced, at):
            break
        at = main_input(at)
    if not averaged or at is None or len(at.meta.get("shape", ())) not in (3, 4):
        return None
    same = canonical(traced, at)[1][0] == math.prod(node.meta["shape"][1:])
    return at if same else None


def _first_behind_pooling(traced: TracedGraph, classifier: fx.Node) -> fx.Node | None:
    """Return the first layer with weights behind the pooling on the way to the classifier."""
    passed = unavoidable(traced)
    first = at = classifier
    while (before := main_input(at)) is not None and _is_vector(traced, before):
        at = before
        # In a small image the maps of whole stages are 1x1: these are no head.
        if traced.is_convolution(at) and not (at in passed and _is_pointwise(traced, at)):
            return None
        if traced.has_weights(at) and at in passed:
            first = at
    if at is classifier or traced.has_weights(at) or before is None:
        return None
    collapsed = "shape" in before.meta and math.prod(at.meta["shape"]) < math.prod(
        before.meta["shape"]
    )
    return first if collapsed else None


def _is_vector(traced: TracedGraph, node: fx.Node) -> bool:
    if len(node.meta.get("shape", ())) not in (2, 4):
        return False
    return math.prod(canonical(traced, node)[1][1:]) == 1


def _is_pointwise(traced: TracedGraph, node: fx.Node) -> bool:
    return traced.is_module(node, nn.Conv2d) and traced.module(node).kernel_size == (1, 1)


def _passes_through(traced: TracedGraph, node: fx.Node) -> bool:
    return traced.is_module(node, _PASS_THROUGH) or traced.calls(node, _PASS_THROUGH_CALLS)


def _behind(traced: TracedGraph, node: fx.Node | None) -> fx.Node | None:
    """Return what a node is another form of: what it is before dropout and flattening."""
    while node is not None and _passes_through(traced, node):
        node = main_input(node)
    return node


def _is_activation_pooled(
    traced: TracedGraph, at: fx.Node | None, activations: Collection[fx.Node]
) -> bool:
    """Tell whether a node is an activation, perhaps pooled to a smaller map."""
    while at is not None and (
        _passes_through(traced, at) or traced.is_module(at, _POOLS) or traced.calls(at, _POOL_CALLS)
    ):
        at = main_input(at)
    return at is None or at in activations or at.op == "placeholder"


def _averages(traced: TracedGraph, node: fx.Node) -> bool:
    """Tell whether a node averages all places that it is given."""
    if traced.calls(node, _MEANS):
        return True
    before = main_input(node)
    if before is None or not _is_vector(traced, node):
        return False
    if traced.is_module(node, nn.AdaptiveAvgPool2d) or traced.calls(node, {F.adaptive_avg_pool2d}):
        return True
    if traced.is_module(node, nn.AvgPool2d):
        module: Any = traced.module(node)
        kernel, padding = module.kernel_size, module.padding
    elif traced.calls(node, {F.avg_pool2d}):
        names = ("input", "kernel_size", "stride", "padding")
        given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        kernel, padding = given.get("kernel_size"), given.get("padding", 0)
    else:
        return False
    size = before.meta["shape"][2:]
    if any(isinstance(side, fx.Node) for side in _pair(kernel)):  # As large as the map is.
        return _pair(padding) == (0, 0)
    return _pair(kernel) == size and _pair(padding) == (0, 0)


def _pair(sides: Any) -> tuple[Any, ...]:
    return tuple(sides) if isinstance(sides, (tuple, list)) else (sides, sides)
