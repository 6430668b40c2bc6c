"""The fast classifiers answer as converged scikit-learn does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits, make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0
from torchvision.models.feature_extraction import create_feature_extractor

import pipelines.linear.path
from pipelines.linear import problems, scaling, symmetric
from pipelines.linear.estimators import LinearSVCCV
from pipelines.linear.path import Settings, make_problem
from pipelines.linear.problems import DualProblem, PrimalProblem
from tests.oracle import FAST, assert_same_answer, smallest_gap, stock

KINDS = ("svm", "logistic")
CS = np.logspace(-5, 1, 4)


def folds(y: NDArray[Any], n: int = 3) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    return list(StratifiedKFold(n, shuffle=True, random_state=0).split(y, y))


def wide(n: int, d: int, n_classes: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rectified mixtures of a few directions, as codes are."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    inner = rng.normal(size=(n_classes, 20))[y] + 1.5 * rng.normal(size=(n, 20))
    X = inner @ rng.normal(size=(20, d)) + 2.0 * rng.normal(size=(n, d))
    return np.maximum(X, 0).astype(np.float32), y


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [60, 700], ids=["fewer images", "more images"])
def test_digits(kind: str, n: int) -> None:
    X, y = load_digits(return_X_y=True)  # with constant features
    assert_same_answer(kind, X[:n], y[:n], CS, folds(y[:n]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [12, 300])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
def test_binary(kind: str, d: int, class_weight: Any) -> None:
    X, y = make_classification(120, d, n_informative=8, weights=[0.7], flip_y=0.1, random_state=1)
    assert_same_answer(kind, X, y, CS, folds(y), class_weight=class_weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [40, 500])
def test_unbalanced_classes_with_weights(kind: str, d: int) -> None:
    X, y = wide(150, d, 3)
    keep = (y != 2) | (np.arange(len(y)) < 60)
    assert_same_answer(kind, X[keep], y[keep], CS, folds(y[keep]), class_weight="balanced")


def test_hundred_classes() -> None:
    X, y = wide(300, 400, 100)
    assert_same_answer("svm", X, y, CS[:2], folds(y))
    X, y = wide(300, 12, 100)
    assert_same_answer("svm", X, y, CS[:2], folds(y))
    assert_same_answer("logistic", X, y, CS[1:3], folds(y))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(12, 60),
    d=st.integers(2, 80),  # The first is constant: alone, it leaves all classes equal.
    n_classes=st.integers(2, 4),
    shift=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 10**6),
)
def test_small_problems(kind: str, n: int, d: int, n_classes: int, shift: float, seed: int) -> None:
    X, y = wide(n, d, n_classes, seed)
    X = X.astype(np.float64) + shift
    X[:, 0] = 7.0
    X[n // 2] = X[
        0
    ]  # a duplicate, of the same class: else two classes may tie, and rounding decide
    y[n // 2] = y[0]
    Cs = np.array([1e-3, 1e-1])
    # Where rectified rows leave two classes alike, they tie, and rounding decides.
    assume(smallest_gap(kind, X, y, Cs, folds(y, 2)) > 1e-6)
    assert_same_answer(kind, X, y, Cs, folds(y, 2))


def test_a_row_with_two_labels_does_not_end_the_fit_early() -> None:
    X, y = np.random.default_rng(0).normal(size=(60, 4096)), np.arange(60) % 3
    X, y, C = np.vstack([X, X[:1]]), np.append(y, 2), 100.0
    found = LinearSVCCV([C], cv=[(np.arange(len(y)), np.arange(9))]).fit(X, y)
    assert found.certificate_ <= found.tol
    # LIBLINEAR does not converge here; the norm of the gradient bounds the distance.
    Z = ((X - X.mean(0)) / X.std(0)).astype(np.longdouble)
    Z = np.column_stack([Z, np.ones(len(Z))])
    for k in range(3):
        free = found.intercept_[k] + found.coef_[k] @ X.mean(0)
        w = np.append(found.coef_[k] * X.std(0), free).astype(np.longdouble)
        signs = np.where(y == k, 1, -1)
        gradient = w - 2 * C * (signs * np.maximum(1 - signs * (Z @ w), 0)) @ Z
        assert np.linalg.norm(gradient.astype(float)) <= 1e-5 * np.linalg.norm(w.astype(float))


@pytest.fixture(scope="module")
def clothing(shared: Path) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Codes of nine photographs a class at three depths of the real SqueezeNet."""
    transform = SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    images = ImageFolder(str(shared / "data/clothing/train"), transform)
    labels = np.array(images.targets)
    chosen = np.concatenate([np.flatnonzero(labels == k)[:9] for k in np.unique(labels)])
    net = squeezenet1_0()
    state = torch.load(shared / "weights/squeezenet1_0-imagenet.pth", weights_only=True)
    net.load_state_dict(state)
    nodes = {"features.1": "first", "features.7.cat": "middle", "features.12.cat": "last"}
    tap = create_feature_extractor(net.eval(), nodes)
    pools = {
        "first": nn.AdaptiveAvgPool2d(6),
        "middle": nn.AdaptiveAvgPool2d(1),
        "last": nn.Identity(),
    }
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in pools}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one small image at a time: more threads wait for each other
    with torch.inference_mode():
        for i in chosen:
            for name, maps in tap(images[i][0][None]).items():
                parts[name].append(pools[name](maps.relu()).flatten().numpy().astype(np.float16))
    torch.set_num_threads(threads)
    return {name: np.stack(rows) for name, rows in parts.items()}, labels[chosen]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", ["first", "middle", "last"])
