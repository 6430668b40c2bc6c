r"""Stability: how much of a score's variance comes from which draw, and what more of each brings.

A score depends on chance in three ways: which training images were drawn, how the folds that chose
C were cut, and which images there are to test on. With ``--seeds N`` and a test split, N draws of
the training images, each with two cuts of its folds, are tested on the same images. Two cuts of N
draws are the cheapest design that knows folds (N degrees of freedom) as well as draws (N - 1).

The model is one of random effects, folds nested in draws and both crossed with test images: draw
:math:`d` with folds :math:`f` scores on test image :math:`i`

.. math:: y_{dfi} = \mu + D_d + F_{df} + T_i + (DT)_{di} + (FT)_{dfi}

so that the score of one fit, the (weighted) mean over test images, has the variance

.. math:: \sigma^2_D + \sigma^2_F + V_T + V_{DT} + V_{FT}

where each V is a variance over images divided by how many they are: it falls with more test images.
:math:`V_{DT}` is a draw's own luck with these test images: it falls with more draws, too. What
draws scatter on the same test images, :math:`\sigma^2_D + V_{DT}`, is therefore not the variance
of what their classifiers are worth, :math:`\sigma^2_D` (Dietterich's point: test images, training
images and the algorithm's own chance are to be kept apart).

The estimates are moments, unbiased where a score is a mean over images that are drawn
independently. :math:`c_{ab}`, the covariance of two fits' scores over test images, is the product
of their jackknife deviations (over groups, where images belong together; of balanced accuracy,
macro F1 and average precision the jackknife is an approximation, which for a class of m test images
is too large by about 1/m). Averages of it over pairs of different draws, of different folds of a
draw, and of a fit with itself give :math:`V_T`, :math:`V_T + V_{DT}` and
:math:`V_T + V_{DT} + V_{FT}`; the variance of scores within and between draws, less these, gives
the others, as mean squares do in an analysis of variance. A difference can be below 0: it is kept
as it is, and counts as 0.

What is not in it:

- With all training images there is one training set. Another cannot be drawn, so that only folds
  and test images are measured. Bootstrapped training sets would have copies and fewer distinct
  images, and are no such draws.
- Draws come from the training images at hand. Sets that take a share of them are more alike than
  sets of new images: of a statistic that is a sum over images, their variance is too small by that
  share (the correction for finite populations).
- Without a test split, repeats of the outer folds change training images and inner folds together,
  and the tested images train elsewhere: one component, "splits", beside that of images. What
  another dataset would give is not in it; no unbiased estimate of that exists (Bengio and
  Grandvalet).

References
----------
Searle, Casella and McCulloch, *Variance Components*, 1992, chapters 3 and 4. Dietterich,
*Approximate statistical tests for comparing supervised classification learning algorithms*, Neural
Computation 1998. Nadeau and Bengio, *Inference for the generalization error*, Machine Learning
2003. Bouckaert and Frank, *Evaluating the replicability of significance tests for comparing
learning algorithms*, PAKDD 2004. Bengio and Grandvalet, *No unbiased estimator of the variance of
k-fold cross-validation*, JMLR 2004. Bouthillier et al., *Accounting for variance in machine
learning benchmarks*, MLSys 2021. Efron and Tibshirani, *An introduction to the bootstrap*, 1993.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

LEVEL = 0.05
"""Of the test whether the largest part is larger than the others."""
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Component:
    """A part of the variance of the score of one fit.

    Attributes
    ----------
    source : {"draw", "folds", "splits", "test", "draw x test", "folds x test", "splits x test"}
        The training images that were drawn; the folds that choose C; both, where repeats of a
        cross-validation change both; the tested images; and what a draw, folds or splits did on
        these images alone.
    variance : float
        Unbiased, and so perhaps below 0.
    sd : float
        Its root, of points of the score; 0 where it is below 0.
    of_error : float
        What it adds to the squared standard error of the reported score; 0 where it is below 0.
    n : int
        How many draws, cuts of folds, repeats, or tested images (or groups of them) it is from.
    freedom : float
        Degrees of freedom.
    """

    source: str
    variance: float
    sd: float
    of_error: float
    n: int
    freedom: float


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Where the variance of a score comes from.

    Attributes
    ----------
    components : tuple of Component
        Of the score of one fit.
    n_draws : int
        Fits that the reported score is the mean of: draws, or repeats of a cross-validation.
    standard_error : float
        Of the reported score: of its mean over draws, and over images. With all training images,
        given these.
    with_twice : dict of str to float
        The standard error with twice as many draws (of "draw" or "splits", each with folds of its
        own), cuts of the "folds" of each draw, averaged, or images in the "test".
    largest : str or None
        The source that adds most to the standard error; None where nothing adds to it.
    certain : bool
        Whether it adds more than every other one, beyond chance: by an F test at 5 %.
    """

    components: tuple[Component, ...]
    n_draws: int
    standard_error: float
    with_twice: dict[str, float]
    largest: str | None
    certain: bool


