"""The graph of a network: what its nodes are, and what lies on the way to its output."""

from __future__ import annotations

import operator
from collections.abc import Collection, Set
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

_ACTIVATION_MODULES = (
    nn.ReLU, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU,
    nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus, nn.Tanh,
)  # fmt: skip
_ACTIVATION_FUNCTIONS = {
    F.relu, F.relu_, torch.relu, torch.relu_, F.relu6, F.hardtanh, F.leaky_relu, F.leaky_relu_,
    F.prelu, F.rrelu, F.elu, F.elu_, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardswish,
    F.softplus, torch.tanh, F.tanh,
}  # fmt: skip
_ACTIVATION_METHODS = {"relu", "relu_", "tanh", "tanh_"}
_GATES = {torch.sigmoid, F.sigmoid, F.hardsigmoid, "sigmoid", "sigmoid_"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}


@dataclass(frozen=True, kw_only=True, eq=False)
class TracedGraph:
    """A network's operations in forward order, with torchvision's names for them."""

    root: nn.Module
    graph: fx.Graph
    names: dict[fx.Node, str]
    nodes: dict[str, fx.Node] = field(default_factory=dict)

    def is_module(self, node: fx.Node, types: type | tuple[type, ...]) -> bool:
        """Tell whether a node calls a module of one of these types."""
        return node.op == "call_module" and isinstance(self.module(node), types)

    def module(self, node: fx.Node) -> nn.Module:
        """Return the module that a ``call_module`` node calls."""
        return self.root.get_submodule(str(node.target))

    def calls(self, node: fx.Node, targets: Set[object]) -> bool:
        """Tell whether a node calls one of these functions or methods."""
        return node.op in ("call_function", "call_method") and node.target in targets

    def is_convolution(self, node: fx.Node) -> bool:
        """Tell whether a node is a convolution."""
        convolution = nn.modules.conv._ConvNd
        return self.is_module(node, convolution) or self.calls(node, _CONVOLUTIONS)

    def has_weights(self, node: fx.Node) -> bool:
        """Tell whether a node is a convolution, a linear layer or attention."""
        return (
            self.is_convolution(node)
            or self.is_module(node, (nn.Linear, nn.MultiheadAttention))
            or self.calls(node, {F.linear})
        )

    def is_activation(self, node: fx.Node) -> bool:
        """Tell whether a node is a non-linearity applied to each value."""
        return (
            self.is_module(node, _ACTIVATION_MODULES)
            or self.calls(node, _ACTIVATION_FUNCTIONS)
            or (node.op == "call_method" and node.target in _ACTIVATION_METHODS)
            or self.is_self_gated(node)
        )

    def is_self_gated(self, node: fx.Node) -> bool:
        """Tell whether a node is x * sigmoid(x), perhaps of a multiple of x: SiLU, quick GELU."""
        if not self.calls(node, _PRODUCTS) or len(node.args) != 2:
            return False
        value, gate = node.args
        if not isinstance(gate, fx.Node) or not self.calls(gate, _GATES - {F.hardsigmoid}):
            return False
        at = main_input(gate)
        while at is not None and at is not value and self.calls(at, _PRODUCTS):
            at = main_input(at) if len(at.all_input_nodes) == 1 else None
        return at is value

    def is_concatenation(self, node: fx.Node) -> bool:
        """Tell whether a node joins several along an axis."""
        return self.calls(node, _CONCATENATIONS)

    def is_gate(self, node: fx.Node) -> bool:
        """Tell whether a node only weighs another, as in squeeze-and-excitation."""
        gate = self.is_module(node, (nn.Sigmoid, nn.Hardsigmoid)) or self.calls(node, _GATES)
        return gate and any(self.calls(user, _PRODUCTS) for user in node.users)


class _Shapes(fx.Interpreter):
    """Run a graph node by node and note shapes of vectors, tokens and maps, and what draws."""

    def run_node(self, n: fx.Node) -> Any:
        chance = torch.get_rng_state()
        result = super().run_node(n)
        n.meta["draws"] = not torch.equal(torch.get_rng_state(), chance)
        if isinstance(result, torch.Tensor) and result.ndim in (2, 3, 4):
            n.meta["shape"] = tuple(result.shape)
        n.meta["size"] = isinstance(result, (int, torch.Size))
        return result


def measure_shapes(traced: TracedGraph, example: torch.Tensor) -> None:
    """Record the shape of every node for one example, under ``node.meta["shape"]``.

    And, under ``node.meta["draws"]``, whether the node drew random numbers; under
    ``node.meta["size"]``, whether it is a size, not values.
    """
    try:
        with torch.inference_mode():
            _Shapes(traced.root, graph=traced.graph).run(example)
    except Exception as error:  # whatever the network's own code raises on this size
        raise ValueError(
            f"{type(traced.root).__name__} does not take images of {tuple(example.shape[1:])}: "
            f"{str(error).splitlines()[0]}. It must take batches of shape (n, 3, height, width); "
            "if only the size is wrong, choose another --image-size, or --dense."
        ) from error


