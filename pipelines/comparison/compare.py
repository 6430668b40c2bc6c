"""Comparison: every layer on the same splits, the best one, and those tied with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.decision import Decision
from pipelines.comparison.evaluate import Candidate, evaluate_layers
from pipelines.comparison.held_out_answers import HeldOutAnswers
from pipelines.comparison.protocol import Protocol, TrainSize
from pipelines.comparison.results import Best, ComparedLayer, FoldScore, LayerScore, Mistake
from pipelines.comparison.samples import Samples
from pipelines.comparison.scored_fits import ScoredFits
from pipelines.comparison.splits import cut_again, make_splits
from pipelines.reading.scratch import Codes
from pipelines.statistics.scoring import default_scoring

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare_layers` found.

    Attributes
    ----------
    scored : ScoredFits
        The samples, their splits, and what every classifier answered.
    best : Best
        At the largest training size.
    by_size : tuple of Best
        At each.
    layers : tuple of LayerScore
    folds : tuple of FoldScore
    confusion : tuple of tuple of int
        Of the chosen depth: test images by class and by predicted class.
    mistakes : tuple of Mistake
    notes : tuple of str
        What was left out, and why.
    """

    scored: ScoredFits = field(compare=False, repr=False)
    best: Best
    by_size: tuple[Best, ...]
    layers: tuple[LayerScore, ...]
    folds: tuple[FoldScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    notes: tuple[str, ...]

    @property
    def scoring(self) -> str:
        """The score, of `pipelines.statistics.scoring.SCORINGS`."""
        return self.scored.scoring

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes, sorted."""
        return tuple(self.scored.samples.classes.tolist())

    @property
    def folds_cut_again(self) -> tuple[FoldScore, ...]:
        """Scores with folds that were cut again, which have no part in those of layers."""
        return tuple(row for again in self.scored.again or () for row in again.fold_scores())

    @property
    def tested(self) -> HeldOutAnswers:
        """What the way of choosing answers at the largest training size."""
        size = self.best.train_size
        return self.scored.tested(self.scored.chosen(size), size)


def compare_layers(
    codes: Mapping[str, Codes],
    y: NDArray[np.str_],
    *,
    protocol: Protocol | None = None,
    test: NDArray[np.bool_] | None = None,
    groups: NDArray[np.str_] | None = None,
    copied: NDArray[np.bool_] | None = None,
    layers: Sequence[ComparedLayer] | None = None,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
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
    layers : sequence of ComparedLayer, optional
        What is known of each layer. Of tied layers, a cheaper one is recommended where it saves 5 %
        or more of what the best one costs. Default: nothing is known, and each layer counts as
        cheaper than those after it.
    n_jobs : int, default=1
        Processes, as in joblib.
    cluster : Cluster, optional
        A Dask cluster whose workers do it instead, as `pipelines.cluster.connection.connected`
        gives it. Functions that return codes are called there; arrays are sent to each worker.
    advance : callable, optional
        Called with the number of splits that a classifier has been through, of each layer's.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    ValueError
        If there are no layers, `layers` describes others, or a class is too small for the folds.

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
    described = {layer.layer: layer for layer in layers or ()}
    if layers is not None and described.keys() != codes.keys():
        raise ValueError(
            f"layers describes {', '.join(described) or 'nothing'}; there are codes of "
            f"{', '.join(codes)}."
        )
    samples = Samples(y=y, test=test, groups=groups, copied=copied)
    splits, notes = make_splits(samples, protocol)
    cuts, uncut = cut_again(samples, protocol, splits)
    every = [splits, *cuts]
    fits = evaluate_layers(
        codes,
        samples.y,
        list(chain(*every)),
        protocol,
        n_jobs=n_jobs,
        cluster=cluster,
        advance=advance,
    )
    ends = np.cumsum([0, *map(len, every)]).tolist()
    scored, *again = (
        ScoredFits(
            samples=samples,
            splits=of_cut,
            fits={candidate: of[start : start + len(of_cut)] for candidate, of in fits.items()},
            scoring=protocol.scoring or default_scoring(samples.y),
            random_state=protocol.random_state,
            layers={
                (name, classifier): layer
                for name, layer in described.items()
                for classifier in protocol.classifiers
            },
        )
        for start, of_cut in zip(ends, every, strict=False)
    )
    if protocol.seeds > 1:
        scored = replace(scored, again=tuple(again))
    return decide(scored, max_loss=protocol.max_loss, notes=[*notes, *uncut])


def decide(scored: ScoredFits, *, max_loss: float, notes: Sequence[str] = ()) -> Comparison:
    """Choose the best depth at each training size, and gather all that was found.

    Parameters
    ----------
    scored : ScoredFits
    max_loss : float
        See `pipelines.comparison.protocol.Protocol`.
    notes : sequence of str, optional
        What was left out, and why.

    Returns
    -------
    comparison : Comparison
    """
    decision = Decision(scored=scored, max_loss=max_loss)
    by_size = [decision.best(size) for size in scored.sizes]
    best = max(by_size, key=lambda found: _number(found.train_size))
    confusion, mistakes = _predictions(scored, (best.layer, best.classifier), best.train_size)
    return Comparison(
        scored=scored,
        best=best,
        by_size=tuple(by_size),
        layers=tuple(
            scored.layer_score(candidate, size)
            for candidate in scored.fits
            for size in scored.sizes
        ),
        folds=tuple(scored.fold_scores()),
        confusion=confusion,
        mistakes=mistakes,
        notes=tuple(dict.fromkeys([*notes, *say_unconverged(scored)])),
    )


def _predictions(
    scored: ScoredFits, candidate: Candidate, size: TrainSize
) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
    """Count predictions, and list the wrong ones, each image once."""
    names, numbers = scored.samples.classes, scored.samples.numbers
    confusion = np.zeros((len(names), len(names)), np.intp)
    mistakes: dict[int, Mistake] = {}
    seen: set[int] = set()
    for split, fit in zip(scored.splits_of(size), scored.fits_of(candidate, size), strict=True):
        labels = numbers[split.test].tolist()
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


def say_unconverged(scored: ScoredFits) -> list[str]:
    """Say once which fits are not as near to the optimum as asked."""
    short = [
        f"{n} of {len(fits)} of {layer} ({classifier})"
        for (layer, classifier), fits in scored.fits.items()
        if (n := sum(not fit.converged for fit in fits))
    ]
    return short and [
        f"fits stopped short of the accuracy asked, {', '.join(short)}: leave out the largest "
        "values with --Cs"
    ]


def _number(size: TrainSize) -> float:
    return float("inf") if size == "all" else float(size)
