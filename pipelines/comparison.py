"""Comparison: every layer on the same draws, the best one, and those it cannot be told from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from pipelines.draws import Draw, Protocol, TrainSize, make_draws
from pipelines.evaluation import Fit, default_scoring, evaluate_layer, image_weights
from pipelines.uncertainty import (
    held_out_interval,
    resampled_interval,
    tied_over_folds,
    tied_over_images,
)

Codes = NDArray[Any] | Callable[[], NDArray[Any]]
_Candidate = tuple[str, str]  # layer, classifier


@dataclass(frozen=True, kw_only=True)
class FoldScore:
    """One classifier's score on one draw.

    Attributes
    ----------
    layer, classifier : str
    train_size : int or "all"
    repeat, fold : int
    C : float
        Chosen by cross-validation among the draw's training images.
    score : float
        On the draw's test images.
    n_train, n_test : int
    """

    layer: str
    classifier: str
    train_size: TrainSize
    repeat: int
    fold: int
    C: float
    score: float
    n_train: int
    n_test: int


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """One classifier's score on one layer at one training size.

    Attributes
    ----------
    layer, classifier : str
    train_size : int or "all"
    score : float
        Mean over the draws, on images that chose nothing.
    ci_low, ci_high : float
        95 % interval.
    C : float
        Median of the chosen ones.
    C_at_edge : {"low", "high"} or None
        Whether the grid of C ended too early for most draws.
    cv_score : float
        Mean inner cross-validation score at the chosen C: what the layer is chosen by.
    """

    layer: str
    classifier: str
    train_size: TrainSize
    score: float
    ci_low: float
    ci_high: float
    C: float
    C_at_edge: str | None
    cv_score: float


@dataclass(frozen=True, kw_only=True)
class Best:
    """The chosen depth.

    Attributes
    ----------
    layer, classifier : str
        Highest inner cross-validation score at the largest training size.
    train_size : int or "all"
    score : float
        On images that chose neither layer, classifier nor C.
    ci_low, ci_high : float
        95 % interval.
    tied : tuple of str
        Layers that cannot be told from it, in the order given; it is not among them.
    """

    layer: str
    classifier: str
    train_size: TrainSize
    score: float
    ci_low: float
    ci_high: float
    tied: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare_layers` found.

    Attributes
    ----------
    scoring : str
    best : Best
    layers : tuple of LayerScore
    folds : tuple of FoldScore
    notes : tuple of str
        What was left out, and why.
    """

    scoring: str
    best: Best
    layers: tuple[LayerScore, ...]
    folds: tuple[FoldScore, ...]
    notes: tuple[str, ...]


def compare_layers(
    codes: Mapping[str, Codes],
    y: NDArray[np.str_],
    *,
    protocol: Protocol | None = None,
    test: NDArray[np.bool_] | None = None,
    groups: NDArray[np.str_] | None = None,
    n_jobs: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare the layers of a backbone on a dataset.

    With a test split the layer and C are chosen by cross-validation on the other images, and the
    test images give the scores. Without one, in a nested cross-validation, the outer folds do.

    Parameters
    ----------
    codes : mapping of str to ndarray of shape (n_samples, n_features), or function returning one
        By layer, in forward order.
    y : ndarray of shape (n_samples,)
        Class of each image.
    protocol : Protocol, optional
    test : ndarray of shape (n_samples,), bool, optional
        The test split.
    groups : ndarray of shape (n_samples,), optional
        Images of one group are never on two sides of a fold.
    n_jobs : int, default=1
        Processes, as in joblib.
    advance : callable, optional
        Called with 1 when a classifier has been through all draws of a layer.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    ValueError
        If there are no layers, or a class is too small for the folds.

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
    y = np.asarray(y)
    draws, notes = make_draws(y, protocol, test=test, groups=groups)
    candidates = [(layer, name) for layer in codes for name in protocol.classifiers]
    tasks = (
        delayed(_evaluate)((layer, name), codes[layer], y, draws, protocol)
        for layer, name in candidates
    )
    fits: dict[_Candidate, list[Fit]] = {}
    for candidate, done in Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks):
        fits[candidate] = done
        if advance is not None:
            advance(1)
    fits = {candidate: fits[candidate] for candidate in candidates}
    table = _Table(
        y=y,
        draws=draws,
        fits=fits,
        scoring=protocol.scoring or default_scoring(y),
        n_folds=protocol.cv if test is None else None,
        random_state=protocol.random_state,
    )
    return Comparison(
        scoring=table.scoring,
        best=table.best(),
        layers=tuple(table.layer_scores()),
        folds=tuple(table.fold_scores()),
        notes=tuple(notes),
    )


