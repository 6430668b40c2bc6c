"""Networks as people write them: their codes are those of hooks, and they stay as they are."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from codes import Backbone, CodeExtractor, ImageList, load_backbone
from codes.data.sources import ArraySource
from codes.graph.copying import copy_network, move_network
from codes.graph.tracing import trace
from codes.inference.equivalence import GraphDiffersError
from codes.similarity_statistics import StatisticsReader


class Plain(nn.Module):
    """Convolutions with batch normalisation, a reused weight nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 4)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def codes(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x))


class NoneByDefault(Plain):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:  # type: ignore[override]
        codes = self.codes(x)
        return self.head(F.normalize(codes) if labels is None else codes)


class FlagByDefault(Plain):
    def forward(self, x: Tensor, flag: bool = False, *, scale: float = 2.0) -> Tensor:  # type: ignore[override]
        codes = self.codes(x) * scale
        return self.head(codes if flag else codes.square())


class Collecting(Plain):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return self.head(self.codes(x) if args or kwargs else -self.codes(x))


class ReadsType(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = x.type(self.conv.weight.dtype).to(self.conv.weight.device)
        if self.conv.weight.dtype == torch.float64 or self.conv.weight.shape[0] != 8:
            x = x * 0
        return super().forward(x)


class ReadsParameters(Plain):
    def forward(self, x: Tensor) -> Tensor:
        first = next(self.parameters())
        return super().forward(x.to(device=first.device, dtype=first.dtype))


class ReadsWeight(Plain):
    """The weight of a convolution counts twice: a norm must not be folded into it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x) + self.conv.weight.mean((1, 2, 3)))


class ChecksShapes(Plain):
    """What people write at the top of a forward pass; none of it depends on the images."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        assert x.size(1) in (1, 3)
        if x.shape[-1] != 32 or tuple(x.shape[1:]) != (3, 32, 32):
            raise ValueError(f"wants 32 pixels, not {x.shape}")
        if len(x.shape) == 3 or x.ndim == 3:
            x = x[None]
        if x.dtype != torch.float32 or x.is_cuda or not x.is_floating_point():
            x = x.float() * 0
        return super().forward(x)


class PadsAndCounts(Plain):
    """What is known of shapes is used: for padding, in loops, as numbers."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        if height % 5 or width % 5:
            x = F.pad(x, (0, 5 - width % 5, 0, 5 - height % 5))
        for channel in range(channels):
            x = x * (1 + channel / int(height / 2))
        x = x.view(n, *x.shape[1:3], -1) / max(width, 3)
        return super().forward(x if self.conv.weight.size(0) > 3 else -x)


class Tied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 8, 5, 4)
        self.again.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.codes(x) + self.again(x).relu().mean((2, 3)))


class NoSelf(Plain):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


class NoSelfWithin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = NoSelf()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


NETWORKS = (
    Plain, NoneByDefault, FlagByDefault, Collecting, ReadsType, ReadsParameters, ReadsWeight,
    ChecksShapes, PadsAndCounts, Tied, NoSelf, NoSelfWithin,
)  # fmt: skip


def _made(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight)
    return network


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], nn.Module]], Backbone]]:
    """Load a network as a function of a module of one's own."""
    module = types.ModuleType("own_networks")
    monkeypatch.setitem(sys.modules, "own_networks", module)

    def load(kind: Callable[[], nn.Module]) -> Backbone:
        setattr(module, "network", lambda: _made(kind))  # noqa: B010
        return load_backbone("own_networks:network", image_size=32)

    return load


@pytest.fixture
def images() -> ImageList:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 40, 36, 3), dtype=np.uint8)
    source = ArraySource(pixels, name="noise")
    return ImageList(name="noise", source=source, labels=np.array(["a"] * 6), ignored={})


def _ours(backbone: Backbone, images: ImageList, layer: str, **options: Any) -> NDArray[Any]:
    return np.concatenate(
        [b.codes[layer] for b in CodeExtractor(backbone, layer, **options).extract(images)]
    )


def _own(kind: Callable[[], nn.Module], backbone: Backbone, images: ImageList) -> NDArray[Any]:
    network = _made(kind)
    network.eval()
    kept: list[Tensor] = []
    network.get_submodule("head").register_forward_hook(lambda *given: kept.append(given[2]))
    preprocessing = backbone.preprocessing
    pixels = torch.stack([preprocessing.crop(images.source.open(i)) for i in range(len(images))])
    with torch.inference_mode():
        network(preprocessing.normalize(pixels))
    return kept[0].numpy()


@pytest.mark.parametrize("kind", NETWORKS)
def test_codes_are_those_of_the_network_called_with_images_alone(
    kind: Callable[[], nn.Module],
    own: Callable[[Callable[[], nn.Module]], Backbone],
    images: ImageList,
) -> None:
    backbone = own(kind)
    expected = _own(kind, backbone, images)
    largest = np.abs(expected).max()
    assert np.abs(_ours(backbone, images, "head") - expected).max() < 1e-5 * largest
    rough = _ours(backbone, images, "head", precision="bfloat16")
    assert 0 < np.abs(rough - expected).max() < 0.05 * largest


