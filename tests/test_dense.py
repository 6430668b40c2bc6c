"""Fully-connected layers as convolutions, against the ordinary network on each window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from codes import CodeExtractor, Preprocessing, load_backbone, load_images
from codes.similarity_statistics import OUTPUT, StatisticsReader
from pipelines import ExtractionOptions
from pipelines.extraction.extract import extract


class Viewed(nn.Module):
    """Flattens with a method, is dropped out by a function, and has one layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.first = nn.Linear(4 * 7 * 7, 6, bias=False)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        x = F.dropout(x, 0.5, self.training).view(x.size(0), -1)
        scores: Tensor = self.second(F.relu(self.first(x)))
        return scores


def viewed() -> tuple[nn.Module, Preprocessing]:
    return Viewed(), Preprocessing(resize_size=16, crop_size=16)


class Between(nn.Sequential):
    """Has something between its fully-connected layers that needs vectors."""

    def __init__(self) -> None:
        norm = nn.BatchNorm1d(6)
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 6), norm, nn.ReLU()
        )


def between() -> tuple[nn.Module, Preprocessing]:
    return Between(), Preprocessing(resize_size=16, crop_size=16)


def _pixels(n: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def normed() -> tuple[nn.Module, Preprocessing]:
    """Make a small VGG with batch normalisation."""
    head = (nn.Linear(392, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(True),
            nn.Dropout(), nn.Linear(16, 5))  # fmt: skip
    network = models.VGG(models.vgg.make_layers([8, "M", 8, 8, "M"], batch_norm=True))
    network.classifier = nn.Sequential(*head)
    return network, Preprocessing(resize_size=28, crop_size=28)


NETWORKS = ("alexnet", "bundled", "tests.test_dense:normed", "tests.test_dense:viewed")


@pytest.mark.parametrize("name", NETWORKS)
def test_at_its_own_size_codes_are_the_ordinary_ones(name: str) -> None:
    weights = None if ":" in name else "none"
    ordinary, dense = (load_backbone(name, weights=weights, dense=d) for d in (False, True))
    pixels = _pixels(2, ordinary.preprocessing.crop_size)
    expected = CodeExtractor(ordinary, "all")(pixels)
    found = CodeExtractor(dense, "all")(pixels)
    assert list(found) == list(expected)
    for layer, codes in expected.items():
        assert found[layer].shape == codes.shape
        assert (found[layer] - codes).abs().max() <= 1e-5 * codes.abs().max(), layer
    assert [layer.default for layer in dense.layers] == [layer.default for layer in ordinary.layers]
    fresh, inputs = load_backbone(name, weights=weights), dense.preprocessing.normalize(pixels)
    torch.testing.assert_close(dense.model(inputs), fresh.model(inputs.contiguous()))


def test_evidence_of_a_network_that_views_its_map() -> None:
    backbone = load_backbone("tests.test_dense:viewed")
    digits = load_images("sklearn:digits").take(np.arange(4))
    [statistics] = StatisticsReader(backbone).read(digits, np.zeros((4, 32), np.uint8))
    crops = [backbone.preprocessing.crop(digits.source.open(i)) for i in range(4)]
    inputs = backbone.preprocessing.normalize(torch.stack(crops)).contiguous()
    energy = load_backbone("tests.test_dense:viewed").model(inputs).logsumexp(1)
    np.testing.assert_allclose(statistics[OUTPUT][:, 0], energy, rtol=1e-5)


def test_of_a_larger_image_each_place_is_a_window() -> None:
    ordinary = load_backbone("alexnet", weights="none")
    dense = load_backbone("alexnet", weights="none", image_size=320, dense=True)
    pixels = _pixels(2, 320)
    layers = "classifier.2,classifier.5"
    found = CodeExtractor(dense, layers, pool="flatten")(pixels)
    with torch.inference_mode():
        maps = ordinary.model.get_submodule("features")(ordinary.preprocessing.normalize(pixels))
        side = maps.shape[-1] - 5
        windows = F.unfold(maps, 6).permute(0, 2, 1).reshape(-1, 256 * 36)
        classifier = ordinary.model.get_submodule("classifier")
        for layer, end in (("classifier.2", 3), ("classifier.5", 6)):
            rows = classifier[:end](windows).view(2, side * side, 4096)
            expected = rows.permute(0, 2, 1).reshape(2, -1)
            assert found[layer].shape == expected.shape == (2, 4096 * 4 * 4)
            torch.testing.assert_close(found[layer], expected, rtol=1e-4, atol=1e-6)
        mean = CodeExtractor(dense, layers)(pixels)["classifier.5"]
        torch.testing.assert_close(mean, rows.mean(1), rtol=1e-4, atol=1e-6)
        scores = classifier(windows).view(2, -1, 1000).mean(1)
        inputs = dense.preprocessing.normalize(pixels)
        torch.testing.assert_close(dense.model(inputs), scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("resnet18", "the average of a map"),
        ("convnext_tiny", "the average of a map"),
        ("squeezenet1_0", "no fully-connected layers"),
        ("vit_b_16", "no fully-connected layers"),
        ("tests.test_dense:between", "'4', after them, needs vectors"),
    ],
)
def test_networks_that_cannot_be_run_densely(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"{why}.*--dense"):
        load_backbone(name, weights=None if ":" in name else "none", dense=True)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 96, 96\).*--image-size"):
        load_backbone("alexnet", weights="none", image_size=96, dense=True)


def test_dense_codes_have_a_key_of_their_own(tmp_path: Path) -> None:
    images = load_images("sklearn:digits").take(np.arange(3))
    wanted = {"backbone": "bundled", "layers": "fc7.relu", "store": tmp_path, "image_size": 64}
    ordinary, dense = (extract(images, ExtractionOptions(dense=d, **wanted)) for d in (False, True))
    assert ordinary.key.digest() != dense.key.digest()
    assert (dense.n_extracted, dense.n_reused) == (3, 0)
    np.testing.assert_allclose(dense.codes("fc7.relu"), ordinary.codes("fc7.relu"), rtol=1e-3)
