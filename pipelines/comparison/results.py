"""Results: what a comparison found, as plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.comparison.protocol import TrainSize
from pipelines.statistics.variance_components import Stability


@dataclass(frozen=True, kw_only=True)
class ComparedLayer:
    """A layer, as every row of results describes it.

    Attributes
    ----------
    layer : str
    depth : float
        From 0, the input, to 1, the output; NaN where codes came without a network.
    pool : str
    multiply_adds : float or None
        Of the network for an image up to here (`pipelines.extraction.cost.multiply_adds`), or
        another cost in any unit.
    """

    layer: str
    depth: float = math.nan
    pool: str = ""
    multiply_adds: float | None = None


@dataclass(frozen=True, kw_only=True)
class FoldScore(ComparedLayer):
    """One classifier's score on one split.

    Attributes
    ----------
    n_features : int
    classifier : str
    train_size : int or "all"
    repeat, fold : int
    C : float
        Chosen by cross-validation among the split's training images.
    score : float
        On the split's test images.
    n_train, n_test : int
    Cs_not_searched : str
        The values of C that were not looked at, joined by spaces.
    cut : int
        As in `pipelines.comparison.splits.Split`.
    """

    n_features: int
    classifier: str
    train_size: TrainSize
    repeat: int
    fold: int
    C: float
    score: float
    n_train: int
    n_test: int
    Cs_not_searched: str
    cut: int = 0


@dataclass(frozen=True, kw_only=True)
class LayerScore(ComparedLayer):
    """One classifier's score on one layer at one training size.

    Attributes
    ----------
    n_features : int
    classifier : str
    train_size : int or "all"
    score : float
        Mean over the splits, on images that chose nothing.
    ci_low, ci_high : float
        95 % interval.
    C : float
        Median of the chosen ones; of an even number, the lower of the two.
    C_at_edge : {"low", "high"} or None
        Whether the grid of C ended too early for most splits.
    cv_score : float
        Mean inner cross-validation score at the chosen C: what the layer is chosen by.
    cv_curve : tuple of float
        Mean inner cross-validation score at each C of the grid; NaN where a split did not look at
        it.
    train_score : float
        Mean over the splits, on the images that trained.
    score_without_leaks, ci_low_without_leaks, ci_high_without_leaks : float or None
        As in `Best`.
    cv_searched : tuple of float
        Share of the splits that looked at each C of the grid.
    stability : Stability or None
        Where the variance of the score comes from: of ``score_without_leaks``, where there is one.
        None unless ``Protocol.seeds`` is 2 or more, and of what is fine-tuned.
    """

    n_features: int
    classifier: str
    train_size: TrainSize
    score: float
    ci_low: float
    ci_high: float
    C: float
    C_at_edge: str | None
    cv_score: float
    cv_curve: tuple[float, ...]
    train_score: float
    score_without_leaks: float | None = None
    ci_low_without_leaks: float | None = None
    ci_high_without_leaks: float | None = None
    cv_searched: tuple[float, ...] = ()
    stability: Stability | None = None

    @property
    def expected(self) -> tuple[float, float, float]:
        """The score to expect of new images, and its interval."""
        return _expected(self)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The chosen depth at one training size.

    Attributes
    ----------
    layer, classifier : str
        Highest inner cross-validation score.
    train_size : int or "all"
    score : float
        On images that chose neither layer, classifier nor C.
    ci_low, ci_high : float
        95 % interval.
    tied : tuple of str
        Layers that cannot be distinguished from it, in the order given; it is not among them.
    recommended : str or None
        The decision: of it and those, the cheapest to compute whose own score is lower by no more
        than one standard error of the difference, and by no more than ``Protocol.max_loss``; a
        cheaper one has to save 5 % of what the chosen one costs, or to train less of the network.
        None where nothing is shown to be better than guessing.
    recommended_classifier : str or None
    tied_classifiers : tuple of (str, str)
        As `tied`, each layer with the classifier that cannot be distinguished from it there.
    better : tuple of (str, str)
        Layers and classifiers that score higher on the tested images, beyond chance: the images
        that chose are unlike those that test.
    guess : float
        Score of the commonest class of the training images.
    cv_score : float
        Of the chosen layer, on the training images.
    explained_low, explained_high : float or None
        The test scores of the chosen layer that its cross-validation explains, at 99 %; None where
        there is no test split.
    unexplained : {"lower", "higher"} or None
        How the test score lies outside of these.
    score_without_leaks, ci_low_without_leaks, ci_high_without_leaks : float or None
        On the test images that are no copies of training images, by which is decided; None where
        there are no copies, or nothing else.
    n_without_leaks : int or None
        How many these are.
    """

    layer: str
    classifier: str
    train_size: TrainSize
    score: float
    ci_low: float
    ci_high: float
    tied: tuple[str, ...]
    recommended: str | None
    recommended_classifier: str | None
    tied_classifiers: tuple[tuple[str, str], ...]
    better: tuple[tuple[str, str], ...]
    guess: float
    cv_score: float
    explained_low: float | None
    explained_high: float | None
    unexplained: str | None
    score_without_leaks: float | None
    ci_low_without_leaks: float | None
    ci_high_without_leaks: float | None
    n_without_leaks: int | None

    @property
    def expected(self) -> tuple[float, float, float]:
        """The score to expect of new images, and its interval."""
        return _expected(self)

    @property
    def taken(self) -> tuple[str, str]:
        """The layer and classifier to go on with: the recommended ones, or else the chosen."""
        return (
            self.recommended or self.layer,
            self.recommended_classifier or self.classifier,
        )


def _expected(found: LayerScore | Best) -> tuple[float, float, float]:
    """Give the score on test images that are no copies of training images, where that differs."""
    alone = found.score_without_leaks, found.ci_low_without_leaks, found.ci_high_without_leaks
    if alone[0] is None or alone[1] is None or alone[2] is None:
        return found.score, found.ci_low, found.ci_high
    return alone[0], alone[1], alone[2]


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A test image that the chosen depth gets wrong.

    Attributes
    ----------
    image : int
        Its place in the dataset.
    label, predicted : str
    """

    image: int
    label: str
    predicted: str
