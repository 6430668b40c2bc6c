"""What a function of one's own returns, and what is read of it, stays as it was."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import weight_norm
from torchvision.models.feature_extraction import NodePathTracer

from codes import CodeExtractor, ImageList, load_backbone
from codes.backbones.backbone import digest_weights
from codes.data.sources import ArraySource
from codes.graph.copying import copy_module
from codes.graph.tracing import trace
from codes.inference.tuning import _PackedConvolution


class Net(nn.Module):
    """Reads a buffer and a shape of layers that it calls as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.norm.register_buffer("shift", torch.ones(8, 1, 1), persistent=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)) + self.norm.shift)
        return self.head(x.mean((2, 3)) * self.conv.weight.shape[0])


class Normed(Net):
    """Its convolution computes its weight of two parameters, which no module initialises."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = weight_norm(self.conv)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.head(self.relu(self.attention(tokens, tokens, tokens)[0]).mean(1))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stand for a module of a user's."""
    module = types.ModuleType("own_copies")
    monkeypatch.setitem(sys.modules, "own_copies", module)
    return module


@pytest.fixture
def images() -> ImageList:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    source = ArraySource(pixels, name="noise")
    return ImageList(name="noise", source=source, labels=np.array(["a"] * 4), ignored={})


def test_a_network_that_a_function_keeps_stays_as_it_was(
    own: types.ModuleType, images: ImageList, tmp_path: Path
) -> None:
    kept = Net().train()
    own.net = lambda: kept  # type: ignore[attr-defined]
    digest = digest_weights(kept)
    torch.save({key: value + 1 for key, value in kept.state_dict().items()}, tmp_path / "w.pth")
    for weights in (None, tmp_path / "w.pth", "none", None):
        backbone = load_backbone("own_copies:net", weights=weights, image_size=16)
        before = backbone.model.state_dict().keys()
        list(CodeExtractor(backbone, "relu").extract(images))
        assert backbone.model.state_dict().keys() == before
        assert (backbone.weights_digest == digest) == (weights is None)
        assert digest_weights(backbone.model) == backbone.weights_digest
    assert digest_weights(kept) == digest
    assert all(module.training for module in kept.modules())
    assert all(value.requires_grad for value in kept.parameters())


def test_what_cannot_be_copied_is_refused(own: types.ModuleType) -> None:
    class Locked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    own.net = Locked  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"Locked.*lock"):
        load_backbone("own_copies:net", image_size=16)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_computed_weight_is_copied() -> None:
    network = Normed().eval()
    copied = copy_module(network)
    nn.init.zeros_(network.conv.weight_g)
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert not torch.equal(copied(images), network(images))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_random_weights_are_drawn_or_refused(own: types.ModuleType) -> None:
    own.attention, own.normed = Attention, Normed  # type: ignore[attr-defined]
    plain, random = (
        load_backbone("own_copies:attention", weights=weights, image_size=16, random_state=seed)
        for seed, weights in enumerate((None, "none"))
    )
    drawn = dict(random.model.named_parameters())
    for key, value in plain.model.named_parameters():
        assert drawn[key].isfinite().all()
        assert "bias" in key or not torch.equal(drawn[key], value), key
    with pytest.raises(ValueError, match=r"conv\.weight_g"):
        load_backbone("own_copies:normed", weights="none", image_size=16)


def test_shapes_are_read_as_they_ever_were() -> None:
    # What identifies a network is its graph: stored codes of networks that always worked stay.
    network = Net().eval()
    assert str(trace(network).graph) == str(NodePathTracer().trace(network))


def test_a_convolution_is_not_kept_twice() -> None:
    extractor = CodeExtractor(load_backbone("squeezenet1_1", weights="none", image_size=64))
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    first = extractor(pixels)
    packed = [
        module
        for module in extractor._reader._network.modules()  # type: ignore[attr-defined]
        if isinstance(module, _PackedConvolution)
    ]
    assert all(module._weight is None for module in packed)
    for layer, codes in extractor(pixels).items():
        assert torch.equal(codes, first[layer])
