"""Intervals and ties against their definitions, and against worlds in which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax
from sklearn.datasets import load_iris

from pipelines import Protocol, compare_layers
from pipelines.statistics.held_out import HeldOut
from pipelines.statistics.intervals import score_interval
from pipelines.statistics.paired_tests import PairedTests, paired_tests
from pipelines.statistics.scoring import SCORINGS, Answers, score_answers


def make_answers(scoring: str, values: np.ndarray, truth: np.ndarray) -> Answers:
    """Turn values of each class into what a score reads."""
    reads = SCORINGS[scoring].reads
    if reads == "labels":
        return values.argmax(1).astype(float)
    if reads == "decisions":
        return values
    return log_softmax(values, axis=1)[np.arange(len(truth)), truth]


def _interval(
    scoring: str, truth: np.ndarray, *answers: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    k = int(truth.max()) + 1
    score = np.mean([score_answers(scoring, truth, a, k)[0] for a in answers])
    held_out = HeldOut(scoring=scoring, truth=truth, n_classes=k, groups=groups)
    return score_interval(held_out, float(score), answers)


def _tell(
    scoring: str, truth: np.ndarray, candidates: list[Answers], *, chose: bool = False,
    groups: np.ndarray | None = None, best: int = 0,
) -> PairedTests:  # fmt: skip
    held_out = HeldOut(scoring=scoring, truth=truth, n_classes=int(truth.max()) + 1, groups=groups)
    scores = [score_answers(scoring, truth, a, held_out.n_classes) for a in candidates]
    return paired_tests(held_out, [[a] for a in candidates], np.array(scores), best, chose=chose)


def test_the_wilson_interval_is_scipys() -> None:
    truth = np.zeros(100, np.intp)
    for right in (0, 3, 50, 100):
        found = _interval("accuracy", truth, (np.arange(100) >= right) * 1.0)
        oracle = stats.binomtest(right, 100).proportion_ci(method="wilson")
        assert found == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_the_jackknife_is_the_variance_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    truth, answers = rng.integers(0, 3, 200), rng.integers(0, 3, 200).astype(float)
    right = answers == truth
    found = HeldOut(scoring="accuracy", truth=truth, n_classes=3).deviations([answers])
    assert np.square(found).sum() == pytest.approx(right.var(ddof=1) / 200)
    groups = np.repeat(np.arange(20), 10)
    found = HeldOut(scoring="accuracy", truth=truth, n_classes=3, groups=groups.astype(str))
    of_groups = right.reshape(20, 10).mean(1)
    variance = np.square(found.deviations([answers])).sum()
    assert variance == pytest.approx(of_groups.var(ddof=1) / 20)
    assert found.freedom(found.deviations([answers])) == 19


def test_draws_widen_an_interval() -> None:
    truth, numbers = np.zeros(100, np.intp), np.arange(100)
    one = _interval("accuracy", truth, numbers >= 80.0)
    spread = _interval("accuracy", truth, numbers >= 70.0, numbers >= 90.0)
    assert spread[0] < one[0] < one[1] < spread[1]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_intervals_are_as_wide_as_scores_vary(scoring: str) -> None:
    """Over new test images: not much narrower, not much wider than 95 %."""
    rng = np.random.default_rng(0)
    many = rng.integers(0, 3, 30_000)
    values = 1.2 * np.eye(3)[many] + rng.normal(size=(len(many), 3))
    every = make_answers(scoring, values, many)
    expected = float(score_answers(scoring, many, every, 3)[0])
    kept = []
    for _ in range(200):
        taken = rng.choice(len(many), 150, replace=False)
        low, high = _interval(scoring, many[taken], every[taken])
        kept.append(low <= expected <= high)
    assert 0.91 <= np.mean(kept) <= 0.985


@pytest.mark.parametrize(
    ("sizes", "rates"), [((5, 200, 200), (0.4, 0.98, 0.98)), ((20, 400), (0.6, 0.99))]
)
def test_small_classes_widen_balanced_accuracy(
    sizes: tuple[int, ...], rates: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    kept = []
    for _ in range(400):
        right = rng.random(len(truth)) < np.array(rates)[truth]
        low, high = _interval("balanced_accuracy", truth, np.where(right, truth, truth + 1.0))
        kept.append(low <= np.mean(rates) <= high)
    assert np.mean(kept) >= 0.91


@pytest.mark.parametrize("n_groups", [4, 6, 16])
def test_few_groups_widen_an_interval(n_groups: int) -> None:
    rng = np.random.default_rng(0)
    truth, groups = np.zeros(20 * n_groups, np.intp), np.repeat(np.arange(n_groups), 20)
    kept = []
    for _ in range(400):
        right = rng.random(len(truth)) < rng.beta(8, 2, n_groups)[groups]
        low, high = _interval("accuracy", truth, 1.0 - right, groups=groups.astype(str))
        kept.append(low <= 0.8 <= high)
    assert np.mean(kept) >= 0.92


def test_an_interval_of_folds_is_that_of_their_images() -> None:
    X, y = load_iris(return_X_y=True)
    protocol = Protocol(Cs=(0.1,), cv=5, repeats=1, scoring="accuracy")
    found = compare_layers({"sepal": X[:, :2]}, y.astype(str), protocol=protocol)
    [row] = found.layers
    oracle = stats.binomtest(round(row.score * 150), 150).proportion_ci(method="wilson")
    assert (row.ci_low, row.ci_high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("chose", [False, True])
def test_ties_find_a_clear_difference_and_no_other(scoring: str, chose: bool) -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(300) % 3)
    noise = rng.normal(size=(4, 300, 3))
    candidates = [
        make_answers(scoring, strength * np.eye(3)[truth] + own, truth)
        for strength, own in zip((2.0, 0.7, 2.0, 2.0), noise, strict=True)
    ]
    candidates[3] = candidates[0]
    told = _tell(scoring, truth, candidates, chose=chose)
    assert told.worse.tolist() == [False, True, False, False]
    assert not told.better.any()
    told = _tell(scoring, truth, candidates, chose=chose, best=1)
    assert told.better.tolist() == [True, False, True, True]


def test_images_of_one_group_are_one_witness() -> None:
    truth = np.zeros(200, np.intp)
    better = (np.arange(200) >= 190).astype(float)  # 10 wrong; the other 40, all of two patients
    worse = (np.arange(200) >= 150).astype(float)
    patients = (np.arange(200) // 25).astype(str)
    assert _tell("accuracy", truth, [better, worse]).worse.tolist() == [False, True]
    told = _tell("accuracy", truth, [better, worse], groups=patients)
    assert not told.worse.any()


@pytest.mark.parametrize(("n_groups", "n_layers"), [(0, 2), (0, 7), (5, 3), (8, 7)])
def test_equal_layers_are_seldom_called_worse_by_images_that_chose(
    n_groups: int, n_layers: int
) -> None:
    """The best of equals, chosen by the images that test: some other is called worse in 5 %."""
    rng = np.random.default_rng(0)
    n, alarms = 120, 0
    truth = np.arange(n) % 2
    groups = np.arange(n) % n_groups if n_groups else np.arange(n)
    for _ in range(200):
        ease = rng.normal(size=n) + rng.normal(size=(n_layers, n_groups or n))[:, groups]
        right = ease + rng.normal(size=(n_layers, n)) > -1
        answers = [np.where(r, truth, 1 - truth).astype(float) for r in right]
        told = _tell(
            "balanced_accuracy", truth, answers, chose=True, best=int(right.mean(1).argmax()),
            groups=groups.astype(str) if n_groups else None,
        )  # fmt: skip
        alarms += told.worse.any()
    assert alarms <= 20  # 5 % of 200 are 10; one in a thousand runs has more than 20.


def test_one_group_proves_nothing() -> None:
    truth = np.arange(40) % 2
    one = np.full(40, "patient")
    low, high = _interval("accuracy", truth, truth * 1.0, groups=one)
    assert high - low > 0.9
    assert not _tell("accuracy", truth, [truth * 1.0, truth * 0.0], groups=one).worse.any()


@pytest.mark.parametrize("n_groups", [0, 5, 9])
def test_an_interval_holds_its_score(n_groups: int) -> None:
    for n in range(4, 60):
        truth = np.arange(n) % 2
        groups = (np.arange(n) % n_groups).astype(str) if n_groups else None
        for answers in (truth * 1.0, 1.0 - truth, truth * 0.0):
            low, high = _interval("accuracy", truth, answers, groups=groups)
            assert low <= np.mean(answers == truth) <= high
