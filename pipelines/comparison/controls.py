"""Controls: what a score should be compared with, on the same folds as the chosen depth.

Together they cost no more than the comparison: of a repeated cross-validation they see the first
repeat, which tests every image once; shuffled labels are trained with the C that the true ones
chose; and where few layers were compared, the other controls choose C from a coarser grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from pipelines.comparison.decision import UNNEEDED, find_unneeded
from pipelines.comparison.evaluate import Fit, evaluate_layer
from pipelines.comparison.guessing import guess
from pipelines.comparison.held_out_answers import HeldOutAnswers
from pipelines.comparison.intervals import paired_tests
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import Comparison
from pipelines.comparison.scoring import image_weights, score_answers
from pipelines.comparison.splits import Split, inner_splits, make_splits
from pipelines.comparison.verdict import Verdict

CONTROLS = {
    "majority": "the commonest class of the training images",
    "shuffled": "the chosen depth, training labels shuffled, C as for the true ones",
    "pixels": "raw pixels, shrunk to 16×16",
    "random": "the chosen depth, random weights",
    "concatenated": "all depths side by side, each feature scaled",
    "pre": "the chosen depth, before its activation",
}
"""Name → what it is."""
DEFAULT_CONTROLS = ("majority", "shuffled", "pixels", "random", "concatenated")

CHEAP = ("majority", "shuffled")
"""Controls that search for no C."""
CONCATENATED_COST = 0.5
"""Cost of all depths side by side, of the comparison's: 0.2 to 0.5 were measured."""

N_PERMUTATIONS, MOST_PERMUTED = 1999, 1000


def parse_controls(names: str | Sequence[str]) -> tuple[str, ...]:
    """Read which controls are meant.

    Parameters
    ----------
    names : str, or sequence of str
        Of `CONTROLS`, joined by commas; or none.

    Raises
    ------
    ValueError
        If one is unknown.

    Examples
    --------
    >>> parse_controls("majority, pixels"), parse_controls("none")
    (('majority', 'pixels'), ())
    """
    if isinstance(names, str):
        names = [] if names == "none" else [name.strip() for name in names.split(",")]
    unknown = [name for name in names if name not in CONTROLS]
    if unknown:
        raise ValueError(
            f"Controls {', '.join(map(str, unknown))} are unknown. Allowed: {', '.join(CONTROLS)}, "
            "or none."
        )
    return tuple(names)


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
    finding : str
        What it says against the network: see `pipelines.comparison.decision.find_unneeded`.
    score_without_leaks : float or None
        As in `pipelines.comparison.results.Best`.
    """

    name: str
    n_features: int
    score: float
    ci_low: float
    ci_high: float
    alarm: bool
    finding: str = ""
    score_without_leaks: float | None = None

    @property
    def expected(self) -> float:
        """The score on test images that are no copies of training images, where that differs."""
        return self.score if self.score_without_leaks is None else self.score_without_leaks


def run_controls(
    codes: Mapping[str, Callable[[], NDArray[Any]]],
    comparison: Comparison,
    y: NDArray[np.str_],
    *,
    protocol: Protocol,
    test: NDArray[np.bool_] | None = None,
    groups: NDArray[np.str_] | None = None,
    copied: NDArray[np.bool_] | None = None,
    n_jobs: int = 1,
    advance: Callable[[int], None] | None = None,
) -> list[Control]:
    """Score controls on splits, and with the classifier, that the chosen depth was scored on.

    In a repeated cross-validation, on those of the first repeat.

    Parameters
    ----------
    codes : mapping of str to function
        Control → how to read its codes, of shape (n_samples, n_features); not called for
        ``"majority"``.
    comparison : Comparison
    y, protocol, test, groups, copied
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
    all_splits, _ = make_splits(y, same, test=test, groups=groups)
    splits = all_splits
    if test is None:
        splits = [split for split in all_splits if split.repeat == all_splits[0].repeat]
    same = replace(same, Cs=_affordable(codes, comparison, same, len(splits) / len(all_splits)))
    verdict = Verdict(
        y=y,
        splits=splits,
        fits={},
        scoring=comparison.scoring,
        groups=groups,
        random_state=protocol.random_state,
    )
    numbers = np.unique(y, return_inverse=True)[1]
    tasks = (
        delayed(_fits)(name, read, y, splits, comparison, same) for name, read in codes.items()
    )
    done = {}
    for name, fits, width in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        done[name] = fits, width
        if advance is not None:
            advance(1)
    clean = verdict.without(copied)
    controls = []
    for name in codes:
        fits, width = done[name]
        score, low, high = verdict.scored(fits, best.train_size)
        control = Control(
            name=name,
            n_features=width,
            score=score,
            ci_low=low,
            ci_high=high,
            alarm=name == "shuffled"
            and better_than_chance(
                numbers,
                [split.test for split in splits],
                [fit.predicted for fit in fits],
                groups=groups,
                random_state=protocol.random_state,
            ),
        )
        if clean is not None:
            alone, low, _ = verdict.scored(fits, best.train_size, only=clean)
            control = replace(control, score_without_leaks=alone)
        # Where no depth is better than guessing, random weights that are say nothing of training.
        shown = best.recommended is not None or name == "pixels"
        if name in UNNEEDED and low > best.guess and shown:
            worse = _is_worse(comparison.tested, fits, verdict, clean)
            n_groups = None if groups is None else len(np.unique(groups[comparison.tested.images]))
            finding = find_unneeded(name, control.expected, best, worse=worse, n_groups=n_groups)
            control = replace(control, finding=finding)
        controls.append(control)
    return controls


