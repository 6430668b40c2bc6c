"""What the fast classifiers take, refuse, and say about it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import zarr
from joblib import parallel_config
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipelines.linear.base import _edge
from pipelines.linear.estimators import LinearSVCCV, LogisticCV

BOTH = pytest.mark.parametrize("classifier", [LinearSVCCV, LogisticCV])
CS = [1e-4, 1e-2]


@pytest.fixture
def digits() -> tuple[NDArray[Any], NDArray[Any]]:
    X, y = load_digits(return_X_y=True)
    return X[:150].astype(np.float32), y[:150]


@parametrize_with_checks([LinearSVCCV(), LogisticCV()])
def test_scikit_learn_conventions(estimator: Any, check: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@BOTH
def test_the_error_of_a_wrong_argument_names_the_class(classifier: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{classifier.__name__}\..*'C'"):
        classifier(C=3)


@BOTH
@pytest.mark.parametrize("wide", [False, True])
def test_arrays_of_every_kind(classifier: Any, wide: bool, tmp_path: Path, digits: Any) -> None:
    X, y = digits
    if wide:
        X = np.tile(X, 3) + np.random.default_rng(0).integers(0, 3, (150, 192))
    X = X.astype(np.float16)
    expected = classifier(CS, cv=3, random_state=0).fit(X, y)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    stored = zarr.create_array(store=str(tmp_path / "X.zarr"), data=X, chunks=(64, X.shape[1]))
    for other in (mapped, stored, X.astype(np.float32), X.astype(np.float64), X.tolist()):
        got = classifier(CS, cv=3, random_state=0).fit(other, y)
        np.testing.assert_allclose(got.scores_, expected.scores_, atol=0.02)
        decided = got.decision_function(other)
        np.testing.assert_allclose(decided, expected.decision_function(X), atol=1e-3)
    narrow = np.asfortranarray(X)
    assert classifier(CS, cv=3, random_state=0).fit(narrow, y).C_ == expected.C_


@BOTH
def test_in_scikit_learn(classifier: Any, digits: Any) -> None:
    X, y = digits
    y = np.array([f"class {label}" for label in y])
    estimator = classifier(CS, cv=3, random_state=0)
    pipeline = make_pipeline(FunctionTransformer(np.sqrt), clone(estimator))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(estimator, {"scale": ["standard", "l2"]}, cv=2).fit(X, y)
    assert set(search.predict(X)) <= set(y)


@BOTH
def test_folds_and_order_of_values(classifier: Any, digits: Any) -> None:
    X, y = digits
    splits = [(np.arange(50, 150), np.arange(50)), (np.arange(100), np.arange(100, 150))]
    up = classifier(CS, cv=splits).fit(X, y)
    down = classifier(CS[::-1], cv=iter(splits)).fit(X, y)
    assert up.scores_.shape == (2, 2)
    np.testing.assert_array_equal(up.scores_, down.scores_[::-1])
    assert up.C_ == down.C_
    same = classifier([0.1, 0.1, 0.1], cv=splits).fit(X, y)
    assert same.C_ == 0.1
    assert same.C_at_edge_ is None


@pytest.mark.parametrize(
    ("scores", "C", "edge"),
    [
        ([0.9, 0.8, 0.7], 1.0, "low"),
        ([0.9, 0.9, 0.7], 1.0, None),
        ([0.7, 0.8, 0.9], 3.0, "high"),
        ([0.7, 0.9, 0.8], 2.0, None),
        ([0.7], 1.0, None),
    ],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_an_edge_is_told_where_scores_rise_towards_it(
    scores: list[float], C: float, edge: str | None, reverse: bool
) -> None:
    Cs = np.arange(1.0, len(scores) + 1)
    rows = np.array(scores)[:, None] + [[-0.1, 0.1]]
    if reverse:
        Cs, rows = Cs[::-1], rows[::-1]
    assert _edge(Cs, rows, C) == edge


def test_ties_go_to_the_smallest_value_and_edges_are_told() -> None:
    X = np.repeat([[0.0, 1.0], [1.0, 0.0]], 10, axis=0)
    y = np.repeat([0, 1], 10)
    fitted = LinearSVCCV([10.0, 1e-3, 1.0], cv=2, random_state=0).fit(X, y)
    assert (fitted.scores_ == 1).all()
    assert (fitted.C_, fitted.C_at_edge_) == (1e-3, None)  # No score is lost beyond it.


@BOTH
@pytest.mark.parametrize("scoring", ["balanced_accuracy", "f1_macro", "roc_auc"])
def test_scoring(classifier: Any, scoring: str, digits: Any) -> None:
    X, y = digits
    two = y < 2
    fitted = classifier(CS, cv=3, random_state=0, scoring=scoring).fit(X[two], y[two])
    assert fitted.scores_.min() > 0.8


def test_probabilistic_scoring(digits: Any) -> None:
    X, y = digits
    fitted = LogisticCV(CS, cv=3, random_state=0, scoring="neg_log_loss").fit(X, y)
    assert (fitted.scores_ < 0).all()
    assert fitted.C_ == 1e-2
    np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1)


@BOTH
def test_parallel_folds_through_the_current_backend(classifier: Any, digits: Any) -> None:
    X, y = digits
    expected = classifier(CS, cv=3, random_state=0).fit(X, y)
    with parallel_config("threading", n_jobs=2):
        got = classifier(CS, cv=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(got.scores_, expected.scores_)
    np.testing.assert_allclose(got.coef_, expected.coef_)


@BOTH
@pytest.mark.parametrize("d", [64, 200])
def test_no_convergence_is_said(classifier: Any, d: int, digits: Any) -> None:
    X, y = digits
    X = np.tile(X, 4)[:, :d]
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        fitted = classifier([1.0], cv=3, max_iter=1, random_state=0).fit(X, y)
    assert fitted.certificate_ > fitted.tol


@BOTH
@pytest.mark.parametrize("d", [64, 200])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(classifier: Any, d: int, bad: float, digits: Any) -> None:
    X, y = digits
    X = np.tile(X, 4)[:, :d]
    fitted = classifier(CS, cv=3, random_state=0).fit(X, y)
    X[3, 5] = bad
    for act in (lambda: classifier(CS, cv=3).fit(X, y), lambda: fitted.predict(X)):
        with pytest.raises(ValueError, match=r"(NaN|infinity), first at row 3, column 5"):
            act()


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"Cs": [1.0, 0.0]}, "not a list of positive"),
        ({"Cs": [-1.0]}, r"Cs=\[-1"),
        ({"Cs": [np.nan]}, r"Cs=\[nan"),
        ({"Cs": []}, r"Cs=\[\]"),
        ({"scale": "minmax"}, "'standard', 'l2' or None"),
        ({"cv": 20}, r"cv=20\b.*class "),
        ({"cv": [(np.arange(5), np.arange(5, 150))]}, "fold 0 has no sample of class"),
        ({"cv": [(np.arange(150), [])]}, "no sample to test on"),
        ({"tol": 0.0}, r"tol=0\.0.* 0 and 1"),
        ({"tol": np.inf}, "tol=inf"),
        ({"tol": "a"}, "tol='a'"),
        ({"Cs": "1"}, "Cs='1'"),
        ({"Cs": ["a"]}, r"Cs=\['a"),
        ({"Cs": [1e300]}, r"Cs=\[1e\+300"),
        ({"cv": 1}, "allowed are 2 folds or more"),
        ({"cv": []}, "gives no fold"),
        ({"cv": GroupKFold(3)}, "with groups, list"),
        ({"cv": [(np.arange(50), [999])]}, "out of bounds"),
        ({"class_weight": {0: 0.0}}, r"class 0 the weight 0\.0"),
        ({"class_weight": {0: np.nan}}, "weights are positive and finite"),
        ({"class_weight": "Balanced"}, "class_weight='Balanced'"),
        ({"scoring": "roc_auc"}, "scoring does not work here"),
        ({"max_iter": 0}, "max_iter=0"),
        ({"scoring": ["accuracy", "f1"]}, "f1"),
        ({"scoring": lambda *_: 0.5}, "is neither a name"),
        ({"scoring": make_scorer(lambda *_: np.nan)}, "NaN or infinity on a fold"),
    ],
)
def test_options_that_make_no_sense(
    classifier: Any, options: dict[str, Any], message: str, digits: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        classifier(**{"Cs": CS, "cv": 3, **options}).fit(*digits)


@BOTH
def test_other_bad_input(classifier: Any, digits: Any) -> None:
    X, y = digits
    with pytest.raises(ValueError, match="one class only"):
        classifier(CS, cv=3).fit(X, np.zeros(len(X)))
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        classifier(CS, cv=3).fit(scipy.sparse.csr_array(X), y)
    with pytest.raises(ValueError, match=r"[Uu]nknown label type"):
        classifier(CS, cv=3).fit(X, np.linspace(0, 1, len(y)))


@BOTH
@pytest.mark.parametrize("scale", ["standard", "l2", None])
@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_inner_products_beyond_float64(classifier: Any, scale: Any, size: float) -> None:
    X = np.random.default_rng(0).normal(size=(20, 50)) * size
    with pytest.raises(ValueError, match=r"not finite.*Multiply X"):
        classifier(CS, cv=2, scale=scale).fit(X, np.arange(20) % 2)


def test_values_that_rounding_cannot_certify_end_in_a_warning_or_an_error(digits: Any) -> None:
    X, y = digits
    with pytest.warns(ConvergenceWarning, match="relative to their length"):
        LinearSVCCV(CS, cv=2, scale=None, random_state=0).fit(X[:60] * 1e9, y[:60] % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        with pytest.raises((ConvergenceWarning, ValueError)):
            LogisticCV(CS, cv=2, scale=None, max_iter=20).fit(X[:60, 20:30] * 1e8, y[:60] % 2)


def test_log_probabilities(digits: Any) -> None:
    X, y = digits
    for labels in (y, y % 2):
        fitted = LogisticCV(CS, cv=2, random_state=0).fit(X, labels)
        logs = fitted.predict_log_proba(X)
        np.testing.assert_allclose(np.exp(logs), fitted.predict_proba(X), atol=1e-12)


@BOTH
def test_nothing_to_learn_from(classifier: Any) -> None:
    X, y = np.ones((20, 3)), np.repeat([0, 1], [12, 8])
    fitted = classifier(CS, cv=2, random_state=0).fit(X, y)
    np.testing.assert_array_equal(fitted.coef_, 0)
    assert set(fitted.predict(X)) == {0}
