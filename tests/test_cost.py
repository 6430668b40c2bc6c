"""What a layer costs, counted and timed."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from codes import Preprocessing, load_backbone
from codes.backbones.backbone import pixels_backbone
from codes.graph.cutting import cut_network
from codes.graph.taps import choose_taps
from pipelines.cli.app import main
from pipelines.extraction.cost import multiply_adds


def _by_hooks(network: nn.Module, example: Tensor) -> int:
    """Count what the convolutions and linear layers of a network multiply."""
    total = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        # Each value of the output is the product of as many values as a filter has.
        total += output.numel() * weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(example)
    return total


@pytest.mark.parametrize("name", ["bundled", "resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_multiply_adds_are_those_of_the_network_up_to_a_layer(name: str) -> None:
    weights = None if name == "bundled" else "none"
    backbone = load_backbone(name, weights=weights, image_size=64)
    counts = multiply_adds(backbone)
    assert counts == multiply_adds(backbone)
    assert list(counts) == [layer.name for layer in backbone.layers]
    for tap in choose_taps(backbone.graph, backbone.layers):
        network = cut_network(backbone.graph, [tap], "post")
        assert counts[tap.layer.name] == _by_hooks(network, torch.zeros(1, 3, 64, 64))


def test_any_node_that_is_named_is_compared(image_folder: Path, tmp_path: Path) -> None:
    status = main(
        ["compare", str(image_folder), "--backbone", "bundled", "--layers", "conv5.conv,fc7.relu",
         "--controls", "none", "--cv", "3", "--Cs", "1e-2,1", "--repeats", "1", "--jobs", "1",
         "--store", str(tmp_path / "store"), "--out", str(tmp_path)]
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["layer"] for row in report["layers"]} == {"conv5.conv", "fc7.relu"}
    backbone = load_backbone("bundled")
    counts = multiply_adds(backbone, ["conv5.conv"])
    assert counts["conv5.conv"] == counts["conv5.relu"]


def _own(monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> str:
    module = types.ModuleType("own_cost")
    steps = Preprocessing(resize_size=32, crop_size=32)
    module.network = lambda: (network, steps)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_cost", module)
    return "own_cost:network"


def test_attention_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    width, hidden, tokens = 16, 24, 17  # 4 x 4 patches and the class token.
    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=width, mlp_dim=hidden
    )
    counts = multiply_adds(load_backbone(_own(monkeypatch, network)))
    of_layer = tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)
    assert max(counts.values()) == 16 * width * 3 * 8**2 + 2 * of_layer
    assert torch.backends.mha.get_fastpath_enabled()


def test_where_nothing_can_be_counted_no_depth_is_cheaper(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert multiply_adds(pixels_backbone(Preprocessing())) == {"pixels": 0}
    network = nn.Sequential(nn.ReLU(), nn.MaxPool2d(4), nn.ReLU(), nn.Flatten())
    status = main(
        ["compare", str(image_folder), "--backbone", _own(monkeypatch, network), "--layers", "all",
         "--controls", "none", "--cv", "3", "--Cs", "1e-2,1", "--repeats", "1", "--jobs", "1",
         "--out", str(tmp_path)]
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["multiply_adds"] for row in report["layers"]} == {0}
    assert report["best"]["recommended"] == report["best"]["layer"]
    assert any("can be counted" in note for note in report["notes"])