def _is_worse(
    tested: HeldOutAnswers,
    fits: Sequence[Fit],
    verdict: Verdict,
    only: NDArray[np.bool_] | None,
) -> bool:
    """Tell whether a control scores lower than the comparison's own choice, beyond chance."""
    held_out, answers = verdict.pooled(fits, verdict.sizes[0], only=only)
    kept = np.ones(len(tested.images), bool) if only is None else only[tested.images]
    chosen = [given[kept] for given in tested.answers[: len(answers)]]  # The first repeats.
    scores = [
        [
            score_answers(held_out.scoring, held_out.truth, given, held_out.n_classes)[0]
            for given in of
        ]
        for of in (chosen, answers)
    ]
    tests = paired_tests(held_out, [chosen, answers], np.array(scores), 0, chose=False)
    return bool(tests.worse[1])


def _affordable(
    names: Iterable[str], comparison: Comparison, protocol: Protocol, share: float
) -> tuple[float, ...]:
    """Thin the grid of C where controls on some of the splits would cost more than all layers."""
    best = comparison.best
    rows = [row for row in comparison.layers if row.train_size == best.train_size]
    cost = sum(
        CONCATENATED_COST * len(rows) if name == "concatenated" else 1.0
        for name in names
        if name not in CHEAP
    )
    step = math.ceil(cost * share / len(rows)) if cost else 1
    logs = np.log(protocol.grid)
    [C] = [row.C for row in rows if (row.layer, row.classifier) == (best.layer, best.classifier)]
    chosen = int(np.abs(logs - np.log(C)).argmin())  # A median: perhaps between two of the grid.
    return protocol.grid[chosen % step :: step]


def better_than_chance(
    truth: NDArray[np.intp],
    tests: Sequence[NDArray[np.intp]],
    predicted: Sequence[NDArray[np.intp]],
    *,
    groups: NDArray[np.str_] | None = None,
    random_state: int,
) -> bool:
    """Test whether predictions know anything of the labels, by permuting these.

    Parameters
    ----------
    truth : ndarray of shape (n_samples,), intp
    tests : sequence of ndarray of intp
        The images that each split tests.
    predicted : sequence of ndarray of intp
        The classes predicted for them.
    groups : ndarray of shape (n_samples,), optional
        One image of each group is looked at: others would not be independent of it.
    random_state : int

    Returns
    -------
    better : bool
        At 1 in 1,000, in balanced accuracy.

    References
    ----------
    Ojala and Garriga, *Permutation tests for studying classifier performance*, JMLR 2010.
    """
    rng = np.random.default_rng(random_state)
    found, permuted = 0.0, np.zeros(N_PERMUTATIONS)
    for test, answers in zip(tests, predicted, strict=True):
        looked_at = rng.permutation(len(test))
        if groups is not None:
            looked_at = looked_at[np.unique(groups[test[looked_at]], return_index=True)[1]]
        looked_at = looked_at[:MOST_PERMUTED]
        labels, given = truth[test[looked_at]], answers[looked_at]
        weights = image_weights("balanced_accuracy", labels)
        found += float(weights @ (labels == given))
        for i in range(N_PERMUTATIONS):
            order = rng.permutation(len(labels))
            permuted[i] += weights[order] @ (labels[order] == given)
    # As good as the best, but for the last digits of a sum in another order.
    return bool((1 + (permuted >= found - 1e-9).sum()) / (1 + N_PERMUTATIONS) <= 0.001)


def _fits(
    name: str,
    read: Callable[[], NDArray[Any]],
    y: NDArray[np.str_],
    splits: list[Split],
    comparison: Comparison,
    protocol: Protocol,
) -> tuple[str, list[Fit], int]:
    if name == "majority":
        numbers, k = np.unique(y, return_inverse=True)[1], len(comparison.classes)
        return name, [guess(numbers, split, k, comparison.scoring) for split in splits], 0
    X, classifier = read(), comparison.best.classifier
    if name == "shuffled":
        fits = _evaluate_shuffled(X, y, splits, comparison, protocol)
    else:
        fits = evaluate_layer(X, y, splits, classifier, protocol)
    return name, fits, X.shape[-1]


def _evaluate_shuffled(
    X: NDArray[Any],
    y: NDArray[np.str_],
    splits: Sequence[Split],
    comparison: Comparison,
    protocol: Protocol,
) -> list[Fit]:
    """Train each split on its own labels in another order; test on the true ones."""
    best = comparison.best
    chosen = {
        (fold.repeat, fold.fold): fold.C
        for fold in comparison.folds
        if (fold.layer, fold.classifier, fold.train_size)
        == (best.layer, best.classifier, best.train_size)
    }
    fits = []
    for number, split in enumerate(splits):
        rng = np.random.default_rng([protocol.random_state, number])
        shuffled = y.copy()
        shuffled[split.train] = _shuffle(y[split.train], rng)
        # A classifier wants folds with every class, also for one C; groups have lost their classes.
        inner = inner_splits(shuffled[split.train], None, 2, rng)
        fits += evaluate_layer(
            X,
            shuffled,
            [replace(split, inner=inner)],
            best.classifier,
            replace(protocol, Cs=(chosen[split.repeat, split.fold],)),
        )
    return fits


def _shuffle(labels: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return np.asarray(rng.permutation(labels))
