"""Checkpoints as training scripts write them: seen through, said, and never filled in by chance."""

from __future__ import annotations

import argparse
import copy
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.ops.misc import FrozenBatchNorm2d

from codes import load_backbone, load_images
from codes.backbones.backbone import digest_weights
from codes.backbones.bundled import bundled
from codes.backbones.checkpoints import find_weights
from codes.backbones.weight_files import NestedState, read_checkpoint
from codes.extractor import CodeExtractor
from codes.similarity_statistics import StatisticsReader
from pipelines.cli.app import main
from pipelines.extraction.extract import key_of
from tests.conftest import Run


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
            "epoch": 3, "hyper_parameters": {"lr": 0.1}, "optimizer_states": [{}],
        },
        ["'state_dict'", "'model.'", "left out: epoch, hyper_parameters, optimizer_states, "
         "loss.weight"],
    ),
    "nested twice": (lambda: {"a": {"net": _prefixed("backbone.")}}, ["a.net", "backbone."]),
    "with settings": (
        lambda: {
            "model": _state(), "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9),
            "n": np.uint8(3), "mean": np.ones(3), "by": np.array(["top-1"]), "random":
            np.random.RandomState(0).get_state(), "names": np.array([{}, None], object),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "folder": Path("runs"),
        },
        ["under 'model'", "left out: args, best, n, mean, by and 4 more"],
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
    assert backbone.weights == str(tmp_path / "last.ckpt")
    for word in (*words, "7 classes"):
        assert word in backbone.weights_read
    assert ("left out" in backbone.weights_read) == any("left out" in word for word in words)


def test_two_sets_that_fit_are_both_named(tmp_path: Path) -> None:
    state = _state()
    average = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "ema": average}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"'model' and 'ema'.*two\.pt::model.*two\.pt::ema"):
        _load(tmp_path / "two.pt")
    torch.save({"model": state, "again": state}, tmp_path / "same.pt")
    assert "under 'model'; 7 classes; left out: again" in _load(tmp_path / "same.pt").weights_read


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
    with pytest.raises(ValueError, match="2 sets of tensors") as error:
        find_weights(found, wanted, file=str(file))
    assert f"{first!r} and {second!r}" in str(error.value)
    assert f"--weights {file}::{first} or {file}::{second}." in str(error.value)
    for place, more in ((first, 0), (second, 1), (f"{second}.", 1)):
        state = find_weights(found, wanted, file=str(file), place=place).state
        assert torch.equal(state["conv1.weight"], wanted["conv1.weight"] + more)
    with pytest.raises(ValueError, match=f"at 'encoder'.*{first!r}, {second!r}"):
        find_weights(found, wanted, file=str(file), place="encoder")


def test_a_place_in_a_file_of_weights_is_read_and_said(tmp_path: Path) -> None:
    file = f"{tmp_path / 'two.pth'}::online.net"
    torch.save(_pair("online.net.", "target.net."), tmp_path / "two.pth")
    backbone = _load(Path(file))
    expected = models.resnet18(num_classes=7)
    expected.load_state_dict(_state())
    assert backbone.weights_digest == digest_weights(expected)
    assert backbone.weights == file
    assert backbone.weights_read.startswith("prefix 'online.net.' removed; 7 classes; left out: ")
    assert "target.* (120 tensors)" in backbone.weights_read


def test_a_part_that_is_the_same_does_not_count() -> None:
    found = {
        "cut": NestedState(tensors=_headless(_state())), "whole": NestedState(tensors=_state())
    }  # fmt: skip
    assert find_weights(found, _state(), file="f.pth").said == ("under 'whole'",)


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
    assert "missing: classifier.3.weight" in backbone.weights_read
    assert "left out: projector.0.weight" in backbone.weights_read
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
    assert "Check that --backbone" not in str(refused.value)


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


