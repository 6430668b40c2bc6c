"""Pooling: maps of any size become rows of a comparable width."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_GRID_VALUES = 4096
"""Width that ``"grid"`` pooling comes closest to without exceeding it."""

_GRID = re.compile(r"grid:([1-9][0-9]*)")


def resolve_pooling(pool: str, shape: Sequence[int], n_class_tokens: int = 0) -> str:
    """Settle what a pooling means for one layer.

    Parameters
    ----------
    pool : str
        ``"grid"`` (the grid whose flattened width comes closest to, and not above, 4096 values),
        ``"grid:K"``, ``"avg"``, ``"max"``, ``"flatten"``, ``"token"`` (a transformer's class token)
        or ``"patches"`` (the average without it).
    shape : sequence of int
        One image's codes, channels first: ``(c,)``, ``(c, n_tokens)`` or ``(c, h, w)``.
    n_class_tokens : int, default=0
        Tokens that stand before those of the patches.

    Returns
    -------
    pool : str
        ``"grid:K"``, ``"avg"``, ``"max"``, ``"flatten"``, ``"token"`` or ``"patches"``. A grid is
        never finer than the map; a layer without a map (``(c,)``) is always ``"flatten"``; tokens
        have no grid, so that ``"grid"`` averages those of the patches; ``"patches"`` is ``"avg"``
        where there is no class token.

    Raises
    ------
    ValueError
        If the pooling is not one of those above, or the layer has no class token to take.

    Examples
    --------
    >>> resolve_pooling("grid", (64, 55, 55)), resolve_pooling("grid", (512, 13, 13))
    ('grid:8', 'grid:2')
    >>> resolve_pooling("grid:4", (256, 3, 3)), resolve_pooling("avg", (4096,))
    ('grid:3', 'flatten')
    >>> resolve_pooling("grid", (768, 197), 1), resolve_pooling("grid", (768, 196))
    ('patches', 'avg')
    """
    grid = _GRID.fullmatch(pool)
    if grid is None and pool not in ("grid", "avg", "max", "flatten", "token", "patches"):
        raise ValueError(
            f"pool={pool!r} is not a pooling. Allowed: grid, grid:K (K = 1, 2, …), avg, max, "
            "flatten, token, patches."
        )
    if len(shape) == 1:
        return "flatten"
    if pool == "token" and not n_class_tokens:
        raise ValueError(
            f"pool={pool!r}: a layer of shape {'×'.join(map(str, shape))} has no class token. Use "
            "grid or avg, or name the layer with its pooling, as in --layers LAYER:token."
        )
    if pool == "patches" or (len(shape) == 2 and (grid or pool == "grid")):
        return "patches" if n_class_tokens else "avg"
    if grid is None and pool != "grid":
        return pool
    finest = min(shape[1:])
    wanted = int(grid[1]) if grid else max(1, math.isqrt(MAX_GRID_VALUES // shape[0]))
    return f"grid:{min(wanted, finest)}"


def resolve_poolings(pool: str, shape: Sequence[int], n_class_tokens: int = 0) -> list[str]:
    """Settle what several poolings, joined by commas, mean for one layer: as `resolve_pooling`.

    Returns
    -------
    pools : list of str
        Each once, in the order in which they are named.

    Examples
    --------
    >>> resolve_poolings("avg,max", (64, 55, 55)), resolve_poolings("avg,max", (4096,))
    (['avg', 'max'], ['flatten'])
    """
    parts = (part.strip() for part in pool.split(","))
    return list(dict.fromkeys(resolve_pooling(part, shape, n_class_tokens) for part in parts))


def pooled_width(pool: str, shape: Sequence[int]) -> int:
    """Count the values of one image's codes after a pooling that `resolve_pooling` settled.

    Examples
    --------
    >>> pooled_width("grid:8", (64, 55, 55)), pooled_width("flatten", (512, 13, 13))
    (4096, 86528)
    """
    if pool == "flatten":
        return math.prod(shape)
    grid = _GRID.fullmatch(pool)
    return shape[0] * (int(grid[1]) ** 2 if grid else 1)


def pool_codes(codes: Tensor, pool: str, layout: str, n_class_tokens: int = 0) -> Tensor:
    """Pool and flatten a layer's activations.

    Parameters
    ----------
    codes : Tensor of shape (n, c), (n, c, h, w), (n, h, w, c) or (n, n_tokens, c)
        A batch of activations, any floating dtype.
    pool : str
        As `resolve_pooling` returns it.
    layout : {"nc", "nchw", "nhwc", "ntc"}
    n_class_tokens : int, default=0
        Tokens that ``"patches"`` leaves out.

    Returns
    -------
    codes : Tensor of shape (n, n_features), float32
        A copy: operations that later change the activations in place do not reach it. Values of
        one channel stand together, in rows of the grid.

    Examples
    --------
    >>> pool_codes(torch.ones(2, 3, 8, 8), "grid:2", "nchw").shape
    torch.Size([2, 12])
    """
    if layout == "nhwc":
        codes = codes.permute(0, 3, 1, 2)
    elif layout == "ntc":
        codes = codes.permute(0, 2, 1)
    if pool == "flatten":
        return codes.flatten(1).to(torch.float32, copy=True)
    if pool == "token":
        return codes[:, :, 0].to(torch.float32, copy=True)
    if pool == "patches":
        return codes[:, :, n_class_tokens:].mean(2, dtype=torch.float32)
    if pool == "avg":
        return codes.mean(tuple(range(2, codes.ndim)), dtype=torch.float32)
    if pool == "max":
        return codes.amax(tuple(range(2, codes.ndim))).float()
    # In the codes' own precision (sums are float32 inside): a float32 copy of a map would take
    # as long as some layers do.
    return F.adaptive_avg_pool2d(codes, int(pool.removeprefix("grid:"))).flatten(1).float()
