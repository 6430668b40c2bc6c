"""Tuned networks against the very same networks as they are."""

from __future__ import annotations

import platform
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torchvision import models

from codes import CodeExtractor, load_backbone, load_images
from codes.backbones.backbone import Backbone
from codes.graph.cutting import cut_network
from codes.inference.devices import computes_in, has_bfloat16
from codes.inference.tuning import _PackedConvolution, cast_weights, fold_norms
from pipelines import ExtractionOptions
from pipelines.extraction.estimate import say_if_bfloat16_is_faster
from pipelines.extraction.extract import extract
from pipelines.progress import Silent


def _pixels(n: int, side: int) -> Tensor:
    values = np.random.default_rng(n).integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(values)


def _assert_untouched(backbone: Backbone, before: dict[str, Tensor]) -> None:
    after = backbone.model.state_dict()
    assert after.keys() == before.keys()
    for key, value in after.items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key]), key


def make_vit() -> nn.Module:
    return models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    )


VIT = f"{__name__}:make_vit"


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_0", "resnet18", "alexnet", "googlenet", "densenet121", "mobilenet_v2",
     "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5", "regnet_y_400mf",
     "convnext_tiny", VIT],
)  # fmt: skip
@pytest.mark.parametrize("activation", ["post", "pre"])
def test_tuned_networks_give_the_codes_of_the_network_as_it_is(name: str, activation: str) -> None:
    backbone = load_backbone(name, weights=None if name == VIT else "none", image_size=64)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    layers = "default" if activation == "post" else ",".join(
        f"^{layer.name}$" for layer in backbone.layers if _has_pre(backbone, layer.name)
    )  # fmt: skip
    extractor = CodeExtractor(backbone, layers, activation=activation)
    plain = cut_network(backbone.graph, extractor.taps, activation)
    side = backbone.preprocessing.crop_size
    for n in (3, 8, 1):  # Laid out for the first.
        pixels = _pixels(n, side)
        found = extractor(pixels)
        with torch.inference_mode():
            expected = plain(backbone.preprocessing.normalize(pixels))
        for layer, codes in expected.items():
            assert (found[layer] - codes).abs().max() <= 1e-5 * codes.abs().max(), layer
    _assert_untouched(backbone, before)


def _has_pre(backbone: Backbone, layer: str) -> bool:
    try:
        CodeExtractor(backbone, f"^{layer}$", activation="pre")
    except ValueError:
        return False
    return True


class _Standardized(nn.Conv2d):
    """Another convolution than its weights say."""

    def forward(self, maps: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(maps, weight, self.bias)


class _Odd(nn.Module):
    """Convolutions that must not be taken for what they look like, and rare kinds of plain ones."""

    def __init__(self) -> None:
        super().__init__()
        normed = weight_norm(nn.Conv2d(3, 8, 3))
        normed.weight_g.data *= 2  # The weights that are stored are stale.
        self.stages = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(inplace=True))
            for conv in (
                normed,
                parametrizations.weight_norm(nn.Conv2d(8, 8, 3)),
                _Standardized(8, 8, 3),
                nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
                nn.Conv2d(8, 8, 3, padding="same"),
                nn.Conv2d(8, 8, 3, groups=4, dilation=2, bias=False),
                nn.Conv2d(8, 8, (3, 1), stride=(1, 2), padding=(0, 1), groups=8),
            )
        )
        hooked = nn.Conv2d(8, 8, 3, padding=1)
        hooked.register_forward_hook(lambda _module, _inputs, maps: maps * 3)
        self.hooked = nn.Sequential(hooked, nn.BatchNorm2d(8))
        self.twice = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for stage in self.stages:
            maps = stage(maps)
        maps = torch.relu(self.hooked(maps))
        maps = self.norm(self.twice(maps)).relu()
        maps = torch.relu_(self.norm(self.twice(maps)))
        return self.head(maps.mean((2, 3)))


def make_odd() -> nn.Module:
    torch.manual_seed(0)
    return _Odd().eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("activation", ["post", "pre"])
def test_convolutions_that_are_more_than_their_weights_are_left_alone(activation: str) -> None:
    backbone = load_backbone(f"{__name__}:make_odd", image_size=40)
    extractor = CodeExtractor(backbone, "all", activation=activation, pool="flatten")
    packed = sum(isinstance(m, _PackedConvolution) for m in extractor._reader._network.modules())
    assert packed == (2 if torch.backends.mkldnn.is_available() else 0)
    plain = cut_network(backbone.graph, extractor.taps, activation)
    for side in (40, 24):
        pixels = _pixels(4, side)
        found = extractor._reader._network(backbone.preprocessing.normalize(pixels))
        with torch.inference_mode():
            expected = plain(backbone.preprocessing.normalize(pixels))
        assert len(expected) == 11
        for layer, codes in expected.items():
            assert (found[layer] - codes).abs().max() <= 1e-5 * codes.abs().max(), layer


