"""Tuning: a network gives the same codes, up to rounding, in less time."""

from __future__ import annotations

from collections import Counter
from copy import copy
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from codes.inference.winograd import WinogradConvolution, suits

M = TypeVar("M", bound=nn.Module)


def fold_norms(network: fx.GraphModule) -> None:
    """Fold each batch normalisation into the convolution right before it: a fifth of the time.

    Modules of the network are replaced, and stay as they are for their other owners.
    """
    calls = _Calls(network)
    for node in list(network.graph.nodes):
        norm = calls.plain(node, nn.BatchNorm2d)
        if norm is None or norm.running_mean is None:
            continue
        [before, *_] = node.all_input_nodes
        conv = calls.plain(before, nn.Conv2d)
        if conv is not None and len(before.users) == 1:
            network.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
    network.recompile()


def cast_weights(network: fx.GraphModule, dtype: torch.dtype) -> None:
    """Round the weights of convolutions and linear layers once, as autocast does in every pass.

    Modules of the network are replaced, as by `fold_norms`.
    """
    calls = _Calls(network)
    for node in network.graph.nodes:
        module = calls.plain(node, nn.Conv2d) or calls.plain(node, nn.Linear)
        if module is not None:
            rounded = copy(module)
            rounded._parameters = {
                key: None if value is None else nn.Parameter(value.to(dtype), requires_grad=False)
                for key, value in module._parameters.items()
            }
            network.set_submodule(str(node.target), rounded)


def prepare_convolutions(network: fx.GraphModule) -> None:
    """Lay out the weights of float32 convolutions for this CPU once, where PyTorch does each time.

    Those of large 3×3 convolutions as `codes.inference.winograd` multiplies, the others as
    PyTorch's oneDNN does. A ReLU is not made part of the convolution before it, as oneDNN could: it
    would answer zero where the convolution answers NaN.

    Modules of the network, which is on the CPU, are replaced, as by `fold_norms`.
    """
    calls = _Calls(network)
    packs = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    for node in network.graph.nodes:
        conv = calls.plain(node, nn.Conv2d)
        if conv is None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            continue
        if suits(conv, *node.meta["shape"][-2:]):
            network.set_submodule(str(node.target), WinogradConvolution(conv))
        elif packs and conv.weight.dtype == torch.float32:
            # In bfloat16 PyTorch's own are as fast or faster (benchmarks/tuning.py).
            network.set_submodule(str(node.target), _PackedConvolution(conv))


class _PackedConvolution(nn.Module):
    """A convolution whose weights lie as oneDNN reads them, from its first batch on."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self._weight: Tensor | None = weight
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._steps = list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups
        self._packed: Tensor | None = None

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps of the next layer, shape (n, channels, height, width)."""
        weight = self._weight  # Before what is packed: other threads replace the one by the other.
        packed = self._packed
        if packed is None:  # How they lie best depends on the size of the maps.
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                weight, *self._steps, list(maps.shape)
            )
            self._packed = packed
            self._weight = None
        done: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, packed, self._bias, *self._steps, "none", [], ""
        )
        return done


class _Calls:
    """The modules that a network's nodes call."""

    def __init__(self, network: fx.GraphModule) -> None:
        self._network = network
        nodes = network.graph.nodes
        self._times = Counter(node.target for node in nodes if node.op == "call_module")
        # Weights that are read elsewhere as well must stay as they are.
        self._times.update(
            2 * [str(n.target).rpartition(".")[0] for n in nodes if n.op == "get_attr"]
        )

    def plain(self, node: fx.Node, kind: type[M]) -> M | None:
        """Return the module that a node calls, if it computes what its type and weights say.

        A subclass, hooks (as of `torch.nn.utils.weight_norm`) and parametrizations make another
        computation of it; a module that is called more than once has no one place in the network,
        nor has one whose weights are read on their own.
        """
        if node.op != "call_module" or self._times[node.target] > 1:
            return None
        module = self._network.get_submodule(str(node.target))
        hooked = module._forward_hooks or module._forward_pre_hooks
        return module if type(module) is kind and not hooked else None
