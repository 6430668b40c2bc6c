"""Predictions of images whose classes are known are scored as scikit-learn scores them."""

from __future__ import annotations

import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, get_scorer

from codes import load_images
from codes.data.readers.to_predict import list_to_predict
from pipelines import ExtractionOptions, Protocol, compare
from pipelines.cli.app import main
from pipelines.extraction.extract import extract
from pipelines.fitted.evaluation import evaluate
from pipelines.fitted.files import load, save
from pipelines.fitted.pipeline import FittedPipeline
from pipelines.statistics.scoring import SCORINGS
from tests.conftest import draw_image

OPTIONS = ExtractionOptions(backbone="bundled", layers="fc7.relu")
PROTOCOL = Protocol(cv=2, repeats=1, Cs=(1e-4, 1e-3), classifier=("logistic",))


@pytest.fixture
def fitted(image_folder: Path) -> FittedPipeline:
    return compare(image_folder, options=OPTIONS, protocol=PROTOCOL, controls=()).fit()


@pytest.fixture
def new_folder(tmp_path: Path) -> Path:
    """New images in class folders, some of them in the wrong one; a class that is not known."""
    for label, (name, n) in enumerate((("blue", 7), ("green", 5), ("red", 4), ("teal", 2))):
        folder = tmp_path / "new" / name
        folder.mkdir(parents=True)
        for i in range(n):
            hue = (2 - label + (i % 3 == 0)) % 3
            draw_image(5000 + 100 * label + i, hue=hue).save(folder / f"{i}.png")
    return tmp_path / "new"


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_class_folders_are_scored_beside_the_same_rows(
    fitted: FittedPipeline, new_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.skops"
    save(fitted, file)
    assert main(["predict", str(file), str(new_folder)]) == 0
    found = capsys.readouterr()
    rows = _rows(found.out)
    assert [row["path"] for row in rows] == sorted(map(str, new_folder.rglob("*.png")))
    known = [row for row in rows if "/teal/" not in row["path"]]
    truth = [Path(row["path"]).parent.name for row in known]
    predicted = [row["label"] for row in known]
    score = accuracy_score(truth, predicted)
    assert 0 < score < 1
    assert f"Accuracy {score:.3f} (95 % interval " in found.err
    assert "'teal': 2 images" in found.err
    classes = fitted.card["classes"]
    for name, row in zip(classes, confusion_matrix(truth, predicted, labels=classes), strict=True):
        line = next(line for line in found.err.splitlines() if line.startswith(f"{name} "))
        assert line.split()[1:3] == [str(row.sum()), str(row[classes.index(name)])]
        for other, n in zip(classes, row.tolist(), strict=True):
            assert (f"{other} {n}" in line) == bool(n and other != name)


def test_every_form_of_a_dataset(new_folder: Path, tmp_path: Path) -> None:
    def listed(*places: str | Path) -> list[tuple[str, str]]:
        images = list_to_predict(list(map(str, places)))
        names = [Path(name).name for name in images.source.names]
        return list(zip(names, images.labels.tolist(), strict=True))

    whole = listed(new_folder)
    assert len(whole) == 18
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", new_folder)
    assert listed(archive) == whole
    lines = ["path,label", *(f"new/{label}/{name},{label}" for name, label in whole)]
    (tmp_path / "new.csv").write_text("\n".join(lines))
    assert listed(tmp_path / "new.csv") == whole
    assert listed(tmp_path / "new.csv", new_folder / "red") == [
        *whole, *((f"{i}.png", "") for i in range(4)),
    ]  # fmt: skip
    split = tmp_path / "split"
    shutil.copytree(new_folder, split / "test")
    shutil.copytree(new_folder, split / "train")
    assert listed(split) == whole + whole
    for side in ("train", "test"):
        shutil.make_archive(str(tmp_path / "archives" / side), "zip", new_folder)
    assert sorted(listed(tmp_path / "archives")) == sorted(whole + whole)
    only = tmp_path / "only"
    shutil.copytree(new_folder / "red", only / "red")
    assert listed(only) == [(f"{i}.png", "red") for i in range(4)]
    shutil.copy(new_folder / "red" / "0.png", only / "beside.png")
    assert ("beside.png", "") in listed(only)
    assert set(listed(new_folder / "teal")) == {("0.png", ""), ("1.png", "")}
    other = tmp_path / "other"
    shutil.copytree(new_folder / "red", other / "2024" / "may")
    assert {label for _, label in listed(other)} == {"2024"}
    shutil.copytree(new_folder / "red", split / "more")  # Beside splits: no dataset to compare.
    assert {label for _, label in listed(split)} == {"train", "test", "more"}


def test_images_without_classes_are_not_scored(
    fitted: FittedPipeline, new_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(fitted, tmp_path / "m.skops")
    assert main(["predict", str(tmp_path / "m.skops"), str(new_folder / "red")]) == 0
    found = capsys.readouterr()
    assert len(_rows(found.out)) == 4
    assert "interval" not in found.err
    (tmp_path / "other.csv").write_text("path,label\nnew/red/0.png,crimson\n")
    assert main(["predict", str(tmp_path / "m.skops"), str(tmp_path / "other.csv")]) == 0
    found = capsys.readouterr()
    assert len(_rows(found.out)) == 1
    assert "'crimson': 1 image\n" in found.err
    assert "interval" not in found.err


def test_labels_that_are_no_classes_are_said_with_the_nearest(
    fitted: FittedPipeline, new_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(fitted, tmp_path / "m.skops")
    for name in ("blue", "green", "red"):
        (new_folder / name).rename(new_folder / f" {name.upper()}")
    for number in range(15):  # Many of one kind, as folders of patients are.
        folder = new_folder / f"patient{number:02d}"
        folder.mkdir()
        draw_image(number).save(folder / "0.png")
    assert main(["predict", str(tmp_path / "m.skops"), str(new_folder)]) == 0
    found = capsys.readouterr()
    assert len(_rows(found.out)) == 7 + 5 + 4 + 2 + 15
    assert "interval" not in found.err
    assert "' BLUE': 7 " in found.err
    assert "' GREEN': 5 " in found.err
    assert "' RED': 4 " in found.err
    assert re.search("'teal': 2 images$", found.err, re.MULTILINE)
    assert "9 more labels: 9 images" in found.err
    assert "blue, green, red" in found.err


def test_predictions_need_no_labels(
    fitted: FittedPipeline, new_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(fitted, tmp_path / "m.skops")
    files = sorted(new_folder.rglob("*.png"))
    (tmp_path / "new.csv").write_text("\n".join(["path", *map(str, files)]))
    assert main(["predict", str(tmp_path / "m.skops"), str(tmp_path / "new.csv")]) == 0
    found = capsys.readouterr()
    assert [row["path"] for row in _rows(found.out)] == list(map(str, files))
    assert "cored" not in found.err
    lines = [f"{file},{file.parent.name if i % 2 else ''}" for i, file in enumerate(files)]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *lines]))
    assert main(["predict", str(tmp_path / "m.skops"), str(tmp_path / "some.csv")]) == 0
    told = capsys.readouterr().err
    assert f"{len(files) - len(files) // 2} images without a label" in told
    known = [file for file in files[1::2] if file.parent.name != "teal"]
    assert f"on {len(known)} labelled images" in told
    with pytest.raises(ValueError, match="lacks the column label"):
        load_images(tmp_path / "new.csv", min_classes=1)
    with pytest.raises(ValueError, match="the column label is empty"):
        load_images(tmp_path / "some.csv")
    (tmp_path / "new.csv").write_text("file\n0.png\n")
    with pytest.raises(ValueError, match="lacks the column path"):
        list_to_predict([str(tmp_path / "new.csv")])


def test_an_image_that_cannot_be_read_is_named_once(
    fitted: FittedPipeline, new_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(fitted, tmp_path / "m.skops")
    (new_folder / "red" / "bad.png").write_bytes(b"no image")
    arguments = ["predict", str(tmp_path / "m.skops"), str(new_folder), "--skip-unreadable"]
    assert main(arguments) == 0
    found = capsys.readouterr()
    assert found.err.count("bad.png") == 1
    assert main(["predict", "--help"]) == 0
    assert "report" not in capsys.readouterr().out  # It writes none.
    assert len(_rows(found.out)) == 18


def test_images_that_trained_are_left_out_or_said(
    fitted: FittedPipeline,
    image_folder: Path,
    new_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "m.skops"
    save(fitted, file)
    alone = evaluate(load(file), extract(load_images(new_folder), fitted.options))
    shutil.copy(image_folder / "red" / "03.png", new_folder / "red" / "copy.png")
    mixed = evaluate(load(file), extract(load_images(new_folder), fitted.options))
    assert alone is not None
    assert mixed is not None
    assert (alone.n_trained, alone.n_left_out, mixed.n_trained, mixed.n_left_out) == (0, 0, 1, 1)
    np.testing.assert_array_equal(alone.confusion, mixed.confusion)
    assert alone.score == mixed.score
    assert main(["predict", str(file), str(new_folder)]) == 0
    assert "1 image that the pipeline was fitted on" in capsys.readouterr().err
    assert main(["predict", str(file), str(image_folder)]) == 0
    assert re.search("Warning: .* fitted on 36 ", capsys.readouterr().err)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_the_score_is_that_of_the_card(
    fitted: FittedPipeline, new_folder: Path, scoring: str
) -> None:
    shutil.rmtree(new_folder / "teal")
    extraction = extract(load_images(new_folder), fitted.options)
    found = evaluate(replace(fitted, card=fitted.card | {"scoring": scoring}), extraction)
    assert found is not None
    X, y = extraction.codes("fc7.relu"), extraction.images.labels
    oracle: Any = get_scorer(scoring) if scoring != "average_precision" else None
    if oracle is not None:
        assert found.score == pytest.approx(oracle(fitted.classifier, X, y))
    assert found.ci_low <= found.score <= found.ci_high
    for n in (1, 2):  # Of one class.
        few = evaluate(
            replace(fitted, card=fitted.card | {"scoring": scoring}),
            extract(load_images(new_folder).take(np.arange(n)), fitted.options),
        )
        assert few is not None
        assert few.ci_low <= few.score <= few.ci_high
        assert few.confusion.sum() == n


def test_balanced_accuracy_where_it_was_chosen_by(fitted: FittedPipeline, new_folder: Path) -> None:
    extraction = extract(load_images(new_folder), fitted.options)
    card = fitted.card | {"scoring": "balanced_accuracy"}
    found = evaluate(replace(fitted, card=card), extraction)
    known = extraction.images.labels != "teal"
    predicted = fitted.classifier.predict(extraction.codes("fc7.relu"))
    assert found is not None
    assert found.score == pytest.approx(
        balanced_accuracy_score(extraction.images.labels[known], predicted[known])
    )


def test_a_file_of_the_first_format_is_read(fitted: FittedPipeline, tmp_path: Path) -> None:
    file = tmp_path / "m.skops"
    save(fitted, file)
    again = load(file)
    np.testing.assert_array_equal(again.digests, fitted.digests)
    trusted = skops.io.get_untrusted_types(file=file)
    kept = skops.io.load(file, trusted=trusted)
    del kept["digests"]
    file.write_bytes(skops.io.dumps(kept | {"format": 1}))
    assert not load(file).trained_on(np.zeros((2, 32), np.uint8)).any()
    file.write_bytes(skops.io.dumps(kept | {"format": 99}))
    with pytest.raises(ValueError, match="format is 99"):
        load(file)


def test_an_edge_of_the_grid_is_told_of_the_fit_itself(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # All Cs are far too small: scores still rise at the last one.
    arguments = [
        "fit", str(image_folder), "--backbone", "bundled", "--layers", "conv1.relu", "--cv", "2",
        "--scoring", "neg_log_loss", "--repeats", "1", "--jobs", "1", "--out",
        str(tmp_path / "m.skops"), "--Cs",
    ]  # fmt: skip
    assert main([*arguments, "1e-9,1e-8,1e-7,1e-5"]) == 0
    fitted = load(tmp_path / "m.skops")
    told = capsys.readouterr().err
    assert fitted.classifier.C_at_edge_ == "high"
    assert "conv1.relu (logistic) has C = 1e-05" in told
    assert "1e-09 to 1e-05" in told
    assert "--Cs 1e-09:0.001:" in told


@pytest.mark.parametrize(("final", "compared"), [("high", None), (None, "low"), (None, None)])
def test_both_edges_are_looked_at(
    image_folder: Path, final: str | None, compared: str | None
) -> None:
    from pipelines.diagnostics.fit_notes import fit_notes

    row = SimpleNamespace(
        layer="fc7.relu", classifier="svm", train_size="all", C_at_edge=compared, C=0.1
    )
    best = SimpleNamespace(
        **vars(row),
        recommended="fc7.relu",
        recommended_classifier="svm",
        unexplained=None,
        taken=("fc7.relu", "svm"),
    )
    comparison: Any = SimpleNamespace(best=best, layers=[row], notes=("a class has no test image",))
    classifier: Any = SimpleNamespace(C_at_edge_=final, C_=1.0, Cs_=np.array([0.1, 1.0]))
    notes = fit_notes(extract(load_images(image_folder), OPTIONS), comparison, classifier)
    edges = [note for note in notes if "edge" in note]
    assert len(edges) == bool(final or compared)
    for side, words in ((final, "C = 1, the largest"), (compared, "C = 0.1, the smallest")):
        assert all((side is not None) == (words in note) for note in edges)
    assert notes[-1] == "a class has no test image."
