"""Copies: a network of one's own, which shares weights with another's and changes nothing of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.fx.node import map_aggregate


def copy_network(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """Make a network of a graph that can be moved, cast and tuned without a change to the root.

    `torch.fx.GraphModule` takes the root's own modules and parameters. Here they are copies that
    refer to the same values, so that no memory is needed until they are moved or cast.

    Parameters
    ----------
    root : nn.Module
        What the graph's nodes call.
    graph : fx.Graph

    Returns
    -------
    network : fx.GraphModule

    Examples
    --------
    >>> root = nn.Sequential(nn.Linear(2, 3))
    >>> network = copy_network(root, fx.symbolic_trace(root).graph)
    >>> network.get_submodule("0") is root[0]
    False
    >>> network.get_submodule("0").weight.data_ptr() == root[0].weight.data_ptr()
    True
    """
    network = fx.GraphModule(root, graph)
    copies: dict[int, Any] = {}
    _own(network, copies)
    return network


def _own(module: nn.Module, copies: dict[int, Any]) -> None:
    """Give a module its own children, parameters and buffers; what is shared within it stays so."""

    def copied(value: Any) -> Any:
        if value is None:
            return None
        if id(value) not in copies:
            if isinstance(value, nn.Module):
                child = type(value).__new__(type(value))
                child.__dict__ = dict(value.__dict__)
                copies[id(value)] = child
                _own(child, copies)
            elif isinstance(value, nn.Parameter):
                copies[id(value)] = nn.Parameter(value.detach(), requires_grad=False)
            else:
                copies[id(value)] = value.detach()
        return copies[id(value)]

    for kind in ("_parameters", "_buffers", "_modules"):
        kept = getattr(module, kind)
        module.__dict__[kind] = {name: copied(value) for name, value in kept.items()}


def move_network(network: fx.GraphModule, device: torch.device) -> fx.GraphModule:
    """Move a network to a device, channels last, with the devices that its forward pass names.

    Parameters
    ----------
    network : fx.GraphModule
        As `copy_network` makes it, on the CPU.
    device : torch.device

    Returns
    -------
    network : fx.GraphModule
        The same.
    """

    def moved(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in network.graph.nodes:  # As of `x.to(self.conv.weight.device)`.
        node.args = map_aggregate(node.args, moved)
        node.kwargs = map_aggregate(node.kwargs, moved)
    network.recompile()
    return network.to(device).to(memory_format=torch.channels_last)
