"""Random weights of networks of one's own: nothing that training left in them survives."""

from __future__ import annotations

import json
import sys
import types
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from codes import load_backbone
from pipelines.cli.app import main


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