def mark_missing(traced: TracedGraph, missing: Collection[str]) -> str | None:
    """Mark every node whose values depend on parameters or buffers that a network lacks.

    Under ``node.meta["missing"]`` stands the first of these that it depends on. Return one of them
    that is not in a tail of the network: weights that are there come later.
    """
    wanted, found = set(missing), None
    for node in traced.graph.nodes:
        lacks = [name for name in _weights_of(traced, node) if name in wanted]
        before = [i.meta["missing"] for i in node.all_input_nodes if "missing" in i.meta]
        if lacks or before:
            node.meta["missing"] = (*before, *lacks)[0]
            if before and len(lacks) < len(list(_weights_of(traced, node))):
                found = found or before[0]
    return found


def _weights_of(traced: TracedGraph, node: fx.Node) -> list[str]:
    """Name the parameters and buffers that a node reads, counters aside."""
    if node.op == "get_attr":
        return [str(node.target)]
    if node.op != "call_module":
        return []
    state = traced.module(node).state_dict(prefix=f"{node.target}.")
    return [name for name in state if not name.endswith("num_batches_tracked")]


def batch_norm(traced: TracedGraph, node: fx.Node) -> _BatchNorm | None:
    """Return the batch normalisation that a node calls, or whose statistics a function is given."""
    if traced.is_module(node, _BatchNorm):
        return cast(_BatchNorm, traced.module(node))
    if not traced.calls(node, {F.batch_norm}):
        return None
    for given in node.all_input_nodes:
        owner, _, name = str(given.target).rpartition(".")
        if given.op == "get_attr" and name == "running_mean":
            module = traced.root.get_submodule(owner)
            return module if isinstance(module, _BatchNorm) else None
    return None


def depths(traced: TracedGraph) -> dict[fx.Node, float]:
    """Longest way in weight layers, gates aside, as a share of the way to the output."""
    passed: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        before = [passed[i] for i in node.all_input_nodes if not traced.is_gate(i)]
        passed[node] = max(before, default=0) + traced.has_weights(node)
    whole = max(1, max(passed.values()))
    return {node: count / whole for node, count in passed.items()}


def reaching_output(traced: TracedGraph) -> set[fx.Node]:
    """Return the nodes that the output depends on, other than through a gate or by their size."""
    waiting = [node for node in traced.graph.nodes if node.op == "output"]
    seen: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in seen and not traced.is_gate(node) and not node.meta.get("size"):
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return seen


def unavoidable(traced: TracedGraph) -> set[fx.Node | None]:
    """Return the nodes that every path from the image to the output passes, gates aside.

    Nor is it a path that a size is read early and used late.
    """
    reaching = reaching_output(traced)
    nodes = [node for node in traced.graph.nodes if node in reaching]
    before: dict[fx.Node, int] = {}
    for node in nodes:
        paths = sum(before.get(i, 0) for i in node.all_input_nodes)
        before[node] = 1 if node.op == "placeholder" else paths
    after: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        paths = sum(after.get(user, 0) for user in node.users)
        after[node] = 1 if node.op == "output" else paths
    return {node for node in nodes if before[node] * after[node] == before[nodes[-1]]}


def is_of_each_image(node: fx.Node) -> bool:
    """Tell whether a node has one row for each image, not one for each of its windows."""
    image = next(n for n in node.graph.nodes if n.op == "placeholder")
    rows: bool = node.meta["shape"][0] == image.meta["shape"][0]
    return rows


def main_input(node: fx.Node) -> fx.Node | None:
    """Return the first input that comes from the image, not from a parameter."""
    return next((i for i in node.all_input_nodes if i.op != "get_attr"), None)


def source_classifier(traced: TracedGraph) -> fx.Node | None:
    """Return the last layer with weights on the way to the output."""
    node: fx.Node | None = next(n for n in traced.graph.nodes if n.op == "output")
    while node is not None and not traced.has_weights(node):
        node = main_input(node)
    return node


def channels_last(traced: TracedGraph, node: fx.Node) -> bool:
    """Tell whether the nearest layer with weights left the channels on the last axis.

    A linear layer works on the last axis, a convolution on the second; a permutation on the way
    (ConvNeXt, Swin) turns one into the other.
    """
    turned = False
    at: fx.Node | None = node
    while at is not None and not traced.has_weights(at):
        permutation = at.op == "call_module" and type(traced.module(at)).__name__ == "Permute"
        turned ^= permutation or traced.calls(at, {torch.permute, "permute"})
        at = main_input(at)
    return at is not None and (not traced.is_convolution(at)) ^ turned


def canonical(traced: TracedGraph, node: fx.Node) -> tuple[str, tuple[int, ...]]:
    """Return a node's layout and one image's shape with the channels first."""
    shape = node.meta["shape"]
    if len(shape) == 2:
        return "nc", shape[1:]
    if len(shape) == 3:
        return "ntc", (shape[2], shape[1])
    if channels_last(traced, node):
        return "nhwc", (shape[3], shape[1], shape[2])
    return "nchw", shape[1:]
