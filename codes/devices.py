"""Devices: the one that was asked for, computing in the precision that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def find_device(name: str) -> torch.device:
    """Return a torch device that is really there.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, …, or ``"auto"``: the first of CUDA, MPS
        and CPU that is there.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If there is no such device.
    """
    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device([*there, "cpu"][0])
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"The device {name!r} is not to be had: {str(error).splitlines()[0]} "
            f"Allowed here: {', '.join([*there, 'cpu', 'auto'])}."
        ) from error
    return device


@contextmanager
def no_tf32() -> Iterator[None]:
    """Compute float32 products in float32, whatever the process is set to."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
