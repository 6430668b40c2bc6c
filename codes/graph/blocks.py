"""Blocks: where those of a vision transformer end, and which of its tokens are no patches."""

from __future__ import annotations

import math
import operator

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models.swin_transformer import shifted_window_attention

from codes.graph.traced_graph import TracedGraph, canonical, is_of_each_image, unavoidable

_ATTENTIONS = {
    F.scaled_dot_product_attention, F.multi_head_attention_forward, shifted_window_attention,
}  # fmt: skip
_SOFTMAXES = {F.softmax, torch.softmax, "softmax"}
_MATRIX_PRODUCTS = {operator.matmul, torch.matmul, torch.bmm, torch.einsum, "matmul", "bmm"}
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}


def find_blocks(traced: TracedGraph) -> dict[fx.Node, str]:
    """Find the ends of the blocks of a vision transformer, and its last normalisation.

    A block is what is added to the tokens that pass through the network: attention, and what
    follows it up to the next attention. A network that also adds to maps of a convolution is no
    transformer here, but a ConvNet with attention.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.

    Returns
    -------
    kinds : dict of fx.Node to str
        In forward order: ``"block"``, and ``"norm"`` for what comes of the last block before its
        tokens are pooled, or one is chosen. Empty where the network is no transformer.
    """
    computed, passed = from_image(traced), unavoidable(traced)
    ends: list[fx.Node] = []
    attended = within = activated = False
    for node in traced.graph.nodes:
        if node not in computed:
            continue
        within |= _is_attention(traced, node)
        activated |= traced.is_activation(node)
        if node not in passed or not _is_residual(traced, node, computed):
            continue
        if activated and canonical(traced, node)[0] == "nchw":
            return {}
        if within:
            attended = True
            ends.append(node)
        elif attended and activated:
            ends[-1] = node
        within = activated = False
    if not ends:
        return {}
    after = [node for node in passed if node is not None and node > ends[-1]]
    same = [node for node in after if node.meta.get("shape") == ends[-1].meta["shape"]]
    last = max((node for node in same if not _is_left_as_it_is(traced, node)), default=None)
    return dict.fromkeys(ends, "block") | ({} if last is None else {last: "norm"})


def from_image(traced: TracedGraph) -> set[fx.Node]:
    """Find the nodes whose values are computed from those of the image, not from its size alone."""
    found: set[fx.Node] = set()
    for node in traced.graph.nodes:
        given = any(i in found for i in node.all_input_nodes)
        if node.op == "placeholder" or (given and not node.meta.get("size")):
            found.add(node)
    return found


def count_class_tokens(traced: TracedGraph) -> dict[fx.Node, int]:
    """Count the tokens that stand before those of the patches: class tokens and registers.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.

    Returns
    -------
    n_class_tokens : dict of fx.Node to int
        Of the nodes that have any.
    """
    computed = from_image(traced)
    counts: dict[tuple[int, ...], int] = {}
    found: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        shape = node.meta.get("shape", ())
        if len(shape) != 3 or node not in computed:
            continue
        if traced.is_concatenation(node):
            counts[shape] = _leading(node, computed) or counts.get(shape, 0)
        if counts.get(shape):
            found[node] = counts[shape]
    return found


def _leading(node: fx.Node, computed: set[fx.Node]) -> int:
    """Count the tokens at the beginning of a concatenation that are the same for each image."""
    n_tokens = 0
    for given in node.all_input_nodes:
        if given in computed or "shape" not in given.meta:
            break
        n_tokens += given.meta["shape"][1]
    joined = sum(given.meta.get("shape", (0, 0))[1] for given in node.all_input_nodes)
    return n_tokens if joined == node.meta["shape"][1] else 0


def _is_attention(traced: TracedGraph, node: fx.Node) -> bool:
    """Tell whether a node is attention, or its weights, which are then multiplied with values."""
    if traced.is_module(node, nn.MultiheadAttention) or traced.calls(node, _ATTENTIONS):
        return True
    if not (traced.is_module(node, nn.Softmax) or traced.calls(node, _SOFTMAXES)):
        return False
    at = node
    while len(at.users) == 1 and not traced.calls(at, _SUMS):  # Dropout, heads that are mixed.
        [at] = at.users
        if traced.calls(at, _MATRIX_PRODUCTS):
            return True
    return False


def _is_residual(traced: TracedGraph, node: fx.Node, computed: set[fx.Node]) -> bool:
    """Tell whether a node adds what is computed of tokens, or of a map, to these."""
    shape = node.meta.get("shape", ())
    if not traced.calls(node, _SUMS) or len(shape) not in (3, 4) or math.prod(shape[1:-1]) == 1:
        return False
    if not is_of_each_image(node):
        return False
    given = [i for i in node.all_input_nodes if i in computed]
    return len(given) == 2 and all(i.meta.get("shape") == shape for i in given)


def _is_left_as_it_is(traced: TracedGraph, node: fx.Node) -> bool:
    passes = (nn.Identity, nn.Dropout, nn.Dropout1d)
    return traced.is_module(node, passes) or traced.calls(node, {F.dropout, "contiguous"})
