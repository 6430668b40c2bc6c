"""Comparison: every layer on the same splits, the best one, and those tied with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from pipelines.comparison.decision import Decision
from pipelines.comparison.evaluate import Fit, evaluate_layer, in_pieces
from pipelines.comparison.protocol import Protocol, TrainSize
from pipelines.comparison.results import Comparison, FoldScore, Mistake
from pipelines.comparison.scoring import default_scoring
from pipelines.comparison.splits import Split, make_splits
from pipelines.comparison.verdict import Candidate, Verdict

Codes = NDArray[Any] | Callable[[], NDArray[Any]]


def compare_layers(
    codes: Mapping[str, Codes],
    y: NDArray[np.str_],
    *,
    protocol: Protocol | None = None,
    test: NDArray[np.bool_] | None = None,
    groups: NDArray[np.str_] | None = None,
    copied: NDArray[np.bool_] | None = None,
    costs: Mapping[str, float] | None = None,
    n_jobs: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare the layers of a backbone on a dataset.

    With a test split the layer and C are chosen by cross-validation on the other images, and the
    test images give the scores. Without one, in a nested cross-validation, the outer folds do.

    Parameters
    ----------
    codes : mapping of str to ndarray of shape (n_samples, n_features), or function returning one
        By layer, in forward order. Of shape (n_samples, n_views, n_features), views are rows of
        their own to train on, and averaged in a tested image.
    y : ndarray of shape (n_samples,)
        Class of each image.
    protocol : Protocol, optional
    test : ndarray of shape (n_samples,), bool, optional
        The test split.
    groups : ndarray of shape (n_samples,), optional
        Images of one group are never on two sides of a fold. For copies of an image see
        `pipelines.comparison.duplicates.group_copies`. A test split is taken as it is.
    copied : ndarray of shape (n_samples,), bool, optional
        Test images that are copies of training images, as
        `pipelines.comparison.duplicates.copies_in_test` finds them: the best depth is scored
        without them, too.
    costs : mapping of str to float, optional
        What each layer costs to compute, in any unit, such as the multiply-adds that
        `pipelines.extraction.cost.multiply_adds` counts: of tied layers, a cheaper one is
        recommended where it saves 5 % or more of what the best one costs. Default: not known, and
        each layer counts as cheaper than those after it.
    n_jobs : int, default=1
        Processes, as in joblib.
    advance : callable, optional
        Called with the number of splits that a classifier has been through, of each layer's.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    ValueError
        If there are no layers, one has no cost, or a class is too small for the folds.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> found = compare_layers({"sepal": X[:, :2], "petal": X[:, 2:]}, y.astype(str))
    >>> found.best.layer, found.best.tied
    ('petal', ())
    """
    protocol = protocol or Protocol()
    if not codes:
        raise ValueError("There is no layer to compare.")
    free = [] if costs is None else [layer for layer in codes if layer not in costs]
    if free:
        raise ValueError(f"costs lacks {', '.join(free)}. Give what each layer costs, or no costs.")
    y = np.asarray(y)
    test = None if test is None else _of_each(test, "test", len(y)).astype(bool)
    groups = None if groups is None else _of_each(groups, "groups", len(y))
    splits, notes = make_splits(y, protocol, test=test, groups=groups)
    candidates = [(layer, name) for layer in codes for name in protocol.classifiers]
    pieces = in_pieces(splits)
    tasks = (
        delayed(_evaluate)((layer, name), number, codes[layer], y, piece, protocol)
        for layer, name in candidates
        for number, piece in enumerate(pieces)
    )
    found: dict[tuple[Candidate, int], list[Fit]] = {}
    for place, done in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        found[place] = done
        if advance is not None:
            advance(len(done))
    fits = {
        candidate: [fit for number in range(len(pieces)) for fit in found[candidate, number]]
        for candidate in candidates
    }
    verdict = Verdict(
        y=y,
        splits=splits,
        fits=fits,
        scoring=protocol.scoring or default_scoring(y),
        groups=groups,
        random_state=protocol.random_state,
    )
    decision = Decision(verdict=verdict, costs=costs, max_loss=protocol.max_loss, copied=copied)
    return _gather(decision, notes)


def _gather(decision: Decision, notes: Sequence[str]) -> Comparison:
    """Gather all that was found."""
    verdict = decision.verdict
    by_size = [decision.best(size) for size in verdict.sizes]
    best = max(by_size, key=lambda found: _number(found.train_size))
    confusion, mistakes = _predictions(verdict, (best.layer, best.classifier), best.train_size)
    return Comparison(
        scoring=verdict.scoring,
        best=best,
        by_size=tuple(by_size),
        layers=tuple(
            verdict.layer_score(candidate, size, only=decision.clean)
            for candidate in verdict.fits
            for size in verdict.sizes
        ),
        folds=tuple(_folds(verdict)),
        classes=tuple(verdict.classes.tolist()),
        confusion=confusion,
        mistakes=mistakes,
        notes=(*notes, *say_unconverged(verdict)),
        tested=verdict.tested(verdict.chosen(best.train_size), best.train_size),
    )


def _predictions(
    verdict: Verdict, candidate: Candidate, size: TrainSize
) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
    """Count predictions, and list the wrong ones, each image once."""
    names = verdict.classes
    confusion = np.zeros((len(names), len(names)), np.intp)
    mistakes: dict[int, Mistake] = {}
    seen: set[int] = set()
    for split, fit in zip(verdict.splits_of(size), verdict.fits_of(candidate, size), strict=True):
        labels = verdict.numbers[split.test].tolist()
        for image, label, answer in zip(
            split.test.tolist(), labels, fit.predicted.tolist(), strict=True
        ):
            if image in seen:
                continue
            seen.add(image)
            confusion[label, answer] += 1
            if label != answer:
                mistakes[image] = Mistake(
                    image=image, label=str(names[label]), predicted=str(names[answer])
                )
    return tuple(map(tuple, confusion.tolist())), tuple(mistakes.values())


def say_unconverged(verdict: Verdict) -> list[str]:
    """Say once which fits are not as near to the optimum as asked."""
    short = [
        f"{n} of {len(fits)} of {layer} ({classifier})"
        for (layer, classifier), fits in verdict.fits.items()
        if (n := sum(not fit.converged for fit in fits))
    ]
    return short and [
        f"fits stopped short of the accuracy asked, {', '.join(short)}: leave out the largest "
        "values with --Cs"
    ]


def _folds(verdict: Verdict) -> list[FoldScore]:
    return [
        FoldScore(
            layer=layer,
            classifier=classifier,
            train_size=split.train_size,
            repeat=split.repeat,
            fold=split.fold,
            C=fit.C,
            score=verdict.score_of(split, fit),
            n_train=len(split.train),
            n_test=len(split.test),
        )
        for (layer, classifier), fits in verdict.fits.items()
        for split, fit in zip(verdict.splits, fits, strict=True)
    ]


def _number(size: TrainSize) -> float:
    return float("inf") if size == "all" else float(size)


def _of_each(values: Any, name: str, n: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{name} has the shape {array.shape}; one value for each of {n} labels.")
    return array


def _evaluate(
    candidate: Candidate,
    number: int,
    codes: Codes,
    y: NDArray[np.str_],
    splits: list[Split],
    protocol: Protocol,
) -> tuple[tuple[Candidate, int], list[Fit]]:
    X = codes() if callable(codes) else np.asarray(codes)
    if len(X) != len(y):
        raise ValueError(
            f"Layer {candidate[0]!r} has codes of {len(X)} images, and there are {len(y)} labels."
        )
    return (candidate, number), evaluate_layer(X, y, splits, candidate[1], protocol)
