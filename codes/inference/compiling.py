"""Compiling: a network becomes code made for it and for one batch size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Codes = dict[str, Tensor]


class CompilerError(RuntimeError):
    """A network cannot be compiled on this machine."""


class CompiledNetwork:
    """A network compiled at its first batch.

    Another batch size would be compiled anew: smaller batches are filled up to the largest seen.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        # On the CPU, weights are laid out for the machine once, and activations join convolutions.
        options: dict[str, Any] = {"freezing": True} if device.type == "cpu" else {}
        self._network = torch.compile(network, dynamic=False, options=options)
        self._size = 0

    def __call__(self, images: Tensor) -> Codes:
        """Run a batch of shape (n, 3, height, width), float32.

        Raises
        ------
        CompilerError
            If it cannot be compiled; it says what is missing.
        """
        from torch._dynamo.exc import TorchDynamoException  # Takes a second to import.

        n = len(images)
        self._size = max(self._size, n)
        if n < self._size:
            images = torch.cat(
                [images, torch.zeros_like(images[:1]).expand(self._size - n, -1, -1, -1)]
            )
        try:
            codes: Codes = self._network(images)
        except TorchDynamoException as error:
            said = str(error).strip().splitlines()
            raise CompilerError(
                f"The network cannot be compiled: {said[0] if said else type(error).__name__}. "
                "torch.compile needs a C++ compiler on the CPU and Triton on a GPU. Leave "
                "--compile out."
            ) from error
        except RuntimeError:
            self._size = 0  # Out of memory: the next batch is a smaller one.
            raise
        return {name: rows[:n] for name, rows in codes.items()}
