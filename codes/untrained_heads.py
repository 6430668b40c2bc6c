"""Untrained weights: those that look as an initialisation draws them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

LEVEL = 1e-3
"""Of each test. Of 1,200 random heads (six initialisations, 1 to 100 classes), 5 were taken for
trained; SqueezeNet's, the bundled network's, and heads of five classes that were trained for 20
steps always were, heads of two classes from 50 to 100 steps on."""
CUT = 2.0
"""Deviations at which initialisations cut a Gaussian, where they do."""


def looks_untrained(weight: Tensor) -> bool:
    """Tell whether the weights of a layer can be distinguished from independent random numbers.

    Initialisations draw them from one distribution, uniform or Gaussian (cut or not) around 0, or
    set them all alike. Training makes some inputs and outputs matter more than others: the mean
    squares of rows and columns then differ more than chance lets them, and their means are others.

    Parameters
    ----------
    weight : Tensor of shape (n_outputs, n_inputs, ...)

    References
    ----------
    Glorot and Bengio, *Understanding the difficulty of training deep feedforward neural networks*,
    AISTATS 2010: the uniform distribution and its bounds.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(512, 10)
    >>> trained = layer.weight * torch.linspace(0.5, 1.5, 512)  # Some inputs matter more.
    >>> looks_untrained(layer.weight), looks_untrained(trained)
    (True, False)
    """
    values = weight.detach().cpu().double().flatten(1).numpy()
    if np.ptp(values) == 0:
        return True
    if not np.isfinite(values).all():
        return False
    return _of_one_distribution(values.ravel()) and _independent(values)


def _of_one_distribution(values: NDArray[np.float64]) -> bool:
    bound, deviation = np.abs(values).max(), values.std()
    known = (
        stats.uniform(-bound, 2 * bound),
        stats.norm(0, deviation),
        stats.truncnorm(-CUT, CUT, scale=bound / CUT),
    )
    return any(stats.kstest(values, one.cdf).pvalue > LEVEL for one in known)


def _independent(values: NDArray[np.float64]) -> bool:
    """Tell whether means and mean squares of rows and columns differ no more than by chance."""
    squares = values**2
    for each, spread in ((values, squares.mean()), (squares, squares.var())):
        centre = 0.0 if each is values else squares.mean()
        for axis in (0, 1):
            means = each.mean(axis)
            distance = np.sum((means - centre) ** 2) * each.shape[axis] / spread
            if stats.chi2.sf(distance, means.size) < LEVEL:
                return False
    return True
