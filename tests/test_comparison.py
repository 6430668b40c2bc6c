"""Draws that leak nothing, scores against scikit-learn, intervals against their definitions."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    get_scorer,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipelines import Protocol, compare_layers
from pipelines.comparison.evaluate import evaluate_layer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.statistics.scoring import SCORINGS, score_answers


def _labels(counts: list[int]) -> np.ndarray:
    return np.repeat([f"class {i}" for i in range(len(counts))], counts)


@given(
    st.lists(st.integers(6, 30), min_size=2, max_size=4),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_no_image_and_no_group_is_on_two_sides(
    counts: list[int], cv: int, with_test: bool, with_groups: bool, seed: int
) -> None:
    y = _labels(counts)
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{i % 6}" for i in range(len(y))]) if with_groups else None
    test = None
    if with_test:
        groups_in_test = {"g0"}
        test = (
            np.isin(groups, list(groups_in_test))
            if groups is not None
            else rng.permutation(np.arange(len(y)) % 5 == 0)
        )
    protocol = Protocol(cv=cv, train_sizes=(2, "all"), repeats=1, random_state=seed)
    try:
        splits, notes = make_splits(Samples(y=y, test=test, groups=groups), protocol)
    except ValueError as error:
        if "fold" not in str(error):
            raise
        return
    for split in splits:
        sides = [(split.train, split.test)]
        sides += [(split.train[a], split.train[b]) for a, b in split.inner]
        for train, held_out in sides:
            assert not set(train) & set(held_out)
            if groups is not None:
                assert not set(groups[train]) & set(groups[held_out])
            assert set(y[train]) == set(y)
        inner_tests = np.concatenate([b for _, b in split.inner])
        assert sorted(inner_tests) == list(range(len(split.train)))
        if split.train_size != "all":
            assert set(Counter(y[split.train]).values()) == {split.train_size}
        if test is not None:
            assert set(split.test) == set(np.flatnonzero(test))
    full = [split for split in splits if split.train_size == "all"]
    if test is None:
        assert sorted(np.concatenate([d.test for d in full])) == list(range(len(y)))
    sizes = {split.train_size for split in splits}
    assert sum("dropped" in note for note in notes) == 2 - len(sizes)
    untested = test is not None and set(y[test]) != set(y)
    assert any("no test image is of" in note for note in notes) == untested


def test_draws_follow_their_seed_alone() -> None:
    y = _labels([20, 20])
    small, _ = make_splits(Samples(y=y), Protocol(train_sizes=(3,)))
    more, _ = make_splits(Samples(y=y), Protocol(train_sizes=(2, 3, "all")))
    of_size = [split for split in more if split.train_size == 3]
    assert all(np.array_equal(a.train, b.train) for a, b in zip(small, of_size, strict=True))
    other, _ = make_splits(Samples(y=y), Protocol(train_sizes=(3,), random_state=1))
    assert not all(np.array_equal(a.train, b.train) for a, b in zip(small, other, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cv": 1}, "2 or more folds"),
        ({"repeats": 0}, "1 or more repeats"),
        ({"Cs": (1.0, -1.0)}, "positive"),
        ({"Cs": (1.0, 0.1)}, "larger than the last"),
        ({"classifier": ("forest",)}, "Allowed: svm, logistic"),
        ({"train_sizes": (1,)}, "2 or more images"),
        ({"train_sizes": ("some",)}, "2 or more images"),
        ({"scoring": "luck"}, "Allowed: accuracy"),
    ],
)
def test_wrong_protocols_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(**arguments)  # type: ignore[arg-type]


def test_classes_that_are_too_small_are_named() -> None:
    with pytest.raises(ValueError, match="'class 1' has 3"):
        make_splits(Samples(y=_labels([9, 3])), Protocol())
    groups = np.array(["a"] * 9 + ["a", "b", "c"] * 3)
    with pytest.raises(ValueError, match=r"'class 0'.* 1 group"):
        make_splits(Samples(y=_labels([9, 9]), groups=groups), Protocol())
    only_tested = np.array([False] * 9 + [True] * 9)
    with pytest.raises(ValueError, match="'class 1'"):
        make_splits(Samples(y=_labels([9, 9]), test=only_tested), Protocol())
    with pytest.raises(ValueError, match="No train size is left"):
        make_splits(Samples(y=_labels([9, 9])), Protocol(train_sizes=(50,)))


def test_a_layer_scores_as_a_grid_search_of_scikit_learn() -> None:
    X, y = load_digits(return_X_y=True)
    y = y.astype(str)
    keep = np.random.default_rng(0).permutation(len(y))[:400]
    X, y = X[keep], y[keep]
    protocol = Protocol(cv=3, Cs=(1e-4, 1e-3, 1e-2, 1e-1), train_sizes=(10, "all"))
    splits, _ = make_splits(Samples(y=y), protocol)
    for split, fit in zip(splits, evaluate_layer(X, y, splits, "svm", protocol), strict=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LinearSVC(dual=True, tol=1e-8, max_iter=200_000)),
            {"linearsvc__C": list(protocol.grid)},
            cv=split.inner,
        ).fit(X[split.train], y[split.train])
        assert search.best_params_["linearsvc__C"] == fit.C
        assert fit.cv_score == pytest.approx(search.best_score_, abs=1e-9)
        same = np.unique(y)[fit.predicted] == search.predict(X[split.test])
        assert (~same).sum() <= 1
        assert fit.train_score == pytest.approx(
            search.score(X[split.train], y[split.train]), abs=0.01
        )
        curve = search.cv_results_["mean_test_score"]
        np.testing.assert_allclose(fit.cv_scores, curve, atol=1 / 100)


def _made_answers(scoring: str, n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and what a classifier of some worth could answer."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    values = rng.normal(size=(n, k)).round(1) + 1.2 * (truth[:, None] == np.arange(k))
    if k == 2:
        values[:, 0] = -values[:, 1]
    if SCORINGS[scoring].reads == "labels":
        return truth, values.argmax(1).astype(float)
    if SCORINGS[scoring].reads == "decisions":
        return truth, values
    return truth, log_softmax(values, axis=1)[np.arange(n), truth]


def _oracle(scoring: str, truth: np.ndarray, n: int, k: int, seed: int, times: np.ndarray) -> float:
    """Score by scikit-learn, each image repeated as often as it counts."""
    _, answers = _made_answers(scoring, n, k, seed)
    y, answers = np.repeat(truth, times), np.repeat(answers, times, axis=0)
    if scoring == "neg_log_loss":
        return float(answers.mean())
    if scoring == "average_precision":
        return average_precision_score(y, answers[:, 1] if k == 2 else answers)
    score = {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "f1_macro": partial(f1_score, average="macro"),
    }
    return score[scoring](y, answers)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_scores_are_those_of_scikit_learn(scoring: str, k: int) -> None:
    truth, answers = _made_answers(scoring, 60, k, 0)
    times = np.random.default_rng(1).integers(1, 4, (4, 60))
    times[0] = 1
    found = score_answers(scoring, truth, answers, k, times.astype(float))
    oracle = [_oracle(scoring, truth, 60, k, 0, t) for t in times]
    assert found == pytest.approx(oracle, abs=1e-12)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_layer_scores_as_the_scorer_of_scikit_learn(scoring: str) -> None:
    X, y = load_digits(return_X_y=True)
    y = y.astype(str)
    keep = np.random.default_rng(0).permutation(len(y))[:300]
    X, y = X[keep], y[keep]
    protocol = Protocol(cv=3, Cs=(1e-3, 1e-2), scoring=scoring, classifier=("logistic",), repeats=1)
    found = compare_layers({"pixels": X}, y, protocol=protocol)
    splits, _ = make_splits(Samples(y=y), protocol)
    for split, row in zip(splits, found.folds, strict=True):
        model = LogisticRegression(C=row.C, tol=1e-8, max_iter=10_000)
        pipeline = make_pipeline(StandardScaler(), model).fit(X[split.train], y[split.train])
        oracle = get_scorer(scoring)(pipeline, X[split.test], y[split.test])
        assert row.score == pytest.approx(oracle, abs=2e-4)


def test_of_two_classes_the_second_is_looked_for() -> None:
    X, y = load_iris(return_X_y=True)
    X, y = X[50:, :2], np.array(["", "benign", "malignant"])[y[50:]]
    protocol = Protocol(cv=3, Cs=(0.1,), scoring="average_precision", repeats=1)
    found = compare_layers({"sepal": X}, y, protocol=protocol)
    splits, _ = make_splits(Samples(y=y), protocol)
    for split, row in zip(splits, found.folds, strict=True):
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.1, tol=1e-8, max_iter=100_000))
        values = model.fit(X[split.train], y[split.train]).decision_function(X[split.test])
        oracle = average_precision_score(y[split.test] == "malignant", values)
        assert row.score == pytest.approx(oracle, abs=1e-6)


def test_probabilities_are_not_made_up() -> None:
    with pytest.raises(ValueError, match="Use classifier logistic"):
        Protocol(scoring="neg_log_loss")


@pytest.mark.parametrize("with_test", [False, True])
def test_the_better_layer_wins_and_its_score_is_not_a_maximum(with_test: bool) -> None:
    X, y = load_iris(return_X_y=True)
    names = y.astype(str)
    rng = np.random.default_rng(0)
    codes = {"noise": rng.normal(size=(150, 5)), "petal": lambda: X[:, 2:], "sepal": X[:, :2]}
    test = rng.permutation(150) < 50 if with_test else None
    found = compare_layers(
        codes,
        names,
        test=test,
        protocol=Protocol(
            Cs=(0.01, 0.1, 1.0),
            train_sizes=(5, "all"),
            classifier=("svm", "logistic"),
            repeats=4,
        ),
        n_jobs=2,
    )
    assert found.best.layer == "petal"
    assert found.best.tied == ()
    assert found.best.train_size == "all"
    assert found.best.ci_low < found.best.score < found.best.ci_high or found.best.score == 1
    assert len(found.layers) == 3 * 2 * 2
    n_draws = 4 + 1 if with_test else 4 * (5 + 5)
    assert len(found.folds) == 3 * 2 * n_draws
    rows = [f for f in found.folds if f.layer == "petal" and f.classifier == "svm"]
    layer = next(
        r for r in found.layers
        if (r.layer, r.classifier, r.train_size) == ("petal", "svm", "all")
    )  # fmt: skip
    assert layer.score == pytest.approx(np.mean([r.score for r in rows if r.train_size == "all"]))
    noise = next(r for r in found.layers if r.layer == "noise" and r.train_size == "all")
    assert noise.ci_low < 1 / 3 + 0.1


def test_identical_layers_are_tied_and_the_first_is_named() -> None:
    X, y = load_iris(return_X_y=True)
    found = compare_layers({"a": X, "b": X.copy()}, y.astype(str), protocol=Protocol(Cs=(0.1,)))
    assert found.best.layer == "a"
    assert found.best.tied == ("b",)


def test_codes_that_lack_images() -> None:
    y = _labels([9, 9])
    with pytest.raises(ValueError, match=r"'a'.*\b17\b.*\b18\b"):
        compare_layers({"a": np.ones((17, 2))}, y, protocol=Protocol(cv=3))
    with pytest.raises(ValueError, match="The test split has no image"):
        compare_layers({"a": np.ones((18, 2))}, y, test=np.zeros(18, bool))


def test_constant_codes_are_at_chance() -> None:
    X, y = load_iris(return_X_y=True)
    codes = {"nothing": np.ones((150, 3)), "petal": X[:, 2:]}
    found = compare_layers(codes, y.astype(str), protocol=Protocol(Cs=(0.1,), cv=3))
    assert (found.best.layer, found.best.tied) == ("petal", ())
    low, high = next((r.ci_low, r.ci_high) for r in found.layers if r.layer == "nothing")
    assert low < 1 / 3 < high


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="no layer"):
        compare_layers({}, np.array(["a", "b"]))


def test_every_training_side_holds_every_class() -> None:
    """With groups of unequal sizes the folds of the first seed that comes can miss a class."""
    cut = refused = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        y = _labels([24, 8, 12, 9])
        groups = rng.integers(0, 16, len(y)).astype(str)
        try:
            splits, _ = make_splits(Samples(y=y, groups=groups), Protocol(cv=2, repeats=1))
        except ValueError:
            refused += 1
            continue
        cut += 1
        for split in splits:
            assert set(y[split.train]) == set(y)
            assert not set(groups[split.train]) & set(groups[split.test])
    assert cut > 900, refused


def test_lists_are_taken_and_wrong_lengths_refused() -> None:
    X, y = load_iris(return_X_y=True)
    groups = [str(i // 5) for i in range(150)]
    protocol = Protocol(Cs=(0.1,), cv=3, repeats=1)
    assert compare_layers({"all": X}, y.astype(str), protocol=protocol, groups=groups).layers
    for wrong in ({"groups": groups[1:]}, {"test": [True, False]}):
        with pytest.raises(ValueError, match="150"):
            compare_layers({"all": X}, y.astype(str), protocol=protocol, **wrong)


def test_a_class_too_small_to_choose_c_is_said_to_be() -> None:
    y = np.array(["a"] * 8 + ["b"] * 2)
    with pytest.raises(ValueError, match="No train size is left"):
        make_splits(Samples(y=y), Protocol(cv=2))


def test_copies_in_the_test_split_change_no_fold() -> None:
    y, test = _labels([12, 12, 12]), np.arange(36) % 3 == 0
    groups = np.arange(36).astype(str)
    plain, _ = make_splits(Samples(y=y, test=test), Protocol(cv=3))
    groups[0] = groups[1]  # An image of the training side, and its copy in the test split.
    copied, _ = make_splits(Samples(y=y, test=test, groups=groups), Protocol(cv=3))
    for one, other in zip(plain, copied, strict=True):
        for a, b in zip(one.inner, other.inner, strict=True):
            np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("cv", "x"), ("cv", True), ("repeats", 1.5), ("train_sizes", 5), ("Cs", 0.1),
     ("max_loss", "a"), ("classifier", 3), ("group_duplicates", "no")],
)  # fmt: skip
def test_settings_of_another_type_are_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name}={value!r} is of type"):
        Protocol(**{name: value})  # type: ignore[arg-type]