def test_a_required_argument_is_named(own: Callable[..., Backbone]) -> None:
    class Needs(Plain):
        def forward(self, x: Tensor, prompt: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x + prompt)

    with pytest.raises(ValueError, match="'prompt'"):
        own(Needs)


def test_a_check_of_shapes_leaves_no_trace() -> None:
    checked, plain = trace(_made(ChecksShapes).eval(), 32), trace(_made(Plain).eval(), 32)
    assert str(checked.graph) == str(plain.graph)
    assert list(checked.nodes) == list(plain.nodes)


class BranchesOnValues(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x if x.max().item() > 1 else -x


class BranchesOnNumber(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[0] > 500 else -x)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (BranchesOnValues, ["values", "return x if x.max().item() > 1 else -x", "torch.where"]),
        (BranchesOnNumber, ["number of images", "if x.shape[0] > 500", "take the branch away"]),
        (ChecksShapes, ["64 x 64", "wants 32 pixels", "raise ValueError", "--image-size"]),
    ],
)
def test_what_a_forward_pass_branches_on_is_named_with_its_line(
    kind: type[nn.Module], words: list[str]
) -> None:
    with pytest.raises(
        ValueError, match=rf"^{kind.__name__} .*test_networks\.py, line \d+"
    ) as error:
        trace(_made(kind).eval(), 64)
    assert all(word in str(error.value) for word in words)


def test_a_network_that_goes_on_training_is_named(own: Callable[..., Backbone]) -> None:
    class Stubborn(Plain):
        def train(self, mode: bool = True) -> Stubborn:
            super().train(mode)
            self.norm.train()
            return self

    with pytest.raises(ValueError, match="'norm' \\(BatchNorm2d\\)"):
        own(Stubborn)


def test_a_graph_that_answers_otherwise_is_refused_with_both_numbers(
    own: Callable[..., Backbone], images: ImageList
) -> None:
    class Hooked(Plain):  # What is done to the answer of the whole network is not traced.
        def __init__(self) -> None:
            super().__init__()
            self.register_forward_hook(lambda module, given, answer: answer + 1)

    extractor = CodeExtractor(own(Hooked), "head")
    with pytest.raises(GraphDiffersError) as refused:
        next(iter(extractor.extract(images)))
    one, other = map(float, re.findall(r"with (-?\d+\.\d+)", str(refused.value)))
    assert one - other == pytest.approx(1, abs=1e-4)


def test_the_graph_is_compared_once(own: Callable[..., Backbone], images: ImageList) -> None:
    backbone = own(Plain)
    calls: list[int] = []
    backbone.model.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    extractor = CodeExtractor(backbone)
    for _ in range(2):
        list(extractor.only([extractor.taps[0].name]).extract(images, batch_size=2))
    assert calls == [2]


def test_nothing_that_reads_a_network_changes_it(
    images: ImageList, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=32)
    modules = {id(module) for module in backbone.model.modules()}
    tensors = [*backbone.model.parameters(), *backbone.model.buffers()]
    before = [(value.data_ptr(), value.stride(), value.clone()) for value in tensors]
    settings = [dict(vars(module)) for module in backbone.model.modules()]
    moved: set[int] = set()
    apply = nn.Module._apply

    def spy(module: nn.Module, *given: Any, **options: Any) -> nn.Module:
        moved.add(id(module))
        return apply(module, *given, **options)

    monkeypatch.setattr(nn.Module, "_apply", spy)
    digests = np.zeros((len(images), 32), np.uint8)
    for _ in range(2):
        for precision in ("float32", "bfloat16"):
            _ours(backbone, images, "layer1.0.relu", precision=precision)
            _ours(backbone, images, "layer1.0.relu", precision=precision, activation="pre")
        list(StatisticsReader(backbone).read(images, digests))
    assert moved
    assert not moved & modules
    after = [(value.data_ptr(), value.stride()) for value in tensors]
    assert after == [kept[:2] for kept in before]
    assert all(torch.equal(value, kept[2]) for value, kept in zip(tensors, before, strict=True))
    assert [dict(vars(module)) for module in backbone.model.modules()] == settings


def test_a_copy_is_moved_alone_and_what_is_tied_stays_tied() -> None:
    network = _made(Tied).eval()
    traced = trace(network)
    copied = copy_network(network, traced.graph)
    assert copied.get_parameter("conv.weight") is copied.get_parameter("again.weight")
    assert copied.get_parameter("conv.weight") is not network.get_parameter("conv.weight")
    twice = copy_network(network, traced.graph)
    move_network(twice, torch.device("meta"))
    assert twice.get_parameter("conv.weight").is_meta
    others = [network, copied]
    assert not any(value.is_meta for module in others for value in module.parameters())
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(copied(x), deepcopy(network)(x))


def test_devices_that_a_forward_pass_names_go_along() -> None:
    network = _made(ReadsType).eval()
    copied = move_network(copy_network(network, trace(network).graph), torch.device("meta"))
    assert copied(torch.rand(2, 3, 32, 32, device="meta")).is_meta
