"""Controls at their known levels, similarity in its known order, advice by its table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.metrics import get_scorer

from codes import load_backbone
from codes.data.readers.datasets import list_images
from codes.graph.layers import Layer
from codes.similarity_statistics import StatisticsReader, scramble_phases
from pipelines import ExtractionOptions, LinearSVCCV, Protocol, compare, compare_layers
from pipelines.comparison.compare import decide
from pipelines.comparison.evaluate import Fit, evaluate_layer
from pipelines.comparison.results import ComparedLayer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split, make_splits
from pipelines.controls.controls import LeftOutError, PreActivation
from pipelines.controls.permutation import better_than_chance
from pipelines.controls.run import run_controls
from pipelines.diagnostics.advice import CASES, LARGE, advise
from pipelines.diagnostics.reproducibility import measure_reproducibility
from pipelines.diagnostics.similarity import Similarity
from pipelines.extraction.extract import extract
from pipelines.statistics.scoring import SCORINGS
from tests.conftest import draw_image


def _made(n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3]))
    X = rng.normal(size=(n, 10)) + 2 * np.eye(3, 10)[labels]
    return X.astype(np.float32), np.array(["a", "b", "c"])[labels]


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("with_test", [False, True])
def test_controls_stand_where_they_must(scoring: str, with_test: bool) -> None:
    X, y = _made()
    test = np.arange(len(y)) >= 100 if with_test else None
    protocol = Protocol(
        Cs=(1e-3, 1e-2, 1e-1), cv=3, repeats=1, scoring=scoring, classifier=("logistic",)
    )
    found = compare_layers({"good": X}, y, protocol=protocol, test=test)
    controls = run_controls(
        {"majority": lambda: X, "shuffled": lambda: X, "pixels": lambda: X},
        found, protocol=protocol,
    )  # fmt: skip
    majority, shuffled, same = controls
    splits, _ = make_splits(Samples(y=y, test=test), protocol)
    strategy = "prior" if SCORINGS[scoring].reads != "labels" else "most_frequent"
    oracle = [
        get_scorer(scoring)(
            DummyClassifier(strategy=strategy).fit(X[d.train], y[d.train]), X[d.test], y[d.test]
        )
        for d in splits
    ]
    assert majority.score == pytest.approx(np.mean(oracle))
    assert same.score == pytest.approx(found.best.score)  # The same codes score the same.
    assert shuffled.score < found.best.score
    assert not any(control.alarm for control in controls)


def test_copies_of_training_images_have_no_part_in_what_a_control_says() -> None:
    X, y = _made()
    rng = np.random.default_rng(0)
    test, copied = np.arange(150) >= 60, np.arange(150) >= 100
    protocol = Protocol(Cs=(1e-2,), cv=3)
    found = compare_layers({"good": X}, y, protocol=protocol, test=test, copied=copied)
    # Copies are known to the control, and nothing else: with them alone it would do as well.
    known = np.where(copied[:, None], X * 3, rng.normal(size=X.shape))
    known[~test] = X[~test] * 3
    same, other = run_controls(
        {"pixels": lambda: X, "random": lambda: known}, found, protocol=protocol
    )
    assert same.score_without_leaks == found.best.score_without_leaks
    assert f"scores {same.score_without_leaks:.3f}" in same.finding
    model = LinearSVCCV([1e-2], cv=3).fit(known[~test], y[~test])
    assert other.score_without_leaks is not None
    right = model.predict(known[test & ~copied]) == y[test & ~copied]
    rates = [right[y[test & ~copied] == name].mean() for name in "abc"]
    assert other.score_without_leaks == pytest.approx(np.mean(rates))
    assert other.score_without_leaks < other.score
    assert other.finding == ""


@pytest.mark.parametrize("n_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("with_test", [False, True])
def test_controls_cost_no_more_than_the_comparison(
    n_layers: int, with_test: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = _made(120)
    test = np.arange(len(y)) >= 80 if with_test else None
    protocol = Protocol(Cs=tuple(10.0**k for k in range(-6, 3)), cv=3)
    costs: dict[str, int] = {}

    def count(
        X: np.ndarray, y: np.ndarray, splits: list[Split], classifier: str, protocol: Protocol
    ) -> list[Fit]:
        # Features times fits; what a search reduces but once is ignored.
        costs[stage] = costs.get(stage, 0) + X.shape[1] * len(splits) * len(protocol.grid)
        grids.append(protocol.grid)
        return evaluate_layer(X, y, splits, classifier, protocol)

    monkeypatch.setattr("pipelines.comparison.evaluate.evaluate_layer", count)
    monkeypatch.setattr("pipelines.controls.controls.evaluate_layer", count)
    grids: list[tuple[float, ...]] = []
    stage = "comparison"
    codes = {f"layer{i}": X for i in range(n_layers)}
    found = compare_layers(codes, y, protocol=protocol, test=test)
    stage, grids = "controls", []
    names = ("majority", "shuffled", "pixels", "random", *["concatenated"] * (n_layers > 1))
    half = np.tile(X, n_layers)[:, : n_layers * X.shape[1] // 2]  # Their cost, as it was measured.
    readers = {name: partial(np.array, half if name == "concatenated" else X) for name in names}
    controls = run_controls(readers, found, protocol=protocol)
    assert [control.name for control in controls] == list(names)
    assert costs["controls"] <= 1.2 * costs["comparison"]
    chosen = {row.C for row in found.layers if row.layer == found.best.layer}
    assert all(len(grid) == 1 or chosen & set(grid) for grid in grids)


def test_shuffled_labels_are_trained_with_the_true_ones_c(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = _made()
    protocol = Protocol(Cs=(1e-4, 1e-2, 1.0), cv=3, repeats=2)
    found = compare_layers({"good": X}, y, protocol=protocol)
    used: list[float] = []

    def note(*arguments: Any) -> list[Fit]:
        fits = evaluate_layer(*arguments)
        used.extend(fit.C for fit in fits)
        return fits

    monkeypatch.setattr("pipelines.controls.controls.evaluate_layer", note)
    run_controls({"shuffled": lambda: X}, found, protocol=protocol)
    assert used == [fold.C for fold in found.folds if fold.repeat == 0]


def test_labels_that_leak_into_the_codes_of_shuffled_images_raise_the_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = _made()
    protocol = Protocol(Cs=(1e-2,), cv=3, repeats=1)
    found = compare_layers({"good": X}, y, protocol=protocol)
    # As if shuffling had not been: what was trained on knows the answers.
    monkeypatch.setattr("pipelines.controls.controls._shuffle", lambda labels, rng: labels)
    [shuffled] = run_controls({"shuffled": lambda: X}, found, protocol=protocol)
    assert shuffled.alarm


def test_clusters_that_one_order_of_labels_happens_to_fit_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog"], 100)
    X = rng.standard_normal((200, 10)) + np.where(y == "cat", 4.0, -4.0)[:, None]
    test = np.tile([True, False, False, False, False], 40)
    high = 0
    for seed in range(12):
        protocol = Protocol(Cs=(1e-2,), cv=3, random_state=seed)
        found = compare_layers({"clear": X}, y, protocol=protocol, test=test)
        [shuffled] = run_controls({"shuffled": lambda: X}, found, protocol=protocol)
        high += shuffled.score > 0.8
        assert not shuffled.alarm
    assert high  # One order of them alone would have raised it.


def test_chance_is_called_chance_nearly_always() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for seed in range(60):
        truth = rng.integers(0, 3, 80)
        alarms += better_than_chance(
            truth, [np.arange(80)], [rng.integers(0, 3, 80)], random_state=seed
        )
    assert alarms <= 1
    truth = np.repeat([0, 1, 2, 0, 1, 2], 20)
    patients = np.repeat(list("abcdef"), 20)  # Each patient's images are one witness.
    tests = [np.arange(120)]
    assert better_than_chance(truth, tests, [truth], random_state=0)
    assert not better_than_chance(truth, tests, [truth], groups=patients, random_state=0)


def test_a_study_runs_every_control_on_its_own_images(image_folder: Path) -> None:
    names = ("majority", "shuffled", "pixels", "random", "concatenated", "pre")
    options = ExtractionOptions(backbone="bundled", layers="conv5.relu,fc7.relu")
    protocol = Protocol(Cs=(1e-3, 1e-2), cv=3, repeats=1)
    done = compare(image_folder, options=options, protocol=protocol, controls=names)
    assert [control.name for control in done.controls] == list(names)
    widths = {control.name: control.n_features for control in done.controls}
    taps = {tap.layer.name: tap.n_features for tap in done.extraction.taps}
    best = taps[done.comparison.best.layer]
    assert widths == {
        "majority": 0, "shuffled": best, "pixels": 768, "random": best, "pre": best,
        "concatenated": sum(taps.values()),
    }  # fmt: skip
    with pytest.raises(ValueError, match="Controls luck are unknown"):
        compare(image_folder, options=options, protocol=protocol, controls=("luck",))


def test_scrambling_keeps_values_and_amplitudes_and_loses_phases() -> None:
    pixels = torch.from_numpy(np.array(draw_image(3).resize((64, 64)))).permute(2, 0, 1)
    scrambled = scramble_phases(pixels, b"seed")
    assert torch.equal(scrambled, scramble_phases(pixels, b"seed"))
    assert not torch.equal(scrambled, scramble_phases(pixels, b"other"))
    for before, after in zip(pixels.numpy(), scrambled.numpy(), strict=True):
        np.testing.assert_array_equal(np.sort(before.ravel()), np.sort(after.ravel()))
        assert abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.5
    before, after = (np.abs(np.fft.fft2(image.numpy())).ravel() for image in (pixels, scrambled))
    assert np.corrcoef(np.log(before + 1), np.log(after + 1))[0, 1] > 0.8


def test_scrambling_noise_makes_noise_and_a_black_edge_no_black_image() -> None:
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.integers(0, 256, (3, 64, 64), dtype=np.uint8))
    scrambled = scramble_phases(noise, b"seed").numpy().reshape(3, -1)
    assert np.abs(np.corrcoef(scrambled) - np.eye(3)).max() < 0.05  # Channels stay independent.
    half = torch.zeros(3, 64, 64, dtype=torch.uint8)
    half[:, :, :20] = 250
    assert (scramble_phases(half, b"seed") == 250).float().mean() == 20 / 64


def test_evidence_is_that_of_the_whole_network(image_folder: Path) -> None:
    backbone = load_backbone("bundled")
    images = list_images([image_folder])
    digests = np.zeros((len(images), 32), np.uint8)
    reader = StatisticsReader(backbone)
    found = np.concatenate([b["output"] for b in reader.read(images, digests, batch_size=7)])
    crops = torch.stack([backbone.preprocessing.crop(images.source.open(i)) for i in range(5)])
    with torch.inference_mode():
        scores = backbone.model(backbone.preprocessing.normalize(crops))
    np.testing.assert_allclose(found[:5, 0], scores.logsumexp(1), rtol=1e-4)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("value", "similar"), [(0.9, True), (0.1, False), (0.9, None), (None, None)]
)
def test_advice_is_that_of_the_table(
    large: bool, value: float | None, similar: bool | None
) -> None:
    X, y = _made()
    rng = np.random.default_rng(0)
    codes = {"early": X, "late": X + rng.normal(size=X.shape) * 3}
    found = compare_layers(
        codes,
        y,
        protocol=Protocol(Cs=(1e-2,), cv=3, train_sizes=(5, "all")),
        layers=[ComparedLayer(layer="early", depth=0.2), ComparedLayer(layer="late", depth=1.0)],
    )
    similarity = Similarity(
        value=value, ci_low=value, ci_high=value, witness="", n_images=9, by_layer=(),
        similar=similar,
    )  # fmt: skip
    folds = [replace(row, n_train=LARGE if large else 100) for row in found.folds]
    found = replace(found, folds=tuple(folds))
    said = advise(found, similarity)
    assert said.evidence[0].endswith(f"({'large' if large else 'small'}; large: {LARGE:,} or more)")
    assert ("has no border" in said.evidence[1]) == (value is not None and similar is None)
    assert (said.large, said.similar) == (large, similar)
    assert said.case == CASES[large, bool(similar)][0]  # Without a border: the depth is early.
    for word in ("similar data", "dissimilar data"):
        assert word not in said.text or similar is not None
    assert f"codes of {found.best.recommended} " in said.text
    if (large, similar) == (False, True):
        assert "would advise otherwise" in said.text  # The top is worse here.
    assert any("for each doubling" in line for line in said.evidence)
    assert "add --finetune" in said.text


def test_advice_says_what_fine_tuning_gave_where_it_was_measured() -> None:
    X, y = _made()
    rng = np.random.default_rng(0)
    noise = X + rng.normal(size=X.shape) * 6
    similarity = Similarity(
        value=None, ci_low=None, ci_high=None, witness="", n_images=9, by_layer=()
    )
    for codes, case in (({"late": noise}, "fine-tune-from"), ({"late": X}, "linear-top")):
        found = compare_layers(
            codes,
            y,
            protocol=Protocol(Cs=(1e-2,), cv=3, repeats=1),
            layers=[ComparedLayer(layer="late", depth=0.9, multiply_adds=10.0)],
        )
        # As if fine-tuning from some layer on answered with what the clean codes tell.
        good = compare_layers({"a": X}, y, protocol=Protocol(Cs=(1e-2,), cv=3, repeats=1))
        fits = {
            **found.scored.fits,
            ("block", "finetune"): good.scored.fits["a", "svm"],
        }
        described = ComparedLayer(layer="block", depth=0.5, multiply_adds=10.0)
        layers = {**found.scored.layers, ("block", "finetune"): described}
        both = decide(replace(found.scored, fits=fits, layers=layers), max_loss=0.02)
        said = advise(both, similarity)
        assert said.case == case
        assert "not measured" not in said.text
        if case == "linear-top":  # No better than what costs less to train.
            assert both.best.recommended == "late"
            assert "cannot be distinguished" in said.text
        else:
            assert "--from block" in said.text
            assert "better than every linear classifier" in said.text


def test_advice_counts_the_images_that_trained() -> None:
    X, y = _made()
    found = compare_layers({"early": X}, y, protocol=Protocol(Cs=(1e-2,), cv=3, train_sizes=(5,)))
    similarity = Similarity(
        value=None, ci_low=None, ci_high=None, witness="", n_images=9, by_layer=()
    )
    n_classes = len(set(y.tolist()))
    assert f"{5 * n_classes} training images" in advise(found, similarity).evidence[0]


def test_differences_are_measured_between_runs_batches_and_precisions(image_folder: Path) -> None:
    options = ExtractionOptions(backbone="bundled", layers="conv1.relu,fc7.relu")
    images = list_images([image_folder])
    found = measure_reproducibility(extract(images, options))
    assert (found.n_images, found.again, found.precision) == (8, 0.0, None)
    assert found.batch < 1e-5
    rough = replace(options, precision="bfloat16", deterministic=True)
    found = measure_reproducibility(extract(images, rough))
    assert found.again == 0.0
    assert found.precision is not None
    assert 1e-4 < found.precision < 0.05


@pytest.mark.parametrize(("kind", "allowed"), [("relu", True), ("cat", True), ("norm", False)])
def test_the_average_of_a_normalisation_has_no_side_before_an_activation(
    kind: str, allowed: bool
) -> None:
    of = Layer(name="last", kind=kind, depth=0.9, shape=(8, 4), layout="ntc")
    mean = Layer(
        name="mean", kind="penultimate", depth=0.9, shape=(8,), layout="nc", average_of="last"
    )
    extraction: Any = SimpleNamespace(
        taps=[SimpleNamespace(layer=mean)], backbone=SimpleNamespace(layers=[of, mean])
    )
    control, of_best = PreActivation(), ExtractionOptions(backbone="bundled", layers="mean")
    if allowed:
        assert control.options(of_best, extraction)[0].activation == "pre"
    else:
        with pytest.raises(LeftOutError, match="mean is not an activation, nor is last"):
            control.options(of_best, extraction)