def test_what_was_seen_through_is_said_wherever_a_backbone_is_named(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {f"module.{k}": v for k, v in load_backbone("bundled").model.state_dict().items()}
    file = tmp_path / "last.ckpt"
    torch.save({"net": state, "epoch": 3}, file)
    network = ["--backbone", "bundled", "--weights", str(file)]
    read = "under 'net'; prefix 'module.' removed; left out: epoch"
    for words in (["layers"], ["similarity", str(image_folder)]):
        assert main([*words, *network]) == 0
        [said] = [line for line in capsys.readouterr().err.splitlines() if "Weights" in line]
        assert said == f"Weights: {file} ({read})."
    status = main(
        ["compare", str(image_folder), *network, "--layers", "fc7.relu", "--controls", "none",
         "--cv", "3", "--Cs", "1e-2,1", "--repeats", "1", "--jobs", "1", "--out", str(tmp_path)]
    )  # fmt: skip
    assert status == 0
    backbone = json.loads((tmp_path / "report.json").read_text())["backbone"]
    assert (backbone["weights"], backbone["weights_read"]) == (str(file), read)
    [said] = [x for x in (tmp_path / "report.md").read_text().splitlines() if "SHA-256" in x]
    assert all(part in said for part in ("last.ckpt", "under 'net'", "prefix 'module.' removed"))
    assert read in unescape((tmp_path / "report.html").read_text())


def _in_seven_forms(state: dict[str, Tensor], folder: Path) -> list[str]:
    """Write the same weights as seven programs would; return their files."""
    forms = {
        "plain.pth": state,
        "nested.pt": {"model_state_dict": state, "optimizer": {"lr": 0.1}, "epoch": 3},
        "parallel.pth.tar": {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        "lightning.ckpt": {"state_dict": {f"model.net.{k}": v for k, v in state.items()}},
        "compiled.bin": {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        "half.pth": {k: v.half() if v.is_floating_point() else v for k, v in state.items()},
    }
    for name, content in forms.items():
        torch.save(content, folder / name)
    save_file({f"backbone.{k}": v for k, v in state.items()}, folder / "own.safetensors")
    return [*forms, "own.safetensors"]


def test_seven_forms_of_the_same_weights_have_one_key_and_the_same_codes(
    image_folder: Path, tmp_path: Path
) -> None:
    oracle = bundled().eval()  # Values that half precision holds as they are.
    oracle.load_state_dict({k: v.half().float() for k, v in oracle.state_dict().items()})
    images, keys, codes = load_images(image_folder).take(np.arange(3)), [], []
    for name in _in_seven_forms(dict(oracle.state_dict()), tmp_path):
        backbone = load_backbone("bundled", weights=tmp_path / name)
        keys.append(key_of(backbone, "float32"))
        codes.append(next(iter(CodeExtractor(backbone, "fc7.relu").extract(images))).codes)
    assert keys == [keys[0]] * 7
    assert keys[0].weights == digest_weights(oracle)
    for one in codes[1:]:
        np.testing.assert_array_equal(one["fc7.relu"], codes[0]["fc7.relu"])


@pytest.mark.parametrize(("form", "extracted"), [("same", 0), ("other", 36)])
def test_codes_of_the_same_weights_in_another_file_are_found(
    form: str, extracted: int, image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    state = dict(bundled().state_dict())
    torch.save(state, tmp_path / "plain.pth")
    state = {f"module.{k}": v if form == "same" else v * 1.01 for k, v in state.items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    words = ["extract", image_folder, "--backbone", "bundled", "--layers", "fc7.relu", "--weights"]
    assert run_cli(*words, "plain.pth").stdout.startswith("36 images extracted")
    assert run_cli(*words, "last.ckpt").stdout.startswith(f"{extracted} images extracted")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_cast_and_said(dtype: torch.dtype, tmp_path: Path) -> None:
    state = bundled().state_dict()
    cast = {name: value.to(dtype) for name, value in state.items()}
    torch.save(cast, tmp_path / "cast.pth")
    backbone = load_backbone("bundled", weights=tmp_path / "cast.pth")
    assert backbone.weights_read == f"{str(dtype)[6:]} cast to float32"
    for name, value in backbone.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, cast[name].float())


def test_integers_in_place_of_weights_are_refused(tmp_path: Path) -> None:
    state = bundled().state_dict()
    state["conv1.conv.weight"] = (100 * state["conv1.conv.weight"]).to(torch.int8)
    torch.save(state, tmp_path / "int8.pth")
    with pytest.raises(
        ValueError, match=r"Other type: conv1\.conv\.weight \(file int8, network float32\)"
    ):
        load_backbone("bundled", weights=tmp_path / "int8.pth")


def test_counters_in_half_precision_are_no_obstacle(tmp_path: Path) -> None:
    network = models.resnet18(num_classes=3).half().float().eval()
    torch.save({k: v.half() for k, v in network.state_dict().items()}, tmp_path / "all_half.pth")
    found = load_backbone("resnet18", weights=tmp_path / "all_half.pth")
    assert found.weights_read == "3 classes; float16 cast to float32"
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], tensor), name


def half_headed() -> nn.Module:
    """Make a network that is in half precision before its weights are loaded."""
    return headed().half()


def test_weights_are_not_rounded_by_a_network_in_half_precision(tmp_path: Path) -> None:
    torch.save(headed().state_dict(), tmp_path / "own.pth")
    whole, half = (
        _load(tmp_path / "own.pth", f"{__name__}:{name}") for name in ("headed", "half_headed")
    )
    assert half.weights_digest == whole.weights_digest


def test_a_place_stands_for_what_is_nested_in_it(tmp_path: Path) -> None:
    file, other = tmp_path / "two.pt", {f"module.{k}": v + 1 for k, v in _state().items()}
    torch.save({"state_dict": _state(), "ema": other, "optimizer": {}}, file)
    backbone = _load(Path(f"{file}::ema"))
    assert torch.equal(backbone.model.get_parameter("conv1.weight"), other["module.conv1.weight"])
    assert "under 'ema'; prefix 'module.' removed" in backbone.weights_read
    assert "left out: state_dict, optimizer" in backbone.weights_read
    with pytest.raises(ValueError, match=r"at 'best'. Allowed: 'state_dict', 'ema\.module'"):
        _load(Path(f"{file}::best"))


def test_of_three_sets_all_are_named(tmp_path: Path) -> None:
    sets = {name: {k: v + i for k, v in _state().items()} for i, name in enumerate("abc")}
    torch.save(sets, tmp_path / "three.pt")
    with pytest.raises(ValueError, match=r"3 sets .*'a', 'b' and 'c'.*three\.pt::c\.$"):
        _load(tmp_path / "three.pt")


def test_wrappers_may_be_left_out_of_a_place(tmp_path: Path) -> None:
    file = tmp_path / "moco.pth.tar"
    torch.save({"state_dict": _pair("module.encoder_q.", "module.encoder_k.")}, file)
    for place in ("state_dict.encoder_q", "state_dict.module.encoder_q"):
        conv1 = _load(Path(f"{file}::{place}")).model.get_parameter("conv1.weight")
        assert torch.equal(conv1, _state()["conv1.weight"])


def test_wrappers_of_parts_of_a_network_are_removed(tmp_path: Path) -> None:
    model = models.alexnet(weights=None)
    parallel = copy.deepcopy(model)
    parallel.features = nn.DataParallel(parallel.features)  # As PyTorch's ImageNet example does.
    torch.save({"state_dict": parallel.state_dict()}, tmp_path / "alexnet.pth.tar")
    backbone = _load(tmp_path / "alexnet.pth.tar", "alexnet")
    assert backbone.weights_digest == digest_weights(model)
    assert backbone.weights_read == "under 'state_dict'; 'module' removed within names"


def test_counters_of_batches_do_not_choose_between_two_sets(tmp_path: Path) -> None:
    state = {k: v for k, v in _state().items() if not k.endswith("num_batches_tracked")}
    average = {k: v + 1 for k, v in _state().items()}
    torch.save({"model": state, "ema": average}, tmp_path / "two.pt")
    with pytest.raises(ValueError, match="'model' and 'ema'"):
        _load(tmp_path / "two.pt")


def frozen() -> nn.Module:
    """Make a network whose normalisations keep no count."""
    return models.resnet18(num_classes=7, norm_layer=FrozenBatchNorm2d)


def test_counters_that_a_network_lacks_are_left_out(tmp_path: Path) -> None:
    torch.save(_state(), tmp_path / "f.pth")
    backbone = _load(tmp_path / "f.pth", f"{__name__}:frozen")
    assert backbone.weights_read == "left out: *.num_batches_tracked (20 tensors)"


def test_of_names_that_match_no_prefix_the_first_five_of_each_side_are_named(
    tmp_path: Path,
) -> None:
    theirs = list(models.alexnet(weights=None).state_dict())
    torch.save({"net": models.alexnet(weights=None).state_dict()}, tmp_path / "f.pth")
    ours = [name for name in _state() if "num_batches" not in name]
    with pytest.raises(ValueError, match="do not fit the network") as refused:
        _load(tmp_path / "f.pth")
    assert f"Missing: {', '.join(ours[:5])} and 97 more." in str(refused.value)
    assert f"(under 'net'): {', '.join(theirs[:5])} and 11 more." in str(refused.value)
    assert "--backbone" in str(refused.value)


def test_a_stem_in_common_is_no_match(tmp_path: Path) -> None:
    stem = {f"stem.{k}": v for k, v in _state().items() if k.startswith(("conv1", "bn1"))}
    blocks = {f"blocks.{k}": v for k, v in _headless(_state()).items() if k.startswith("layer")}
    torch.save(
        stem | {k.replace("layer", "stage"): v for k, v in blocks.items()}, tmp_path / "f.pth"
    )
    with pytest.raises(ValueError, match=r"Not in the network: stem\.conv1\.weight"):
        _load(tmp_path / "f.pth")


def test_a_projection_head_is_left_out(tmp_path: Path) -> None:
    projection = {"fc.0.weight": torch.ones(512, 512), "fc.0.bias": torch.ones(512)}
    projection |= {"fc.2.weight": torch.ones(128, 512), "fc.2.bias": torch.ones(128)}
    torch.save({"state_dict": _headless(_state()) | projection}, tmp_path / "moco.pth.tar")
    backbone = _load(tmp_path / "moco.pth.tar")
    assert "left out: fc.* (4 tensors); missing: fc.weight, fc.bias" in backbone.weights_read
    assert backbone.layers[-1].name == "avgpool"
    with pytest.raises(ValueError, match=r"fc\.weight"):
        CodeExtractor(backbone, "fc")


@pytest.mark.parametrize("num_classes", [1000, 7])
def test_a_first_convolution_of_other_channels_is_named(num_classes: int, tmp_path: Path) -> None:
    gray = models.squeezenet1_1(weights=None, num_classes=num_classes).state_dict()
    gray["features.0.weight"] = gray["features.0.weight"][:, :1].clone()
    torch.save(gray, tmp_path / "gray.pth")
    with pytest.raises(ValueError, match=r"first convolution, features\.0\.weight") as refused:
        _load(tmp_path / "gray.pth", "squeezenet1_1")
    assert "trained on images of 1 channel; images are read as RGB" in str(refused.value)
    assert ("classifier.1" in str(refused.value)) == (num_classes == 7)


def test_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    state = bundled().state_dict()
    save_file(state, tmp_path / "model.bin")
    torch.save(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "old.tar", _use_new_zipfile_serialization=False)
    digests = {
        load_backbone("bundled", weights=tmp_path / name).weights_digest
        for name in ("model.bin", "model.safetensors", "old.tar")
    }
    assert digests == {digest_weights(bundled())}


class Runs:
    """An object that a pickle makes by running code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": bundled().state_dict(), "hparams": Runs()}, tmp_path / "run.ckpt")
    with pytest.raises(
        ValueError, match=r"posix\.mkdir.*torch\.save\(model\.state_dict\(\), FILE\)"
    ):
        load_backbone("bundled", weights=tmp_path / "run.ckpt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "run.ckpt", weights_only=False)  # It would have.
    assert (tmp_path / "ran").exists()


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning"
)
def test_torchscript_is_refused_with_the_way_to_its_weights(tmp_path: Path) -> None:
    torch.jit.script(headed()).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"TorchScript.*torch\.jit\.load\(.*\)\.state_dict\(\)"):
        _load(tmp_path / "script.pt", f"{__name__}:headed")


def test_a_real_network_in_seven_forms(shared: Path, tmp_path: Path) -> None:
    state = torch.load(shared / "weights" / "squeezenet1_0-imagenet.pth", weights_only=True)
    state = {k: v.half().float() for k, v in state.items()}
    model = models.squeezenet1_0(weights=None)
    model.load_state_dict(state)
    found = {
        _load(tmp_path / name, "squeezenet1_0").weights_digest
        for name in _in_seven_forms(state, tmp_path)
    }
    assert found == {digest_weights(model)}
