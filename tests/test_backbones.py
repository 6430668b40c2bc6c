"""Where weights come from, and what is said when they do not fit."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from codes import Preprocessing, load_backbone
from codes.backbones import building
from codes.backbones.backbone import digest_weights
from codes.backbones.fingerprint import fingerprint
from codes.graph.tracing import trace


def _alexnet_like(tmp_path: Path, name: str, **arguments: int) -> Path:
    torch.manual_seed(3)
    file = tmp_path / name
    torch.save(models.squeezenet1_1(weights=None, **arguments).state_dict(), file)
    return file


def test_preprocessing_equals_torchvisions_transforms() -> None:
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (300, 417, 3), dtype=np.uint8)
    )
    for name in ("resnet50", "efficientnet_b0", "vit_b_16"):
        preset = models.get_model_weights(name).DEFAULT.transforms()
        ours = Preprocessing.from_torchvision(preset)
        levels = (ours.normalize(ours.crop(image)[None])[0] - preset(image)) * 255
        levels *= torch.tensor(ours.std)[:, None, None]
        # Pillow resizes there, PyTorch here; both round to whole levels, twice.
        assert levels.abs().max() <= 1.01, name
        assert levels.abs().mean() < 0.01, name


def test_another_size_resizes_in_proportion() -> None:
    assert Preprocessing().at_size(112) == Preprocessing(resize_size=128, crop_size=112)
    with pytest.raises(ValueError, match="image_size=0"):
        Preprocessing().at_size(0)


def test_weights_from_files_are_the_same_weights(tmp_path: Path) -> None:
    file = _alexnet_like(tmp_path, "mine.pth")
    state = torch.load(file, weights_only=True)
    save_file(state, tmp_path / "mine.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "ddp.pt")
    digests = {
        load_backbone("squeezenet1_1", weights=tmp_path / name, image_size=64).weights_digest
        for name in ("mine.pth", "mine.safetensors", "ddp.pt")
    }
    model = models.squeezenet1_1(weights=None)
    model.load_state_dict(state)
    assert digests == {digest_weights(model)}


def test_fine_tuned_weights_keep_their_number_of_classes(tmp_path: Path) -> None:
    file = _alexnet_like(tmp_path, "seven.pth", num_classes=7)
    backbone = load_backbone("squeezenet1_1", weights=file, image_size=64)
    assert backbone.layers[-1].shape[0] == 7


def test_weights_of_a_network_that_is_not_made_without_values(tmp_path: Path) -> None:
    for num_classes in (1000, 7):
        model = models.regnet_y_400mf(weights=None, num_classes=num_classes)
        torch.save(model.state_dict(), tmp_path / "regnet.pth")
        loaded = load_backbone("regnet_y_400mf", weights=tmp_path / "regnet.pth", image_size=64)
        assert loaded.weights_digest == digest_weights(model)


def test_weights_of_a_network_that_asks_for_their_version(tmp_path: Path) -> None:
    model = models.mnasnet0_5(weights=None)
    torch.save(model.state_dict(), tmp_path / "mnasnet.pth")
    save_file(model.state_dict(), tmp_path / "mnasnet.safetensors")
    for name in ("mnasnet.pth", "mnasnet.safetensors"):
        loaded = load_backbone("mnasnet0_5", weights=tmp_path / name, image_size=64)
        assert loaded.weights_digest == digest_weights(model)


def test_random_weights_follow_their_seed_and_touch_no_global_state() -> None:
    before = torch.get_rng_state()
    a, b, c = (
        load_backbone("squeezenet1_1", weights="none", image_size=64, random_state=seed)
        for seed in (0, 0, 1)
    )
    assert a.weights_digest == b.weights_digest != c.weights_digest
    assert torch.equal(torch.get_rng_state(), before)


def test_the_digest_sees_every_tensor() -> None:
    model = models.squeezenet1_1(weights=None)
    digests = {digest_weights(model)}
    for tensor in model.state_dict().values():
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
        digests.add(digest_weights(model))
    assert len(digests) == 1 + len(model.state_dict())


def test_the_file_that_torchvision_publishes_is_recognised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _alexnet_like(tmp_path, "renamed.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    entry = models.SqueezeNet1_1_Weights.DEFAULT
    assert not building._is_published(file, entry)
    published = SimpleNamespace(url=f"https://host/squeezenet1_1-{digest[:8]}.pth")
    assert building._is_published(file, published)
    monkeypatch.setattr(building, "_is_published", lambda file, entry: True)
    hub = torch.hub.get_dir()
    backbone = load_backbone("squeezenet1_1", weights=file, image_size=64)
    assert backbone.weights.endswith("(IMAGENET1K_V1)")
    assert torch.hub.get_dir() == hub


def test_weights_that_torchvision_has_downloaded_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    entry = models.SqueezeNet1_1_Weights.DEFAULT
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    file = _alexnet_like(tmp_path, "hub/checkpoints/" + Path(entry.url).name)
    backbone = load_backbone("squeezenet1_1", image_size=64)
    assert backbone.weights == "IMAGENET1K_V1"
    state = torch.load(file, weights_only=True)
    assert torch.equal(backbone.model.state_dict()["features.0.weight"], state["features.0.weight"])


def test_without_a_network_the_message_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"resnet18-f37072fd\.pth.*--weights"):
        load_backbone("resnet18")


@pytest.mark.parametrize(
    ("name", "weights", "error", "message"),
    [
        ("resnet19", None, ValueError, "Nearest: .*resnet18"),
        ("resnet18", "IMAGENET1K_V9", ValueError, "Allowed: IMAGENET1K_V1"),
        ("resnet18", "absent.pth", FileNotFoundError, "does not exist"),
        ("bundled", "IMAGENET1K_V1", ValueError, "Allowed: none, or a .pth"),
        ("nowhere.to.be.found:net", None, ValueError, "cannot be imported"),
        ("codes.graph.pooling:nothing", None, ValueError, "no function 'nothing'"),
        ("codes.graph.pooling:resolve_pooling", None, ValueError, "raised TypeError"),
    ],
)
def test_unknown_backbones_and_weights(
    name: str, weights: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_backbone(name, weights=weights)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = _alexnet_like(tmp_path, "squeeze.pth")
    with pytest.raises(ValueError, match=r"do not fit.*conv1\.weight"):
        load_backbone("resnet18", weights=file)
    state = torch.load(file, weights_only=True)
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    torch.save(state, tmp_path / "gray.pth")
    with pytest.raises(ValueError, match=r"features\.0\.weight \(file \(64, 1, 3, 3\), network"):
        load_backbone("squeezenet1_1", weights=tmp_path / "gray.pth")


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04N."])
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes) -> None:
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"no state dict|not a state dict"):
            load_backbone("squeezenet1_1", weights=tmp_path / name)


def test_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from torch import nn\nfrom codes import Preprocessing\n"
        "def net():\n"
        "    layers = nn.Conv2d(3, 4, {k}), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)\n"
        "    net = nn.Sequential(*layers[:3], nn.Linear({n}, 2))\n"
        "    return net, Preprocessing(resize_size=8, crop_size=8)\n"
    )
    monkeypatch.chdir(tmp_path)
    Path("own_net.py").write_text(code.format(k=3, n=144))
    Path("own_net2.py").write_text(code.format(k=1, n=256))
    one, two = load_backbone("own_net:net"), load_backbone("own_net2:net")
    assert one.preprocessing.crop_size == 8
    assert [layer.shape for layer in one.layers] == [(4, 6, 6)]
    assert one.architecture["graph"] != two.architecture["graph"]


def _small(channels: int = 3) -> nn.Sequential:
    layers = nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(4, 2))


class _Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _small()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.net(images * torch.rand(1))


def make_scripted() -> nn.Module:
    return torch.jit.script(_small())


def make_spread() -> nn.Module:
    return nn.DataParallel(_small())


def make_lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())


def make_empty() -> nn.Module:
    return _small().to("meta")


class _Counting(nn.Module):
    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place, self.conv = in_place, nn.Conv2d(3, 4, 3)
        self.register_buffer("n", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.n += 1
        else:
            self.n = self.n + 1
        return (torch.relu(self.conv(x)) + self.n).mean((2, 3))


class _Casting(nn.Module):
    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled, self.conv = enabled, nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.enabled):
            return torch.relu(self.conv(x)).mean((2, 3))


def make_counting() -> nn.Module:
    return _Counting(in_place=True)


def make_counting_anew() -> nn.Module:
    return _Counting(in_place=False)


def test_a_network_may_say_that_it_does_not_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.make_grey", lambda: _Casting(enabled=False))
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert load_backbone(f"{__name__}:make_grey").layers


def make_words() -> str:
    return "a network"


def make_three() -> tuple[nn.Module, Preprocessing, int]:
    return _small(), Preprocessing(), 3


def make_grey() -> nn.Module:
    return _small(channels=1)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*deprecated")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("make_scripted", "is TorchScript.*Return the module"),
        ("make_spread", "is a DataParallel.*Return its .module"),
        ("make_lazy", "'0.weight' has no values yet"),
        ("make_empty", "'0.weight' has no values yet"),
        ("make_grey", r"1 channels.*must take batches of shape \(n, 3, height, width\)"),
        ("_Drawing", "another network each time"),
        ("_Casting", "computes under torch.autocast within .* --precision says"),
        ("make_counting", "changes its buffer 'n' in each forward pass"),
        ("make_counting_anew", "changes its buffer 'n' in each forward pass"),
        ("make_words", r"returned str\. Allowed: an nn.Module, or"),
        ("make_three", r"returned Sequential, Preprocessing, int\. Allowed"),
    ],
)
def test_networks_of_ones_own_that_cannot_be_read(make: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_backbone(f"{__name__}:{make}")


@torch.fx.wrap
def _scaled(x: torch.Tensor) -> torch.Tensor:
    return x * SETTING


SETTING = 1.0


class _Own(nn.Module):
    """A small network with something besides weights that its codes depend on."""

    def __init__(self, kind: str, setting: float) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.relu, self.fc = nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Linear(8, 5)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)
        self.shift: Any = 0.0
        if kind == "buffer":
            del self.shift
            self.register_buffer("shift", torch.full((1, 3, 1, 1), setting), persistent=False)
        elif kind in ("attribute", "number"):
            self.shift = torch.full((1, 3, 1, 1), setting) if kind == "attribute" else setting
        elif kind == "hook":
            self.conv.register_forward_hook(lambda _, inputs, output: output * setting)
        elif kind == "attention":
            self.attention = nn.MultiheadAttention(8, int(2 * setting), batch_first=True)
        elif kind == "leaf":
            self.relu = nn.LeakyReLU(setting)  # type: ignore[assignment]
        self.setting = setting if kind == "inline" else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - self.shift
        if self.kind == "inline":
            x = x - torch.tensor([self.setting] * 3).view(1, 3, 1, 1)
        if self.kind == "wrapped":
            x = _scaled(x)
        x = self.relu(self.conv(x))
        if self.kind == "attention":
            tokens = x.flatten(2).transpose(1, 2)
            x = self.attention(tokens, tokens, tokens)[0].transpose(1, 2)[..., None]
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    "kind",
    ["buffer", "attribute", "number", "inline", "wrapped", "hook", "attention", "leaf"],
)
def test_whatever_changes_the_codes_of_ones_own_network_changes_its_key(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(setting: float) -> str:
        monkeypatch.setitem(globals(), "SETTING", setting)
        model = _Own(kind, setting).eval()
        return fingerprint(trace(model))

    assert of(1.0) == of(1.0)
    assert of(1.0) != of(2.0)


def test_a_file_called_random_is_not_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(load_backbone("bundled").model.state_dict(), "random.pth")
    assert not load_backbone("bundled", weights="random.pth").random
    assert not load_backbone("bundled").random
    assert load_backbone("bundled", weights="none").random
    assert load_backbone("resnet18", weights="none").random
