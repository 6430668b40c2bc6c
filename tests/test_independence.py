"""Codes that change with the company of an image, or by chance, are refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codes import CodeExtractor, ImageList, load_backbone, load_images
from codes.data.sources import ArraySource
from codes.inference.independence import DependentCodesError
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions


class _Between(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.relu1 = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.between = between
        self.second, self.relu2 = nn.Conv2d(8, 8, 3), nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu2(self.second(self.between(self.relu1(self.first(images)))))
        return self.head(maps.mean((2, 3)))


def make_statless() -> nn.Module:
    return _Between(nn.BatchNorm2d(8, track_running_stats=False)).eval()


def make_batch_normalised() -> nn.Module:
    return _Between(lambda maps: F.batch_norm(maps, None, None, training=True)).eval()


def make_dropout() -> nn.Module:
    return _Between(lambda maps: F.dropout(maps, 0.001)).eval()


def make_noise() -> nn.Module:
    return _Between(lambda maps: maps + 1e-6 * torch.randn_like(maps)).eval()


def make_depth() -> nn.Module:
    return _Between(lambda maps: maps * torch.empty_like(maps).bernoulli_(0.99)).eval()


def make_frozen() -> nn.Module:
    return _Between(lambda maps: maps * random.random()).eval()


def make_generated() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return _Between(lambda maps: maps * torch.rand(8, 1, 1, generator=generator)).eval()


def make_shifted() -> nn.Module:
    return _Between(lambda maps: maps - 0.5 * maps[:1]).eval()


def make_summed() -> nn.Module:
    return _Between(lambda maps: maps.cumsum(0)).eval()


def make_last() -> nn.Module:
    return _Between(lambda maps: maps - 0.5 * maps[-1:]).eval()


def make_turned() -> nn.Module:
    return _Between(lambda maps: maps + 0.5 * maps.flip(0)).eval()


def make_centred() -> nn.Module:
    return _Between(lambda maps: maps - maps.mean(0, keepdim=True)).eval()


def make_plain() -> nn.Module:
    return _Between(lambda maps: F.dropout(maps, 0.1, training=False)).eval()


DEPENDENT = [
    "make_statless", "make_batch_normalised", "make_centred", "make_shifted", "make_summed",
    "make_last", "make_turned",
]  # fmt: skip


@pytest.mark.parametrize("n_images", [1, 2, 9])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", DEPENDENT)
def test_codes_that_change_are_refused_and_not_stored(
    make: str, precision: str, n_images: int, tmp_path: Path
) -> None:
    images = load_images("sklearn:digits").take(np.arange(n_images))
    options = ExtractionOptions(
        backbone=f"{__name__}:{make}", image_size=16, layers="all", precision=precision,
        store=tmp_path / "store",
    )  # fmt: skip
    with pytest.raises(DependentCodesError, match="'relu2'"):
        extract(images, options)
    before = extract(images, ExtractionOptions(**vars(options) | {"layers": "^relu1$"}))
    assert before.n_extracted == n_images, "nothing was kept of the pass that was refused"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_what_only_rounds_otherwise_is_kept(precision: str) -> None:
    for name, size in ((f"{__name__}:make_plain", 16), ("resnet18", 64), ("densenet121", 64)):
        weights = None if ":" in name else "none"
        backbone = load_backbone(name, weights=weights, image_size=size)
        extractor = CodeExtractor(backbone, "all", precision=precision)
        images = load_images("sklearn:digits").take(np.arange(3))
        assert sum(len(b.codes) > 0 for b in extractor.extract(images, batch_size=2)) == 2


@pytest.mark.parametrize("make", ["make_dropout", "make_noise", "make_depth"])
def test_what_draws_is_named_however_little(make: str) -> None:
    backbone = load_backbone(f"{__name__}:{make}", image_size=16)
    with pytest.raises(ValueError, match=r"'(dropout|randn_like|bernoulli_)'"):
        CodeExtractor(backbone, "all")
    assert CodeExtractor(backbone, "^relu1$")(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


@pytest.mark.parametrize("make", ["make_frozen", "make_generated"])
def test_what_is_drawn_while_tracing_is_refused(make: str) -> None:
    with pytest.raises(ValueError, match="another network each time"):
        load_backbone(f"{__name__}:{make}", image_size=16)


@pytest.mark.parametrize("colour", [0, 255])
def test_images_that_are_all_alike_hide_nothing(colour: int) -> None:
    source = ArraySource(np.full((4, 16, 16), colour, np.uint8), name="blank")
    images = ImageList(name="blank", source=source, labels=np.array(list("aabb")), ignored={})
    for make in DEPENDENT:
        extractor = CodeExtractor(load_backbone(f"{__name__}:{make}", image_size=16), "relu2")
        with pytest.raises(DependentCodesError):
            list(extractor.extract(images))


def test_the_first_batch_that_can_be_read_is_checked(image_folder: Path) -> None:
    first = sorted(image_folder.rglob("*.png"))[0]
    first.write_bytes(b"no image")
    images = load_images(image_folder)
    extractor = CodeExtractor(load_backbone(f"{__name__}:make_centred", image_size=16), "relu2")
    with pytest.raises(DependentCodesError, match="mend the network"):
        list(extractor.extract(images, batch_size=1))
