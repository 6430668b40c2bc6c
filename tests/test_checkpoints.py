"""Checkpoints as training scripts write them: seen through, said, and never filled in by chance."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops.misc import FrozenBatchNorm2d

from codes import load_backbone, load_images
from codes.backbones.backbone import digest_weights
from codes.backbones.state_dicts import find_weights, read_checkpoint
from codes.extractor import CodeExtractor
from codes.similarity_statistics import StatisticsReader
from pipelines.cli.app import main


def _state(num_classes: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(models.resnet18(num_classes=num_classes).state_dict())


def _prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in _state().items()}


def _load(file: Path, name: str = "resnet18", **options: Any) -> Any:
    return load_backbone(name, weights=file, image_size=64, **options)


FORMS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "plain": (_state, []),
    "data-parallel": (lambda: _prefixed("module."), ["module."]),
    "compiled": (lambda: _prefixed("_orig_mod."), ["_orig_mod."]),
    "both": (lambda: {"model": _prefixed("module._orig_mod.")}, ["model", "module._orig_mod."]),
    "lightning": (
        lambda: {
            "state_dict": {**_prefixed("model."), "loss.weight": torch.ones(7)},
            "epoch": 3, "hyper_parameters": {"lr": 0.1},
        },
        ["state_dict", "model.", "loss.weight"],
    ),
    "nested twice": (lambda: {"a": {"net": _prefixed("backbone.")}}, ["a.net", "backbone."]),
    "with settings": (
        lambda: {
            "model": _state(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9),
            "n": np.uint8(3), "mean": np.ones(3), "by": np.array(["top-1"]), "random":
            np.random.RandomState(0).get_state(), "names": np.array([{}, None], object),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        },
        ["model"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_what_is_around_the_weights_is_seen_through_and_said(form: str, tmp_path: Path) -> None:
    made, words = FORMS[form]
    torch.save(made(), tmp_path / "last.ckpt")
    backbone = _load(tmp_path / "last.ckpt")
    expected = models.resnet18(num_classes=7)
    expected.load_state_dict(_state())
    assert backbone.weights_digest == digest_weights(expected)
    assert str(tmp_path / "last.ckpt") in backbone.weights
    for word in (*words, "7 classes"):
        assert word in backbone.weights


def test_two_sets_that_fit_are_both_named(tmp_path: Path) -> None:
    state = _state()
    average = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": average}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"'model' and 'ema'.*two\.pt::model.*two\.pt::ema"):
        _load(tmp_path / "two.pt")
    torch.save({"model": state, "again": state}, tmp_path / "same.pt")
    assert "under 'model'" in _load(tmp_path / "same.pt").weights


def _headless(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def _pair(first: str, second: str) -> dict[str, Tensor]:
    """Two networks in one state dict, of which the second, another, lacks its head."""
    other = {f"{second}{key}": value + 1 for key, value in _headless(_state()).items()}
    return _prefixed(first) | other


@pytest.mark.parametrize(
    ("made", "first", "second"),
    [
        (
            lambda: {"state_dict": _pair("module.encoder_q.", "module.encoder_k.")},
            "state_dict.module.encoder_q",
            "state_dict.module.encoder_k",
        ),
        (lambda: _pair("online.net.", "target.net."), "online.net", "target.net"),
        (lambda: _pair("model.", "model_ema.module."), "model", "model_ema.module"),
        (lambda: _pair("", "ema."), "", "ema"),
        (
            lambda: {
                "student": _prefixed("module.backbone."),
                "teacher": {k: v + 1 for k, v in _headless(_state()).items()},
            },
            "student.module.backbone",
            "teacher",
        ),
    ],
)
def test_of_two_networks_in_a_file_one_is_named(
    made: Callable[[], Any], first: str, second: str, tmp_path: Path
) -> None:
    file, wanted = tmp_path / "two.pth", _state()
    torch.save(made(), file)
    found = read_checkpoint(file)
    with pytest.raises(ValueError, match="two sets of tensors") as error:
        find_weights(found, wanted, origin=str(file))
    assert f"{first!r} and {second!r}" in str(error.value)
    assert f"--weights {file}::{first} or {file}::{second}." in str(error.value)
    for place, more in ((first, 0), (second, 1), (f"{second}.", 1)):
        state = find_weights(found, wanted, origin=str(file), place=place).state
        assert torch.equal(state["conv1.weight"], wanted["conv1.weight"] + more)
    with pytest.raises(ValueError, match=f"at 'encoder'.*{first!r}, {second!r}"):
        find_weights(found, wanted, origin=str(file), place="encoder")


def test_a_place_in_a_file_of_weights_is_read_and_said(tmp_path: Path) -> None:
    file = f"{tmp_path / 'two.pth'}::online.net"
    torch.save(_pair("online.net.", "target.net."), tmp_path / "two.pth")
    backbone = _load(Path(file))
    expected = models.resnet18(num_classes=7)
    expected.load_state_dict(_state())
    assert backbone.weights_digest == digest_weights(expected)
    assert backbone.weights.startswith(f"{file} (prefix 'online.net.' removed")


def test_a_part_that_is_the_same_does_not_count() -> None:
    found = {"cut": _headless(_state()), "whole": _state()}
    assert find_weights(found, _state(), origin="f.pth").said == ("under 'whole'",)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "efficientnet_b0", "densenet121"])
def test_a_head_of_another_size_is_the_files(name: str, tmp_path: Path) -> None:
    torch.save(models.get_model(name, weights=None, num_classes=5).state_dict(), tmp_path / "f.pth")
    backbone = _load(tmp_path / "f.pth", name)
    *_, last = backbone.graph.graph.nodes
    assert last.args[0].meta["shape"][1] == 5


def headed() -> nn.Module:
    """Make a small VGG: its head is of three fully-connected layers."""
    head = nn.Sequential(
        nn.Linear(36, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout(),
        nn.Linear(8, 5),
    )  # fmt: skip
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3))
    return nn.Sequential(OrderedDict(features=features, flatten=nn.Flatten(), classifier=head))


def test_layers_before_a_head_that_is_missing_are_read_and_no_others(
    tmp_path: Path, image_folder: Path
) -> None:
    name = f"{__name__}:headed"
    whole = headed().state_dict()
    cut = {k: v for k, v in whole.items() if not k.startswith("classifier.3")}
    cut = {k: v for k, v in cut.items() if not k.startswith("classifier.6")}
    torch.save(whole, tmp_path / "whole.pth")
    torch.save({**cut, "projector.0.weight": torch.zeros(3)}, tmp_path / "cut.pth")
    all_of_it, backbone = (_load(tmp_path / f"{kept}.pth", name) for kept in ("whole", "cut"))
    assert "classifier.3.weight" in backbone.weights
    assert "projector.0.weight" in backbone.weights
    names = [layer.name for layer in backbone.layers]
    assert names == [layer.name for layer in all_of_it.layers if layer.name != "classifier.4"]
    images = load_images(image_folder).take(np.arange(3))
    for layer in (names[0], "classifier.1"):
        ours, theirs = (
            next(iter(CodeExtractor(it, layer).extract(images))).codes[layer]
            for it in (backbone, all_of_it)
        )
        np.testing.assert_array_equal(ours, theirs)
    for layer in ("classifier.4", "classifier.3"):
        with pytest.raises(ValueError, match=r"classifier\.3\.weight"):
            CodeExtractor(backbone, layer)
    assert StatisticsReader(backbone).widths == {}
    assert _load(tmp_path / "cut.pth", name).weights_digest == backbone.weights_digest


def test_a_missing_normalisation_is_not_measured_by(tmp_path: Path) -> None:
    seen = {k: v + 0.1 if "running" in k else v for k, v in _state().items()}
    kept = {k: v for k, v in seen.items() if not k.startswith(("layer4.1.bn2", "fc"))}
    torch.save(kept, tmp_path / "cut.pth")
    backbone = _load(tmp_path / "cut.pth")
    assert "layer4.1.bn2" not in StatisticsReader(backbone).widths
    assert "layer4.1.bn1" in StatisticsReader(backbone).widths
    assert backbone.layers[-1].name == "layer4.1.relu"


@pytest.mark.parametrize(
    ("file", "network", "named", "advised"),
    [
        ("resnet34", "resnet18", "layer1.2", True),  # All that it needs is there, and more.
        ("resnet18", "resnet34", "layer1.2", True),  # A gap is not a tail.
        ("resnet18", "resnet50", "Other shape", True),
        ("alexnet", "resnet18", "features.0.weight", True),
    ],
)
def test_another_architecture_is_a_mismatch(
    file: str, network: str, named: str, advised: bool, tmp_path: Path
) -> None:
    torch.save(models.get_model(file, weights=None).state_dict(), tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"(?s)f\.pth") as refused:
        _load(tmp_path / "f.pth", network)
    assert named in str(refused.value)


def test_a_wrong_tensor_is_named_without_doubting_the_architecture(tmp_path: Path) -> None:
    state = _state()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "gray.pth")
    with pytest.raises(ValueError, match=r"conv1\.weight \(file \(64, 1, 7, 7\)") as refused:
        _load(tmp_path / "gray.pth")
    assert "--backbone" not in str(refused.value)


class Trainer:
    """An object of a training script."""


def test_files_that_would_run_code_are_refused_with_the_class(tmp_path: Path) -> None:
    torch.save({"model": _state(), "trainer": Trainer()}, tmp_path / "run.ckpt")
    with pytest.raises(ValueError, match=r"tests\.test_checkpoints\.Trainer"):
        _load(tmp_path / "run.ckpt")
    torch.save(models.resnet18(), tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="a whole model"):
        _load(tmp_path / "whole.pt")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="not a file of weights"):
        _load(tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        _load(tmp_path / "absent.ckpt")


class Small(nn.Module):
    """A network of one's own, with a norm that has seen images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 2)
        nn.init.constant_(self.conv.weight, 0.1)
        nn.init.constant_(self.norm.weight, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.norm(self.conv(x))).mean((2, 3)))


