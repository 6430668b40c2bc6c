"""Where the chosen C lies in its grid, and probabilities that it leaves near uniform."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from codes import load_images
from pipelines import ExtractionOptions
from pipelines.cli.app import main
from pipelines.diagnostics.grid_edges import Edge, edge_sentence, edges_of, uniform_sentence
from pipelines.extraction.extract import extract
from pipelines.fitted.files import load
from pipelines.linear.validation import parse_grid

LAYER = "conv1.relu"


@pytest.mark.parametrize("Cs", ["1e-6:1e-4:3", "1e-3:1e-1:3"])
def test_probabilities_that_say_nothing_are_said(
    Cs: str, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two colours are told apart with every C: the smallest is taken."""
    dataset = image_folder.parent / "two"
    dataset.mkdir()
    for name in ("blue", "red"):
        (image_folder / name).rename(dataset / name)
    options = ExtractionOptions(backbone="bundled", layers=LAYER)
    status = main(
        ["fit", str(dataset), "--backbone", "bundled", "--layers", LAYER, "--cv", "3",
         "--repeats", "1", "--jobs", "1", "--Cs", Cs, "--out", str(tmp_path / "m.skops")]
    )  # fmt: skip
    assert status == 0
    fitted, images = load(tmp_path / "m.skops"), load_images(dataset)
    assert fitted.card["C"] == float(Cs.partition(":")[0])
    assert fitted.classifier.C_at_edge_ is None  # Scores are as high for every C.
    X = StandardScaler().fit_transform(extract(images, options).codes(LAYER).astype(float))
    oracle = LogisticRegression(C=fitted.card["C"], tol=1e-9, max_iter=10_000)
    largest = oracle.fit(X, images.labels).predict_proba(X).max(1).mean()
    told = capsys.readouterr().err
    assert (largest < 0.55) == ("near uniform" in told)
    assert (largest < 0.55) == Cs.startswith("1e-6")
    if largest < 0.55:
        for words in (f"{LAYER} (logistic)", f"{largest:.3f} on average", "here 1e-06", "to 0.0001",
                      "--scoring neg_log_loss"):  # fmt: skip
            assert words in told


def test_near_uniform_is_measured_from_equal_probabilities() -> None:
    for k in (2, 5):
        for share, said in ((0.0, True), (0.09, True), (0.11, False), (1.0, False)):
            largest = 1 / k + share * (1 - 1 / k)
            rest = (1 - largest) / (k - 1)
            probabilities = np.array([[largest, *[rest] * (k - 1)]])
            assert bool(uniform_sentence("a (logistic)", probabilities, 1.0, [1.0, 2.0])) == said


def test_the_wider_grid_holds_the_given_one() -> None:
    Cs = list(parse_grid("1e-3:1e1:5"))
    for sides, low, high in (("low", 1e-5, 1e1), ("high", 1e-3, 1e3), ("low high", 1e-5, 1e3)):
        edges = [Edge(name=f"a{i} (svm)", C=1.0, side=side) for i, side in enumerate(sides.split())]
        said = edge_sentence(edges, Cs)
        wider = parse_grid(said.rpartition("--Cs ")[2].rstrip("."))
        assert (wider[0], wider[-1]) == pytest.approx((low, high))
        assert all(np.isclose(wider, C).any() for C in Cs)
        assert all(edge.name in said for edge in edges)
    assert edge_sentence([], Cs) == ""
    many = [Edge(name=f"a{i} (svm)", C=1.0, side="low") for i in range(9)]
    assert "and 3 more" in edge_sentence(many, Cs)


def test_edges_name_the_training_size_where_there_are_several() -> None:
    row: dict[str, Any] = {
        "layer": "a", "classifier": "svm", "train_size": "all", "C": 1.0, "C_at_edge": "low"
    }  # fmt: skip
    rows = [row, row | {"train_size": 5}, row | {"train_size": 9, "C_at_edge": None}]
    assert [edge.name for edge in edges_of(rows)] == ["a (svm, all a class)", "a (svm, 5 a class)"]
    assert edges_of([row]) == [Edge(name="a (svm)", C=1.0, side="low")]
