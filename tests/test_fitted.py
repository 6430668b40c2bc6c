"""A fitted pipeline predicts as scikit-learn would on the same codes, and refuses other weights."""

from __future__ import annotations

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import skops.io
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from codes import load_images
from codes.backbones.bundled import bundled
from codes.data.readers.datasets import list_images
from pipelines import ExtractionOptions, LinearSVCCV
from pipelines.extraction.extract import extract
from pipelines.extraction.transformer import CodesTransformer
from pipelines.fitted.files import load

Run = Callable[..., CompletedProcess[str]]
LAYERS = ("--backbone", "bundled", "--layers", "fc6.relu,fc7.relu")
QUICK = (*LAYERS, "--cv", "3", "--Cs", "1e-3:1e-1:3", "--repeats", "1", "--jobs", "1")


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
def test_predictions_are_those_of_the_classifier_on_its_codes(
    image_folder: Path, tmp_path: Path, run_cli: Run, classifier: str
) -> None:
    file = tmp_path / "colours.skops"
    done = run_cli("fit", image_folder, *QUICK, "--classifier", classifier, "--out", file)
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    done = run_cli("predict", file, image_folder)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    images = load_images(image_folder)
    fitted = load(file)
    layer = fitted.card["layer"]
    X = extract(images, ExtractionOptions(backbone="bundled", layers=layer)).codes(layer)
    paths = [row["path"] for row in rows]
    assert paths == list(images.source.names)
    assert list(rows[0])[:3] == ["path", "label", "score"]
    classes = list(rows[0])[3:]
    assert classes == sorted(set(images.labels.tolist()))
    values = np.array([[float(row[name]) for name in classes] for row in rows])
    labels = np.array([row["label"] for row in rows])
    np.testing.assert_array_equal(labels, np.array(classes)[values.argmax(1)])
    assert [float(row["score"]) for row in rows] == pytest.approx(values.max(1))
    if classifier == "logistic":
        oracle = make_pipeline(
            StandardScaler(), LogisticRegression(C=fitted.card["C"], tol=1e-8, max_iter=10_000)
        ).fit(X.astype(float), images.labels)
        np.testing.assert_allclose(values, oracle.predict_proba(X.astype(float)), atol=1e-3)


def test_other_weights_and_other_files_are_refused(
    image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    file = tmp_path / "colours.skops"
    assert run_cli("fit", image_folder, *QUICK, "--out", file).returncode == 0
    other = tmp_path / "other.safetensors"
    save_file(bundled(weights=False, random_state=1).state_dict(), other)
    for weights in ("none", other):
        done = run_cli("predict", file, image_folder, "--weights", weights)
        assert done.returncode == 1
        assert "Give the same with --weights" in done.stderr
        assert done.stdout == ""
    for name, data in (("empty", b""), ("text", b"hello"), ("pickle", pickle.dumps({"a": 1}))):
        (tmp_path / name).write_bytes(data)
        done = run_cli("predict", tmp_path / name, image_folder)
        assert (done.returncode, "fitted pipeline" in done.stderr) == (1, True)
    done = run_cli("predict", tmp_path / "absent", image_folder)
    assert "does not exist" in done.stderr
    done = run_cli("predict", file, tmp_path / "nowhere")
    assert "does not exist" in done.stderr


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_nothing_in_a_file_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "evil.skops"
    file.write_bytes(skops.io.dumps({"format": 1, "classifier": StandardScaler(), "x": print}))
    assert zipfile.is_zipfile(file)
    with pytest.raises(ValueError, match="fitted pipeline"):
        load(file)
    assert "run" not in capsys.readouterr().out


def test_a_transformer_works_in_a_pipeline_of_scikit_learn(image_folder: Path) -> None:
    images = load_images(image_folder)
    paths = list(images.source.names)
    X = extract(images, ExtractionOptions(backbone="bundled", layers="fc7.relu")).codes("fc7.relu")
    codes = CodesTransformer(layer="fc7.relu").fit_transform(paths)
    np.testing.assert_array_equal(codes, X)
    np.testing.assert_array_equal(CodesTransformer().transform(paths[::-1]), X[::-1])
    classifier = LinearSVCCV(Cs=[1e-3, 1e-2], cv=2, random_state=0)
    scores = cross_val_score(make_pipeline(CodesTransformer(), classifier), paths, images.labels)
    np.testing.assert_array_equal(scores, cross_val_score(classifier, X, images.labels))
    with pytest.raises(ValueError, match="stands for"):
        CodesTransformer(layer="fc..relu").transform(paths[:2])
    with pytest.raises(ValueError, match="is not a single image"):
        CodesTransformer().transform([image_folder])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        CodesTransformer().transform(["absent.png"])


def test_lists_of_images(image_folder: Path) -> None:
    files = sorted(image_folder.rglob("*.png"))
    images = list_images([files[3], image_folder / "blue"])
    assert images.source.names[0] == str(files[3])
    assert len(images) == 1 + len(list((image_folder / "blue").iterdir()))


def test_the_best_of_several_poolings(image_folder: Path, tmp_path: Path, run_cli: Run) -> None:
    options = (*QUICK[4:], "--backbone", "bundled", "--layers", "conv2.relu,fc6.relu")
    done = run_cli("compare", image_folder, *options, "--pool", "max,avg", "--out", tmp_path / "r")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r/report.json").read_text())
    names = {row["layer"]: (row["pool"], row["n_features"]) for row in report["layers"]}
    assert names == {
        "conv2.relu:max": ("max", 128), "conv2.relu:avg": ("avg", 128), "fc6.relu": ("flatten", 512)
    }  # fmt: skip
    assert {control["name"] for control in report["controls"]} >= {"random", "pixels"}
    done = run_cli("compare", image_folder, *options, "--pool", "avg", "--out", tmp_path / "one")
    assert json.loads((tmp_path / "one/report.json").read_text())["timing"]["images_extracted"] == 0
    file = tmp_path / "pooled.skops"
    options = (*options[:-1], "conv2.relu")
    done = run_cli("fit", image_folder, *options, "--pool", "max,avg", "--out", file)
    assert done.returncode == 0, done.stderr
    fitted = load(file)
    assert fitted.card["layer"] == f"conv2.relu:{fitted.options.pool}"
    done = run_cli("predict", file, image_folder)
    assert done.returncode == 0, done.stderr
    images = load_images(image_folder)
    X = extract(images, fitted.options).codes("conv2.relu")
    labels = [row["label"] for row in csv.DictReader(io.StringIO(done.stdout))]
    np.testing.assert_array_equal(labels, fitted.classifier.predict(X))