class Scaled(Small):
    """Part of it, no module can initialise."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_small")
    kept = Small()
    module.small = lambda: kept  # type: ignore[attr-defined]  # The same one each time.
    module.scaled = Scaled  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_small", module)
    return module


def test_random_weights_of_ones_own_network(own_module: types.ModuleType) -> None:
    plain = load_backbone("own_small:small", image_size=16)
    a, b, c = (
        load_backbone("own_small:small", weights="none", image_size=16, random_state=seed)
        for seed in (0, 0, 1)
    )
    assert a.weights_digest == b.weights_digest
    assert len({plain.weights_digest, a.weights_digest, c.weights_digest}) == 3
    assert torch.equal(a.model.get_parameter("norm.weight"), torch.ones(4))
    assert torch.equal(plain.model.get_parameter("norm.weight"), torch.full((4,), 3.0))
    assert a.weights.startswith("random")
    with pytest.raises(ValueError, match="scale"):
        load_backbone("own_small:scaled", weights="none", image_size=16)


@pytest.mark.parametrize(("function", "scored"), [("small", True), ("scaled", False)])
def test_a_control_is_scored_or_the_reason_is_said(
    function: str,
    scored: bool,
    own_module: types.ModuleType,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(
        ["compare", str(image_folder), "--backbone", f"own_small:{function}", "--image-size", "16",
         "--layers", "relu", "--controls", "random,concatenated", "--cv", "3", "--Cs", "1e-2,1",
         "--repeats", "1", "--jobs", "1", "--out", str(tmp_path / "out")]
    )  # fmt: skip
    assert status == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [control["name"] for control in report["controls"]] == ["random"] * scored
    notes = " ".join(report["notes"])
    assert "concatenated" in notes
    assert ("control random was left out" in notes) != scored
    assert ("scale" in notes) != scored
    assert notes.split(":")[0] in capsys.readouterr().out


def test_what_was_seen_through_is_said_wherever_a_backbone_is_named(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"module.{k}": v for k, v in load_backbone("bundled").model.state_dict().items()}
    file = tmp_path / "last.ckpt"
    torch.save({"net": state}, file)
    network = ["--backbone", "bundled", "--weights", str(file)]
    for words in (["layers"], ["similarity", str(image_folder)]):
        assert main([*words, *network]) == 0
        [said] = [line for line in capsys.readouterr().err.splitlines() if "Weights" in line]
        assert all(part in said for part in (str(file), "under 'net'", "prefix 'module.'"))
    status = main(
        ["compare", str(image_folder), *network, "--layers", "fc7.relu", "--controls", "none",
         "--cv", "3", "--Cs", "1e-2,1", "--repeats", "1", "--jobs", "1", "--out", str(tmp_path)]
    )  # fmt: skip
    assert status == 0
    report = (tmp_path / "report.md").read_text()
    [said] = [line for line in report.splitlines() if line.startswith("Backbone")]
    assert all(part in said for part in ("last.ckpt", "under 'net'", "prefix 'module.'"))


class Frozen(nn.Module):
    """A network as detectors keep it: all that its normalisations know is in buffers."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 4, 3, bias=False), norm, nn.ReLU()
        self.register_buffer("constant", torch.full((1,), 7.0), persistent=False)
        self.register_buffer("index", torch.arange(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(self.norm(self.conv(x - self.constant)))
        return out.mean((2, 3))[:, self.index]


class Whitening(nn.Module):
    """Statistics of training under names of their own, and nothing that initialises them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.full((4, 1, 1), 3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.center


class WhiteningAgain(Whitening):
    """The same, with what initialises it."""

    def reset_parameters(self) -> None:
        self.center = torch.zeros(4, 1, 1)


def test_no_statistic_of_training_survives_random_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = FrozenBatchNorm2d(4)
    for number, value in enumerate(frozen.buffers()):
        value.copy_(torch.arange(4) + number + 2.0)
    module = types.ModuleType("own_frozen")
    for name, norm in (("frozen", frozen), ("white", Whitening()), ("again", WhiteningAgain())):
        setattr(module, name, partial(Frozen, norm))
    monkeypatch.setitem(sys.modules, "own_frozen", module)
    found = load_backbone("own_frozen:frozen", weights="none", image_size=16).model.state_dict()
    for name, value in FrozenBatchNorm2d(4).state_dict().items():  # As it is made.
        assert torch.equal(found[f"norm.{name}"], value), name
    assert torch.equal(found["index"], torch.arange(4))
    assert torch.equal(frozen.running_var, torch.arange(4) + 5.0)  # Not the user's own.
    plain = load_backbone("own_frozen:frozen", image_size=16).model.state_dict()
    assert torch.equal(plain["norm.running_var"], torch.arange(4) + 5.0)
    with pytest.raises(ValueError, match=r"norm\.center"):
        load_backbone("own_frozen:white", weights="none", image_size=16)
    again = load_backbone("own_frozen:again", weights="none", image_size=16).model
    assert torch.equal(again.get_buffer("norm.center"), torch.zeros(4, 1, 1))
    assert torch.equal(again.get_buffer("constant"), torch.full((1,), 7.0))
