"""Components of a score's variance: of simulated answers whose components are known, and refits."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.svm import LinearSVC

from codes import load_images
from pipelines import Protocol, compare, compare_layers
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import cut_again, make_splits
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.report.page import render
from pipelines.report.stability import stability_of
from pipelines.statistics.held_out import HeldOut
from pipelines.statistics.variance_components import Stability, measure_stability
from pipelines.training.options import FinetuneOptions
from tests.conftest import Run
from tests.oracle import rotated

Effects = dict[str, float]
NAMES = ("draw", "folds", "test", "draw x test", "folds x test")


def _simulate(
    rng: np.random.Generator, sd: Effects, shape: tuple[int, int, int], n_groups: int = 0
) -> NDArray[np.float64]:
    """Draw a value for each draw, cut of its folds and test image; of groups, the half is theirs.

    Effects are plus or minus their standard deviation, so that probabilities stay between 0 and 1.
    """
    d, f, n = shape

    def effects(name: str, *size: int) -> NDArray[np.float64]:
        return sd[name] * rng.choice([-1.0, 1.0], size)

    of_images = effects("test", n)
    if n_groups:
        of_images = (of_images + effects("test", n_groups)[np.arange(n) % n_groups]) / np.sqrt(2)
    return (
        effects("draw", d, 1, 1)
        + effects("folds", d, f, 1)
        + of_images
        + effects("draw x test", d, 1, n)
        + effects("folds x test", d, f, n)
    )


def _measure(
    values: NDArray[np.float64], scoring: str, n_groups: int = 0, source: str = "draw"
) -> Stability:
    n = values.shape[-1]
    groups = (np.arange(n) % n_groups).astype(str) if n_groups else None
    held_out = HeldOut(scoring=scoring, truth=np.zeros(n, np.intp), n_classes=2, groups=groups)
    deviations = np.array([[held_out.deviations([one]) for one in cuts] for cuts in values])
    return measure_stability(
        np.array([[held_out.score(one) for one in cuts] for cuts in values]), deviations,
        source=source, n_tested=held_out.n_tested,
        freedom=held_out.freedom(deviations.mean((0, 1))),
    )  # fmt: skip


def _variances(found: Stability) -> Effects:
    return {part.source: part.variance for part in found.components}


SD = {"draw": 0.06, "folds": 0.05, "test": 0.15, "draw x test": 0.08, "folds x test": 0.06}


def _log_losses(seed: int, n_groups: int) -> Effects:
    """Estimate from a score that is a mean of the values themselves."""
    rng = np.random.default_rng(seed)
    values = -1 + _simulate(rng, SD, (4, 2, 48), n_groups)
    return _variances(_measure(values, "neg_log_loss", n_groups))


def _hits(seed: int) -> Effects:
    """Estimate from answers that are right with a probability of 0.6 and the effects."""
    rng = np.random.default_rng(seed)
    wrong = rng.random((4, 2, 48)) >= 0.6 + _simulate(rng, SD, (4, 2, 48))
    return _variances(_measure(wrong.astype(float), "accuracy"))


@pytest.mark.parametrize("kind", ["log loss", "groups", "accuracy"])
def test_the_estimates_are_unbiased(kind: str) -> None:
    estimate = {
        "log loss": lambda seed: _log_losses(seed, 0),
        "groups": lambda seed: _log_losses(seed, 8),
        "accuracy": _hits,
    }[kind]
    known = {name: sd**2 / (48 if "test" in name else 1) for name, sd in SD.items()}
    if kind == "groups":  # Half of what images vary by is their group's.
        known["test"] = SD["test"] ** 2 / 2 * (1 / 48 + 1 / 8)
    if kind == "accuracy":  # A coin is tossed for each answer.
        known["folds x test"] += (0.6 * 0.4 - sum(np.square(list(SD.values())))) / 48
    found = [estimate(seed) for seed in range(1500)]
    for name in NAMES:
        values = np.array([one[name] for one in found])
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - known[name]) < 3.5 * error, name
        assert error < 0.12 * known[name], f"{name}: too rough to show a bias"


@pytest.mark.parametrize("name", ["draw", "folds", "test", "draw x test"])
def test_the_largest_source_is_named(name: str) -> None:
    sd = dict.fromkeys(NAMES, 0.01) | {name: 0.2 if "test" not in name else 1.5}
    found = [
        _measure(-1 + _simulate(np.random.default_rng(seed), sd, (5, 2, 60)), "neg_log_loss")
        for seed in range(200)
    ]
    # Of five draws, a variance that is a difference is rough: it is not called certain then.
    named = np.array([one.largest == name for one in found])
    assert np.mean(named) >= (0.95 if name in ("draw", "test") else 0.8)
    certain = np.array([one.certain for one in found])
    assert np.mean(certain & ~named) <= 0.05
    if " x " not in name:  # Of a draw's luck with these images, more of either is as good.
        helped = "draw" if name == "folds" else name
        best = [one.with_twice[helped] <= 1.001 * min(one.with_twice.values()) for one in found]
        assert np.mean(best) >= 0.95


def test_equal_sources_are_seldom_called_certain() -> None:
    """Draws and test images that add the same: one is larger by luck alone."""
    sd = {"draw": 0.1, "folds": 0.0, "test": 0.1 / np.sqrt(5) * np.sqrt(60)}
    sd |= {"draw x test": 0.0, "folds x test": 0.0}
    found = [
        _measure(-1 + _simulate(np.random.default_rng(seed), sd, (5, 2, 60)), "neg_log_loss")
        for seed in range(400)
    ]
    assert np.mean([one.certain for one in found]) <= 0.1


@pytest.mark.parametrize(
    ("twice", "shape"),
    [("", (4, 2, 48)), ("draw", (8, 2, 48)), ("test", (4, 2, 96)), ("folds", (4, 2, 48))],
)
def test_the_standard_error_is_what_scores_vary_by(twice: str, shape: tuple[int, int, int]) -> None:
    """Also with twice as much of a source, which is drawn here."""
    said, scores = [], []
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        found = _measure(-1 + _simulate(rng, SD, (4, 2, 48)), "neg_log_loss")
        # Squared, where nothing is below 0: the mean of roots is not the root of means.
        parts = {part.source: part.variance for part in found.components}
        said.append(_error(parts, twice))
        drawn = _simulate(rng, SD, shape)
        scores.append(drawn.mean() if twice == "folds" else drawn[:, 0].mean())
        if min(parts.values()) >= 0:
            expected = found.with_twice[twice] if twice else found.standard_error
            assert np.sqrt(said[-1]) == pytest.approx(expected)
    assert np.mean(said) == pytest.approx(np.var(scores), rel=0.12)


def _error(parts: Effects, twice: str) -> float:
    """Write out the squared standard error of a mean over four draws."""
    n, m = (8 if twice == "draw" else 4), (0.5 if twice == "test" else 1.0)
    cuts = 2 if twice == "folds" else 1
    of_draws = parts["draw"] + m * parts["draw x test"]
    of_folds = (parts["folds"] + m * parts["folds x test"]) / cuts
    return (of_draws + of_folds) / n + m * parts["test"]


def _textbook(y: NDArray[np.float64]) -> Effects:
    """Estimate the components by mean squares: folds nested in draws, both crossed with images."""
    d, f, n = y.shape
    mean, of_d, of_df = y.mean(), y.mean((1, 2)), y.mean(2)
    of_i, of_di = y.mean((0, 1)), y.mean(1)
    MS_draw = f * n * np.square(of_d - mean).sum() / max(1, d - 1)
    MS_folds = n * np.square(of_df - of_d[:, None]).sum() / max(1, d * (f - 1))
    MS_draw_test = f * np.square(of_di - of_d[:, None] - of_i + mean).sum()
    MS_draw_test /= max(1, (d - 1) * (n - 1))
    rest = y - of_df[:, :, None] - of_di[:, None] + of_d[:, None, None]
    MS_rest = np.square(rest).sum() / max(1, d * (f - 1) * (n - 1))
    MS_test = d * f * np.square(of_i - mean).sum() / (n - 1)
    if d == 1:
        return {
            "folds": (MS_folds - MS_rest) / n,
            "test": (MS_test - MS_rest) / f / n,
            "folds x test": MS_rest / n,
        }
    if f == 1:
        return {
            "draw": (MS_draw - MS_draw_test) / n,
            "test": (MS_test - MS_draw_test) / d / n,
            "draw x test": MS_draw_test / n,
        }
    return {
        "draw": (MS_draw - MS_folds - MS_draw_test + MS_rest) / (n * f),
        "folds": (MS_folds - MS_rest) / n,
        "test": (MS_test - MS_draw_test) / (d * f) / n,
        "draw x test": (MS_draw_test - MS_rest) / f / n,
        "folds x test": MS_rest / n,
    }


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[Any], NDArray[np.str_]]:
    """Codes of 400 scanned digits by the bundled backbone."""
    images = load_images("sklearn:digits").take(np.arange(400))
    options = ExtractionOptions(
        backbone="bundled", layers="fc6.relu", dtype="float32",
        store=str(tmp_path_factory.mktemp("store")),
    )  # fmt: skip
    extraction = extract(images, options)
    return extraction.readers["fc6.relu"](), images.labels


def test_components_are_those_of_refits_by_scikit_learn(
    digits: tuple[NDArray[Any], NDArray[np.str_]],
) -> None:
    """Draws, cuts and C by scikit-learn's own fits; components by mean squares."""
    X, y = digits
    test = np.arange(len(y)) % 2 == 0
    protocol = Protocol(Cs=(1e-6, 1e-4, 1e-2), cv=2, train_sizes=(2, "all"), seeds=3, repeats=3,
                        scoring="accuracy", Cs_search="full")  # fmt: skip
    found = compare_layers({"fc6": X}, y, test=test, protocol=protocol)
    samples = Samples(y=y, test=test)
    splits, _ = make_splits(samples, protocol)
    cuts, notes = cut_again(samples, protocol, splits)
    assert notes == []
    assert [len(of) for of in cuts] == [4, 1]
    rows = {row.train_size: row for row in found.layers}
    for size in (2, "all"):
        of_size = [[s for s in of if s.train_size == size] for of in (splits, *cuts)]
        hits = np.array([[_refit(X, y, s, protocol) for s in of] for of in of_size if of])
        stability = rows[size].stability
        assert stability is not None
        known = _textbook(np.swapaxes(hits, 0, 1))
        assert _variances(stability) == pytest.approx(known, abs=1e-6)
        assert rows[size].score == pytest.approx(hits[0].mean())
    small = rows[2].stability
    assert small is not None
    assert max(part.variance for part in small.components if part.source != "test") > 1e-5