@pytest.mark.parametrize("name", ["resnet18", "alexnet", VIT])
def test_rounded_weights_give_what_autocast_gives(name: str) -> None:
    backbone = load_backbone(name, weights=None if name == VIT else "none", image_size=64)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    taps = CodeExtractor(backbone, "all").taps
    images = backbone.preprocessing.normalize(_pixels(2, backbone.preprocessing.crop_size))
    answers = []
    for rounded in (True, False):
        network = cut_network(backbone.graph, taps, "post")
        fold_norms(network)
        if rounded:
            cast_weights(network, torch.bfloat16)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            answers.append(network(images))
    for layer, codes in answers[1].items():
        assert torch.equal(answers[0][layer], codes), layer
    _assert_untouched(backbone, before)


def test_bfloat16_is_as_near_to_float32_tuned_as_it_is_untuned() -> None:
    backbone = load_backbone("resnet18", weights="none", image_size=64)
    pixels = _pixels(4, 64)
    extractors = [CodeExtractor(backbone, precision=p) for p in ("float32", "bfloat16")]
    exact, found = (extractor(pixels) for extractor in extractors)
    in_half = extractors[1]._reader._network.modules()  # type: ignore[attr-defined]
    assert {type(module) for module in in_half if "Conv" in type(module).__name__} == {nn.Conv2d}
    network = cut_network(backbone.graph, CodeExtractor(backbone).taps, "post")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain = network(backbone.preprocessing.normalize(pixels))
    for layer, codes in exact.items():
        off, usual = ((other[layer] - codes).abs().mean() for other in (found, plain))
        assert off <= 1.5 * usual, layer


def test_what_is_not_a_number_stays_seen_behind_a_relu() -> None:
    backbone = load_backbone("squeezenet1_1", weights="none", image_size=64)
    nn.init.constant_(backbone.model.features[3].squeeze.bias, float("nan"))
    codes = CodeExtractor(backbone, "features.3.cat")(_pixels(2, 64))["features.3.cat"]
    assert codes.isnan().any()


class _Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("natively", [True, False])
def test_a_precision_that_is_imitated_is_said(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, natively: bool
) -> None:
    monkeypatch.setattr("pipelines.extraction.fill.computes_in", lambda *_: natively)
    told = _Told()
    options = ExtractionOptions(
        backbone="bundled", layers="fc7.relu", precision="bfloat16", device="cpu"
    )
    extract(load_images(image_folder), options, progress=told)
    assert any("no instructions for bfloat16" in line for line in told.lines) != natively


def test_float32_is_never_imitated() -> None:
    assert computes_in(torch.device("cpu"), torch.float32)


def test_auto_is_bfloat16_where_the_hardware_has_it(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for native, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("codes.inference.devices.has_bfloat16", lambda _, n=native: n)
        options = ExtractionOptions(backbone="bundled", precision="auto", device="cpu")
        assert options.precision == precision
    done = extract(load_images(image_folder), replace(options, layers="fc7.relu"))
    assert done.key.precision == "float32"
    with pytest.raises(ValueError, match="'tpu'"):
        ExtractionOptions(backbone="bundled", precision="auto", device="tpu")


def test_bfloat16_is_what_processors_say_that_they_have() -> None:
    """Against the flags that Linux lists."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or platform.machine() != "x86_64":
        pytest.skip("no list of what this processor has")
    listed = set(re.findall(r"\bavx512_bf16\b|\bamx_bf16\b", flags.read_text()))
    assert has_bfloat16(torch.device("cpu")) == bool(listed)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({"float32": 0.1, "bfloat16": 0.01}, "6 min"),
        ({"float32": 0.1, "bfloat16": 0.2}, None),
        ({"float32": 0.001, "bfloat16": 0.0001}, None),
    ],
)
def test_a_long_run_says_what_bfloat16_would_take(
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, float],
    said: str | None,
) -> None:
    """Of 3,600 images, at so many seconds each."""
    images = load_images(image_folder)
    monkeypatch.setattr("pipelines.extraction.estimate.has_bfloat16", lambda _: True)
    monkeypatch.setattr(
        "pipelines.extraction.estimate._seconds",
        lambda extractor, _, n: n * seconds[extractor.precision],
    )
    for precision in ("float32", "bfloat16"):
        told = _Told()
        extractor = CodeExtractor(load_backbone("bundled"), "fc7.relu", precision=precision)
        say_if_bfloat16_is_faster(extractor, images, 3600, told)
        assert len(told.lines) == bool(said and precision == "float32")
        assert all(f"{said} in float32" in line and "36 s" in line for line in told.lines)


def test_what_is_estimated_is_extracted(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same codes, whether they were timed before or not."""
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu", device="cpu")
    images = load_images(image_folder)
    plain = extract(images, replace(options, store=image_folder / "plain"))
    monkeypatch.setattr("pipelines.extraction.estimate.has_bfloat16", lambda _: True)
    monkeypatch.setattr("pipelines.extraction.estimate.LONG", 0.0)
    timed = extract(images, replace(options, store=image_folder / "timed"))
    np.testing.assert_array_equal(plain.codes("fc7.relu"), timed.codes("fc7.relu"))
    assert timed.n_extracted == plain.n_extracted
