"""timm's models: their codes are those of hooks, their crops those of timm's own transforms."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codes import Backbone, CodeExtractor, load_backbone
from codes.backbones.timm_models import preprocessing_of
from codes.graph.cutting import cut_network
from codes.graph.starts import choose_starts, find_starts
from codes.graph.suffix import Suffix
from codes.similarity_statistics import find_norms
from pipelines.extraction.extract import key_of
from tests.conftest import Run, draw_image

timm = pytest.importorskip("timm")

CONVNETS = {
    "resnet18": 64, "resnetv2_50x1_bit": 64, "test_convnext": None,
    "test_efficientnet": None, "efficientnetv2_rw_t": 64,
    "mobilenetv3_small_050": 64, "regnetx_002": 64, "densenet121": 64, "test_nfnet": None,
    "inception_v3": 107, "vgg11": 64, "hrnet_w18_small": 64, "test_resnet": None,
}  # fmt: skip
"""Names, and the side of the images; None is the model's own."""
TRANSFORMERS = {
    "test_vit": 1, "test_vit4": 1, "vit_tiny_patch16_224": 1, "deit_tiny_distilled_patch16_224": 2,
    "eva02_tiny_patch14_224": 1, "swin_tiny_patch4_window7_224": 0, "pvt_v2_b0": 0,
}  # fmt: skip
"""Names, and the tokens before those of the patches."""


def _load(name: str, image_size: int | None = None, **options: Any) -> Backbone:
    _require(name)
    return load_backbone(f"timm:{name}", weights="none", image_size=image_size, **options)


def _require(name: str) -> None:
    """Skip a test on a model that an older timm does not have."""
    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")


def _hooked(model: nn.Module, pixels: Tensor) -> dict[str, list[Tensor]]:
    """Run a network; return what each module answers, each time, and what its head is given."""
    found: dict[str, list[Tensor]] = {}

    def keep(name: str, values: Any) -> None:
        if isinstance(values, Tensor):
            found.setdefault(name, []).append(values.detach().clone())

    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: keep(name, out))
        for name, module in model.named_modules()
        if name
    ]
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    heads = classifier if isinstance(classifier, tuple) else (classifier,)
    hooks += [heads[0].register_forward_pre_hook(lambda _m, given: keep("", given[0]))]
    with torch.inference_mode():
        model(pixels)
    for hook in hooks:
        hook.remove()
    return found


def _answers(hooked: dict[str, list[Tensor]], layer: str) -> list[Tensor]:
    """Find what the module answers that a graph node lies in; of none, what the head reads."""
    while layer not in hooked:  # Of a module that is called again, the name is numbered.
        again = re.sub(r"_\d+$", "", layer)
        layer = again if again in hooked else layer.rpartition(".")[0]
    return hooked[layer]


def _assert_one_is(
    rows: NDArray[Any], answers: list[NDArray[Any]], name: str, tol: float = 1e-3
) -> None:
    near = [
        one.shape == rows.shape and np.abs(one - rows).max() <= tol * np.abs(one).max()
        for one in answers
    ]
    assert any(near), name


def _codes(backbone: Backbone, pixels: Tensor, **options: Any) -> dict[str, NDArray[Any]]:
    extractor = CodeExtractor(backbone, **options)
    return {name: rows.numpy() for name, rows in extractor(pixels).items()}


