"""Winograd: 3×3 convolutions with a quarter of the multiplications, on the CPU in float32."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = (0.0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
"""Where the polynomials are evaluated, besides at infinity: of those that leave nothing to round in
what maps are multiplied with, the ones with the smallest errors that were found."""

LEAST_CHANNELS = 64
"""In and out; with fewer, tiles take longer to make than the products that they save."""

TILES_BYTES = 2 * 2**20
"""Of the tiles that are made together: they are read again while they are in the CPU's cache."""

LEAST_TILES = 64
"""That are made together all the same: products of fewer rows are slow."""


class WinogradConvolution(nn.Module):
    """A 3×3 convolution by the products of 6×6 tiles, which give 4×4 values each.

    A value takes 2.25 multiplications for each pair of channels in place of 9, where the sides of
    the maps are multiples of four.

    Parameters
    ----------
    conv : nn.Conv2d
        One that `suits`.

    References
    ----------
    F(4×4, 3×3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016),
    sections 4.1 and 4.3, https://arxiv.org/abs/1509.09308. Other points, for smaller errors, as
    Barabasz, Anderson, Soodhalter and Gregg propose in "Error analysis and improving the accuracy
    of Winograd convolution for deep neural networks" (2018), https://arxiv.org/abs/1803.10986.

    Examples
    --------
    >>> conv = nn.Conv2d(64, 96, 3, padding=1)
    >>> maps = torch.rand(2, 64, 14, 14)
    >>> with torch.inference_mode():
    ...     torch.allclose(WinogradConvolution(conv)(maps), conv(maps), atol=1e-5)
    True
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        kernels = torch.einsum("ai,bj,ocij->abco", _G, _G, conv.weight.detach().double())
        self._kernels = kernels.flatten(0, 1).float().contiguous()
        bias = self._kernels.new_zeros(conv.out_channels) if conv.bias is None else conv.bias
        self._bias = bias.detach()

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve maps of shape (n, n_in, height, width), float32."""
        n, n_in, height, width = maps.shape
        n_out = len(self._bias)
        down, across = -(-height // 4), -(-width // 4)
        edges = (0, 0, 1, 4 * across + 1 - width, 1, 4 * down + 1 - height)
        padded = F.pad(maps.permute(0, 2, 3, 1), edges)
        done = maps.new_empty(n, down, 4, across, 4, n_out)
        together = max(LEAST_TILES, TILES_BYTES // (36 * 4 * max(n_in, n_out)))
        rows = min(down, -(-together // across))
        images = max(1, together // (down * across))
        for first in range(0, n, images):
            for row in range(0, down, rows):
                strip = padded[first : first + images, 4 * row : 4 * (row + rows) + 2]
                out = done[first : first + images, row : row + rows]
                torch.add(self._convolved(strip), self._bias, out=out)
        whole = done.view(n, 4 * down, 4 * across, n_out)
        return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)

    def _convolved(self, strip: Tensor) -> Tensor:
        """Convolve a strip of shape (n, 4 * down + 2, 4 * across + 2, n_in).

        Its sums have the shape (n, down, 4, across, 4, n_out).
        """
        tiles = strip.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
        n, down, across, n_in = tiles.shape[2:]
        n_tiles, n_out = n * down * across, len(self._bias)
        halfway = (_B @ tiles.reshape(6, -1)).view(6, 6, n_tiles * n_in)
        evaluated = torch.bmm(_B.expand(6, 6, 6), halfway).view(36, n_tiles, n_in)
        products = torch.bmm(evaluated, self._kernels)
        halfway = (_A @ products.view(6, -1)).view(4, 6, n_tiles * n_out)
        sums = torch.bmm(_A.expand(4, 4, 6), halfway)
        return sums.view(4, 4, n, down, across, n_out).permute(2, 3, 0, 4, 1, 5)


def suits(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Tell whether a convolution, padded with zeros if at all, is worth its tiles.

    That does not depend on the number of images, so that their codes do not either.
    """
    plain = (
        conv.kernel_size == (3, 3)
        and conv.padding == conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.weight.dtype == torch.float32
    )
    used = height * width / (16 * -(-height // 4) * -(-width // 4))
    return plain and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS and used >= 0.6


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Find what tiles, kernels and products are multiplied with from both sides: B', G and A'.

    By Toom and Cook: two polynomials are evaluated at six points (infinity is one), the values
    multiplied, and the product found through them. A correlation is that, transposed.
    """
    points = np.array(POINTS)
    others = [np.delete(points, i) for i in range(5)]
    b = np.zeros((6, 6))
    b[:5, :5] = [np.poly(rest)[::-1] for rest in others]
    b[5] = np.poly(points)[::-1]
    scale = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
    g = np.zeros((6, 3))
    g[:5] = points[:, None] ** np.arange(3) / np.array(scale)[:, None]
    g[5, 2] = 1
    a = np.zeros((4, 6))
    a[:, :5] = points ** np.arange(4)[:, None]
    a[3, 5] = 1
    return torch.from_numpy(b).float(), torch.from_numpy(g), torch.from_numpy(a).float()


_B, _G, _A = _transforms()
