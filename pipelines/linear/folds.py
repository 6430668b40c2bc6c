"""A fold: its training rows solved at one C after another, its held-out rows scored at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from pipelines.linear.mapped import MappedCodes
from pipelines.linear.newton import Point, minimise
from pipelines.linear.path import (
    Codes,
    Settings,
    decide,
    intercept_of,
    judge,
    log_probabilities,
    make_problem,
    one_thread,
    origin,
    problem_size,
)
from pipelines.linear.problems import LinearProblem
from pipelines.statistics.scoring import balanced_weights

Array = NDArray[np.floating[Any]]
Index = NDArray[np.intp]
Scorer = Callable[[BaseEstimator, Array, NDArray[Any]], float]

SUMS = ("accuracy", "balanced_accuracy", "neg_log_loss")
"""Scores of a fold that are a sum over its held-out rows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutScore:
    """What a fold says of one C.

    Attributes
    ----------
    score : float
    certificate : float
        Upper bound of ``‖w - w*‖ / ‖w‖``.
    shares : ndarray of shape (n_test,), or None
        What each held-out row adds to the score; None where the score is no such sum.
    """

    score: float
    certificate: float
    shares: Array | None


class Fold:
    """A fold whose solutions at the smallest and largest values so far start the next ones.

    Parameters
    ----------
    X : array or MappedCodes of shape (n_samples, n_features)
    labels : ndarray of shape (n_samples,)
        Indices of ``settings.classes``.
    train, test : ndarray of int
    settings : Settings
    scoring : str, scorer or None
        What `scorer` was made of; None is accuracy.
    scorer : callable or None
        None is accuracy.

    Attributes
    ----------
    size : int
        Bytes of the reduced problem, at most.
    """

    def __init__(
        self,
        X: Codes,
        labels: Index,
        train: Index,
        test: Index,
        settings: Settings,
        scoring: Any,
        scorer: Scorer | None,
    ) -> None:
        self.test, self.size = test, problem_size(len(train), len(test), X.shape[1], settings)
        self._X, self._labels, self._train, self._settings = X, labels, train, settings
        self._scoring, self._scorer = scoring, scorer
        self._problem: LinearProblem | None = None
        self._solutions: dict[float, Point] = {}

    def score(self, C: float) -> HeldOutScore:
        """Solve at this C, from the solution at the nearest one, and score.

        The reduced problem is kept for the next value.
        """
        settings, train = self._settings, self._train
        with one_thread():
            if self._problem is None:
                self._problem = make_problem(self._X, train, self.test, settings)
            problem = self._problem
            loss = settings.loss(self._labels[train], C)
            start = self._start(C) or origin(problem, settings, len(train))
            point = minimise(problem, loss, start, tol=settings.tol, max_iter=settings.max_iter)
            rows = problem.held_out(point.unknown) + intercept_of(loss)
            problem.release()
        # Of codes in a file, all folds' margins would be larger than what a fit takes: a pass over
        # the codes makes them again.
        in_file = isinstance(self._X, MappedCodes)
        self._solutions[C] = (
            replace(point, margins=point.margins[:, :0].copy()) if in_file else point
        )
        ends = 2 if settings.kind == "softmax" else 1
        for inside in sorted(self._solutions)[ends:-ends]:
            del self._solutions[inside]
        values = settings.decisions(rows).T
        return HeldOutScore(
            score=self._score(values),
            certificate=point.certificate,
            shares=score_shares(self._scoring, self._labels[self.test], values),
        )

    def forget(self) -> None:
        """Give back the reduced problem and the solutions."""
        self._problem = None
        self._solutions.clear()

    def _start(self, C: float) -> Point | None:
        """Go on from the nearest solution; the softmax's as it changed from the one before.

        This took 0.65 to 0.8 of the time of starting at the nearest one, upwards and downwards; of
        the hinge, whose support vectors change, it took up to three times as long.
        """
        known = sorted(self._solutions, key=lambda other: abs(np.log(other / C)))
        if not known:
            return None
        near = self._solutions[known[0]]
        if self._settings.kind != "softmax" or len(known) == 1:
            return near
        steps = np.diff(np.log([C, *known[:2]]))
        share = steps[0] / steps[1] if steps[1] else 0.0
        if share <= 0:  # Between two solutions.
            return near
        before, share = self._solutions[known[1]], min(share, 1.0)
        return replace(
            near,
            unknown=near.unknown + share * (near.unknown - before.unknown),
            margins=near.margins + share * (near.margins - before.margins),
        )

    def _score(self, values: Array) -> float:
        settings, truth = self._settings, self._labels[self.test]
        if self._scorer is None:
            return float(np.mean(decide(values) == truth))
        try:
            return float(self._scorer(judge(settings), values, settings.classes[truth]))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"scoring does not work here: {error} A score of probabilities needs "
                "LogisticCV, and one of two classes two classes."
            ) from error


def score_all(fold: Fold, Cs: Sequence[float]) -> list[HeldOutScore]:
    """Score a fold at each C in turn; its problem is not kept."""
    found = [fold.score(C) for C in Cs]
    fold.forget()
    return found


def score_shares(scoring: Any, truth: Index, values: Array) -> Array | None:
    """Return what each row adds to its fold's score, where that is such a sum.

    Parameters
    ----------
    scoring : str, scorer or None
    truth : ndarray of shape (n_test,)
        Index of each row's class.
    values : ndarray of shape (n_test, n_outputs)
        Decision values.

    Returns
    -------
    shares : ndarray of shape (n_test,), or None

    Examples
    --------
    >>> values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> score_shares("balanced_accuracy", np.array([0, 1, 1, 1]), values).round(3).tolist()
    [0.5, 0.0, 0.167, 0.0]
    """
    if scoring not in (None, *SUMS):
        return None
    if scoring == "neg_log_loss":
        given = log_probabilities(values)[np.arange(len(truth)), truth]
        # As scikit-learn's log_loss.
        return np.maximum(given, np.log(np.finfo(np.float64).eps)) / len(truth)
    correct = decide(values) == truth
    if scoring == "balanced_accuracy":
        return np.asarray(correct * balanced_weights(truth))
    return np.asarray(correct / len(truth))
