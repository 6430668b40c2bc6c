"""Calibration: whether probabilities mean what they say, and a temperature after which they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

N_BINS = 10
"""Bins of confidence, of equal width."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Predictions of about the same confidence.

    Attributes
    ----------
    confidence : float
        Mean probability of the predicted classes, from 0 to 1.
    accuracy : float
        Share of the predictions that are right.
    n : int
        How many predictions there are.
    """

    confidence: float
    accuracy: float
    n: int


def calibrate(log_proba: Sequence[NDArray[np.float64]], truth: Sequence[NDArray[np.intp]]) -> float:
    """Find what to divide the classes' scores by, so that probabilities are right on average.

    Parameters
    ----------
    log_proba : sequence of ndarray of shape (n, n_classes)
        Logarithms of the probabilities of images that did not train.
    truth : sequence of ndarray of shape (n,)
        Numbers of their classes.

    Returns
    -------
    temperature : float
        From 0.05 to 20.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, *On calibration of modern neural networks* (ICML 2017); Platt,
    *Probabilistic outputs for support vector machines* (1999), section 2.2.

    Examples
    --------
    >>> sure = np.log([[0.9, 0.1]] * 1000)  # And right in 6 of 10.
    >>> t = calibrate([sure], [np.array([0] * 600 + [1] * 400)])
    >>> round(float(np.exp(tempered(sure, t))[0, 0]), 2)
    0.6
    """
    scores, labels = np.concatenate(log_proba), np.concatenate(truth)
    n, n_classes = scores.shape
    # Where every image is right, no temperature would be low enough: as in Platt (1999), each class
    # counts one image more than there are.
    doubt = (n_classes - 1) / (n + n_classes)

    def loss(log_temperature: float) -> float:
        losses = -tempered(scores, float(np.exp(log_temperature)))
        right = losses[np.arange(n), labels]
        wrong = (losses.sum(1) - right) / (n_classes - 1)
        return float(((1 - doubt) * right + doubt * wrong).mean())

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def tempered(log_proba: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Divide the classes' scores by a temperature.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_classes)
        Logarithms of probabilities.
    temperature : float
        Above 0; above 1, predictions become less confident.

    Returns
    -------
    log_proba : ndarray of shape (n, n_classes)
    """
    scaled = log_proba / temperature
    total: NDArray[np.float64] = np.logaddexp.reduce(scaled, axis=1, keepdims=True)
    return scaled - total


def confidence_bins(log_proba: NDArray[np.float64], truth: NDArray[np.intp]) -> list[Bin]:
    """Compare how sure predictions are with how many are right.

    Parameters
    ----------
    log_proba : ndarray of shape (n, n_classes)
        Logarithms of the probabilities of images that did not train.
    truth : ndarray of shape (n,)
        Numbers of their classes.

    Returns
    -------
    bins : list of Bin
        From the least to the most confident; those without predictions are left out.

    Examples
    --------
    >>> log_proba = np.log([[0.9, 0.1], [0.1, 0.9], [0.55, 0.45]])
    >>> [(bin.n, bin.accuracy) for bin in confidence_bins(log_proba, np.array([0, 0, 0]))]
    [(1, 1.0), (2, 0.5)]
    """
    confidence, right = np.exp(log_proba.max(1)), log_proba.argmax(1) == truth
    # A bin holds its upper end.
    of = np.searchsorted(np.linspace(0, 1, N_BINS + 1)[1:-1], confidence)
    return [
        Bin(
            confidence=float(confidence[of == number].mean()),
            accuracy=float(right[of == number].mean()),
            n=int((of == number).sum()),
        )
        for number in np.unique(of)
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Average the distance between confidence and accuracy over all predictions.

    Parameters
    ----------
    bins : sequence of Bin

    Returns
    -------
    error : float
        The expected calibration error, from 0 to 1.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, *On calibration of modern neural networks* (ICML 2017).

    Examples
    --------
    >>> round(calibration_error([Bin(confidence=0.9, accuracy=0.5, n=2)]), 3)
    0.4
    """
    total = sum(bin.n for bin in bins)
    return sum(bin.n * abs(bin.confidence - bin.accuracy) for bin in bins) / total
