"""Optimisers: which weights are changed at which rate, and how the rate falls."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from codes.graph.suffix import Suffix
from pipelines.training.options import FinetuneOptions


def make_optimizer(
    network: Suffix, options: FinetuneOptions, *, lr: float, weight_decay: float
) -> Optimizer:
    """Make an optimiser of a network.

    The pretrained weights are changed at a smaller rate than the classifier; biases and
    normalisations (parameters of one dimension) are not decayed.

    Parameters
    ----------
    network : Suffix
    options : FinetuneOptions
    lr : float
        Of the classifier.
    weight_decay : float

    Returns
    -------
    optimizer : torch.optim.Optimizer
    """
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in module.parameters() if p.requires_grad and (p.ndim > 1) == large],
            "lr": rate,
            "weight_decay": weight_decay if large else 0.0,
        }
        for module, rate in ((network.head, lr), (network.body, lr * options.lr_ratio))
        for large in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if options.optimizer == "sgd":
        return SGD(groups, momentum=options.momentum, nesterov=options.nesterov)
    return (Adam if options.optimizer == "adam" else AdamW)(groups)


def make_schedule(optimizer: Optimizer, options: FinetuneOptions, n_steps: int) -> LambdaLR:
    """Make the schedule of all learning rates.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    options : FinetuneOptions
    n_steps : int
        Of the whole run.

    Returns
    -------
    schedule : torch.optim.lr_scheduler.LambdaLR
        To be moved on after each step.
    """
    n_warmup = round(options.warmup * n_steps)
    return LambdaLR(
        optimizer, lambda step: rate_at(step, n_steps, n_warmup=n_warmup, kind=options.schedule)
    )


def rate_at(step: int, n_steps: int, *, n_warmup: int = 0, kind: str = "cosine") -> float:
    """Give the learning rate at a step, as a share of the highest.

    Parameters
    ----------
    step : int
        From 0.
    n_steps : int
    n_warmup : int, default=0
        Steps in which the rate rises.
    kind : str, default="cosine"
        Of `pipelines.training.options.SCHEDULES`.

    Returns
    -------
    share : float

    Examples
    --------
    >>> [round(rate_at(step, 10, n_warmup=2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < n_warmup:
        return (step + 1) / n_warmup
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    shares = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "step": 0.1 ** ((done >= 0.5) + (done >= 0.75)),
        "exponential": 0.01**done,
        "inverse": 1 / (1 + 9 * done),
        "sqrt": 1 / math.sqrt(1 + 99 * done),
        "constant": 1.0,
    }
    return float(shares[kind])


def penalty(network: nn.Module, l1: float) -> Tensor | float:
    """Sum the absolute values of the weights that are decayed, times a factor."""
    if not l1:
        return 0.0
    weights = [p.abs().sum() for p in network.parameters() if p.requires_grad and p.ndim > 1]
    return l1 * torch.stack(weights).sum()


@torch.no_grad()
def limit_norms(network: nn.Module, most: float | None) -> None:
    """Shrink the weights of each neuron whose norm is above a limit.

    References
    ----------
    https://cs231n.github.io/neural-networks-2/, "Max norm constraints".
    """
    for weights in network.parameters() if most is not None else ():
        if weights.requires_grad and weights.ndim > 1:
            weights.copy_(torch.renorm(weights, 2, 0, float(most)))  # type: ignore[arg-type]