def _noise(backbone: Backbone) -> Tensor:
    size = backbone.preprocessing.crop_size
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", CONVNETS)
def test_codes_of_convnets_are_those_of_hooks(name: str) -> None:
    backbone = _load(name, CONVNETS[name])
    pixels = _noise(backbone)
    extractor = CodeExtractor(backbone, "all", pool="avg")
    tuned, normal = extractor(pixels), backbone.preprocessing.normalize(pixels)
    hooked = _hooked(backbone.model, normal)
    with torch.inference_mode():
        codes = cut_network(backbone.graph, extractor.taps, "post")(normal)
    layouts = {layer.name: layer.layout for layer in backbone.layers}
    axes = {"nchw": (2, 3), "nhwc": (1, 2), "nc": ()}
    assert len(codes) >= 5
    for layer, rows in codes.items():
        if layer.rpartition(".")[2].startswith("cat"):
            continue
        means = [one.numpy().mean(axes[layouts[layer]]) for one in _answers(hooked, layer)]
        _assert_one_is(rows.numpy(), means, layer, 1e-5)
        # Depth and random weights amplify rounding: float64 differs from float32 by .002 as well.
        _assert_one_is(tuned[layer].numpy(), means, layer, 5e-3)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_of_transformers_quarters_of_the_blocks_and_the_last_norm(name: str) -> None:
    backbone, first = _load(name), TRANSFORMERS[name]
    pixels = _noise(backbone)
    codes = _codes(backbone, pixels)
    hooked = _hooked(backbone.model, backbone.preprocessing.normalize(pixels))
    blocks = [layer for layer in backbone.layers if layer.kind == "block"]
    own = [path for path, module in backbone.model.named_modules() if type(module).__name__ in
           ("Block", "EvaBlock", "SwinTransformerBlock", "ResPostBlock")]  # fmt: skip
    assert [layer.name.rpartition(".")[0] for layer in blocks] == own
    n = len(own)
    quarters = [own[-(-n * quarter // 4) - 1] for quarter in (1, 2, 3, 4)]
    chosen = [layer for layer in backbone.layers if layer.default]
    assert [one.name.rpartition(".")[0] for one in chosen if one.kind == "block"] == quarters
    assert chosen[-1].kind == "penultimate"
    assert len(codes) <= 12
    for layer, rows in codes.items():
        path, _, pool = layer.partition(":")
        answers = [one.numpy().reshape(len(rows), -1, one.shape[-1])
                   for one in _answers(hooked, path)]  # fmt: skip
        if pool == "token":
            wanted = [one[:, 0] for one in answers]
        else:
            wanted = [one[:, first if one.shape[1] > 1 else 0 :].mean(1) for one in answers]
        _assert_one_is(rows, wanted, layer)
    tokens = [layer for layer in codes if layer.endswith(":token")]
    assert len(tokens) == (4 if first else 0)


@pytest.mark.parametrize("name", ["levit_128s", "mobilevit_xxs"])
def test_what_windows_and_caches_hold_is_no_obstacle(name: str) -> None:
    # LeViT keeps attention biases; MobileViT's transformer sees windows as a larger batch.
    backbone = _load(name)
    pixels = _noise(backbone)
    codes = _codes(backbone, pixels, layers="all", pool="avg")
    assert {len(rows) for rows in codes.values()} == {2}
    model: Any = backbone.model
    with torch.inference_mode():
        before = model.forward_features(backbone.preprocessing.normalize(pixels))
        wanted = model.forward_head(before, pre_logits=True).numpy()
    last = list(codes.values())[-1]  # The map that the head averages, averaged.
    assert np.abs(last - wanted).max() <= 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("convit_tiny", "does not support item assignment"), ("efficientvit_b0", "autocast")],
)
def test_what_cannot_be_traced_is_refused_with_the_line(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"{reason}.*line \d+|line \d+.*{reason}"):
        _load(name)


def test_torchvision_transformers_profit_alike() -> None:
    for name, n_taps in (("vit_b_16", 10), ("swin_t", 5)):
        with torch.device("cpu"):
            backbone = load_backbone(name, weights="none")
        taps = CodeExtractor(backbone).taps
        # Of swin_t, what the head reads is the average of the last normalisation, so not twice.
        assert len(taps) == n_taps + (name == "swin_t")
        assert [tap.layer.kind for tap in taps if tap.pool == "token"] == ["block"] * (
            4 if name == "vit_b_16" else 0
        )


def test_the_side_before_activations_has_no_blocks() -> None:
    backbone = _load("test_vit")
    assert {tap.layer.kind for tap in CodeExtractor(backbone, "all", activation="pre").taps} == {
        "gelu"
    }
    with pytest.raises(ValueError, match="is not an activation"):
        CodeExtractor(backbone, "blocks.0.add_1", activation="pre")


def test_a_convnet_has_no_class_token() -> None:
    with pytest.raises(ValueError, match="has no class token"):
        CodeExtractor(_load("test_resnet"), pool="token")


class SelfGated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.again(x * torch.sigmoid(1.702 * x))
        return x.mul(x.sigmoid()) * x.mean((2, 3), keepdim=True).sigmoid()


def test_self_gated_activations_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = type(sys)("self_gated")
    module.build = SelfGated  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "self_gated", module)
    backbone = load_backbone("self_gated:build")
    layers = [layer for layer in backbone.layers if layer.kind == "silu"]
    assert [layer.name for layer in layers] == ["mul_1", "mul_2"]
    pixels = _noise(backbone)
    codes = _codes(backbone, pixels, layers="mul_1", pool="avg")["mul_1"]
    model: Any = backbone.model
    with torch.inference_mode():
        x = model.conv(backbone.preprocessing.normalize(pixels))
        wanted = (x / (1 + torch.exp(-1.702 * x))).mean((2, 3)).numpy()
    np.testing.assert_allclose(codes, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["resnet50.a1_in1k", "convnext_tiny.fb_in22k_ft_in1k_384", "inception_v3.tf_in1k",
     "vit_tiny_patch16_224", "efficientnet_b1.ra4_e3600_r240_in1k", "vgg11.tv_in1k"],
)  # fmt: skip
@pytest.mark.parametrize("size", [(500, 333), (300, 480)])
def test_crops_are_those_of_timm(name: str, size: tuple[int, int]) -> None:
    config = timm.models.get_pretrained_cfg(name)
    image = draw_image(3, size=size)
    steps = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    wanted = timm.data.create_transform(**steps)(image)
    ours = preprocessing_of(name, config)
    found = ours.normalize(ours.crops(np.asarray(image)))[0]
    assert found.shape == wanted.shape == config.input_size
    levels = (found - wanted).abs() * torch.tensor(config.std)[:, None, None] * 255
    assert levels.max() < 2.5
    assert levels.mean() < 0.3


