"""The search for C, outwards from the middle of the grid, against the search of all of it."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GroupKFold, StratifiedKFold
from threadpoolctl import threadpool_info, threadpool_limits

import pipelines.linear.base
from pipelines.comparison.evaluate import evaluate_layer
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.diagnostics.grid_edges import not_searched_sentence, searched_sentence
from pipelines.linear.search import ValueScore, search_outwards
from pipelines.report.figures.curves import C_curves
from pipelines.report.figures.svg import NARROW
from tests.conftest import draw_image
from tests.oracle import FAST

Run = Callable[..., CompletedProcess[str]]
Data = tuple[NDArray[Any], NDArray[Any]]

GRID = np.logspace(-6, 2, 9)
KINDS = ["svm", "logistic"]


def _digits(n: int = 400) -> Data:
    X, y = load_digits(return_X_y=True)
    return X[:n], y[:n].astype(str)


def _imbalanced() -> Data:
    X, y = load_digits(return_X_y=True)
    kept = np.flatnonzero((y < 2) | (np.arange(len(y)) % 9 == 0))[:420]
    return X[kept], y[kept]


def _noise() -> Data:
    rng = np.random.default_rng(3)
    return rng.normal(size=(150, 300)), rng.integers(0, 3, 150)


def _two() -> Data:
    X, y = load_breast_cancer(return_X_y=True)
    return X[:300], y[:300]


DATASETS: dict[str, tuple[Callable[[], Data], str | None]] = {
    "digits": (_digits, None),
    "imbalanced": (_imbalanced, "balanced_accuracy"),
    "two classes": (_two, "accuracy"),
    "wine": (lambda: load_wine(return_X_y=True), "balanced_accuracy"),
    "noise": (_noise, None),
}


def _folds(X: NDArray[Any], y: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return list(StratifiedKFold(4, shuffle=True, random_state=0).split(X, y))


def _expected(
    kind: str, X: NDArray[Any], y: NDArray[Any], scoring: str | None, scores: NDArray[Any]
) -> list[int]:
    """Follow the rule by hand, on predictions of classifiers with one C each."""
    splits, terms = _folds(X, y), []
    for C in GRID:
        of_images = np.zeros(len(y))
        for train, test in splits:
            # One C has no other to be compared with, whatever the folds.
            right = FAST[kind]([C], cv=2).fit(X[train], y[train]).predict(X[test]) == y[test]
            weights = np.full(len(test), 1 / len(test))
            if scoring == "balanced_accuracy":
                sizes = {name: np.sum(y[test] == name) for name in set(y[test].tolist())}
                weights = np.array([1 / (len(sizes) * sizes[name]) for name in y[test].tolist()])
            of_images[test] = right * weights / len(splits)
        terms.append(of_images)
    np.testing.assert_allclose([t.sum() for t in terms], scores.mean(1), atol=1e-9)

    def worse(best: int, other: int) -> float:
        apart = terms[best] - terms[other]
        return float(apart.sum() / math.sqrt(sum(apart**2))) if apart.any() else 0.0

    seen = [4]
    while True:
        best = next(
            i
            for i in sorted(seen)
            if np.isclose(terms[i].sum(), max(terms[j].sum() for j in seen), atol=1e-12)
        )
        sides = []
        for step, last in ((-1, 0), (1, 8)):
            beyond = [worse(best, i) for i in range(best + step, last + step, step) if i in seen]
            over = any(w > 3 for w in beyond) or any(
                a > 2 and b > 2 for a, b in itertools.pairwise(beyond)
            )
            end = min(seen) if step < 0 else max(seen)
            sides.append(None if over or end == last else end + step)
        following = sides[0] if sides[0] is not None else sides[1]
        if following is None:
            return sorted(seen)
        seen.append(following)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DATASETS)
def test_it_looks_at_what_the_rule_says_and_chooses_what_all_values_give(
    kind: str, name: str
) -> None:
    make, scoring = DATASETS[name]
    X, y = make()
    options = {"cv": _folds(X, y), "scoring": scoring}
    full = FAST[kind](GRID, search="full", **options).fit(X, y)
    path = FAST[kind](GRID, **options).fit(X, y)
    looked = np.flatnonzero(~np.isnan(path.scores_).any(1))
    assert looked.tolist() == _expected(kind, X, y, scoring, full.scores_)
    assert np.isnan(np.delete(path.scores_, looked, axis=0)).all()
    np.testing.assert_array_equal(path.scores_[looked], full.scores_[looked])
    assert path.C_ == full.C_
    assert path.C_at_edge_ == full.C_at_edge_
    np.testing.assert_array_equal(path.coef_, full.coef_)
    assert path.certificate_ <= path.tol


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", ["path", "full"])
def test_no_result_depends_on_jobs_or_on_the_order_of_values(kind: str, search: str) -> None:
    X, y = _digits(200)
    options: dict[str, Any] = {"cv": 3, "random_state": 0, "search": search}
    expected = FAST[kind](GRID, **options).fit(X, y)
    assert np.isnan(expected.scores_).any() == (search == "path")
    two = FAST[kind](GRID, n_jobs=2, **options).fit(X, y)
    np.testing.assert_array_equal(two.scores_, expected.scores_)
    np.testing.assert_array_equal(two.coef_, expected.coef_)
    order = np.random.default_rng(0).permutation(9)
    mixed = FAST[kind](GRID[order], **options).fit(X, y)
    np.testing.assert_array_equal(mixed.scores_, expected.scores_[order])
    assert mixed.C_ == expected.C_


def test_threads_leave_the_limit_on_blas_as_it_was() -> None:
    X, y = _digits(200)
    with threadpool_limits(2, user_api="blas"):
        before = threadpool_info()
        FAST["svm"](GRID, cv=5, random_state=0, n_jobs=3).fit(X, y)
        assert threadpool_info() == before


def test_problems_too_large_to_be_held_together_look_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = _imbalanced()
    X = np.hstack([X, np.zeros((len(y), 400))])  # More features than samples.
    full = FAST["logistic"](GRID, cv=3, random_state=0, search="full").fit(X, y)
    # The Gram matrices of three folds, each of all images.
    for limit, all_of_them in ((3 * 8 * len(y) ** 2, False), (3 * 8 * len(y) ** 2 - 1, True)):
        monkeypatch.setattr(pipelines.linear.base, "KEPT_SIZE", limit)
        path = FAST["logistic"](GRID, cv=3, random_state=0).fit(X, y)
        assert np.isnan(path.scores_).any() != all_of_them
        looked = ~np.isnan(path.scores_)
        np.testing.assert_array_equal(path.scores_[looked], full.scores_[looked])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [[1.0], [1e-3, 1.0], [1.0, 1e-3], [0.1, 0.1, 0.1]])
def test_short_grids(kind: str, grid: list[float]) -> None:
    X, y = _digits(150)
    path = FAST[kind](grid, cv=3, random_state=0).fit(X, y)
    full = FAST[kind](grid, cv=3, random_state=0, search="full").fit(X, y)
    assert (path.C_, path.C_at_edge_) == (full.C_, full.C_at_edge_)


def _made(means: list[float], n: int = 1000) -> Callable[[int], ValueScore]:
    """Scores of values of which the better ones are right wherever the worse are."""
    return lambda i: ValueScore(mean=means[i], shares=(np.arange(n) < means[i] * n) / n)


@pytest.mark.parametrize(
    ("means", "looked"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], [1, 2, 3, 4]),  # Rising: the best is the last.
        ([0.5, 0.4, 0.3, 0.2, 0.1], [1, 2, 0]),  # Falling: the middle itself ends the upper side.
        ([0.5] * 5, [1, 2, 0, 3, 4]),  # Nothing is worse.
        ([0.4, 0.5, 0.5, 0.5, 0.4], [1, 2, 0, 3, 4]),
        # √9 and √10 standard errors; five images twice in a row.
        ([0.9, 0.491, 0.5, 0.491, 0.9], [1, 2, 0]),
        ([0.9, 0.49, 0.5, 0.49, 0.9], [1, 2, 3]),
        ([0.9, 0.495, 0.495, 0.5, 0.495, 0.495, 0.9], [2, 3, 1, 4, 5]),
        ([0.9, 0.495, 0.497, 0.5, 0.497, 0.495, 0.9], [2, 3, 1, 0]),
        ([0.3], [0]),
        ([0.3, 0.4], [0, 1]),
    ],
)
def test_how_far_it_looks(means: list[float], looked: list[int]) -> None:
    found = search_outwards(len(means), _made(means))
    assert list(found) == looked
    assert [found[i].mean for i in looked] == [means[i] for i in looked]


@pytest.mark.parametrize("kind", KINDS)
def test_best_values_at_either_edge_of_the_grid_are_told(kind: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 200))
    y = X[:, :10].sum(1) + 1.5 * rng.normal(size=600) > 0
    top = 0.01 if kind == "svm" else 0.1  # Of scores that fall on both of its sides.
    rising, falling = top * np.logspace(-5, 0, 6), top * np.logspace(0, 5, 6)
    for grid, edge in ((rising, "high"), (falling, "low"), (falling[::-1], "low")):
        path, full = (
            FAST[kind](grid, cv=3, random_state=0, search=how).fit(X, y) for how in ("path", "full")
        )
        assert (path.C_, path.C_at_edge_) == (full.C_, full.C_at_edge_) == (top, edge)
        assert edge == "high" or np.isnan(path.scores_).any()


@pytest.mark.parametrize("scoring", ["f1_macro", "roc_auc", make_scorer(accuracy_score)])
def test_scores_that_are_no_sums_over_images_look_at_all(scoring: Any) -> None:
    X, y = _two()
    path = FAST["svm"](GRID, cv=3, random_state=0, scoring=scoring).fit(X, y)
    full = FAST["svm"](GRID, cv=3, random_state=0, scoring=scoring, search="full").fit(X, y)
    np.testing.assert_array_equal(path.scores_, full.scores_)


def test_log_loss_is_a_sum_over_images() -> None:
    X, y = _digits()
    found = [
        FAST["logistic"](GRID, cv=3, random_state=0, scoring="neg_log_loss", search=search)
        for search in ("path", "full")
    ]
    path, full = (one.fit(X, y) for one in found)
    looked = ~np.isnan(path.scores_).any(1)
    assert 0 < looked.sum() < len(GRID)
    np.testing.assert_allclose(path.scores_[looked], full.scores_[looked], rtol=1e-3)
    assert path.C_ == full.C_


@pytest.mark.parametrize("scoring", ["accuracy", "balanced_accuracy", "neg_log_loss"])
def test_shares_add_up_to_the_score_and_groups_count_once(
    scoring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = _imbalanced()
    groups = np.arange(len(y)) // 3
    seen: list[ValueScore] = []

    def note(n: int, score: Callable[[int], ValueScore]) -> dict[int, ValueScore]:
        seen.extend(score(i) for i in range(n))
        return {}

    monkeypatch.setattr(pipelines.linear.base, "search_outwards", note)
    # Fold sizes differ, and some samples are tested twice.
    cv = list(GroupKFold(4).split(X, y, groups)) + _folds(X, y)[:1]
    model = FAST["logistic"]([1e-4, 1e-1], cv=cv, scoring=scoring)
    for given, n_units in ((groups, len(np.unique(groups))), (None, len(y))):
        seen.clear()
        model.fit(X, y, given)
        np.testing.assert_allclose([one.mean for one in seen], model.scores_.mean(1))
        np.testing.assert_allclose([one.shares.sum() for one in seen], model.scores_.mean(1))
        assert all(len(one.shares) == n_units for one in seen)


def test_groups_reach_the_splitter() -> None:
    X, y = _digits(120)
    groups = np.arange(120) % 7
    splitter = GroupKFold(3)
    path = FAST["svm"](GRID, cv=splitter).fit(X, y, groups)
    again = FAST["svm"](GRID, cv=list(splitter.split(X, y, groups))).fit(X, y, groups)
    np.testing.assert_array_equal(path.scores_, again.scores_)


def test_options_of_the_search_that_make_no_sense() -> None:
    X, y = _digits(60)
    with pytest.raises(ValueError, match="search='half'"):
        FAST["svm"](GRID, search="half").fit(X, y)
    with pytest.raises(ValueError, match=r"\(59,\).*60"):
        FAST["svm"](GRID).fit(X, y, np.arange(59))
    with pytest.raises(ValueError, match="Cs_search='half'"):
        Protocol(Cs_search="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("views", [False, True])
def test_images_that_test_have_no_part_in_the_search(views: bool) -> None:
    X, y = _digits(300)
    X = np.stack([X, np.roll(X, 1, axis=1)], axis=1) if views else X
    groups = (np.arange(300) // 2).astype(str)
    protocol = Protocol(cv=3, repeats=1, classifier="logistic")
    splits, _ = make_splits(Samples(y=y, groups=groups), protocol)
    rng = np.random.default_rng(0)
    for split in splits:
        assert split.groups is not None
        assert split.groups.tolist() == groups[split.train].tolist()
        other_X, other_y = X.copy(), y.copy()
        other_X[split.test] = rng.normal(size=X[split.test].shape) * 100
        other_y[split.test] = rng.permutation(y[split.test])
        [one] = evaluate_layer(X, y, [split], "logistic", protocol)
        [other] = evaluate_layer(other_X, other_y, [split], "logistic", protocol)
        assert one.not_searched == other.not_searched != ()
        np.testing.assert_array_equal(one.cv_scores, other.cv_scores)
        assert (one.C, one.C_at_edge) == (other.C, other.C_at_edge)
        assert np.isnan(one.cv_scores[np.isin(protocol.grid, one.not_searched)]).all()


@pytest.fixture
def unequal_folder(tmp_path: Path) -> Path:
    """Classes of unequal size: a C that is too small sees the largest everywhere."""
    for label, (name, n) in enumerate({"blue": 25, "green": 25, "red": 36}.items()):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(n):
            draw_image(100 * label + i, hue=2 - label).save(folder / f"{i:02d}.png")
    return tmp_path / "images"


def test_what_was_not_looked_at_is_said(unequal_folder: Path, tmp_path: Path, run_cli: Run) -> None:
    quick = ("--backbone", "bundled", "--layers", "conv2.relu,fc7.relu", "--cv", "3", "--jobs", "1",
             "--repeats", "1", "--controls", "none", "--Cs", "1e-9:1e2:12",
             "--classifier", "logistic")  # fmt: skip
    found: dict[str, tuple[dict[str, Any], list[dict[str, str]], str]] = {}
    for how in ("path", "full"):
        out = tmp_path / how
        done = run_cli("compare", unequal_folder, *quick, "--Cs-search", how, "--out", out)
        assert done.returncode == 0, done.stderr
        report = json.loads((out / "report.json").read_text())
        with (out / "scores.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert report["protocol"]["Cs_search"] == how
        assert list(rows[0])[-1] == "Cs_not_searched"
        found[how] = report, rows, (out / "report.html").read_text()
    report, rows, page = found["full"]
    assert {row["Cs_not_searched"] for row in rows} == {""}
    assert all(row["cv_searched"] == [1.0] * 12 for row in report["layers"])
    assert "looked at C" not in page
    full, (report, rows, page) = report, found["path"]
    for row, whole in zip(report["layers"], full["layers"], strict=True):
        of_layer = [one for one in rows if one["layer"] == row["layer"]]
        for C, score, all_scores, share in zip(
            report["protocol"]["Cs"], row["cv_curve"], whole["cv_curve"], row["cv_searched"],
            strict=True,
        ):  # fmt: skip
            left = [f"{C:g}" in one["Cs_not_searched"].split() for one in of_layer]
            assert share == pytest.approx(1 - np.mean(left))
            assert score == (pytest.approx(all_scores, abs=1e-9) if share == 1 else None)
        assert (row["C"], row["C_at_edge"]) == (whole["C"], whole["C_at_edge"])
    assert any(row["Cs_not_searched"] for row in rows)
    shown = not_searched_sentence(report["layers"], report["protocol"]["Cs"])
    assert shown
    assert shown in page
    assert searched_sentence(report["protocol"]) in page
    assert run_cli("report", tmp_path / "path").returncode == 0


def test_reports_without_a_search_looked_at_all() -> None:
    protocol = {"Cs": [0.1, 1.0], "scoring": "accuracy"}
    assert searched_sentence(protocol).endswith("all looked at")
    assert searched_sentence(protocol | {"Cs": [0.1]}) == "0.1, the only value"
    assert not_searched_sentence([{"cv_curve": [0.5, 0.6]}], [0.1, 1.0]) == ""
    none_of_200 = {"cv_searched": [0.0, 0.999]}
    assert not_searched_sentence([none_of_200], [0.1, 1.0]).endswith("0.1; under 1 % did not at 1.")


def test_fit_says_what_it_looked_at(unequal_folder: Path, tmp_path: Path, run_cli: Run) -> None:
    from pipelines.fitted.files import load

    for how in ("path", "full"):
        out = tmp_path / f"{how}.skops"
        done = run_cli(
            "fit", unequal_folder, "--backbone", "bundled", "--layers", "conv2.relu", "--cv", "3",
            "--jobs", "1", "--Cs", "1e-9:1e2:12", "--Cs-search", how, "--out", out,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        fitted = load(out)
        left = fitted.classifier.Cs_[np.isnan(fitted.classifier.scores_).all(1)].tolist()
        assert fitted.classifier.search == fitted.card["Cs_search"] == how
        assert fitted.card["Cs_not_searched"] == left
        assert bool(left) == (how == "path")


def test_the_chart_shows_what_was_looked_at() -> None:
    """The axis ends with the values looked at; marks are the table's C and score."""
    Cs = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]
    rows = [
        {"layer": "conv2.relu", "roles": [], "C": 0.1, "C_at_edge": None, "cv_score": 0.61,
         "cv_curve": [None, 0.5, 0.64, 0.6, None, None],
         "cv_searched": [0.0, 1.0, 1.0, 1.0, 0.5, 0.0]},
    ]  # fmt: skip
    assert not_searched_sentence(rows, Cs) == (
        "No fit looked at C = 0.0001 and 10; 50 % did not at 1."
    )
    drawn = {}
    for score in (0.61, 0.55):
        drawn[score] = C_curves([rows[0] | {"cv_score": score}], Cs, "accuracy", NARROW)
    svg = drawn[0.61]
    for label, shown in ((">10⁻³<", True), (">1<", True), (">10⁻⁴<", False), (">10<", False)):
        assert (label in svg) == shown, label
    assert svg != drawn[0.55]


def test_many_values_in_a_row_are_named_by_their_ends() -> None:
    row = {"cv_searched": [0.0, 0.0, 0.0, 1.0, 0.75, 0.5, 0.0]}
    assert not_searched_sentence([row], [1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]) == (
        "No fit looked at C = 0.0001 to 0.01 and 100; 25 to 50 % did not at 1 and 10."
    )
