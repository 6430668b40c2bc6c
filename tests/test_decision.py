"""The decision: one recommendation, none where nothing beats guessing, none that costs much."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from codes import load_images
from pipelines import ExtractionOptions, LinearSVCCV, Protocol, compare_layers
from pipelines.cli.app import main
from pipelines.comparison.compare import say_unconverged
from pipelines.comparison.decision import Decision
from pipelines.comparison.evaluate import Fit
from pipelines.comparison.results import Best, ComparedLayer
from pipelines.comparison.samples import Samples
from pipelines.comparison.scored_fits import ScoredFits
from pipelines.comparison.splits import Split, make_splits
from pipelines.controls.findings import find_unneeded
from pipelines.controls.run import run_controls
from pipelines.diagnostics.advice import GUESSING, NO_NETWORK
from pipelines.extraction.extract import extract
from pipelines.fitted.files import load
from pipelines.report.answer import cautions, leaks_warning, sentence
from tests.conftest import draw_image

N_TRAIN, N_TEST = 2000, 400


def _best(
    hits: dict[str, tuple[float, NDArray[np.bool_]]],
    *,
    n_test: int = N_TEST,
    costs: dict[str, float] | None = None,
    max_loss: float = 0.02,
    starts: dict[str, float] | None = None,
) -> Best:
    """Decide between candidates of known cross-validation scores and known hits in the test."""
    y = np.array(["a", "b"] * ((N_TRAIN + n_test) // 2))
    numbers = np.arange(len(y)) % 2
    test = np.arange(N_TRAIN, len(y))
    split = Split(
        train_size="all", repeat=0, fold=0, train=np.arange(N_TRAIN), test=test,
        inner=[(test, test)] * 5,
    )  # fmt: skip
    fits = {
        (layer, "finetune" if layer in (starts or {}) else "svm"): [
            Fit(
                C=1.0, C_at_edge=None, converged=True, cv_scores=np.array([cv]), cv_score=cv,
                train_score=1.0, predicted=np.where(right, numbers[test], 1 - numbers[test]),
                answers=np.where(right, numbers[test], 1.0 - numbers[test]),
            )
        ]
        for layer, (cv, right) in hits.items()
    }  # fmt: skip
    scored = ScoredFits(
        samples=Samples(y=y), splits=[split], fits=fits, scoring="accuracy", random_state=0,
        layers=_costing(costs or {}) | {
            (name, "finetune"): ComparedLayer(layer=name, depth=depth, multiply_adds=100)
            for name, depth in (starts or {}).items()
        },
    )  # fmt: skip
    return Decision(scored=scored, max_loss=max_loss).best("all")


def _costing(costs: dict[str, float]) -> dict[tuple[str, str], ComparedLayer]:
    return {
        (name, "svm"): ComparedLayer(layer=name, multiply_adds=cost) for name, cost in costs.items()
    }


def _right(share: float, *, shift: int = 0, n: int = N_TEST) -> NDArray[np.bool_]:
    """Mark a share of the test images as right, in the same order but for a shift."""
    return np.roll(np.arange(n) < round(share * n), shift)


def test_a_cheaper_depth_is_recommended_only_where_it_gives_up_little() -> None:
    # Each is right for other images, so that 80 % and 77 % cannot be distinguished.
    far = {"early": (0.70, _right(0.77, shift=150)), "late": (0.80, _right(0.80))}
    best = _best(far)
    assert (best.layer, best.tied) == ("late", ("early",))
    assert best.recommended == "late"  # 0.03 is too much.
    assert _best(far, max_loss=0.05).recommended == "early"  # Its standard error is 0.03.
    near = {"early": (0.70, _right(0.79, shift=150)), "late": (0.80, _right(0.80))}
    assert _best(near).recommended == "early"
    assert _best(near, max_loss=0.0).recommended == "late"
    # 0.015 lower on nearly the same images is more than one standard error, 0.006.
    sure = {"early": (0.70, _right(0.785)), "late": (0.80, _right(0.80))}
    assert _best(sure).recommended == "late"


def test_a_depth_that_saves_little_is_not_preferred() -> None:
    near = {"early": (0.70, _right(0.79, shift=150)), "late": (0.80, _right(0.80))}
    for cost, expected in ((95.0, "early"), (96.0, "late"), (100.0, "late"), (101.0, "late")):
        assert _best(near, costs={"early": cost, "late": 100.0}).recommended == expected
    assert _best(near, costs={"early": 0.0, "late": 0.0}).recommended == "late"  # Not counted.
    with pytest.raises(ValueError, match="late"):
        compare_layers(
            dict.fromkeys(near, np.eye(9)),
            np.repeat(["a"], 9),
            layers=[ComparedLayer(layer="early")],
        )


def test_fits_that_stopped_short_are_said_once() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = np.arange(30) % 2
    found = compare_layers(
        {"a": X, "b": X[:, :2]}, y.astype(str), protocol=Protocol(Cs=(1.0,), cv=2, repeats=1)
    )
    assert found.notes == ()
    splits, _ = make_splits(Samples(y=y.astype(str), test=np.arange(30) >= 20), Protocol(cv=2))
    fit = Fit(
        C=1.0, C_at_edge=None, converged=False, cv_scores=np.ones(1), cv_score=1.0, train_score=1.0,
        predicted=y[20:], answers=y[20:].astype(float),
    )  # fmt: skip
    fits = {("a", "svm"): [fit], ("b", "svm"): [fit]}
    scored = ScoredFits(
        samples=Samples(y=y.astype(str)),
        splits=splits,
        fits=fits,
        scoring="accuracy",
        random_state=0,
    )
    [note] = say_unconverged(scored)
    assert "1 of 1 of a (svm), 1 of 1 of b (svm)" in note


def test_of_two_poolings_of_one_layer_neither_is_cheaper() -> None:
    hits = {"last": (0.70, _right(0.80, shift=9)), "last:avg": (0.80, _right(0.80))}
    assert _best(hits, costs={"last": 3.0, "last:avg": 3.0}).recommended == "last:avg"
    assert _best(hits).recommended == "last"


@pytest.mark.parametrize(
    ("cv", "share", "n_test", "expected"),
    [
        (0.916, 0.812, 330, "lower"),
        (0.879, 0.492, 100, "lower"),
        (0.80, 0.78, 330, None),
        (0.80, 0.90, 20, None),
        (0.70, 0.95, 400, "higher"),
        (0.80, 0.84, 2000, None),  # A fifth of the errors may go as the fifth fold trains too.
    ],
)
def test_a_test_score_that_cross_validation_does_not_explain_is_said(
    cv: float, share: float, n_test: int, expected: str | None
) -> None:
    best = _best({"late": (cv, _right(share, n=n_test))}, n_test=n_test)
    assert best.unexplained == expected
    assert best.explained_low is not None
    assert best.explained_high is not None
    inside = best.explained_low <= best.score <= best.explained_high
    assert inside == (expected is None)


def test_an_honest_split_is_seldom_said_to_differ() -> None:
    alarms = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = np.array(["a", "b", "c"])[rng.integers(3, size=200)]
        means = np.array([ord(name) - ord("a") for name in y])[:, None]
        X = means + rng.normal(size=(200, 4)) * 1.5
        test = np.arange(200) < 80
        codes = {"one": X[:, :2], "two": X}
        found = compare_layers(codes, y, test=test, protocol=Protocol(Cs=(1e-2, 1.0), cv=3))
        alarms.append(found.best.unexplained is not None)
    assert sum(alarms) <= 2  # At 1 % on either side.


def test_the_test_differs_in_the_sentence_of_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate("ab"):
            folder = tmp_path / "cut" / split / name
            folder.mkdir(parents=True)
            for i in range(20):
                stripes = np.tile(np.repeat([40, 200], 8), 4) + rng.integers(-40, 40, (64, 64))
                # In the test, stripes stand for the other class.
                upright = (label == 0) == (split == "train")
                pixels = (stripes if upright else stripes.T).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    report = _compare(tmp_path / "cut", tmp_path / "out")
    assert report["best"]["unexplained"] == "lower"
    [said] = [words for words in cautions(report) if "Training and test images differ" in words]
    assert f"{report['best']['cv_score']:.3f}" in said
    assert "Training and test images differ" in (tmp_path / "out" / "report.html").read_text()


def _compare(
    dataset: Path, out: Path, *words: str, layers: str = "conv5.relu,fc7.relu"
) -> dict[str, Any]:
    status = main(
        ["compare", str(dataset), "--backbone", "bundled", "--layers", layers,
         *([] if "--controls" in words else ["--controls", "none"]),
         "--cv", "3", "--Cs", "1e-3:1e-1:3", "--repeats", "1", "--jobs", "1",
         "--out", str(out), *words]
    )  # fmt: skip
    assert status == 0
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_of_fine_tuned_networks_that_are_tied_the_one_that_trains_least_is_recommended() -> None:
    right = {name: _right(0.8, shift=shift) for shift, name in enumerate("abcd")}
    starts = {"a": 0.0, "b": 0.5, "c": 0.9}
    hits = {name: (0.80 - 0.01 * i, right[name]) for i, name in enumerate("abc")}
    best = _best(hits, starts=starts)
    assert (best.layer, best.recommended, best.recommended_classifier) == ("a", "c", "finetune")
    # A linear classifier trains nothing, also where it costs as much to predict with.
    last = _best(hits | {"d": (0.70, right["d"])}, starts=starts, costs={"d": 100})
    assert (last.recommended, last.recommended_classifier) == ("d", "svm")
    worse = _best(hits | {"c": (0.78, _right(0.7))}, starts=starts)
    assert worse.recommended == "b"
    # Where the linear one is chosen, none that trains more replaces it.
    first = _best(hits | {"d": (0.90, right["d"])}, starts=starts, costs={"d": 100})
    assert (first.recommended, first.recommended_classifier) == ("d", "svm")


def test_nothing_is_recommended_where_nothing_beats_guessing(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in range(3):  # Labels that mean nothing.
        for i, file in enumerate(
            sorted((image_folder / ("blue", "green", "red")[label]).iterdir())
        ):
            draw_image(500 + 7 * i + label, hue=i % 3).save(file)
    report = _compare(image_folder, tmp_path / "out")
    assert report["best"]["ci_low"] <= report["best"]["guess"] == pytest.approx(1 / 3)
    assert report["best"]["recommended"] is None
    assert report["advice"]["case"] == GUESSING
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (capsys.readouterr().out, page, sentence(report) + report["advice"]["text"]):
        assert "better than guessing" in text
        assert "take the codes of" not in text
        assert "Train a linear" not in text
    assert "recommended)" not in page


@pytest.mark.parametrize(("layers", "guessing"), [("conv1.relu", False), ("fc6.relu", True)])
def test_a_network_that_adds_nothing_is_said_everywhere(
    layers: str,
    guessing: bool,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The colour tells the class: raw pixels do as well, and so do random weights.
    report = _compare(
        image_folder, tmp_path, "--controls", "pixels,random", "--classifier", "logistic",
        layers=layers,
    )  # fmt: skip
    controls = {control["name"]: control for control in report["controls"]}
    pixels, best = controls["pixels"], report["best"]
    assert pixels["score"] >= best["score"]
    assert (best["recommended"] is None) == guessing
    assert ("take the codes of" in sentence(report)) != guessing
    assert report["advice"]["case"] == NO_NETWORK
    words = (
        f"logistic regression on raw pixels scores {pixels['score']:.3f}, and on the network's "
        f"codes {best['score']:.3f}"
    )
    shown = (sentence(report), report["advice"]["text"], capsys.readouterr().out,
             *((tmp_path / name).read_text() for name in ("report.html", "report.md")))  # fmt: skip
    for text in shown:
        said = html.unescape(text).lower().replace("\\", "")
        assert f"no network is needed: {words}" in said
        assert bool(controls["random"]["finding"]) == ("with random weights scores" in said)
    assert "Train logistic regression on raw pixels" in report["advice"]["text"]


def test_a_control_is_told_from_the_network_by_paired_differences() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1], 60))
    names = np.array(["a", "b"])[y]
    good = y[:, None] + rng.normal(size=(120, 8)) * 0.8
    near = good + rng.normal(size=good.shape) * 0.2
    protocol = Protocol(Cs=(1e-2, 1.0), cv=3, repeats=2)
    found = compare_layers({"late": good}, names, protocol=protocol)
    codes = {"pixels": near, "random": rng.normal(size=(120, 8)), "concatenated": good}
    readers = {name: partial(np.array, X) for name, X in codes.items()}
    pixels, random, every = run_controls(readers, found, protocol=protocol)
    assert (random.finding, every.finding) == ("", "")
    assert "a linear SVM on raw pixels" in pixels.finding
    assert ("cannot be distinguished" in pixels.finding) == (pixels.score < found.best.score)
    assert find_unneeded("pixels", found.best.score - 0.01, found.best, worse=True) == ""
    assert "nothing shows" in find_unneeded(
        "random", found.best.score - 0.01, found.best, worse=False
    )


def test_where_no_depth_beats_guessing_random_weights_say_nothing_and_pixels_do() -> None:
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([0, 1], 60))
    names = np.array(["a", "b"])[y]
    good, noise = y[:, None] + rng.normal(size=(120, 8)) * 0.8, rng.normal(size=(120, 8))
    protocol = Protocol(Cs=(1e-2, 1.0), cv=3, repeats=1)
    groups = np.arange(120).astype(str)
    found = compare_layers({"late": noise}, names, protocol=protocol, groups=groups)
    assert found.best.recommended is None
    readers = {name: partial(np.array, good) for name in ("pixels", "random")}
    pixels, random = run_controls(readers, found, protocol=protocol)
    assert random.score == pixels.score > 0.7
    assert "no network is needed" in pixels.finding
    assert random.finding == ""
    near = find_unneeded("pixels", found.best.score - 0.01, found.best, worse=False, n_groups=7)
    assert "over 7 groups of tested images" in near


@pytest.fixture
def copied(image_folder: Path, tmp_path: Path) -> Path:
    """A split whose test images hold five copies of training images, one of them twice."""
    cut = tmp_path / "cut"
    for split in ("train", "test"):
        shutil.copytree(image_folder, cut / split)
    for label, name in enumerate(("blue", "green", "red")):
        for i in range(12):
            if (name, i) not in [("red", 0), ("red", 1), ("red", 2), ("blue", 3)]:
                draw_image(5000 + 100 * label + i, hue=2 - label).save(
                    cut / "test" / name / f"{i:02d}.png"
                )
    shutil.copy(cut / "train" / "red" / "00.png", cut / "test" / "red" / "again.png")
    return cut


def test_copies_in_the_test_are_counted_and_the_score_without_them_is_said_first(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _compare(copied, tmp_path / "out", "--controls", "pixels", layers="fc7.relu")
    assert "5 of 37 test images (14 %)" in leaks_warning(report)
    best = report["best"]
    images = load_images(copied)
    X = extract(images, ExtractionOptions(backbone="bundled", layers="fc7.relu")).codes("fc7.relu")
    assert images.test is not None
    names = np.array([Path(name).name for name in images.source.names])
    leaked = images.test & (
        (images.labels == "red") & np.isin(names, ["00.png", "01.png", "02.png", "again.png"])
        | (images.labels == "blue") & (names == "03.png")
    )
    assert leaked.sum() == 5
    row = report["layers"][0]
    model = LinearSVCCV(Cs=[row["C"]], cv=3).fit(X[~images.test], images.labels[~images.test])
    right = model.predict(X) == images.labels
    assert best["score"] == pytest.approx(right[images.test].mean())
    assert best["score_without_leaks"] == pytest.approx(right[images.test & ~leaked].mean())
    assert row["score_without_leaks"] == best["score_without_leaks"] != row["score"]
    assert best["n_without_leaks"] == 32
    # The score without them comes first, with what it is of; the other after it.
    clean, other = f"{best['score_without_leaks']:.3f}", f"{best['score']:.3f}"
    said = sentence(report)
    assert said.index(f"{clean} on the 32 test images") < said.index(f"{other} on all 37")
    for name in ("report.html", "report.md"):
        page = (tmp_path / "out" / name).read_text()
        assert "without copies" in page
        assert f"{clean} on the 32 test images" in page
    status = main(
        ["fit", str(copied), "--backbone", "bundled", "--layers", "fc7.relu", "--cv", "3",
         "--Cs", "1e-3:1e-1:3", "--classifier", "svm", "--jobs", "1", "--out",
         str(tmp_path / "m.skops")]
    )  # fmt: skip
    assert status == 0
    told = capsys.readouterr()
    assert f"Expect accuracy {clean}" in told.out
    assert "5 of 37 test images" in told.err
    assert f"on all it is {other}" in told.err
    assert load(tmp_path / "m.skops").card["expected"][0] == best["score_without_leaks"]


def test_copies_of_training_images_decide_nothing() -> None:
    y = np.repeat(["a", "b"], 240)[np.random.default_rng(0).permutation(480)]
    numbers = (y == "b").astype(int)
    test, copied = np.arange(480) >= 160, np.arange(480) >= 320
    splits, _ = make_splits(Samples(y=y, test=test), Protocol(cv=5))
    # Right for all copies, and for no more than half of the others.
    right = copied | (np.arange(480) % 2 == 0)
    answers = np.where(right, numbers, 1 - numbers)[test]
    fit = Fit(
        C=1.0, C_at_edge=None, converged=True, cv_scores=np.ones(1), cv_score=0.5, train_score=1.0,
        predicted=answers, answers=answers.astype(float),
    )  # fmt: skip

    def best(copied: NDArray[np.bool_] | None) -> Best:
        samples = Samples(y=y, copied=copied)
        scored = ScoredFits(
            samples=samples, splits=splits, fits={("late", "svm"): [fit]}, scoring="accuracy",
            random_state=0,
        )  # fmt: skip
        return Decision(scored=scored).best("all")

    leaky, clean = best(None), best(copied)
    assert (leaky.score, clean.score) == (0.75, 0.75)
    assert (clean.score_without_leaks, clean.n_without_leaks) == (0.5, 160)
    assert (leaky.recommended, clean.recommended) == ("late", None)
    assert (leaky.unexplained, clean.unexplained) == ("higher", None)
    only = copied | ~test  # Of these, nothing else would be left.
    assert best(only & test | test).n_without_leaks is None


def test_leaks_are_dropped_when_asked(copied: Path, tmp_path: Path) -> None:
    shutil.copy(copied / "train" / "red" / "05.png", copied / "train" / "blue" / "wrong.png")
    report = _compare(copied, tmp_path / "out", "--drop-leaks")
    assert report["dataset"]["splits"] == {"test": 32, "train": 35}
    assert report["dataset"]["n_dropped"] == 7
    assert report["leaks"] == []
    assert report["best"]["score_without_leaks"] is None


def test_the_time_that_is_saved_is_said(
    image_folder: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    report = _compare(image_folder, tmp_path / "out")
    best = report["best"]
    best |= {"layer": "fc7.relu", "recommended": "conv5.relu", "tied": ["conv5.relu"]}
    best["tied_classifiers"], best["recommended_classifier"] = [["conv5.relu", "svm"]], "svm"
    report["cost"] = {"conv5.relu": 0.003, "fc7.relu": 0.004}
    said = sentence(report)
    assert "take the codes of conv5.relu" in said
    assert "3 ms an image in place of 4 ms (25 % less" in said
