"""Controls: what a score should be compared with, on the same folds as the chosen depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from pipelines.draws import Draw, Protocol, inner_splits, make_draws
from pipelines.evaluation import Fit, evaluate_layer
from pipelines.results import Comparison
from pipelines.scorings import SCORINGS, chance
from pipelines.verdict import Verdict

CONTROLS = {
    "majority": "the commonest class of the training images",
    "shuffled": "the chosen depth, training labels shuffled",
    "pixels": "raw pixels, shrunk to 16×16",
    "random": "the chosen depth, random weights",
    "concatenated": "all depths side by side, each feature scaled",
    "pre": "the chosen depth, before its activation",
}
"""Name → what it is."""
DEFAULT_CONTROLS = ("majority", "shuffled", "pixels", "random", "concatenated")


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a control scores, where the chosen depth was scored.

    Attributes
    ----------
    name : str
        Of `CONTROLS`.
    n_features : int
        0 for the majority.
    score, ci_low, ci_high : float
        And its 95 % interval.
    alarm : bool
        Whether labels that mean nothing are predicted far better than by chance: something leaks.
    """

    name: str
    n_features: int
    score: float
    ci_low: float
    ci_high: float
    alarm: bool


def run_controls(
    codes: Mapping[str, Callable[[], NDArray[Any]]],
    comparison: Comparison,
    y: NDArray[np.str_],
    *,
    protocol: Protocol,
    test: NDArray[np.bool_] | None = None,
    groups: NDArray[np.str_] | None = None,
    n_jobs: int = 1,
    advance: Callable[[int], None] | None = None,
) -> list[Control]:
    """Score controls on the draws, and with the classifier, that the chosen depth was scored on.

    Parameters
    ----------
    codes : mapping of str to function
        Control → how to read its codes, of shape (n_samples, n_features); not called for
        ``"majority"``.
    comparison : Comparison
    y, protocol, test, groups
        As for `pipelines.compare_layers`.
    n_jobs : int, default=1
        Processes, as in joblib.
    advance : callable, optional
        Called with 1 after each control.

    Returns
    -------
    controls : list of Control
    """
    best = comparison.best
    same = replace(protocol, train_sizes=(best.train_size,), scoring=comparison.scoring)
    draws, _ = make_draws(y, same, test=test, groups=groups)
    verdict = Verdict(
        y=y,
        draws=draws,
        fits={},
        scoring=comparison.scoring,
        n_folds=protocol.cv if test is None else None,
        groups=groups,
        random_state=protocol.random_state,
    )
    numbers = np.unique(y, return_inverse=True)[1]
    tested = numbers[np.concatenate([draw.test for draw in draws])]
    by_chance = chance(comparison.scoring, tested, len(comparison.classes))
    tasks = (delayed(_fits)(name, read, y, draws, comparison, same) for name, read in codes.items())
    done = {}
    for name, fits, width in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        done[name] = fits, width
        if advance is not None:
            advance(1)
    controls = []
    for name in codes:
        fits, width = done[name]
        score, low, high = verdict.scored(fits, best.train_size)
        controls.append(
            Control(
                name=name,
                n_features=width,
                score=score,
                ci_low=low,
                ci_high=high,
                # Twice as far as the 95 % interval reaches: one false alarm in tens of thousands.
                alarm=name == "shuffled" and bool(score - 2 * (score - low) > by_chance),
            )
        )
    return controls


def _fits(
    name: str,
    read: Callable[[], NDArray[Any]],
    y: NDArray[np.str_],
    draws: list[Draw],
    comparison: Comparison,
    protocol: Protocol,
) -> tuple[str, list[Fit], int]:
    if name == "majority":
        numbers = np.unique(y, return_inverse=True)[1]
        return name, [_majority(numbers, draw, comparison) for draw in draws], 0
    X, classifier = read(), comparison.best.classifier
    if name == "shuffled":
        fits = _evaluate_shuffled(X, y, draws, classifier, protocol)
    else:
        fits = evaluate_layer(X, y, draws, classifier, protocol)
    return name, fits, X.shape[1]


def _majority(numbers: NDArray[np.intp], draw: Draw, comparison: Comparison) -> Fit:
    """Answer with the commonest class, or with the classes' shares."""
    n, k = len(draw.test), len(comparison.classes)
    shares = np.bincount(numbers[draw.train], minlength=k) / len(draw.train)
    predicted = np.full(n, shares.argmax())
    reads = SCORINGS[comparison.scoring].reads
    if reads == "labels":
        answers = predicted.astype(np.float64)
    elif reads == "probabilities":
        answers = np.log(shares[numbers[draw.test]])
    else:
        answers = np.tile(shares, (n, 1))
    nothing = np.zeros(1)
    return Fit(
        C=np.nan,
        C_at_edge=None,
        converged=True,
        cv_scores=nothing,
        cv_score=0.0,
        train_score=0.0,
        predicted=predicted,
        answers=answers,
    )


def _evaluate_shuffled(
    X: NDArray[Any],
    y: NDArray[np.str_],
    draws: Sequence[Draw],
    classifier: str,
    protocol: Protocol,
) -> list[Fit]:
    """Train each draw on its own labels in another order; test on the true ones."""
    fits = []
    for number, draw in enumerate(draws):
        rng = np.random.default_rng([protocol.random_state, number])
        shuffled = y.copy()
        shuffled[draw.train] = rng.permutation(y[draw.train])
        # Folds that choose C need every class; groups have lost their classes.
        inner = inner_splits(shuffled[draw.train], None, protocol.cv, rng)
        fits += evaluate_layer(X, shuffled, [replace(draw, inner=inner)], classifier, protocol)
    return fits