def _refit(X: NDArray[Any], y: NDArray[np.str_], split: Any, protocol: Protocol) -> NDArray[Any]:
    """Choose C and fit by scikit-learn alone; which test images are right."""
    X_train, y_train = X[split.train], y[split.train]

    def right(C: float, train: Any, test: Any) -> NDArray[np.bool_]:
        A, B = rotated(X_train[train], test)
        model = LinearSVC(C=C, tol=1e-9, max_iter=10**7, dual=True, random_state=0)
        return model.fit(A, y_train[train]).predict(B)  # type: ignore[no-any-return]

    scores = [
        np.mean([np.mean(right(C, a, X_train[b]) == y_train[b]) for a, b in split.inner])
        for C in protocol.grid
    ]
    C = protocol.grid[int(np.argmax(scores))]
    every = np.arange(len(X_train))
    return (right(C, every, X[split.test]) == y[split.test]).astype(float)


def test_repeats_of_a_cross_validation_are_one_component(
    digits: tuple[NDArray[Any], NDArray[np.str_]],
) -> None:
    X, y = digits[0][:200], digits[1][:200]
    protocol = Protocol(Cs=(1e-5, 1e-3), cv=2, seeds=3, repeats=3, scoring="accuracy")
    found = compare_layers({"fc6": X}, y, protocol=protocol)
    [row] = found.layers
    assert row.stability is not None
    assert [part.source for part in row.stability.components] == ["splits", "test", "splits x test"]
    hits = np.array(found.scored.pooled(found.scored.fits["fc6", "svm"], "all")[1])
    hits = (hits == found.scored.samples.numbers).astype(float)[:, None]
    known = {name.replace("draw", "splits"): value for name, value in _textbook(hits).items()}
    assert _variances(row.stability) == pytest.approx(known, abs=1e-12)
    assert row.stability.n_draws == 3
    assert not found.folds_cut_again


