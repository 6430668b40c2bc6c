"""Which layers are found, what they are called, and which are chosen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from codes.graph import trace
from codes.layers import find_layers, select_layers


def _layers(model: nn.Module, size: int = 64):
    traced = trace(model.eval())
    return traced, find_layers(traced, torch.zeros(1, 3, size, size))


def _default(name: str, size: int = 224) -> list[str]:
    _, layers = _layers(models.get_model(name, weights=None), size)
    return [layer.name for layer in layers if layer.default]


def test_alexnet_stages_then_fc6_and_fc7() -> None:
    assert _default("alexnet") == [
        "features.1", "features.4", "features.11", "classifier.2", "classifier.5",
    ]  # fmt: skip


def test_resnet50_takes_block_outputs_not_the_branch_that_still_has_the_resolution() -> None:
    # layer2.0.relu is at layer1's resolution, inside the first block of layer2.
    assert _default("resnet50") == [
        "relu", "layer1.2.relu_2", "layer2.3.relu_2", "layer3.5.relu_2", "layer4.2.relu_2",
    ]  # fmt: skip


def test_squeezenet_takes_the_concatenations_and_fire9_before_the_class_scores() -> None:
    assert _default("squeezenet1_0") == [
        "features.1", "features.5.cat", "features.10.cat", "features.12.cat", "classifier.2",
    ]  # fmt: skip


def test_convnext_is_channels_last_and_ends_with_what_its_classifier_reads() -> None:
    _, layers = _layers(models.convnext_tiny(weights=None), 64)
    assert {layer.layout for layer in layers if layer.kind == "gelu"} == {"nhwc"}
    assert layers[0].shape == (384, 16, 16)
    assert (layers[-1].kind, layers[-1].shape[0], layers[-1].default) == ("penultimate", 768, True)


def test_gates_are_no_layers() -> None:
    model = models.mobilenet_v3_small(weights=None)
    names = {layer.name for layer in _layers(model)[1]}
    squeezes = {
        f"{name}.activation"
        for name, module in model.named_modules()
        if type(module).__name__ == "SqueezeExcitation"
    }
    assert squeezes
    assert not names & squeezes


def test_depth_rises_from_input_to_output() -> None:
    for name in ("densenet121", "googlenet"):
        kwargs = {"init_weights": False} if name == "googlenet" else {}
        _, layers = _layers(models.get_model(name, weights=None, **kwargs))
        chosen = [layer.depth for layer in layers if layer.default]
        assert chosen == sorted(chosen)
        assert 0 < chosen[0] < 0.2 < 0.9 < chosen[-1] <= 1


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.b(self.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))


def test_one_relu_called_twice_is_two_layers() -> None:
    _, layers = _layers(_Twice(), 8)
    assert [(layer.name, layer.shape[0]) for layer in layers] == [("relu", 4), ("relu_1", 5)]


def test_selection_by_name_expression_and_any_node() -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    chosen = select_layers(traced, layers, "avgpool,layer[12].*relu_1,relu")
    assert [layer.name for layer in chosen] == [
        "relu", "layer1.0.relu_1", "layer1.1.relu_1", "layer2.0.relu_1", "layer2.1.relu_1",
        "avgpool",
    ]  # fmt: skip
    assert chosen[-1].kind == "node"
    assert select_layers(traced, layers, "all") == layers


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("layer4.1.relu1", "Nearest: layer4.1.relu_1"), ("(", "no regular expression")],
)
def test_unknown_layers_are_named_with_the_nearest(wanted: str, message: str) -> None:
    traced, layers = _layers(models.resnet18(weights=None))
    with pytest.raises(ValueError, match="(?s).*" + message.replace(".", r"\.")):
        select_layers(traced, layers, wanted)


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_says_so() -> None:
    with pytest.raises(ValueError, match="must not branch"):
        trace(_Branching())
