"""Evaluation: how one layer does on the splits that all layers share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from pipelines.cluster.tasks import run_tasks
from pipelines.comparison.answers import answers_of
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.splits import Split
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.linear.mapped import MappedCodes
from pipelines.reading.memory import require_memory
from pipelines.reading.rows import average_views, row_groups, take, training_rows
from pipelines.reading.scratch import Codes, find_large, in_turns, opened
from pipelines.statistics.scoring import default_scoring, score_answers, scorer

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

ESTIMATORS = {"svm": LinearSVCCV, "logistic": LogisticCV}

Candidate = tuple[str, str]
"""Layer and classifier."""

Place = tuple[Candidate, int]
"""And the number of a piece of the splits."""

N_PIECES = 5
"""Parts that the splits of a layer are evaluated in; each reads the layer's codes again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What one classifier did on one split.

    Attributes
    ----------
    n_features : int
        0 where none was read.
    C : float
        The chosen one.
    C_at_edge : {"low", "high"} or None
        Whether it lies at the end of the grid, and scores still rise towards that end.
    converged : bool
        Whether every fit of it is certified to be within `tol` of the optimum.
    cv_scores : ndarray of shape (n_Cs,)
        Mean score over the inner folds at each C of the grid; NaN where it was not looked at.
    cv_score : float
        That at the chosen one.
    train_score : float
        On the images that it was trained on.
    predicted : ndarray of shape (n_test,), intp
        Number of the class that it gives each test image.
    answers : ndarray of shape (n_test,) or (n_test, n_classes), float64
        What the score reads, see `pipelines.statistics.scoring.score_answers`.
    not_searched : tuple of float
        The values of the grid that were not looked at.
    """

    n_features: int = 0
    C: float
    C_at_edge: str | None
    converged: bool
    cv_scores: NDArray[np.float64]
    cv_score: float
    train_score: float
    predicted: NDArray[np.intp]
    answers: NDArray[np.float64]
    not_searched: tuple[float, ...] = ()


def evaluate_layer(
    X: NDArray[Any] | MappedCodes,
    y: NDArray[np.str_],
    splits: Sequence[Split],
    classifier: str,
    protocol: Protocol,
) -> list[Fit]:
    """Train and test one classifier on the codes of one layer, split by split.

    Scaling and C are fitted on each split's training images alone.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, n_features) or (n_samples, n_views, n_features)
        Views are rows of their own to train on; a tested image is the average of its views, whose
        decision values are the average of theirs.
    y : ndarray of shape (n_samples,), str
    splits : sequence of Split
    classifier : {"svm", "logistic"}
    protocol : Protocol

    Returns
    -------
    fits : list of Fit
        One for each split.
    """
    scoring = protocol.scoring or default_scoring(y)
    classes, truth = np.unique(y, return_inverse=True)
    Cs = np.array(protocol.grid)
    fits = []
    tested = average_views(X)
    for split in splits:
        X_train, y_train, inner = training_rows(take(X, split.train), y[split.train], split.inner)
        model = ESTIMATORS[classifier](
            Cs=Cs,
            cv=inner,
            scoring=scorer(scoring, classes.tolist()),
            random_state=protocol.random_state,
            search=protocol.Cs_search,
        )
        with warnings.catch_warnings():
            # It would reach the terminal from other processes, once for each split.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X_train, y_train, row_groups(split.groups, len(split.train), len(X_train)))
        predicted, answers = answers_of(model, take(tested, split.test), truth[split.test], scoring)
        _, of_train = answers_of(model, take(tested, split.train), truth[split.train], scoring)
        trained = score_answers(scoring, truth[split.train], of_train, len(classes))
        cv_scores = model.scores_.mean(1)
        fits.append(
            Fit(
                n_features=X.shape[-1],
                C=float(model.C_),
                C_at_edge=model.C_at_edge_,
                converged=bool(model.certificate_ <= model.tol),
                cv_scores=cv_scores,
                cv_score=float(cv_scores[Cs == model.C_][0]),
                train_score=float(trained[0]),
                predicted=predicted,
                answers=answers,
                not_searched=tuple(Cs[np.isnan(cv_scores)].tolist()),
            )
        )
    return fits


def evaluate_layers(
    codes: Mapping[str, Codes],
    y: NDArray[np.str_],
    splits: Sequence[Split],
    protocol: Protocol,
    *,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[Candidate, list[Fit]]:
    """Train and test every classifier of a protocol on every layer, as `evaluate_layer` does.

    Parameters
    ----------
    codes, n_jobs, cluster, advance
        As for `pipelines.compare_layers`.
    y, splits, protocol
        As for `evaluate_layer`.

    Returns
    -------
    fits : dict of (layer, classifier) to list of Fit
        In the order of `codes`; a fit for each split.

    Raises
    ------
    TooLargeError
        If what the solver holds of a layer is more than the memory there is.
    ScratchSpaceError
        If a layer does not fit into memory and the disk has no room for it.
    """
    pieces = in_pieces(splits)
    found: dict[Place, list[Fit]] = {}
    largest = max(len(split.train) for split in splits)
    here = cluster is None
    for layer, reader in (find_large(codes, n_jobs) if here else {}).items():
        require_memory(f"layer {layer!r}", reader, largest, len(np.unique(y)), n_jobs)
    turns = in_turns(codes, n_jobs, here=here)
    with closing(turns):  # Also where an error ends it: its scratch file is removed.
        for layers in turns:
            tasks = _Evaluations(codes=layers, y=y, pieces=pieces, protocol=protocol)
            places = [
                ((layer, name), number)
                for layer in layers
                for name in protocol.classifiers
                for number in range(len(pieces))
            ]
            for place, done in run_tasks(tasks, places, n_jobs=n_jobs, cluster=cluster):
                found[place] = done
                if advance is not None:
                    advance(len(done))
    return {
        (layer, name): [fit for i in range(len(pieces)) for fit in found[(layer, name), i]]
        for layer in codes
        for name in protocol.classifiers
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evaluations:
    """The tasks of `evaluate_layers`."""

    codes: Mapping[str, Codes]
    y: NDArray[np.str_]
    pieces: list[list[Split]]
    protocol: Protocol

    def __call__(self, place: Place) -> Callable[[], tuple[Place, list[Fit]]]:
        (layer, _), number = place
        splits = self.pieces[number]
        return partial(_evaluate, place, self.codes[layer], self.y, splits, self.protocol)


def _evaluate(
    place: Place,
    codes: Codes,
    y: NDArray[np.str_],
    splits: list[Split],
    protocol: Protocol,
) -> tuple[Place, list[Fit]]:
    (layer, classifier), _ = place
    with opened(codes) as X:
        if len(X) != len(y):
            raise ValueError(
                f"Layer {layer!r} has codes of {len(X)} images, and there are {len(y)} labels."
            )
        return place, evaluate_layer(X, y, splits, classifier, protocol)


def in_pieces(splits: Sequence[Split]) -> list[list[Split]]:
    """Cut splits into parts for parallel work, in their order.

    Parameters
    ----------
    splits : sequence of Split

    Returns
    -------
    pieces : list of list of Split
        Of about as many splits each, `N_PIECES` or fewer.
    """
    ends = np.linspace(0, len(splits), min(N_PIECES, len(splits)) + 1).astype(int).tolist()
    return [list(splits[a:b]) for a, b in pairwise(ends)]
