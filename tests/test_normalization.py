"""Normalisation: what fits a network is told by its statistics; keys stay as they were."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from codes import ImageList, Preprocessing, load_backbone
from codes.data.images import digest_images
from codes.data.readers.datasets import list_images
from codes.data.sources import ArraySource
from codes.preprocessing import NORMALIZATIONS
from pipelines import ExtractionOptions, Protocol, compare
from pipelines.cli.app import main
from pipelines.extraction.extract import backbone_of, extract, key_of
from pipelines.extraction.normalization import check_normalization, compare_divergences
from pipelines.fitted.files import load
from tests.test_similarity import STEPS, collect, photographs, save, stacked


@cache
def plain() -> tuple[nn.Module, Preprocessing]:
    """Return a ResNet-18 that has seen values in [0, 1], with torchvision's normalisation."""
    torch.manual_seed(0)
    return collect(resnet18(), stacked(photographs(64)), STEPS.normalized("none")), STEPS


PLAIN = "tests.test_normalization:plain"


NUMBERS = ("0.4:0.3", "0.4,0.5,0.6:0.1,0.2,0.3")


@pytest.mark.parametrize("how", [*NORMALIZATIONS, *NUMBERS, *(f"{how}:BGR" for how in NUMBERS)])
def test_pixels_are_normalised_as_by_hand(how: str) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 3, 5, 4), dtype=np.uint8))
    caffe = torch.tensor([123.68, 116.779, 103.939])[:, None, None]
    rgb = pixels.double()
    oracle = {
        "imagenet": (rgb / 255 - torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        / torch.tensor([0.229, 0.224, 0.225])[:, None, None],
        "none": rgb / 255,
        "half": rgb / 127.5 - 1,
        "caffe": (rgb - caffe)[:, [2, 1, 0]],
        "caffe-rgb": rgb - caffe,
        "0.4:0.3": (rgb / 255 - 0.4) / 0.3,
        "0.4,0.5,0.6:0.1,0.2,0.3": (rgb / 255 - torch.tensor([0.4, 0.5, 0.6])[:, None, None])
        / torch.tensor([0.1, 0.2, 0.3])[:, None, None],
    }[how.removesuffix(":BGR")]
    if how.endswith(":BGR"):
        oracle = oracle[:, [2, 1, 0]]
    steps = Preprocessing().normalized(how)
    found = steps.normalize(pixels)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), oracle, atol=1e-4, rtol=1e-4)
    assert steps.normalization == how


def test_keys_of_this_version_stay_as_they_are() -> None:
    key = key_of(load_backbone("bundled"), "float32")
    assert key.digest() == "078157c89556597c6d09c5997a2d336895a90c5337483f99ea800a3d69d60d9d"
    default = Preprocessing()
    later = ("channels", "intensity", "squash")  # Fields that keys had not at first.
    assert default.fields() == {k: v for k, v in asdict(default).items() if k not in later}
    assert default.normalized("imagenet").fields() == default.fields()
    assert default.normalized("caffe").fields()["channels"] == "BGR"
    assert default.normalized("caffe").fields() != default.normalized("caffe-rgb").fields()


