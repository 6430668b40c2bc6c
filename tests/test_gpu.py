"""What runs on a GPU against the same on the CPU."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codes import CodeExtractor, ImageList, load_backbone, load_images
from codes.backbones.backbone import Backbone
from pipelines import FinetuneOptions, compare
from pipelines.cli.app import main
from pipelines.extraction.transformer import CodesTransformer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def _load(name: str) -> Backbone:
    return load_backbone(name, weights=None if name == "bundled" else "none")


def _codes(
    extractor: CodeExtractor, images: ImageList, batch_size: int | None = None, workers: int = 0
) -> dict[str, NDArray[np.float32]]:
    batches = list(extractor.extract(images, batch_size=batch_size, workers=workers))
    return {
        layer: np.concatenate([batch.codes[layer] for batch in batches])
        for layer in batches[0].codes
    }


def _columns(table: Path) -> dict[str, list[str]]:
    with table.open() as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


def _assert_scores_near(tables: dict[str, dict[str, list[str]]], most: float) -> None:
    found, expected = (np.array(tables[device]["score"], float) for device in ("cuda", "cpu"))
    assert np.abs(found - expected).max() <= most


def _assert_near(
    found: dict[str, NDArray[np.float32]], expected: dict[str, NDArray[np.float32]], most: float
) -> None:
    for layer, codes in expected.items():
        assert np.abs(found[layer] - codes).max() <= most * np.abs(codes).max(), layer


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("name", ["bundled", "resnet18", "squeezenet1_1"])
def test_codes_of_a_gpu_are_the_cpus(name: str, precision: str, most: float) -> None:
    backbone = _load(name)
    digits = load_images("sklearn:digits").take(np.arange(50))
    expected = _codes(CodeExtractor(backbone), digits, batch_size=50)
    extractor = CodeExtractor(backbone, precision=precision, device="cuda")
    for batch_size, workers in ((50, 0), (7, 0), (7, 2)):
        found = _codes(extractor, digits, batch_size=batch_size, workers=workers)
        _assert_near(found, expected, most)


@pytest.mark.parametrize("name", ["bundled", "resnet18"])
def test_extractors_of_one_backbone_agree_and_leave_its_network_as_it_was(name: str) -> None:
    backbone = _load(name)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    digits = load_images("sklearn:digits").take(np.arange(20))
    expected = _codes(CodeExtractor(backbone), digits)
    for precision, most in (("float32", 1e-4), ("bfloat16", 0.05), ("float32", 1e-4)):
        extractor = CodeExtractor(backbone, device="cuda", precision=precision)
        _assert_near(_codes(extractor, digits), expected, most)
    assert not backbone.model.training
    for key, value in backbone.model.state_dict().items():
        assert value.device.type == "cpu"
        assert value.is_contiguous()
        assert torch.equal(value, before[key]), key
    _assert_near(_codes(CodeExtractor(backbone), digits), expected, 0)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    backbone = _load("squeezenet1_1")
    digits = load_images("sklearn:digits").take(np.arange(400))
    expected = _codes(CodeExtractor(backbone), digits)
    extractor = CodeExtractor(backbone, device="cuda")
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(800 * 2**20 / total)
    try:
        found = _codes(extractor, digits, batch_size=400)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert extractor.most is not None, "the largest map alone has more than 1 GiB"
    _assert_near(found, expected, 1e-4)


def test_a_comparison_a_fit_and_its_predictions_are_the_cpus(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--backbone", "bundled", "--cv", "3", "--jobs", "1")
    tables, predicted, similar = {}, {}, {}
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        on = ("--device", device, "--store", str(out / "store"))
        controls = ("--controls", "pixels,shuffled,random,pre", "--train-sizes", "all")
        main(["compare", str(image_folder), *quick, *controls, "--out", str(out / "report"), *on])
        tables[device] = _columns(out / "report" / "scores.csv")
        main(["fit", str(image_folder), *quick, "--out", str(out / "fitted"), *on])
        labels = out / "labels.csv"
        main(["predict", str(out / "fitted"), str(image_folder), "--out", str(labels), *on])
        predicted[device] = _columns(labels)
        capsys.readouterr()
        main(["similarity", str(image_folder), "--backbone", "bundled", "--json", *on])
        similar[device] = json.loads(capsys.readouterr().out)
    for key in ("layer", "classifier", "train_size", "fold"):
        assert tables["cuda"][key] == tables["cpu"][key]
    _assert_scores_near(tables, 1 / 12)
    assert predicted["cuda"]["label"] == predicted["cpu"]["label"]
    _assert_scores_near(predicted, 0.01)
    assert similar["cuda"].keys() == similar["cpu"].keys()


@pytest.mark.parametrize("options", [{}, {"fresh": True}, {"optimizer": "adamw", "dropout": 0.2}])
def test_fine_tuning_on_a_gpu_is_as_on_the_cpu(
    image_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    losses, scores = [], []
    for device in ("cuda", "cpu"):
        study = compare(
            image_folder, backbone="bundled", layers="fc7.relu", cv=3, Cs=(1e-3, 1e-1), repeats=1,
            controls="none", device=device, store=tmp_path / device,
            finetune=FinetuneOptions(starts="conv5,fc6", epochs=3, **options),
        )  # fmt: skip
        losses.append([one.outcomes[0].curve.loss for one in study.finetuned])
        scores.append([row.score for row in study.comparison.layers])
        assert study.fit("fc6").state is not None
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02, atol=0.01)
    np.testing.assert_allclose(scores[0], scores[1], atol=1 / 12)


def test_the_transformer_gives_the_cpus_codes(image_folder: Path, tmp_path: Path) -> None:
    files = sorted(map(str, image_folder.rglob("*.png")))
    found, expected = (
        CodesTransformer(device=device, dtype="float32", store=tmp_path / device).fit_transform(
            files
        )
        for device in ("cuda", "cpu")
    )
    _assert_near({"": np.asarray(found)}, {"": np.asarray(expected)}, 1e-4)
