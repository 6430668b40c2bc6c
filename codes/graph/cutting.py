"""Cutting: a network's graph, run no further than its deepest tap, each tap pooled as it arises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx

from codes.graph.copying import copy_network, end_graph
from codes.graph.layers import Layer
from codes.graph.pooling import pool_codes
from codes.graph.traced_graph import TracedGraph


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A layer, and how its codes are pooled.

    Attributes
    ----------
    name : str
        The layer's, and behind a colon the pooling where it is pooled in several ways. It can be
        that of the network's own average, read before the activation of the map it averages.
    layer : Layer
    pool : str
        Resolved: ``"grid:K"``, ``"avg"``, ``"max"``, ``"flatten"``, ``"token"`` or ``"patches"``.
    n_features : int
        Width of a row of codes.
    n_views : int
        Views whose codes are kept apart, one after another; 1 where they are averaged.
    """

    name: str
    layer: Layer
    pool: str
    n_features: int
    n_views: int = 1

    @property
    def width(self) -> int:
        """Values that are kept of an image."""
        return self.n_features * self.n_views


def cut_network(traced: TracedGraph, taps: Sequence[Tap], activation: str) -> fx.GraphModule:
    """Copy the graph up to its deepest tap, each tap pooled right after it arises.

    What an activation is applied to is pooled right before it: operations in place may have changed
    it since it arose, and the activation itself may overwrite it. No map is kept longer than the
    network itself keeps it.

    Parameters
    ----------
    traced : TracedGraph
    taps : sequence of Tap
    activation : {"post", "pre"}

    Returns
    -------
    network : fx.GraphModule
        Its answer is a dict of the taps' names to codes of shape ``(n, n_features)``. It may be
        moved and tuned: the traced network stays as it is.

    Raises
    ------
    ValueError
        If a layer has no side before an activation, or random numbers are drawn on the way.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, copies)
    outputs: dict[str, fx.Node] = {}
    for tap in taps:
        node = traced.nodes[tap.layer.name]
        how = tap.pool, tap.layer.layout, tap.layer.n_class_tokens
        if activation == "post":
            with graph.inserting_after(copies[node]):
                pooled = [graph.call_function(pool_codes, (copies[node], *how))]
        else:
            pooled = []
            for applied in _activations(traced, node):
                before = copies[applied.all_input_nodes[0]]
                with graph.inserting_before(copies[applied]):
                    pooled.append(graph.call_function(pool_codes, (before, *how)))
        outputs[tap.name] = pooled[0]
        if len(pooled) > 1:
            with graph.inserting_after(max(pooled)):
                outputs[tap.name] = graph.call_function(torch.cat, (pooled, 1))
    end_graph(graph, outputs)
    kept = set(graph.nodes)
    for node, copied in copies.items():
        if copied in kept and node.meta.get("draws"):
            raise ValueError(
                f"{traced.names.get(node, node.name)!r} draws random numbers, so that an image has "
                "other codes each time. Choose --layers before it, or mend the network (F.dropout "
                "wants training=self.training)."
            )
    return copy_network(traced.root, graph)


def _activations(traced: TracedGraph, node: fx.Node) -> list[fx.Node]:
    """Return an activation itself, or each activation in a concatenation."""
    if traced.is_concatenation(node):
        return [found for i in node.all_input_nodes for found in _activations(traced, i)]
    if not traced.is_activation(node):
        raise ValueError(
            f"{traced.names[node]!r} is not an activation, so that it has no side before one. "
            "Leave it out with --layers, or read --activation post."
        )
    return [node]