@pytest.mark.parametrize(
    ("how", "word"),
    [("imagnet", "imagnet"), ("0.5:0", "0.0"), ("0.5,0.5:0.2", "3 numbers"), ("0.5:nan", "nan"),
     ("1:2:3", "1:2:3"), ("1:2:GBR", "1:2:GBR"), ("BGR", "BGR"), ("0.5:", "0.5:")],
)  # fmt: skip
def test_what_cannot_normalise_is_refused(how: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        backbone_of(ExtractionOptions(backbone="bundled", normalize=how))


@pytest.mark.parametrize(
    ("backbone", "weights", "word"),
    [("bundled", None, "no batch normalisation"), ("resnet18", "none", "random")],
)
def test_auto_needs_statistics(
    backbone: str, weights: str | None, word: str, image_folder: Path
) -> None:
    options = ExtractionOptions(backbone=backbone, weights=weights, normalize="auto")
    with pytest.raises(ValueError, match=word):
        extract(list_images([image_folder]), options)


def test_the_check_is_that_of_brute_force() -> None:
    backbone = load_backbone(PLAIN)
    images = ImageList(
        name="", source=ArraySource(np.stack(photographs(20)), name=""),
        labels=np.full(20, ""), ignored={},
    )  # fmt: skip
    check = check_normalization(images, digest_images(images), backbone)
    assert check is not None
    net = plain()[0]
    for how, value in check.values.items():
        with torch.inference_mode():
            maps = net.conv1(STEPS.normalized(how).normalize(stacked(photographs(20)))).double()
        m, v = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
        u, s = net.bn1.running_mean.double(), net.bn1.running_var.double()
        each = (v / s + (m - u) ** 2 / s - 1 - (v / s).log()) / 2
        assert value == pytest.approx(float(np.median(each.numpy())), rel=1e-3), how
    assert check.n_images == 20
    assert set(check.values) == set(NORMALIZATIONS)


def test_levels_need_a_difference_and_a_factor() -> None:
    found = [
        compare_divergences(*pair) for pair in ((0.31, 0.05), (0.24, 0.01), (0.9, 0.35), (2.0, 1.5))
    ]
    assert found == ["warn", None, "note", None]


def _classes(folder: Path) -> Path:
    """Two classes of photographs, one of them bluer."""
    cut = photographs(40)
    save(folder / "as-is", cut[:20])
    save(
        folder / "blue",
        [image * np.array([0, 0, 1], np.uint8) // 2 + image // 2 for image in cut[20:]],
    )
    return folder


def test_compare_warns_of_a_normalisation_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = _classes(tmp_path / "data"), tmp_path / "out"
    words = ["compare", str(data), "--backbone", PLAIN, "--layers", "relu", "--Cs", "1e-3,1e-1",
             "--cv", "3", "--jobs", "1", "--out", str(out), "--controls"]  # fmt: skip
    assert main([*words, "none"]) == 0
    said = capsys.readouterr()
    report = json.loads((out / "report.json").read_text())
    check = report["preprocessing_check"]
    assert (check["in_use"], check["best"], check["level"]) == ("imagenet", "none", "warn")
    for text in (said.err, (out / "report.html").read_text(), (out / "report.md").read_text()):
        assert "--normalize none" in text
        assert f"{check['values']['imagenet']:.2f}" in text
        assert f"{check['values']['none']:.2f}" in text
    assert main([*words, "none", "--normalize", "none"]) == 0
    assert "--normalize" not in capsys.readouterr().err
    right = json.loads((out / "report.json").read_text())
    assert right["preprocessing_check"]["level"] is None
    assert right["backbone"]["preprocessing"]["std"] == [1, 1, 1]
    assert right["similarity"]["value"] > report["similarity"]["value"]
    assert main([*words, "random,pre,pixels", "--normalize", "auto"]) == 0
    assert "'none' is used" in capsys.readouterr().err
    chosen = json.loads((out / "report.json").read_text())
    assert chosen["images_reused"] == 40  # Its key is that of the one it chose.
    assert chosen["similarity"] == right["similarity"]
    assert "'none' is used" in chosen["preprocessing_check"]["chosen"]
    assert "is used; divergences" in (out / "report.html").read_text()


def test_auto_keeps_what_fits(tmp_path: Path) -> None:
    data = save(tmp_path / "data", photographs(40))
    options = ExtractionOptions(backbone="tests.test_similarity:build", normalize="auto")
    done = extract(list_images([data]), options)
    assert done.options.normalize is None
    own = extract(list_images([data]), replace(options, normalize=None))
    assert (done.key, own.n_reused) == (own.key, 40)


def test_fit_keeps_the_normalisation_and_predict_uses_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, file = _classes(tmp_path / "data"), tmp_path / "fitted.skops"
    words = ["fit", str(data), "--backbone", PLAIN, "--layers", "relu", "--Cs", "1e-2", "--cv", "3",
             "--jobs", "1", "--normalize", "auto", "--out", str(file)]  # fmt: skip
    assert main(words) == 0
    fitted = load(file)
    assert fitted.options.normalize == "none"
    assert fitted.preprocessing["std"] == (1.0, 1.0, 1.0)
    assert "does not seem to fit" not in capsys.readouterr().err
    assert main(["predict", str(file), str(data / "blue")]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert sum(",blue," in row for row in rows) >= 18


def test_fit_warns_of_a_normalisation_that_does_not_fit(tmp_path: Path) -> None:
    options = ExtractionOptions(backbone=PLAIN, layers="relu")
    protocol = Protocol(Cs=(1e-2,), cv=3, repeats=1)
    data = _classes(tmp_path / "data")
    fitted = compare(data, options=options, protocol=protocol, controls=()).fit()
    assert any("--normalize none" in note for note in fitted.card["notes"])


def test_pixels_of_any_channel_order_are_the_same_control() -> None:
    from codes.backbones.backbone import pixels_backbone

    swapped = Preprocessing().normalized("caffe")
    assert pixels_backbone(swapped).preprocessing == pixels_backbone(Preprocessing()).preprocessing
    white = Preprocessing().crop(Image.new("RGB", (300, 300), "white"))
    assert swapped.normalize(white[None]).amax() == pytest.approx(255 - 103.939, rel=1e-5)
