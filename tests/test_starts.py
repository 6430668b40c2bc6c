"""Where networks can be cut, and what comes after, against hooks on the whole network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codes import CodeExtractor, Preprocessing, load_backbone
from codes.graph.starts import choose_starts, find_starts
from codes.graph.suffix import SeededDropout, Suffix
from codes.graph.traced_graph import measure_shapes
from codes.graph.tracing import trace


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squeezenet1_0", ["input", "features.8", "features.12"]),
        ("resnet18", ["input", "layer3", "layer4"]),
        ("densenet121", ["input", "features.denseblock3", "features.denseblock4"]),
        ("googlenet", ["input", "inception4c", "inception5a"]),
        ("mobilenet_v3_small", ["input", "features.7", "features.9"]),
        ("inception_v3", ["input", "Mixed_6c", "Mixed_7a"]),
        ("vit_b_16", ["input", *(f"encoder.layers.encoder_layer_{i}" for i in (6, 9))]),
    ],
)
def test_default_starts_are_the_last_stage_the_last_half_and_the_whole(
    name: str, expected: list[str]
) -> None:
    graph = load_backbone(name, weights="none").graph
    assert [start.name for start in choose_starts(graph)] == expected


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("layer4", "layer4"), ("layer4.0", "layer4"), ("layer4.0.conv1", "layer4"),
        ("maxpool", "layer1"), ("relu", "layer1"), ("conv1", "input"), ("layer3.1", "layer3.1"),
    ],
)  # fmt: skip
def test_a_start_may_be_called_by_whatever_begins_there(wanted: str, found: str) -> None:
    graph = load_backbone("resnet18", weights="none").graph
    [start] = choose_starts(graph, wanted)
    assert start.name == found


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ("layer4.0.conv2", ("layer4", "layer4.1")),  # Within a residual block.
        ("layer3.0.bn1", ("layer3", "layer3.1")),
        ("fc", ("layer4.1",)),
        ("layer5", ("layer4",)),
    ],
)
def test_where_no_cut_is_possible_the_nearest_are_named(
    wanted: str, nearest: tuple[str, ...]
) -> None:
    graph = load_backbone("resnet18", weights="none").graph
    with pytest.raises(ValueError, match=repr(wanted)) as error:
        choose_starts(graph, wanted)
    assert all(name in str(error.value).partition("Nearest")[2] for name in nearest)


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(12, 4), nn.Linear(4, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.body(x.flatten(1)))
        return self.one(x), self.two(x)


class _Shared(nn.Module):
    """One convolution on both sides of every place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last, self.fc = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 1),
            nn.Linear(3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.conv(x))))
        return self.fc(torch.relu(self.last(x)).mean((2, 3)))


def _traced(network: nn.Module, size: int = 2) -> Any:
    traced = trace(network.eval(), size)
    measure_shapes(traced, torch.zeros(1, 3, size, size))
    return traced


def test_a_network_with_several_outputs_is_refused_by_their_names() -> None:
    with pytest.raises(ValueError, match="one, two"):
        find_starts(_traced(_TwoHeads()))


class _Padded(nn.Conv2d):
    """A convolution that pads by itself, as TensorFlow's do, and is traced as a function."""

    def __init__(self, *channels: int) -> None:
        super().__init__(*channels, 3)
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.pad(x), self.weight, self.bias)


