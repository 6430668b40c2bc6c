"""Scores: what a classifier's answers are worth, also on resampled test images.

Each is scikit-learn's of the same name, higher is better. Here they are computed for many
resamples at once: a resample is how often it counts each test image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, make_scorer

Answers = NDArray[np.float64]
_Score = Callable[[NDArray[np.intp], Answers, NDArray[np.float64], int], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A score.

    Attributes
    ----------
    title : str
        As people write it.
    reads : {"labels", "probabilities", "decisions"}
        What it is computed from.
    by_class : bool
        Whether it is a mean over classes, so that resamples keep the images of each.
    compute : callable
        ``compute(truth, answers, counts, n_classes)``, see `score_answers`.
    """

    title: str
    reads: str
    by_class: bool
    compute: _Score


def scorer(scoring: str, classes: Sequence[str]) -> Any:
    """Return what scikit-learn takes as ``scoring`` for labels that are words.

    Parameters
    ----------
    scoring : str
        Of `SCORINGS`.
    classes : sequence of str
        Sorted; of two, the second is the positive one.

    Returns
    -------
    scoring : str or callable

    Examples
    --------
    >>> scorer("f1_macro", ["benign", "malignant"])
    'f1_macro'
    """
    if scoring != "average_precision" or len(classes) > 2:
        return scoring
    return make_scorer(
        average_precision_score, response_method="decision_function", pos_label=classes[1]
    )


def score_answers(
    scoring: str,
    truth: NDArray[np.intp],
    answers: Answers,
    n_classes: int,
    counts: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Score the answers to some test images.

    Parameters
    ----------
    scoring : str
        Of `SCORINGS`.
    truth : ndarray of shape (n_test,), intp
        Number of each image's class.
    answers : ndarray of shape (n_test,) or (n_test, n_classes)
        What the score reads: numbers of classes, log-probabilities of the true class, or decision
        values.
    n_classes : int
    counts : ndarray of shape (n_resamples, n_test), optional
        How often each image counts. Default: each once, in one resample.

    Returns
    -------
    scores : ndarray of shape (n_resamples,)

    Examples
    --------
    >>> truth, answers = np.array([0, 0, 0, 1]), np.array([0.0, 0, 1, 1])
    >>> score_answers("balanced_accuracy", truth, answers, 2).round(3).tolist()
    [0.833]
    """
    counts = np.ones((1, len(truth))) if counts is None else counts
    return SCORINGS[scoring].compute(truth, answers, counts, n_classes)


def image_shares(
    scoring: str, truth: NDArray[np.intp], answers: Answers
) -> NDArray[np.float64] | None:
    """Return what each test image adds to the score, where the score is such a sum.

    Parameters
    ----------
    scoring, truth, answers
        As for `score_answers`.

    Returns
    -------
    shares : ndarray of shape (n_test,), or None
        A resample that keeps the classes' sizes scores ``counts @ shares``.

    Examples
    --------
    >>> image_shares("accuracy", np.array([0, 1]), np.array([0.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    if scoring in ("f1_macro", "average_precision"):
        return None
    if scoring == "neg_log_loss":
        return answers / len(truth)
    shares: NDArray[np.float64] = (answers == truth) * image_weights(scoring, truth)
    return shares


def image_weights(scoring: str, truth: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return what each test image weighs: as much as any other, or as its class over all classes.

    Parameters
    ----------
    scoring : str
    truth : ndarray of shape (n_test,), intp

    Returns
    -------
    weights : ndarray of shape (n_test,)
        They sum to 1.
    """
    if not SCORINGS[scoring].by_class:
        return np.full(len(truth), 1 / len(truth))
    return balanced_weights(truth)


def balanced_weights(truth: NDArray[np.intp]) -> NDArray[np.float64]:
    """Weigh each row as its class over all classes that are there; the weights sum to 1."""
    _, number, sizes = np.unique(truth, return_inverse=True, return_counts=True)
    weights: NDArray[np.float64] = 1 / (len(sizes) * sizes[number])
    return weights


def default_scoring(y: NDArray[np.str_]) -> str:
    """Return balanced accuracy where classes are unequal, otherwise accuracy.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)

    Returns
    -------
    scoring : str

    Examples
    --------
    >>> default_scoring(np.array(["a", "a", "b", "b", "b"]))
    'accuracy'
    >>> default_scoring(np.array(["a", "b", "b", "b", "b"]))
    'balanced_accuracy'
    """
    counts = np.unique(y, return_counts=True)[1]
    return "balanced_accuracy" if counts.max() > 1.5 * counts.min() else "accuracy"


def _totals(
    classes: NDArray[Any], counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    """Count the images of each class in each resample, shape ``(n_resamples, n_classes)``."""
    totals: NDArray[np.float64] = counts @ (classes[:, None] == np.arange(n_classes))
    return totals


def _accuracy(
    truth: NDArray[np.intp], answers: Answers, counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = counts @ (answers == truth) / counts.sum(1)
    return scores


def _balanced_accuracy(
    truth: NDArray[np.intp], answers: Answers, counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    hits = _totals(truth, counts * (answers == truth), n_classes)
    return _mean_over_classes(hits, _totals(truth, counts, n_classes))


def _f1_macro(
    truth: NDArray[np.intp], answers: Answers, counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    hits = _totals(truth, counts * (answers == truth), n_classes)
    sizes = _totals(truth, counts, n_classes) + _totals(answers, counts, n_classes)
    return _mean_over_classes(2 * hits, sizes)


def _mean_over_classes(
    parts: NDArray[np.float64], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average shares over the classes that are there."""
    there = sizes > 0
    shares = np.divide(parts, sizes, out=np.zeros_like(parts), where=there)
    mean: NDArray[np.float64] = shares.sum(1) / there.sum(1)
    return mean


def _neg_log_loss(
    truth: NDArray[np.intp], answers: Answers, counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = counts @ answers / counts.sum(1)
    return scores


def _average_precision(
    truth: NDArray[np.intp], answers: Answers, counts: NDArray[np.float64], n_classes: int
) -> NDArray[np.float64]:
    if n_classes == 2:
        return _precision_of_one(truth == 1, answers[:, 1], counts)
    present = np.unique(truth).tolist()
    mean: NDArray[np.float64] = np.mean(
        [_precision_of_one(truth == k, answers[:, k], counts) for k in present], axis=0
    )
    return mean


def _precision_of_one(
    positive: NDArray[np.bool_], values: Answers, counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    order = np.argsort(-values, kind="stable")
    # Images of one value come together: precision is looked at after the last of them.
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    taken = np.cumsum(counts[:, order], axis=1)[:, ends]
    hits = np.cumsum(counts[:, order] * positive[order], axis=1)[:, ends]
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    total = hits[:, -1]
    gained = np.diff(hits, axis=1, prepend=0)
    scores: NDArray[np.float64] = np.divide(
        (gained * precision).sum(1), total, out=np.zeros_like(total), where=total > 0
    )
    return scores


SCORINGS = {
    "accuracy": Scoring(title="accuracy", reads="labels", by_class=False, compute=_accuracy),
    "balanced_accuracy": Scoring(
        title="balanced accuracy", reads="labels", by_class=True, compute=_balanced_accuracy
    ),
    "f1_macro": Scoring(title="macro F1", reads="labels", by_class=True, compute=_f1_macro),
    "neg_log_loss": Scoring(
        title="negative log loss", reads="probabilities", by_class=False, compute=_neg_log_loss
    ),
    "average_precision": Scoring(
        title="average precision", reads="decisions", by_class=True, compute=_average_precision
    ),
}
"""By scikit-learn's name."""
