"""Winograd's convolutions against PyTorch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from codes import CodeExtractor, load_backbone
from codes.inference.tuning import _PackedConvolution
from codes.inference.winograd import WinogradConvolution, suits


def _maps(n: int, channels: int, height: int, width: int) -> Tensor:
    chance = torch.Generator().manual_seed(n + channels + height)
    maps = torch.randn(n, channels, height, width, generator=chance)
    return maps.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("n", "n_in", "n_out", "height", "width"),
    [
        (1, 64, 64, 56, 56),  # cut into strips of rows of tiles
        (3, 64, 70, 30, 121),
        (6, 128, 64, 28, 28),  # into images
        (7, 64, 128, 13, 13),  # some at a time, the last alone
        (2, 65, 67, 7, 9),
        (5, 96, 64, 1, 1),
        (1, 64, 64, 4, 400),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_it_convolves(n: int, n_in: int, n_out: int, height: int, width: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)
    maps = _maps(n, n_in, height, width)
    found = WinogradConvolution(conv)(maps)
    expected = conv.double()(maps.double())
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() <= 5e-6 * expected.abs().max()


@torch.inference_mode()
def test_an_image_is_convolved_alone_as_in_company() -> None:
    torch.manual_seed(0)
    convolve = WinogradConvolution(nn.Conv2d(64, 64, 3, padding=1))
    maps = _maps(9, 64, 14, 14)
    together = convolve(maps)
    alone = torch.cat([convolve(maps[i : i + 1]) for i in range(9)])
    assert (together - alone).abs().max() <= 1e-6 * together.abs().max()


def test_what_is_not_a_number_is_not_lost() -> None:
    maps = _maps(2, 64, 16, 16)
    maps[1, 5, 3, 3] = torch.nan
    found = WinogradConvolution(nn.Conv2d(64, 64, 3, padding=1))(maps)
    assert found[0].isfinite().all()
    assert found[1, :, 2:5, 2:5].isnan().all()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, groups=2),
        nn.Conv2d(64, 64, 5, padding=1),
        nn.Conv2d(64, 64, (3, 1), padding=1),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Conv2d(64, 64, 3, padding=1).bfloat16(),
    ],
)
def test_other_convolutions_do_not_suit(conv: nn.Conv2d) -> None:
    assert not suits(conv, 56, 56)


def test_maps_that_fill_no_tiles_do_not_suit() -> None:
    conv = nn.Conv2d(64, 64, 3, padding=1)
    sides = (1, 2, 3, 4, 5, 7, 13, 14)
    assert [side for side in sides if suits(conv, side, side)] == [4, 7, 13, 14]


@pytest.mark.parametrize(
    ("precision", "n_winograd"), [("float32", 13), ("bfloat16", 0), ("float16", 0)]
)
def test_an_extractor_uses_it_in_float32(precision: str, n_winograd: int) -> None:
    backbone = load_backbone("resnet18", weights="none")
    modules = list(CodeExtractor(backbone, "all", precision=precision)._reader._network.modules())
    assert sum(isinstance(module, WinogradConvolution) for module in modules) == n_winograd
    assert not any(isinstance(module, _PackedConvolution) for module in backbone.model.modules())
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.model.modules()) == 20
