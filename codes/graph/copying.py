"""Copies: a network of one's own, which shares weights with another's and changes nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy, deepcopy
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn import functional as F

_NORM = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
"""Arguments of `F.batch_norm`."""


def copy_network(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a network of a graph that can be moved, cast and tuned without a change to the root.

    `torch.fx.GraphModule` takes the root's own modules and parameters. Here they are copies that
    refer to the same values, so that no memory is needed until they are moved or cast. A batch
    normalisation that was traced as a function, as of a module that also activates, is a module
    again: these are folded, or trained.

    Parameters
    ----------
    root : nn.Module
        What the graph's nodes call.
    graph : fx.Graph

    Examples
    --------
    >>> root = nn.Sequential(nn.Linear(2, 3))
    >>> network = copy_network(root, fx.symbolic_trace(root).graph)
    >>> network.get_submodule("0") is root[0]
    False
    >>> network.get_submodule("0").weight.data_ptr() == root[0].weight.data_ptr()
    True
    """
    copies: dict[int, Any] = {}
    used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    network = fx.GraphModule(
        {name: _own(attrgetter(name)(root), copies) for name in sorted(used)}, graph
    )
    network.training = False
    _call_norms(network)
    return network


def _call_norms(network: fx.GraphModule) -> None:
    """Call a module where `F.batch_norm` is called with a module's own statistics."""
    for node in list(network.graph.nodes):
        if node.op != "call_function" or node.target is not F.batch_norm:
            continue
        given = dict.fromkeys(_NORM) | dict(zip(_NORM, node.args, strict=False)) | node.kwargs
        tensors = [given[name] for name in _NORM[1:5]]
        paths = [str(it.target) if isinstance(it, fx.Node) else "" for it in tensors]
        owner = paths[0].rpartition(".")[0]
        wanted = [f"{owner}.{name}" for name in _NORM[1:5]]
        whole = owner and paths == wanted and len(node.meta.get("shape", ())) == 4
        if not whole or given["training"] or not isinstance(given["momentum"], float):
            continue
        container = network.get_submodule(owner)
        norm = nn.BatchNorm2d(
            1, eps=given["eps"] or 1e-5, momentum=given["momentum"], device="meta"
        )
        norm._parameters, norm._buffers = container._parameters, container._buffers
        norm._modules = container._modules  # Its activation is called by the graph.
        norm.num_features, norm.training = container.get_buffer("running_mean").numel(), False
        norm.register_buffer("num_batches_tracked", None)  # The graph has no part of it.
        network.set_submodule(owner, norm)
        with network.graph.inserting_before(node):
            called = network.graph.call_module(owner, (given["input"],))
        called.meta = node.meta
        node.replace_all_uses_with(called)
        network.graph.erase_node(node)
        for tensor in tensors:
            if not tensor.users:
                network.graph.erase_node(tensor)
    network.recompile()


def end_graph(graph: fx.Graph, outputs: Mapping[str, fx.Node]) -> None:
    """Let a graph answer with some of its nodes, and run no further than the last of them."""
    last = max(outputs.values(), default=None)
    for node in reversed(list(graph.nodes)):
        if last is not None and node > last:
            graph.erase_node(node)
    graph.output(dict(outputs))


def _own(value: Any, copies: dict[int, Any]) -> Any:
    """Copy modules and tensors, not their values; what is shared within stays so."""
    if not isinstance(value, (nn.Module, Tensor)):
        return value
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, nn.Parameter):
        copies[id(value)] = nn.Parameter(value.detach(), requires_grad=False)
    elif isinstance(value, Tensor):
        copies[id(value)] = value.detach()
    else:
        copies[id(value)] = child = type(value).__new__(type(value))
        # Its hooks, and which of its buffers are stored, are its own as well.
        child.__dict__ = {
            name: _own(copy(kept) if isinstance(kept, (dict, set)) else kept, copies)
            for name, kept in vars(value).items()
        }
        for kind in ("_parameters", "_buffers", "_modules"):
            members = getattr(value, kind).items()
            child.__dict__[kind] = {name: _own(member, copies) for name, member in members}
    return copies[id(value)]


def copy_module(module: nn.Module) -> nn.Module:
    """Copy a module with all its values, or raise ValueError where it holds a lock or the like."""
    kept = [value for part in module.modules() for value in vars(part).values()]
    # What was computed with gradients, as the weights of weight_norm, refuses to be copied.
    memo = {
        id(value): value.detach().clone()
        for value in kept
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        return deepcopy(module, memo)
    except Exception as error:  # Whatever its parts raise.
        raise ValueError(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and is "
            "not to be changed. Keep locks, open files and the like out of its modules."
        ) from error


def move_network(network: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Move a network to a device, channels last, with the devices that its forward pass names."""

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in network.graph.nodes:  # As of `x.to(self.conv.weight.device)`.
        node.args = map_aggregate(node.args, moved)
        node.kwargs = map_aggregate(node.kwargs, moved)
    network.recompile()
    return channels_last(network.to(device))


def channels_last(network: fx.GraphModule) -> fx.GraphModule:
    """Lay out the weights of a network channels last; `Module.to` fails where some have 5 axes."""

    def laid_out(value: Tensor) -> Tensor:
        return value.to(memory_format=torch.channels_last) if value.dim() == 4 else value

    network._apply(laid_out)  # type: ignore[no-untyped-call]
    return network
