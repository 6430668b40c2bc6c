"""Similarity against brute force, on the one scale; of images without labels too."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

import pipelines.diagnostics.similarity
from cache import CodeStore
from codes import ImageList, Preprocessing, load_backbone
from codes.backbones.backbone import Backbone
from codes.data.images import digest_images
from codes.data.readers.datasets import list_images
from codes.graph.heads import class_weights
from codes.similarity_statistics import StatisticsReader, divergences
from codes.untrained_heads import looks_untrained
from pipelines.cli.app import main
from pipelines.diagnostics.advice import _similar
from pipelines.diagnostics.similarity import (
    BORDER,
    BORDER_DIVERGENCE,
    Similarity,
    measure_similarity,
)
from tests.conftest import draw_image

STEPS = Preprocessing(resize_size=64, crop_size=64)


class Net(nn.Module):
    """Two batch normalisations, one of them at work twice, between activations in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8)
        self.inner, self.again = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.relu(self.norm(self.conv(images)))
        for _ in range(2):
            maps = self.relu(self.again(self.inner(maps)))
        return self.head(maps.mean((2, 3)))


def collect(net: nn.Module, pixels: torch.Tensor, steps: Preprocessing) -> nn.Module:
    """Let a network's batch normalisations collect the statistics of some images."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # Plain averages.
            module.reset_running_stats()
    with torch.no_grad():
        net.train()(steps.normalize(pixels))
    return net.eval()


@cache
def _photos() -> list[np.ndarray]:
    return list(load_sample_images().images)


def photographs(n: int, size: int = 64) -> list[np.ndarray]:
    """Cut squares out of scikit-learn's two photographs."""
    rng = np.random.default_rng(0)
    photos, cut = _photos(), []
    for number in range(n):
        photo = photos[number % 2]
        y, x = (int(rng.integers(0, side - 2 * size)) for side in photo.shape[:2])
        cut.append(photo[y : y + 2 * size : 2, x : x + 2 * size : 2])
    return cut


def save(folder: Path, images: list[np.ndarray]) -> Path:
    """Write images into a folder."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


def stacked(images: list[np.ndarray]) -> torch.Tensor:
    """Put images into a batch."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def build() -> tuple[nn.Module, Preprocessing]:
    """Return a network that has seen forty photographs."""
    return collect(Net(), stacked(photographs(40)), STEPS), STEPS


def measured(backbone: Backbone, folder: Path, store: Path) -> tuple[Similarity, ImageList]:
    images = list_images([folder])
    digests = digest_images(images)
    return measure_similarity(images, digests, backbone, store=CodeStore(store)), images


@pytest.fixture
def backbone() -> Backbone:
    return load_backbone("tests.test_similarity:build")


def test_similarity_is_that_of_brute_force(backbone: Backbone, tmp_path: Path) -> None:
    folder = save(tmp_path / "images", [np.asarray(draw_image(i)) for i in range(40)])
    found, images = measured(backbone, folder, tmp_path / "store")
    net, seen = build()[0], []
    for module in (net.norm, net.again):
        module.register_forward_pre_hook(lambda m, inputs: seen.append((m, inputs[0].clone())))
    crops = [STEPS.crop(images.source.open(i)) for i in range(40)]
    with torch.inference_mode():
        net(STEPS.normalize(torch.stack(crops)))
    layers = []
    for norm, values in seen:
        each = values.double().transpose(0, 1).flatten(1)
        m, v = each.mean(1), each.var(1, correction=0)
        u, s = norm.running_mean.double(), norm.running_var.double()
        now, then = torch.distributions.Normal(m, v.sqrt()), torch.distributions.Normal(u, s.sqrt())
        layers.append(np.median(torch.distributions.kl_divergence(now, then).numpy()))
    assert len(layers) == 3  # The second is at work twice.
    values = [1 / (1 + (divergence / BORDER_DIVERGENCE) ** 2) for divergence in layers]
    assert [layer.value for layer in found.by_layer] == pytest.approx(values, rel=1e-3)
    value = 1 / (1 + (np.median(layers) / BORDER_DIVERGENCE) ** 2)
    assert found.value == pytest.approx(value, rel=1e-3)
    assert found.ci_low < found.value < found.ci_high
    assert (found.n_images, found.similar) == (40, found.value >= BORDER)
    assert found.side == ("similar" if found.similar else "dissimilar")
    assert "batch normalisation" in found.witness


def test_training_images_are_most_similar_and_noise_least(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(40)]
    store = tmp_path / "store"
    own, _ = measured(backbone, save(tmp_path / "own", photographs(40)), store)
    fewer, _ = measured(backbone, save(tmp_path / "fewer", photographs(32)), store)
    other, _ = measured(backbone, save(tmp_path / "other", noise), store)
    assert own.by_layer[0].value == pytest.approx(1, abs=1e-3)
    assert (own.similar, fewer.similar, other.similar) == (True, True, False)
    assert min(own.value, fewer.value) > other.ci_high
    monkeypatch.setattr(StatisticsReader, "read", None)  # Everything is in the store.
    few, _ = measured(backbone, save(tmp_path / "few", photographs(31)), store)
    assert few.similar is None
    assert "31 images are too few" in few.scale
    again, _ = measured(backbone, tmp_path / "own", store)
    assert again == own


def test_channels_without_variance_in_training_are_left_out() -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_var[:] = torch.tensor([1.0, 1e-12, 0.0])
    moments = np.array([0.0, 5, 5, 1, 30, 30])
    assert divergences(norm, moments) == pytest.approx([0])
    norm.running_var[0] = 4
    now, then = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 2.0)
    oracle = float(torch.distributions.kl_divergence(now, then))
    assert divergences(norm, moments) == pytest.approx([oracle])
    dead = np.zeros(6)  # A channel of which nothing is left.
    assert np.isfinite(divergences(norm, dead)).all()