def test_published_weights_come_from_timms_own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    _require("test_resnet")
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    asked: list[str] = []

    def load(hub: str, *_: Any, **__: Any) -> dict[str, Tensor]:
        asked.append(hub)
        return {name: value.clone() for name, value in state.items()}

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", load)
    for name in ("timm:test_resnet", "timm:test_resnet.r160_in1k"):
        backbone = load_backbone(name, weights="default")
        assert backbone.weights == "test_resnet.r160_in1k"
        found = backbone.model.state_dict()
        assert all(torch.equal(found[key], state[key]) for key in state)
    assert set(asked) == {"timm/test_resnet.r160_in1k"}


def test_weights_of_a_file_and_what_the_key_holds(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("resnet18", num_classes=7)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")
    backbone = load_backbone("timm:resnet18.a1_in1k", weights=tmp_path / "mine.pth")
    key, other = key_of(backbone, "float32"), load_backbone("resnet18", weights="none")
    found = backbone.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    # torchvision's network of that name has these very tensors, but is another network.
    other.model.load_state_dict(_load("resnet18").model.state_dict())
    assert key.architecture["name"] == "timm:resnet18"
    assert key.architecture != key_of(other, "float32").architecture
    assert len(key.architecture["graph"]) == 64
    again = load_backbone("timm:resnet18", weights=tmp_path / "mine.pth")
    assert key_of(again, "float32") == key  # Its default tag has the same preprocessing.
    clip = load_backbone("timm:resnet18.fb_swsl_ig1b_ft_in1k", weights=tmp_path / "mine.pth")
    assert key_of(clip, "float32").digest() != key.digest()


def test_norms_within_activating_modules_are_known_folded_and_trained() -> None:
    backbone = _load("test_efficientnet")
    model: Any = backbone.model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.1)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert [name.removesuffix(".batch_norm") for name in find_norms(backbone.graph)] == names
    whole = choose_starts(backbone.graph, "input")[0]
    suffix = Suffix(backbone.graph, whole, 3, backbone.preprocessing, batch_norm="train")
    assert set(suffix.body.state_dict()) <= set(model.state_dict())
    values = torch.rand(4, 3 * backbone.preprocessing.crop_size**2)
    before = suffix.body.state_dict()["bn1.running_mean"].clone()
    suffix.eval()(values)
    assert torch.equal(suffix.body.state_dict()["bn1.running_mean"], before)
    suffix.train()(values)
    assert not torch.equal(suffix.body.state_dict()["bn1.running_mean"], before)
    assert torch.equal(model.bn1.running_mean, before)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_convnext", "test_vit", "tf_efficientnet_lite0"]
)
def test_starts_of_fine_tuning(name: str) -> None:
    backbone = _load(name)
    pixels = _noise(backbone)
    starts = find_starts(backbone.graph)
    assert len(choose_starts(backbone.graph)) == 3
    values = (pixels.float() / 255).flatten(1)
    whole = Suffix(backbone.graph, starts[0], 3, backbone.preprocessing)
    with torch.inference_mode():
        normal = backbone.preprocessing.normalize(pixels)
        model: Any = backbone.model
        wanted = model.forward_head(model.forward_features(normal), pre_logits=True)
        found = whole.codes(values)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def test_a_comparison_with_a_model_of_timm(run_cli: Run, image_folder: Path) -> None:
    _require("test_resnet")
    torch.manual_seed(5)
    state = timm.create_model("test_resnet").state_dict()
    for key in state:
        if key.endswith("running_mean"):
            state[key].fill_(0.1)
    torch.save(state, image_folder.parent / "w.pth")
    done = run_cli(
        "compare", "images", "--backbone", "timm:test_resnet.r160_in1k", "--weights", "w.pth",
        "--controls", "random", "--out", "out", "--cv", "2", "--layers", "act1,global_pool.pool",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((image_folder.parent / "out/report.json").read_text())
    assert report["backbone"]["name"] == "timm:test_resnet.r160_in1k"
    assert report["environment"]["versions"]["timm"] == timm.__version__
    assert report["backbone"]["architecture"]["name"] == "timm:test_resnet"
    [control] = report["controls"]
    assert control["score"] is not None, control
    assert report["similarity"]["value"] is not None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet51", {}, r"unknown to timm\. Nearest: timm:resnet5"),
        ("resnet50.a9_in1k", {}, r"no such weights\. Nearest: .*timm:resnet50\.a1_in1k"),
        ("resnet50", {"weights": "IMAGENET1K_V1"}, r"Allowed: default, none.*resnet50\.a1_in1k"),
        ("test_vit", {"weights": "none", "image_size": 96}, "takes images of 160 pixels only"),
        ("vit_base_patch16_sapiens2", {"weights": "none"}, "which are not square"),
        ("nfnet_f0", {}, "publishes no weights of timm:nfnet_f0"),
        ("", {}, "unknown to timm"),
    ],
)  # fmt: skip
def test_bad_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    if "no such" not in message and "unknown" not in message:
        _require(name)
    with pytest.raises(ValueError, match=message):
        load_backbone(f"timm:{name}", **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (1, 28, 28)}, "1 channels"),
        ({"mean": None}, "no mean"),
        ({"std": (0.5,)}, "no mean and standard deviation"),
        ({"crop_mode": "border"}, "crop mode 'border'"),
        ({"interpolation": "lanczos"}, "'lanczos'"),
    ],
)
def test_a_configuration_unlike_imagenets_is_refused(change: dict[str, Any], message: str) -> None:
    config = timm.models.PretrainedCfg(**change)
    with pytest.raises(ValueError, match=message):
        preprocessing_of("timm:odd", config)


def test_without_timm_the_message_says_how_to_install_it(
    run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cnn-codes\[timm\]'"):
        load_backbone("timm:resnet18")
    done = run_cli("layers", "--backbone", "timm:resnet18")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr


def test_without_a_network_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _require("test_resnet")

    def fail(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("cannot find it") from OSError("Name not known")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", fail)
    with pytest.raises(ConnectionError) as caught:
        load_backbone("timm:test_resnet")
    assert "huggingface.co/timm/test_resnet.r160_in1k (Name not known)" in str(caught.value)
    assert "--weights FILE" in str(caught.value)
    assert "--weights none" in str(caught.value)