class _SamePadded(nn.Conv2d):
    """A convolution with standardised weights that pads by their shape and by the image's."""

    def __init__(self, *channels: int) -> None:
        super().__init__(*channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        pad = self.weight.shape[-1] - 1 + 0 * x.size()[-1]
        weight = self.weight - self.weight.mean()
        padded = nn.functional.pad(x, [pad // 2, pad - pad // 2] * 2)
        return nn.functional.conv2d(padded, weight, self.bias)


class _PaddedNetwork(nn.Module):
    def __init__(self, *, tied: bool = False, convolution: type[nn.Conv2d] = _Padded) -> None:
        super().__init__()
        self.one, self.two, self.three = (convolution(3, 3) for _ in range(3))
        self.fc = nn.Linear(3, 2)
        if tied:
            self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        for convolution in (self.one, self.two, self.three):
            x = torch.relu(convolution(x))
        return self.fc(x.mean((2, 3)))


def test_weights_are_not_shared_by_what_reads_their_shape_or_standardises_them() -> None:
    network = _PaddedNetwork(convolution=_SamePadded)
    traced = _traced(network, 8)
    starts = {start.name: start for start in find_starts(traced)}
    assert list(starts) == ["input", "two", "three"]
    preprocessing = Preprocessing(resize_size=8, crop_size=8)
    suffix = Suffix(traced, starts["two"], 2, preprocessing)
    with torch.inference_mode():
        read = torch.relu(network.one(torch.randn(4, 3, 8, 8)))
        wanted = torch.relu(network.three(torch.relu(network.two(read)))).mean((2, 3))
        assert torch.allclose(suffix.codes(read.flatten(1)), wanted, atol=1e-6)
    assert {name for name, _ in suffix.body.named_parameters()} == {
        f"{name}.{kind}" for name in ("two", "three") for kind in ("weight", "bias")
    }


def test_weights_that_functions_are_given_are_trained() -> None:
    traced = _traced(_PaddedNetwork(), 8)
    starts = {start.name: start for start in find_starts(traced)}
    assert list(starts) == ["input", "two.conv2d", "three.conv2d"]
    assert starts["input"].shape == (3, 8, 8)  # Not the padded image.
    [start] = choose_starts(traced, "three")
    suffix = Suffix(traced, start, 4, Preprocessing())
    trained = [name for name, p in suffix.body.named_parameters() if p.requires_grad]
    assert sorted(trained) == ["three.bias", "three.weight"]
    tied = find_starts(_traced(_PaddedNetwork(tied=True), 8))
    assert [start.name for start in tied] == ["input", "three.conv2d"]


def test_weights_that_are_used_twice_are_on_one_side() -> None:
    assert [start.name for start in find_starts(_traced(_Shared(), 8))] == ["input", "last"]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0", "bundled"])
def test_a_suffix_computes_what_the_whole_network_does(name: str) -> None:
    backbone = load_backbone(name, weights="none", image_size=64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    read: list[Tensor] = []
    last = [m for m in backbone.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    handle = last.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    with torch.inference_mode():
        backbone.model(backbone.preprocessing.normalize(pixels))
    handle.remove()
    [expected] = read
    if expected.ndim == 4:
        expected = expected.mean((2, 3))
    for start in find_starts(backbone.graph):
        suffix = Suffix(backbone.graph, start, 5, backbone.preprocessing)
        if start.name == "input":
            values = pixels.flatten(1) / 255
        else:
            values = next(
                iter(CodeExtractor(backbone, start.reads, pool="flatten")(pixels).values())
            )
        with torch.inference_mode():
            codes = suffix.codes(values)
        torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-5)


def test_frozen_is_frozen_and_dropout_is_on_in_training_only() -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=32)
    [start] = choose_starts(backbone.graph, "layer4")
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    values = torch.rand(6, *start.shape).flatten(1)
    for kind, changes in (("frozen", False), ("train", True)):
        suffix = Suffix(
            backbone.graph, start, 3, backbone.preprocessing, batch_norm=kind, dropout=0.5
        )
        statistics = {n: v.clone() for n, v in suffix.named_buffers()}
        suffix.train()
        suffix.train()  # Once more, as every training loop does.
        norms = [m for m in suffix.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert all(m.training == changes for m in norms)
        loss = nn.functional.cross_entropy(suffix(values), torch.tensor([0, 1, 2, 0, 1, 2]))
        loss.backward()
        torch.optim.SGD(suffix.parameters(), 0.1).step()
        changed = [not torch.equal(v, statistics[n]) for n, v in suffix.named_buffers()]
        assert any(changed) == changes
        suffix.eval()
        assert torch.equal(suffix(values), suffix(values))
        dropouts = [m for m in suffix.modules() if isinstance(m, SeededDropout)]
        assert dropouts
        assert not any(m.training for m in dropouts)
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_dropout_drops_its_share_from_a_seed_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    for whole in (False, True):
        layer = SeededDropout(0.25, generator, whole_channels=whole).train()
        values = torch.ones(50, 40, 6, 6)
        generator.manual_seed(1)
        first = layer(values)
        torch.rand(1000)  # What others draw changes nothing.
        generator.manual_seed(1)
        assert torch.equal(first, layer(values))
        assert first.unique().tolist() == pytest.approx([0.0, 4 / 3])
        assert (first == 0).float().mean() == pytest.approx(0.25, abs=0.03)
        assert ((first == 0).flatten(2).float().std(2).max() == 0) == whole