def test_codes_of_clothing(
    clothing: tuple[dict[str, NDArray[Any]], NDArray[Any]], kind: str, depth: str
) -> None:
    codes, y = clothing
    assert_same_answer(kind, codes[depth], y, np.logspace(-6, 0, 3), folds(y))


@pytest.mark.parametrize("kind", KINDS)
def test_as_grid_search(kind: str) -> None:
    X, y = load_digits(return_X_y=True)
    X, y = X[:200], y[:200].astype(str)
    base = (
        LinearSVC(tol=1e-6, max_iter=10**6, dual=False)
        if kind == "svm"
        else LogisticRegression(tol=1e-8, solver="newton-cholesky")
    )
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), base),
        {f"{type(base).__name__.lower()}__C": CS},
        cv=StratifiedKFold(3, shuffle=True, random_state=5),
        scoring="balanced_accuracy",
    ).fit(X, y)
    fast = FAST[kind](CS, cv=3, scoring="balanced_accuracy", random_state=5).fit(X, y)
    assert list(grid.best_params_.values()) == [fast.C_]
    assert fast.scores_.mean(axis=1) == pytest.approx(grid.cv_results_["mean_test_score"])
    assert (fast.predict(X) == grid.predict(X)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_accuracy_is_that_of_scikit_learn(kind: str, n_classes: int) -> None:
    X, y = wide(70, 30, n_classes)
    names = np.array(["a", "b", "c"])[y]
    scored = [
        FAST[kind](CS, cv=3, random_state=0, scoring=scoring).fit(X, names).scores_
        for scoring in ("accuracy", None, make_scorer(accuracy_score))
    ]
    np.testing.assert_array_equal(scored[0], scored[2])
    np.testing.assert_array_equal(scored[1], scored[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["standard", "l2", None])
@pytest.mark.parametrize("d", [30, 200])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_coefficients_in_input_space(kind: str, scale: Any, d: int, n_classes: int) -> None:
    X, y = wide(90, d, n_classes)
    X *= np.float32(0.05)
    fast = FAST[kind]([0.1], cv=2, scale=scale, tol=1e-7).fit(X, y)
    wide_X = X.astype(np.float64)
    first = {
        "standard": StandardScaler(),
        "l2": Normalizer(),
        None: StandardScaler(with_mean=False, with_std=False),
    }[scale]
    model = stock(kind, 0.1, dual=False)
    Z = first.fit_transform(wide_X)
    model.fit(Z, y)
    expected = model.decision_function(Z)
    plain = (Normalizer().transform(wide_X) if scale == "l2" else wide_X) @ fast.coef_.T
    plain = plain + fast.intercept_
    assert fast.coef_.shape == model.coef_.shape
    np.testing.assert_allclose(plain.reshape(expected.shape), expected, atol=2e-5)
    np.testing.assert_allclose(fast.decision_function(X), expected, atol=2e-5)
    if kind == "logistic":
        np.testing.assert_allclose(fast.predict_proba(X), model.predict_proba(Z), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_of_the_problem_agree(kind: str) -> None:
    # Features that say nothing decide where the problem is solved, and nothing else.
    X, y = wide(300, 79, 4)
    sides = {
        n_constant: FAST[kind]([0.01, 10.0], cv=2, tol=1e-7, random_state=0).fit(
            np.c_[X, np.ones((300, n_constant))], y
        )
        for n_constant in (0, 100, 250)
    }
    for n_constant, side in sides.items():
        np.testing.assert_array_equal(side.scores_, sides[0].scores_)
        np.testing.assert_allclose(side.coef_[:, :79], sides[0].coef_, atol=1e-6)
        np.testing.assert_allclose(side.coef_[:, 79:], 0.0, atol=1e-12)
        kinds = {0: PrimalProblem, 100: DualProblem if kind == "svm" else PrimalProblem}
        rows = np.arange(300)
        codes = np.c_[X, np.ones((300, n_constant))]
        loss = "squared_hinge" if kind == "svm" else "softmax"
        settings = Settings(
            kind=loss, classes=np.unique(y), scale="standard", class_weight=None, tol=1e-7,
            max_iter=100,
        )  # fmt: skip
        problem = make_problem(codes, rows, rows[:0], settings)
        assert type(problem) is kinds.get(n_constant, DualProblem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(200, 60), (120, 300)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_codes_are_scaled_block_by_block(
    monkeypatch: pytest.MonkeyPatch, kind: str, n: int, d: int, dtype: Any
) -> None:
    monkeypatch.setattr(scaling, "SMALL", 0)  # as if every code were large
    monkeypatch.setattr(pipelines.linear.path, "SMALL", 0)
    monkeypatch.setattr(scaling, "MIN_COLUMNS", 7)
    for module in (scaling, problems, symmetric):
        monkeypatch.setattr(module, "BLOCK_SIZE", 999)
    monkeypatch.setattr(problems, "MIN_COLUMNS", 7)
    X, y = wide(n, d, 3)
    X = (X + 5).astype(dtype)
    X[n // 2] = X[0]  # dependent rows, which the Gram matrix is reordered for
    y[n // 2] = y[0]
    assert_same_answer(kind, X, y, CS, folds(y))
    by_length = FAST[kind](CS, cv=folds(y), scale="l2").fit(X, y)
    expected = stock(kind, by_length.C_).fit(Normalizer().fit_transform(X.astype(float)), y)
    np.testing.assert_allclose(by_length.coef_, expected.coef_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [30, 80, 500])
def test_large_values_stay_exact(kind: str, d: int) -> None:
    # A rule relative to the gradient at zero is off by half here.
    X, y = wide(150, d, 3, seed=3)
    C = {30: 1e3, 80: 1e2, 500: 1e2}[d]
    fast = FAST[kind]([1e-4, C], cv=2).fit(X, y)
    last = FAST[kind]([C], cv=2).fit(X, y)
    from tests.oracle import decisions

    expected = decisions(kind, X, y, C)
    assert fast.certificate_ <= fast.tol
    assert np.abs(last.decision_function(X) - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [40, 80, 400])
def test_certificate_bounds_the_true_distance(kind: str, d: int) -> None:
    X, y = wide(120, d, 3)
    exact = FAST[kind]([0.1], cv=2, tol=1e-9, scale=None).fit(X.astype(np.float64), y)
    for tol in (1e-1, 1e-2, 1e-4):
        rough = FAST[kind]([0.1], cv=2, tol=tol, scale=None).fit(X.astype(np.float64), y)
        # The penalised intercept is one of the weights, the free one is not.
        a, b = (np.c_[m.coef_, m.intercept_] if kind == "svm" else m.coef_ for m in (rough, exact))
        distance = np.linalg.norm(a - b, axis=1) if kind == "svm" else np.linalg.norm(a - b)
        length = np.linalg.norm(a, axis=1) if kind == "svm" else np.linalg.norm(a)
        assert np.max(distance / length) <= rough.certificate_ * (1 + 1e-6) <= tol * (1 + 1e-6)
