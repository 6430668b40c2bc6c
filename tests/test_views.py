"""Views kept apart: rows of their own to train on, against scikit-learn on rows made by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from codes import load_images
from pipelines import ExtractionOptions, Protocol, compare_layers
from pipelines.comparison.evaluate import evaluate_layer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.extraction.extract import extract
from pipelines.fitted.files import load

Run = Callable[..., CompletedProcess[str]]


def _made(n: int = 60, n_views: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    images = rng.standard_normal((n, 1, 12)) + 0.8 * np.eye(12)[y][:, None]
    return images + rng.standard_normal((n, n_views, 12)), y.astype(str)


def test_scores_are_those_of_scikit_learn_on_rows_made_by_hand() -> None:
    X, y = _made()
    protocol = Protocol(Cs=(0.01, 0.1), cv=3, repeats=1)
    splits, _ = make_splits(Samples(y=y), protocol)
    for split, fit in zip(splits, evaluate_layer(X, y, splits, "svm", protocol), strict=True):

        def answers(train: np.ndarray, C: float, rows: np.ndarray) -> np.ndarray:
            several = np.concatenate([X[i] for i in train])
            scaler = StandardScaler().fit(several)
            model = LinearSVC(C=C, tol=1e-10, max_iter=100_000, intercept_scaling=1.0)
            model.fit(scaler.transform(several), np.repeat(y[train], 3))
            return model.decision_function(scaler.transform(rows))

        means = []
        for C in protocol.grid:
            scores = []
            for train, held_out in split.inner:  # Each held-out view counts.
                rows = np.concatenate([X[split.train[i]] for i in held_out])
                found = answers(split.train[train], C, rows).argmax(1).astype(str)
                scores.append((found == np.repeat(y[split.train[held_out]], 3)).mean())
            means.append(np.mean(scores))
        np.testing.assert_allclose(fit.cv_scores, means)
        each = [answers(split.train, fit.C, X[i]).mean(0) for i in split.test]
        np.testing.assert_array_equal(fit.predicted, np.argmax(each, 1))


def test_views_never_leave_their_image() -> None:
    # Labels by chance, each image's views alike: a view on the other side would be recognised.
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 200).astype(str)
    X = rng.standard_normal((200, 1, 400)) + 0.01 * rng.standard_normal((200, 5, 400))
    found = compare_layers({"only": X}, y, protocol=Protocol(Cs=(1e-3, 1.0), cv=4, repeats=1))
    assert 0.35 < found.best.score < 0.65
    splits, _ = make_splits(Samples(y=y), Protocol(cv=4, repeats=1))
    fits = evaluate_layer(X, y, splits, "svm", Protocol(Cs=(1e-3, 1.0), cv=4))
    assert all(0.3 < score < 0.7 for fit in fits for score in fit.cv_scores)


def test_kept_apart_and_averaged_share_a_pass_and_have_their_own_arrays(tmp_path: Path) -> None:
    images = load_images("sklearn:digits").take(np.arange(6))
    options = {"backbone": "bundled", "layers": "conv5.relu,fc7.relu", "store": tmp_path,
               "dtype": "float32", "views": "five-crop", "image_size": 32}  # fmt: skip
    with pytest.raises(ValueError, match="does not take images"):
        extract(images, ExtractionOptions(**options))
    options |= {"image_size": None, "views": "hflip"}
    apart = extract(images, ExtractionOptions(**options, each_view=True))
    averaged = extract(images, ExtractionOptions(**options))
    assert apart.key.digest() == averaged.key.digest()
    assert (averaged.n_extracted, averaged.n_reused) == (6, 0)
    for layer, tap in zip(apart.arrays, apart.taps, strict=True):
        codes = apart.codes(layer)
        assert codes.shape == (6, 2, tap.n_features)
        assert not np.allclose(codes[:, 0], codes[:, 1])
        np.testing.assert_allclose(codes.mean(1), averaged.codes(layer), atol=1e-5 * codes.max())
    centre = extract(images, ExtractionOptions(**options | {"views": "center"}))
    np.testing.assert_allclose(
        apart.codes("fc7.relu")[:, 0], centre.codes("fc7.relu"), rtol=1e-5, atol=1e-5
    )


def test_a_report_and_a_pipeline_of_views_kept_apart(
    image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    options = ("--backbone", "bundled", "--layers", "conv2.relu,fc7.relu", "--views", "hflip",
               "--each-view", "--cv", "3", "--Cs", "1e-3:1e-1:3", "--repeats", "1")  # fmt: skip
    controls = ("--controls", "shuffled,concatenated,pixels,random")
    done = run_cli("compare", image_folder, *options, *controls, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["backbone"]["each_view"] is True
    widths = {row["layer"]: row["n_features"] for row in report["layers"]}
    assert widths == {"conv2.relu": 3200, "fc7.relu": 512}
    joined = next(c for c in report["controls"] if c["name"] == "concatenated")
    assert joined["n_features"] == 3712
    assert "each view a row to train on" in (tmp_path / "report/report.html").read_text()
    file = tmp_path / "pipeline.skops"
    done = run_cli("fit", image_folder, *options, "--layers", "fc7.relu", "--out", file)
    assert done.returncode == 2, "one option twice"
    done = run_cli("fit", image_folder, *options, "--out", file)
    assert done.returncode == 0, done.stderr
    fitted = load(file)
    done = run_cli("predict", file, image_folder)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    extraction = extract(load_images(image_folder), fitted.options)
    [layer] = extraction.arrays
    expected = fitted.classifier.predict(extraction.codes(layer).mean(1, dtype=np.float32))
    assert [row["label"] for row in rows] == expected.tolist()


def test_one_view_cannot_be_kept_apart() -> None:
    with pytest.raises(ValueError, match="hflip, five-crop or ten-crop"):
        ExtractionOptions(backbone="bundled", each_view=True)