def test_one_group_of_test_images_says_nothing_of_others() -> None:
    rng = np.random.default_rng(0)
    y = np.tile(["a", "b"], 30)
    groups = np.where(np.arange(60) < 40, np.arange(60) // 2, 99).astype(str)
    found = compare_layers(
        {"x": rng.normal(size=(60, 4))}, y, test=groups == "99", groups=groups,
        protocol=Protocol(Cs=(0.1,), cv=2, seeds=2),
    )  # fmt: skip
    assert [row.stability for row in found.layers] == [None]


def test_folds_are_cut_again_of_the_same_images_and_nothing_else_changes() -> None:
    y = np.repeat(["a", "b", "c"], 40)
    samples = Samples(y=y, test=np.arange(120) % 4 == 0)
    protocol = Protocol(cv=3, train_sizes=(6, "all"), seeds=5)
    splits, _ = make_splits(samples, protocol)
    plain, _ = make_splits(samples, replace(protocol, seeds=1))
    for one, other in zip(splits, plain, strict=True):  # Five draws are the default.
        np.testing.assert_array_equal(one.train, other.train)
        assert [b.tolist() for _, b in one.inner] == [b.tolist() for _, b in other.inner]
    assert cut_again(samples, replace(protocol, seeds=1), plain) == ([], [])
    cuts, _ = cut_again(samples, protocol, splits)
    assert [len(of) for of in cuts] == [6, 1, 1, 1]
    own = {(s.train_size, s.repeat): s for s in splits}
    folds: dict[Any, list[list[list[int]]]] = {}
    for number, of_cut in enumerate(cuts, 1):
        for split in of_cut:
            key = split.train_size, split.repeat
            assert split.cut == number
            np.testing.assert_array_equal(split.train, own[key].train)
            np.testing.assert_array_equal(split.test, own[key].test)
            held_out = [b.tolist() for _, b in split.inner]
            assert sorted(chain(*held_out)) == list(range(len(split.train)))
            folds.setdefault(key, [[b.tolist() for _, b in own[key].inner]]).append(held_out)
    for of_split in folds.values():
        assert all(a != b for i, a in enumerate(of_split) for b in of_split[:i])


QUICK = ("--backbone", "bundled", "--layers", "fc6.relu,fc7.relu", "--cv", "2", "--Cs",
         "1e-5,1e-3", "--jobs", "1", "--controls", "none")  # fmt: skip


@pytest.fixture
def table(image_folder: Path, tmp_path: Path) -> Path:
    """A dataset with a test split: four of twelve images of each class."""
    file = tmp_path / "images.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("path", "label", "split"))
        for path in sorted(image_folder.glob("*/*.png")):
            writer.writerow((path, path.parent.name, "test" if int(path.stem) < 4 else "train"))
    return file


def test_seeds_add_to_the_files_and_change_nothing(
    table: Path, tmp_path: Path, run_cli: Run
) -> None:
    scores: dict[str, list[dict[str, str]]] = {}
    texts = {}
    for name, extra in (("none", ()), ("one", ("--seeds", "1")), ("five", ("--seeds", "5"))):
        done = run_cli("compare", table, *QUICK, "--train-sizes", "3,all", *extra,
                       "--out", tmp_path / name)  # fmt: skip
        assert done.returncode == 0, done.stderr
        texts[name] = (tmp_path / name / "scores.csv").read_text()
        scores[name] = list(csv.DictReader(texts[name].splitlines()))
        page = (tmp_path / name / "report.html").read_text()
        assert ("How stable" in page) == (name == "five")
        assert ("Standard error of" in done.stdout) == (name == "five")
        assert ("times as many images" in done.stderr) == (name == "five")
    assert texts["one"] == texts["none"]
    own = [row for row in scores["five"] if row.pop("cut") == "0"]
    assert own == scores["none"]  # Five draws are the default.
    assert len(scores["five"]) - len(own) == 2 * (5 + 4)
    reports = {name: json.loads((tmp_path / name / "report.json").read_text()) for name in scores}
    found = stability_of(reports["five"])
    assert found is not None
    for name in ("report.html", "report.md"):
        text = (tmp_path / "five" / name).read_text()
        assert found["sentence"] in text
        assert all(title in text for title, _ in (*found["sources"], *found["errors"]))
        assert "There is one set of all training images" in text
    for row, plain in zip(reports["five"]["layers"], reports["none"]["layers"], strict=True):
        assert plain.pop("stability") is None
        stability = row.pop("stability")
        assert row == plain
        sources = {part["source"]: part for part in stability["components"]}
        assert sources.keys() >= {"folds", "test", "folds x test"}
        assert ("draw" in sources) == (row["train_size"] == 3)
        assert sources["test"]["n"] == 12
        assert sources["folds"]["n"] == (10 if row["train_size"] == 3 else 5)
    assert reports["five"]["best"] == reports["none"]["best"]
    assert reports["five"]["protocol"]["seeds"] == 5
    # A report that lacks it, as those of earlier versions, says nothing of it.
    assert "How stable" not in render([reports["five"]])


def test_more_draws_than_by_default_are_the_first_and_more(table: Path) -> None:
    def scores(**settings: Any) -> dict[tuple[int, int], tuple[float, float]]:
        study = compare(table, backbone="bundled", layers="fc7.relu", cv=2, Cs="1e-5,1e-3",
                        train_sizes="3", controls="none", **settings)  # fmt: skip
        columns = [study.cv_results_[name].tolist() for name in ("repeat", "cut", "C", "score")]
        return {(repeat, cut): (C, score) for repeat, cut, C, score in zip(*columns, strict=True)}

    seven, three = scores(seeds=7), scores(seeds=2, repeats=3)
    assert seven.keys() == {(repeat, cut) for repeat in range(7) for cut in range(2)}
    assert three == {key: seven[key] for key in seven if key[0] < 3}


@pytest.mark.parametrize(
    ("seeds", "status", "said"),
    [("0", 1, "seeds=0: allowed are 1 or more"), ("-2", 1, "seeds=-2"),
     ("x", 2, "'x' is not a whole number"), ("1.5", 2, "'1.5' is not a whole number")],
)  # fmt: skip
@pytest.mark.parametrize("command", ["compare", "fit"])
def test_seeds_that_cannot_be(
    command: str, seeds: str, status: int, said: str, image_folder: Path, run_cli: Run
) -> None:
    extra = ("--out", "m.safetensors", "--finetune") if command == "fit" else ()
    done = run_cli(command, image_folder, "--backbone", "bundled", f"--seeds={seeds}", *extra)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seeds", [True, 1.5, "3", None])
def test_seeds_of_another_type_are_named(seeds: Any) -> None:
    with pytest.raises(TypeError, match="seeds"):
        Protocol(seeds=seeds)


class _StoppedError(Exception):
    """Raised where fine-tuning would begin."""


def test_seeds_are_those_of_fine_tuning_too(
    table: Path, tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[FinetuneOptions, Protocol]] = []

    def record(*arguments: Any, protocol: Protocol, **_: Any) -> None:
        given.append((arguments[2], protocol))
        raise _StoppedError

    monkeypatch.setattr("pipelines.studies.network_comparison.compare_finetuned", record)
    commands = (("compare", "--out", tmp_path / "out", "--controls", "none"),
                ("fit", "--out", tmp_path / "m.safetensors"))  # fmt: skip
    for command, *rest in commands:
        with pytest.raises(_StoppedError):
            run_cli("--debug", command, table, "--backbone", "bundled", "--layers", "fc7.relu",
                    "--cv", "2", "--Cs", "1e-3", "--finetune", "--seeds", "3", *rest)  # fmt: skip
    with pytest.raises(_StoppedError):
        compare(table, backbone="bundled", layers="fc7.relu", cv=2, Cs="1e-3", seeds=4,
                finetune=True)  # fmt: skip
    assert [options.seeds for options, _ in given] == [3, 3, 4]
    assert [protocol.seeds for _, protocol in given] == [3, 1, 4]
    done = run_cli("fit", table, "--backbone", "bundled", "--seeds", "3", "--out", "m.skops")
    assert done.returncode == 1
    assert "without --finetune" in done.stderr


def _row(components: dict[str, tuple[float, float]], **more: Any) -> dict[str, Any]:
    """A row of ``report.json``, with variances of one score and what they add to its error."""
    parts = [
        {"source": name, "variance": variance, "sd": max(0, variance) ** 0.5,
         "of_error": of_error, "n": 5, "freedom": 4.0}
        for name, (variance, of_error) in components.items()
    ]  # fmt: skip
    stability = {"components": parts, "n_draws": 5, "certain": True} | more
    return {
        "layer": "layer3", "classifier": "svm", "train_size": 20, "score": 0.664, "cv_score": 0.6,
        "score_without_leaks": None, "stability": stability,
    }  # fmt: skip


def _made_report(row: dict[str, Any], evaluation: str = "test split") -> dict[str, Any]:
    best = {"layer": "layer3", "classifier": "svm", "train_size": row["train_size"]}
    return {"layers": [row], "best": best, "protocol": {"evaluation": evaluation}}


def test_the_sentence_says_what_helps() -> None:
    row = _row(
        {"draw": (2e-4, 0.4e-4), "folds": (-1e-5, 0.0), "test": (4e-4, 4e-4)},
        standard_error=0.021, largest="test",
        with_twice={"draw": 0.0201, "folds": 0.021, "test": 0.0151},
    )  # fmt: skip
    found = stability_of(_made_report(row))
    assert found is not None
    assert found["sentence"] == (
        "The score of layer3 with 20 training images of each class, 0.664, has a standard error of "
        "0.021. The largest part of its variance, 91 %, is due to which test images there are. "
        "With twice as many test images it would fall to 0.015; with twice as many draws of "
        "training images it would be 0.020; twice as many cuts of the folds would change "
        "it by less than 0.001."
    )
    assert found["below_zero"]
    assert dict(found["sources"])["How the folds that choose C are cut"] == ["0.000*"]
    row["stability"]["certain"] = False
    assert "is not certain" in stability_of(_made_report(row))["sentence"]  # type: ignore[index]


def test_an_error_of_nothing_has_no_largest_source() -> None:
    row = _row({"draw": (0.0, 0.0), "test": (0.0, 0.0)}, standard_error=0.0, largest=None,
               with_twice={"draw": 0.0, "test": 0.0}, certain=False)  # fmt: skip
    found = stability_of(_made_report(row))
    assert found is not None
    assert "the same in every draw" in found["sentence"]
    assert found["line"] == found["sentence"]
