"""Random weights: a network drawn anew, as it was before any training; a control."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from codes.wording import some

M = TypeVar("M", bound=nn.Module)

_FRESH = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0, "weight": 1, "bias": 0}
"""Buffers of a normalisation, and their values before training."""


def seeded(build: Callable[[], M], random_state: int) -> M:
    """Build a network with random weights, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        return build()


def reset_weights(name: str, model: nn.Module, random_state: int) -> None:
    """Draw the weights of a network anew, layer by layer, as PyTorch initialises each.

    Each module that has `reset_parameters` is changed in place; normalisations that have none, such
    as torchvision's `FrozenBatchNorm2d`, become what they are when they are made. Buffers that are
    not part of the state dict, and those of integers, are constants: they stay.

    Raises
    ------
    ValueError
        If the network has parameters, or buffers that may come from training, that no module
        initialises; the message names them.
    """
    before = _trained_values(model)
    for value in before.values():
        nn.init.constant_(value, torch.nan)

    def draw() -> nn.Module:
        for module in model.modules():
            _reset_statistics(module)
            for reset in ("reset_parameters", "_reset_parameters"):  # Attention has the second.
                if callable(getattr(module, reset, None)):
                    getattr(module, reset)()
        return model

    seeded(draw, random_state)
    after = _trained_values(model)
    kept = [key for key in before if key in after and after[key].isnan().any()]
    if kept:
        raise ValueError(
            f"Backbone {name!r} has no random weights: no reset_parameters() draws "
            f"{some(kept, 5)}. Give their modules one, and register buffers that are "
            "constants with persistent=False."
        )
    if next(model.parameters(), None) is None:
        raise ValueError(f"Backbone {name!r} has no random weights: it has no parameters.")


def _trained_values(model: nn.Module) -> dict[str, Tensor]:
    """Find what training may have left in a network: all but integers, and constants."""
    kept = model.state_dict().keys()
    buffers = {key: value for key, value in model.named_buffers() if key in kept}
    values = dict(model.named_parameters()) | buffers
    return {k: v for k, v in values.items() if v.is_floating_point() or v.is_complex()}


def _reset_statistics(module: nn.Module) -> None:
    """Make a normalisation that keeps its statistics in buffers what it was before training."""
    buffers = dict(module.named_buffers(recurse=False))
    if {"running_mean", "running_var"} <= buffers.keys():
        for key in buffers.keys() & _FRESH.keys():
            nn.init.constant_(buffers[key], _FRESH[key])