def test_a_network_without_statistics_has_no_border(image_folder: Path, tmp_path: Path) -> None:
    found, _ = measured(load_backbone("bundled"), image_folder, tmp_path / "store")
    assert (found.witness, found.similar) == ("the source classifier", None)
    assert "an order under this one network" in found.scale
    assert "strongly different" in found.scale
    assert not StatisticsReader(load_backbone("resnet18", weights="none")).norms  # As it is made.


def test_a_border_within_the_interval_is_said(
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, store = save(tmp_path / "images", photographs(40)), tmp_path / "store"
    value = measured(backbone, folder, store)[0].value
    assert value is not None
    for above in (-1e-4, 1e-4):
        monkeypatch.setattr(pipelines.diagnostics.similarity, "BORDER", value + above)
        found = measured(backbone, folder, store)[0]
        assert (found.similar, found.side) == (None, "close to the border")
        assert _similar(found)[0] is None
        assert "close to the border" in _similar(found)[1]
    assert main(["similarity", str(folder), "--backbone", "tests.test_similarity:build"]) == 0
    assert f"Similarity {value:.2f}, close to the border" in capsys.readouterr().out


def test_class_weights_that_know_nothing_are_not_asked(image_folder: Path, tmp_path: Path) -> None:
    state = load_backbone("bundled").model.state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    torch.manual_seed(0)
    head = {f"classifier.{k}": v for k, v in nn.Linear(512, 1000).state_dict().items()}
    for name, content, words in (
        ("cut", kept, "the file of weights lacks 'classifier.weight'"),
        ("anew", kept | head, "'classifier.weight' cannot be distinguished from random ones"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        network = load_backbone("bundled", weights=tmp_path / f"{name}.pth")
        found, _ = measured(network, image_folder, tmp_path / "store")
        assert (found.value, found.side) == (None, "")
        assert words in found.witness


INITIALISATIONS: dict[str, Callable[[torch.Tensor], object]] = {
    "PyTorch's": lambda weight: None,
    "normal": lambda weight: nn.init.normal_(weight, 0, 0.01),
    "cut": lambda weight: nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04),
    "Glorot's": nn.init.xavier_uniform_,
    "He's": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
    "zeros": nn.init.zeros_,
}


@pytest.mark.parametrize("how", INITIALISATIONS)
@pytest.mark.parametrize("n_classes", [1, 2, 100])
def test_a_head_looks_untrained_until_it_is_trained(how: str, n_classes: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(64, n_classes)
    INITIALISATIONS[how](head.weight)
    assert looks_untrained(head.weight)
    features, labels = torch.rand(256, 64), torch.arange(256) % max(2, n_classes)
    features[torch.arange(256), labels % 64] += 3
    steps = torch.optim.SGD(head.parameters(), 0.3, momentum=0.9)
    for _ in range(100):
        steps.zero_grad()
        scores = head(features)
        if n_classes == 1:
            loss = nn.functional.binary_cross_entropy_with_logits(scores[:, 0], labels.float())
        else:
            loss = nn.functional.cross_entropy(scores, labels)
        loss.backward()
        steps.step()
    assert not looks_untrained(head.weight)


def test_published_heads_look_trained() -> None:
    head = class_weights(load_backbone("bundled").graph)
    assert head is not None
    assert head[0] == "classifier.weight"
    assert not looks_untrained(head[1])


def test_random_weights_know_nothing(image_folder: Path, tmp_path: Path) -> None:
    found, _ = measured(load_backbone("bundled", weights="none"), image_folder, tmp_path / "store")
    assert found.value is None
    assert "random" in found.witness


def test_evidence_leaves_the_network_as_it_was(backbone: Backbone, image_folder: Path) -> None:
    images = list_images([image_folder])
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    list(StatisticsReader(backbone).read(images, digest_images(images)))
    after = backbone.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module._forward_pre_hooks for module in backbone.model.modules())


@pytest.mark.parametrize("layout", ["flat", "classes"])
def test_the_command_measures_images_without_labels(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = photographs(40)
    if layout == "flat":
        folders = [save(tmp_path / "flat", cut)]
    else:
        folders = [tmp_path / "classes"]
        save(folders[0] / "a", cut[:20])
        save(folders[0] / "b", cut[20:])
    words = ["similarity", *map(str, folders), "--device", "cpu", "--backbone"]
    words.append("tests.test_similarity:build")
    assert main(words) == 0
    said = capsys.readouterr()
    assert main([*words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = record["similarity"]
    own = load_backbone("tests.test_similarity:build")
    assert found["value"] == measured(own, folders[0], tmp_path / "other")[0].value
    assert f"Similarity {found['value']:.2f}, similar" in said.out
    assert "40 images" in said.out
    check = record["preprocessing_check"]
    assert (check["in_use"], check["best"], check["level"]) == ("imagenet", "imagenet", None)


def test_the_command_lists_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "images", photographs(4))
    (folder / "broken.png").write_bytes(b"no image")
    words = ["similarity", str(folder), "--backbone", "bundled"]
    assert main(words) == 1
    refused = capsys.readouterr().err
    assert "broken.png" in refused
    assert "stored" not in refused, "no codes are"
    assert main([*words, "--skip-unreadable"]) == 0
    said = capsys.readouterr()
    assert "broken.png" in said.err
    assert "4 images" in said.out
    assert "no border" in said.out
    assert main(["similarity", "--backbone", "bundled"]) == 2