def _evaluate(
    candidate: _Candidate,
    codes: Codes,
    y: NDArray[np.str_],
    draws: list[Draw],
    protocol: Protocol,
) -> tuple[_Candidate, list[Fit]]:
    X = codes() if callable(codes) else np.asarray(codes)
    return candidate, evaluate_layer(X, y, draws, candidate[1], protocol)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """Fits of every candidate on every draw; `n_folds` is None where there is a test split."""

    y: NDArray[np.str_]
    draws: list[Draw]
    fits: dict[_Candidate, list[Fit]]
    scoring: str
    n_folds: int | None
    random_state: int

    def weights(self, draw: Draw) -> NDArray[np.float64]:
        return image_weights(self.y[draw.test], self.scoring)

    def of_size(self, size: TrainSize) -> list[int]:
        return [i for i, draw in enumerate(self.draws) if draw.train_size == size]

    def scores(self, candidate: _Candidate, size: TrainSize) -> NDArray[np.float64]:
        fits = self.fits[candidate]
        return np.array([self.weights(self.draws[i]) @ fits[i].correct for i in self.of_size(size)])

    def cv_scores(self, candidate: _Candidate, size: TrainSize) -> NDArray[np.float64]:
        return np.array([self.fits[candidate][i].cv_score for i in self.of_size(size)])

    def interval(self, scores: NDArray[np.float64], size: TrainSize) -> tuple[float, float]:
        if self.n_folds is None:
            return held_out_interval(scores, self.weights(self.draws[self.of_size(size)[0]]))
        return resampled_interval(scores, self.n_folds, len(self.y))

    def sizes(self) -> list[TrainSize]:
        return list(dict.fromkeys(draw.train_size for draw in self.draws))

    def best(self) -> Best:
        size = max(self.sizes(), key=lambda size: float("inf") if size == "all" else float(size))
        cv = np.array([self.cv_scores(candidate, size) for candidate in self.fits])
        scores = np.array([self.scores(candidate, size) for candidate in self.fits])
        candidates = list(self.fits)
        winner = int(cv.mean(1).argmax())
        # Each draw's own choice, scored on images that had no say in it.
        chosen = scores[cv.argmax(0), np.arange(scores.shape[1])]
        low, high = self.interval(chosen, size)
        layer, classifier = candidates[winner]
        return Best(
            layer=layer,
            classifier=classifier,
            train_size=size,
            score=float(chosen.mean()),
            ci_low=low,
            ci_high=high,
            tied=self.tied(candidates[winner], size),
        )

    def tied(self, winner: _Candidate, size: TrainSize) -> tuple[str, ...]:
        others = [candidate for candidate in self.fits if candidate != winner]
        if not others:
            return ()
        if self.n_folds is None:
            rows = {c: self.mean_correct(c, size) for c in self.fits}
            tied = tied_over_images(
                rows[winner],
                np.array([rows[c] for c in others]),
                self.weights(self.draws[self.of_size(size)[0]]),
                random_state=self.random_state,
            )
        else:
            tied = tied_over_folds(
                self.scores(winner, size),
                np.array([self.scores(c, size) for c in others]),
                self.n_folds,
                len(self.y),
            )
        names = (c[0] for c, is_tied in zip(others, tied, strict=True) if is_tied)
        return tuple(name for name in dict.fromkeys(names) if name != winner[0])

    def mean_correct(self, candidate: _Candidate, size: TrainSize) -> NDArray[np.float64]:
        fits = self.fits[candidate]
        correct = np.array([fits[i].correct for i in self.of_size(size)], np.float64)
        mean: NDArray[np.float64] = correct.mean(0)
        return mean

    def layer_scores(self) -> list[LayerScore]:
        rows = []
        for candidate in self.fits:
            for size in self.sizes():
                fits = [self.fits[candidate][i] for i in self.of_size(size)]
                scores = self.scores(candidate, size)
                low, high = self.interval(scores, size)
                edges = [fit.C_at_edge for fit in fits]
                edge = next((e for e in edges if e and edges.count(e) > len(edges) / 2), None)
                rows.append(
                    LayerScore(
                        layer=candidate[0],
                        classifier=candidate[1],
                        train_size=size,
                        score=float(scores.mean()),
                        ci_low=low,
                        ci_high=high,
                        C=float(np.median([fit.C for fit in fits])),
                        C_at_edge=edge,
                        cv_score=float(self.cv_scores(candidate, size).mean()),
                    )
                )
        return rows

    def fold_scores(self) -> list[FoldScore]:
        return [
            FoldScore(
                layer=layer,
                classifier=classifier,
                train_size=draw.train_size,
                repeat=draw.repeat,
                fold=draw.fold,
                C=fit.C,
                score=float(self.weights(draw) @ fit.correct),
                n_train=len(draw.train),
                n_test=len(draw.test),
            )
            for (layer, classifier), fits in self.fits.items()
            for draw, fit in zip(self.draws, fits, strict=True)
        ]
