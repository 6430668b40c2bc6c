"""Suffixes: what comes after a start, as a network of its own that is trained."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from codes.graph.copying import channels_last, copy_network
from codes.graph.heads import head_input
from codes.graph.pooling import pool_codes, pooled_width
from codes.graph.starts import WHOLE, Start, read_by
from codes.graph.traced_graph import TracedGraph, canonical
from codes.preprocessing import Preprocessing

BatchNorm = Literal["frozen", "train"]

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
NORMS = nn.modules.batchnorm._BatchNorm


class SeededDropout(nn.Module):
    """Dropout that draws from a generator of its own, whatever other networks draw meanwhile.

    Parameters
    ----------
    p : float
    generator : torch.Generator
    whole_channels : bool
        Whether a channel is dropped at all its places.
    """

    def __init__(self, p: float, generator: torch.Generator, *, whole_channels: bool) -> None:
        super().__init__()
        self.p, self._generator, self._whole_channels = p, generator, whole_channels

    def forward(self, values: Tensor) -> Tensor:
        """Drop values in training, and scale the others up."""
        if not self.training or self.p == 0:
            return values
        shape = values.shape[:2] if self._whole_channels else values.shape
        kept = torch.empty(shape).bernoulli_(1 - self.p, generator=self._generator)
        kept = kept.view(*shape, *[1] * (values.ndim - len(shape))).to(values)
        return values * kept / (1 - self.p)


class Suffix(nn.Module):
    """What comes after a start, with a new classifier on the codes that the old one read.

    Its weights are copies: the network that it comes from stays as it is.

    Parameters
    ----------
    traced : TracedGraph
        With its shapes measured.
    start : Start
    n_classes : int
    preprocessing : Preprocessing
        What normalises images, where the whole network is trained.
    batch_norm : {"frozen", "train"}, default="frozen"
        Whether batch normalisation keeps its statistics, or takes those of each batch.
    dropout : float, default=0.0
        Of every dropout layer, and before the classifier.

    Attributes
    ----------
    head : nn.Linear
        The classifier, zero at first.
    generator : torch.Generator
        What dropout is drawn from.

    Examples
    --------
    >>> from codes import load_backbone
    >>> from codes.graph.starts import choose_starts
    >>> backbone = load_backbone("bundled")
    >>> [start] = choose_starts(backbone.graph, "fc6")
    >>> suffix = Suffix(backbone.graph, start, 10, backbone.preprocessing)
    >>> suffix(torch.zeros(2, *start.shape).flatten(1)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        traced: TracedGraph,
        start: Start,
        n_classes: int,
        preprocessing: Preprocessing,
        *,
        batch_norm: BatchNorm = "frozen",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._start, self._preprocessing = start, preprocessing
        self._trains_norms = batch_norm == "train"
        end = head_input(traced)
        layout, shape = canonical(traced, end)
        pool = "avg" if len(shape) > 1 else "flatten"
        self.body = _cut_before(traced, start, end, pool, layout)
        self.generator = torch.Generator()
        for name, module in list(self.body.named_modules()):
            if isinstance(module, _DROPOUTS):
                own = SeededDropout(
                    dropout, self.generator, whole_channels=not isinstance(module, nn.Dropout)
                )
                self.body.set_submodule(name, own)
        self.dropout = SeededDropout(dropout, self.generator, whole_channels=False)
        self.head = nn.Linear(pooled_width(pool, shape), n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off, and batch normalisation where it is trained; nothing else."""
        super().train(False)
        self.training = mode
        for module in (self.dropout, *self.body.modules()):
            if isinstance(module, SeededDropout) or (
                self._trains_norms and isinstance(module, NORMS)
            ):
                module.train(mode)
        return self

    def filters(self) -> NDArray[np.float32]:
        """Return the filters of the first convolution, where it reads images.

        Returns
        -------
        filters : ndarray of shape (n_filters, 3, height, width), float32
            Without filters where training starts later, or where the first layer is another.
        """
        if self._start.name == WHOLE:
            for module in self.body.modules():
                if isinstance(module, nn.Conv2d):
                    return first_filters(module)
        return np.empty((0, 3, 0, 0), np.float32)

    def codes(self, values: Tensor) -> Tensor:
        """Compute what the classifier reads.

        Parameters
        ----------
        values : Tensor of shape (n, n_values)
            What the start reads, flattened with the channels first; of the whole network, pixels
            from 0 to 1.

        Returns
        -------
        codes : Tensor of shape (n, n_features), float32
        """
        maps = values.view(len(values), *self._start.shape)
        if self._start.name == WHOLE:
            pixels = (maps.float() * 255).round().to(torch.uint8)
            maps = self._preprocessing.normalize(pixels)
        elif self._start.layout == "nhwc":
            maps = maps.permute(0, 2, 3, 1).contiguous()
        elif self._start.layout == "ntc":
            maps = maps.permute(0, 2, 1).contiguous()
        elif self._start.layout == "nchw":
            maps = maps.contiguous(memory_format=torch.channels_last)
        codes: Tensor = self.body(maps)
        return codes

    def forward(self, values: Tensor) -> Tensor:
        """Compute the classes' scores.

        Parameters
        ----------
        values : Tensor of shape (n, n_values)
            As for `codes`.

        Returns
        -------
        logits : Tensor of shape (n, n_classes)
        """
        logits: Tensor = self.head(self.dropout(self.codes(values)))
        return logits


def first_filters(convolution: nn.Conv2d) -> NDArray[np.float32]:
    """Read the filters of a convolution; none where it does not read three colours."""
    weight = convolution.weight.detach().float().cpu().numpy()
    return weight.copy() if weight.shape[1] == 3 else np.empty((0, 3, 0, 0), np.float32)


def _cut_before(
    traced: TracedGraph, start: Start, end: fx.Node, pool: str, layout: str
) -> fx.GraphModule:
    """Copy the graph between what a start reads and what the classifier reads."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, copies)
    read = copies[read_by(traced, start)]
    if start.name != WHOLE:
        with graph.inserting_before(next(iter(graph.nodes))):
            values = graph.placeholder("values")
        read.replace_all_uses_with(values)
    with graph.inserting_after(copies[end]):
        pooled = graph.call_function(pool_codes, (copies[end], pool, layout))
    graph.output(pooled)
    for node in reversed(list(graph.nodes)):
        unused = not node.users and node.op != "output"
        if unused and not (node.op == "placeholder" and start.name == WHOLE):
            graph.erase_node(node)
    network = deepcopy(copy_network(traced.root, graph))
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return channels_last(network)
