"""Agreement: the traced graph of a network answers as the network itself does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, fx, nn

N_IMAGES = 2
MOST = 1e-4
"""Share of the largest output that rounding may move an output by; the operations are the same."""


class GraphDiffersError(ValueError):
    """The traced graph of a network answers otherwise than the network itself."""


class Agreement:
    """A comparison of a network, on the CPU, with its traced graph, made once.

    Attributes
    ----------
    found : bool
        Whether they were compared, and agree.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self._model, self._graph = model, graph
        self._lock, self.found = Lock(), False

    def require(self, images: Tensor) -> None:
        """Compare the two on the first images of a batch; do nothing the next time.

        Parameters
        ----------
        images : Tensor of shape (n, 3, height, width), float32
            Normalised, on the CPU.

        Raises
        ------
        GraphDiffersError
            If an output differs by more than rounding; it gives both numbers.
        """
        with self._lock:
            if not self.found:
                few = images[:N_IMAGES]
                traced = fx.Interpreter(self._model, graph=self._graph)
                self._compare(_answer(self._model, few), _answer(traced.run, few))
                self.found = True

    def _compare(self, own: list[Tensor], traced: list[Tensor]) -> None:
        name = type(self._model).__name__
        remedy = (
            "Its codes would be wrong. Its forward pass may depend on what tracing does not see: "
            "hooks, settings that change, or arguments other than the images."
        )
        shapes = [[tuple(value.shape) for value in values] for values in (own, traced)]
        if shapes[0] != shapes[1]:
            raise GraphDiffersError(
                f"{name} answers the first images with outputs of shapes {shapes[0]}, and its "
                f"traced graph with {shapes[1]}. {remedy}"
            )
        for ours, theirs in zip(own, traced, strict=True):
            a, b = ours.double().flatten(), theirs.double().flatten()
            same = (a == b) | (a.isnan() & b.isnan())  # What depends on missing weights is NaN.
            apart = torch.where(same, 0, (a - b).abs().nan_to_num(torch.inf))
            largest = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
            if len(apart) and apart.max() > MOST * largest:
                at = int(apart.argmax())
                raise GraphDiffersError(
                    f"{name} answers the first images with {float(a[at]):.6g}, where its traced "
                    f"graph answers with {float(b[at]):.6g}. {remedy}"
                )


def _answer(network: Callable[[Tensor], Any], images: Tensor) -> list[Tensor]:
    """Run a network; what it draws, it draws alike each time."""
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return list(_tensors(network(images)))


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of what a network returns, whatever holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name))