def measure_stability(
    scores: Floats, deviations: Floats, *, source: str, n_tested: int, freedom: float
) -> Stability:
    """Split the variance of a score.

    Parameters
    ----------
    scores : ndarray of shape (n_draws, n_cuts)
        Of each draw, with each cut of its folds. The reported score is the mean of the first cuts.
    deviations : ndarray of shape (n_draws, n_cuts, n_units)
        What each score changes by with each of the tested units, so that their products sum to the
        covariance of two scores (`pipelines.statistics.held_out.HeldOut.deviations`).
    source : {"draw", "splits"}
        What differs between draws. Of one draw, nothing is said of it.
    n_tested : int
        Images, or groups of them.
    freedom : float
        Degrees of freedom of their mean deviations.

    Returns
    -------
    stability : Stability

    Examples
    --------
    >>> hard = np.where(np.arange(400) < 80, 0.8, -0.2) / 400  # Wrong in every draw, or in none.
    >>> found = measure_stability(
    ...     np.full((5, 2), 0.8), np.tile(hard, (5, 2, 1)), source="draw", n_tested=400, freedom=399
    ... )
    >>> [(part.source, round(part.sd, 3)) for part in found.components]
    [('draw', 0.0), ('folds', 0.0), ('test', 0.02), ('draw x test', 0.0), ('folds x test', 0.0)]
    >>> {name: round(error, 3) for name, error in found.with_twice.items()}
    {'draw': 0.02, 'folds': 0.02, 'test': 0.014}
    """
    n_draws, n_cuts = scores.shape
    counts = {source: n_draws, "folds": n_draws * n_cuts, "test": n_tested}
    free = {source: n_draws - 1.0, "folds": n_draws * (n_cuts - 1.0), "test": freedom}
    variances = _variances(scores, deviations, source)
    errors = parts_of_error(variances, n_draws)
    components = tuple(
        Component(
            source=name,
            variance=variance,
            sd=float(np.sqrt(max(0.0, variance))),
            of_error=errors[name],
            n=counts[name.split(" x ")[0]],
            freedom=float(np.prod([free[part] for part in name.split(" x ")])),
        )
        for name, variance in variances.items()
    )
    largest, certain = _largest(components)
    return Stability(
        components=components,
        n_draws=n_draws,
        standard_error=_root(errors),
        with_twice={
            name: _root(parts_of_error(variances, n_draws, twice=name))
            for name in variances
            if " x " not in name
        },
        largest=largest,
        certain=certain,
    )


def _variances(scores: Floats, apart: Floats, source: str) -> dict[str, float]:
    """Estimate the components of the variance of one score, of those that can be.

    Of ``scores`` of shape (n_draws, n_cuts), and of deviations ``apart`` of shape
    (n_draws, n_cuts, n_units).
    """
    n_draws, n_cuts = scores.shape
    draws = folds = draws_on_test = folds_on_test = 0.0
    test = float(np.square(apart).sum((0, 1, 2)) / (n_draws * n_cuts))
    if n_cuts > 1:
        of_draws = [_between(*pair) for pair in zip(scores, apart, strict=True)]
        folds, folds_on_test, test = np.mean(of_draws, axis=0).tolist()
    if n_draws > 1:
        draws, draws_on_test, test = _between(scores.mean(1), apart.mean(1))
        # A mean over cuts keeps its share of what folds add.
        draws, draws_on_test = draws - folds / n_cuts, draws_on_test - folds_on_test / n_cuts
    found = {
        source: (draws, n_draws),
        "folds": (folds, n_cuts),
        "test": (test, 2),
        f"{source} x test": (draws_on_test, n_draws),
        "folds x test": (folds_on_test, n_cuts),
    }
    return {
        name: variance if abs(variance) > _ROUNDING else 0.0
        for name, (variance, n) in found.items()
        if n > 1
    }


def _between(scores: Floats, apart: Floats) -> tuple[float, float, float]:
    """Estimate the variance between fits, that of each on these images, and that of images.

    Of ``scores`` of shape (n_fits,), and of deviations ``apart`` of shape (n_fits, n_units).
    """
    n = len(scores)
    products = apart @ apart.T
    alone = float(np.trace(products)) / n
    shared = (float(products.sum()) - n * alone) / (n * (n - 1))
    return float(scores.var(ddof=1)) - (alone - shared), alone - shared, shared


def parts_of_error(
    variances: dict[str, float], n_draws: int, *, twice: str = ""
) -> dict[str, float]:
    """Say what each component adds to the squared standard error of the reported score.

    Parameters
    ----------
    variances : dict of str to float
        Of the score of one fit, by source; below 0 they count as 0.
    n_draws : int
        That the score is the mean of, each with one cut of its folds.
    twice : str, default=""
        What there is twice as much of: "draw" or "splits", "folds", or "test".

    Returns
    -------
    parts : dict of str to float
        By source.

    Examples
    --------
    >>> found = {"draw": 5e-4, "folds": 1e-4, "test": 4e-4}
    >>> for twice in ("", "draw", "test"):
    ...     print([f"{part:.0e}" for part in parts_of_error(found, 5, twice=twice).values()])
    ['1e-04', '2e-05', '4e-04']
    ['5e-05', '1e-05', '4e-04']
    ['1e-04', '2e-05', '2e-04']
    """
    parts = {}
    for name, variance in variances.items():
        sources = name.split(" x ")
        # New draws have folds of their own, so that these are averaged too.
        fewer = twice in sources or (twice == "draw" and "folds" in sources)
        n = (1 if name == "test" else n_draws) * (2 if fewer else 1)
        parts[name] = max(0.0, variance) / n
    return parts


def _root(parts: dict[str, float]) -> float:
    return float(np.sqrt(sum(parts.values())))


def _largest(components: Sequence[Component]) -> tuple[str | None, bool]:
    """Find what adds most to the standard error, and whether that is beyond chance."""
    first, *others = sorted(components, key=lambda part: -part.of_error)
    if first.of_error == 0:
        return None, False
    chances = [
        stats.f.sf(first.of_error / part.of_error, first.freedom, part.freedom)
        for part in others
        if part.of_error > 0
    ]
    return first.source, all(chance < LEVEL for chance in chances)
