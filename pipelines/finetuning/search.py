"""The search: learning rate, penalty and epochs, chosen on validation images.

As CS231n teaches it (https://cs231n.github.io/neural-networks-3/#hyper): random draws on a
logarithmic scale, a coarse stage of few epochs, then a fine one around the best. Validation images
are folds of the training images; those that test have no part in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.answers import read_values
from pipelines.comparison.splits import Fold
from pipelines.progress import Advance
from pipelines.statistics.scoring import SCORINGS, score_answers
from pipelines.training.kept import Outcome
from pipelines.training.options import FinetuneOptions
from pipelines.training.run import DivergedError, Setting
from pipelines.training.trials import Head, Trainer, Trial

N_COARSE, N_FINE = 4, 2
VALIDATED = 400
"""Images that validate, where the folds hold as many."""
FEW = 10
"""Training images of the rarest class below which a choice by validation would be noise."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score of logarithms of probabilities.

    Attributes
    ----------
    scoring : str
        Of `pipelines.statistics.scoring.SCORINGS`.
    n_classes : int

    Examples
    --------
    >>> score, truth = Score(scoring="accuracy", n_classes=2), np.array([0, 0, 1])
    >>> log_proba = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    >>> round(score(log_proba, truth), 3), score.by_image(log_proba, truth).tolist()
    (0.667, [1.0, 0.0, 1.0])
    """

    scoring: str
    n_classes: int

    def __call__(self, log_proba: NDArray[np.float64], truth: NDArray[np.intp]) -> float:
        """Score some images whose classes' numbers are known."""
        answers = read_values(log_proba, truth, self.scoring)
        return float(score_answers(self.scoring, truth, answers, self.n_classes)[0])

    def by_image(
        self, log_proba: NDArray[np.float64], truth: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Give what each image adds: whether it is right, or its log-probability."""
        if SCORINGS[self.scoring].reads == "probabilities":
            return read_values(log_proba, truth, self.scoring)
        return np.asarray(log_proba.argmax(1) == truth, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """A setting, and how it did on each fold.

    Attributes
    ----------
    setting : Setting
    outcomes : list of Outcome
    score : float
        Mean of the folds' validation scores; NaN where one diverged.
    loss : float
        And of their validation losses.
    by_image : ndarray of shape (n_validated,)
        What each validation image adds to the score.
    """

    setting: Setting
    outcomes: list[Outcome]
    score: float
    loss: float
    by_image: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """What a search found.

    Attributes
    ----------
    best : Tried
    tried : list of Tried
    searched : bool
        Whether settings were compared, or the default was taken as there are too few images.
    """

    best: Tried
    tried: list[Tried]
    searched: bool


def default_setting(options: FinetuneOptions, n_train: int) -> Setting:
    """Give the setting that is taken where no choice can be made: the gentlest."""
    low, _ = options.range("lr")
    decays = options.range("weight_decay")
    decay = float(np.sqrt(decays[0] * decays[1]))
    return Setting(lr=low, weight_decay=decay, epochs=options.most_epochs(n_train))


def draw_settings(
    options: FinetuneOptions, n_train: int, rng: np.random.Generator
) -> list[Setting]:
    """Draw the settings of the coarse stage, each from another part of the learning rates.

    Parameters
    ----------
    options : FinetuneOptions
    n_train : int
    rng : numpy.random.Generator

    Returns
    -------
    settings : list of Setting
        One where nothing but the number of epochs is searched.
    """
    epochs = max(2, options.most_epochs(n_train) // 4)
    rates, decays = options.range("lr"), options.range("weight_decay")
    if rates[0] == rates[1] and decays[0] == decays[1]:
        return [Setting(lr=rates[0], weight_decay=decays[0], epochs=epochs)]
    places = (rng.permutation(N_COARSE) + rng.random(N_COARSE)) / N_COARSE
    return [
        Setting(
            lr=_between(rates, place), weight_decay=_between(decays, rng.random()), epochs=epochs
        )
        for place in places
    ]


def refine(
    best: Setting, options: FinetuneOptions, n_train: int, rng: np.random.Generator
) -> list[Setting]:
    """Draw the settings of the fine stage: the best one for longer, and others near it."""
    epochs = options.most_epochs(n_train)
    settings = [replace(best, epochs=epochs)]
    rates, decays = options.range("lr"), options.range("weight_decay")
    if rates[0] < rates[1] or decays[0] < decays[1]:
        for _ in range(N_FINE - 1):
            settings.append(
                Setting(
                    lr=_near(best.lr, rates, 0.25, rng),
                    weight_decay=_near(best.weight_decay, decays, 0.5, rng),
                    epochs=epochs,
                )
            )
    return settings


def search(
    trainer: Trainer,
    candidate: str,
    train: NDArray[np.intp],
    folds: Sequence[Fold],
    heads: Sequence[Head],
    score: Score,
    *,
    seed: int,
    advance: Advance | None = None,
) -> Chosen:
    """Choose a setting by validation.

    Fewer epochs are chosen only where they are better by more than a standard error: their
    networks are as good on few validation images by chance.

    Parameters
    ----------
    trainer : Trainer
    candidate : str
    train : ndarray of intp
        Training images, places in the dataset.
    folds : sequence of (train, validation)
        Places in `train`.
    heads : sequence of Head
        What the classifier starts as, fitted on each fold's training images.
    score : Score
    seed : int
    advance : Advance, optional
        As for `Trainer.run`.

    Returns
    -------
    chosen : Chosen

    Raises
    ------
    DivergedError
        If every setting diverged; it says which were tried.
    """
    options = trainer.candidates[candidate].options
    rng = np.random.default_rng([seed, len(train)])

    def tried(settings: Sequence[Setting]) -> list[Tried]:
        trials = [
            Trial(
                candidate=candidate, train=train[fold[0]], test=train[fold[1]], head=head,
                setting=setting, seed=seed,
            )
            for setting in settings
            for fold, head in zip(folds, heads, strict=True)
        ]  # fmt: skip
        outcomes = trainer.run(trials, advance)
        n = len(folds)
        return [
            _tried(setting, trials[i * n : (i + 1) * n], outcomes[i * n : (i + 1) * n])
            for i, setting in enumerate(settings)
        ]

    def _tried(setting: Setting, trials: list[Trial], outcomes: list[Outcome]) -> Tried:
        scores, losses, by_image = [], [], []
        for trial, outcome in zip(trials, outcomes, strict=True):
            truth = trainer.numbers[trial.test]
            scores.append(score(outcome.log_proba, truth) if not outcome.curve.diverged else np.nan)
            losses.append(-outcome.log_proba[np.arange(len(truth)), truth].mean())
            by_image.append(score.by_image(outcome.log_proba, truth))
        return Tried(
            setting=setting, outcomes=outcomes, score=float(np.mean(scores)),
            loss=float(np.mean(losses)), by_image=np.concatenate(by_image),
        )  # fmt: skip

    if _are_few(trainer.numbers[train]):
        found = tried([default_setting(options, len(train))])
        return Chosen(best=_best(found, candidate), tried=found, searched=False)
    coarse = tried(draw_settings(options, len(train), rng))
    best = _best(coarse, candidate)
    fine = tried(refine(best.setting, options, len(train), rng))
    if any(np.isfinite(one.score) for one in fine):
        longer = _best(fine, candidate)
        best = best if _is_better(best, longer) else longer
    return Chosen(best=best, tried=[*coarse, *fine], searched=True)


def _is_better(one: Tried, other: Tried) -> bool:
    """Tell whether a score is higher by more than a standard error of the paired difference."""
    difference = one.by_image - other.by_image
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return one.score > other.score and bool(difference.mean() > error)


def images_searched(
    options: FinetuneOptions, numbers: NDArray[np.intp], folds: Sequence[Fold]
) -> int:
    """Count the images that a search trains on, each as often as it does.

    Parameters
    ----------
    options : FinetuneOptions
    numbers : ndarray of shape (n_train,), intp
        Of the training images' classes.
    folds : sequence of (train, validation)

    Returns
    -------
    n_images : int
    """
    return sum(len(train) for train, _ in folds) * _epochs_tried(options, numbers)


def _epochs_tried(options: FinetuneOptions, numbers: NDArray[np.intp]) -> int:
    n = len(numbers)
    if _are_few(numbers):
        return options.most_epochs(n)
    coarse = draw_settings(options, n, np.random.default_rng(0))
    fine = refine(coarse[0], options, n, np.random.default_rng(0))
    return sum(setting.epochs for setting in (*coarse, *fine))


def _are_few(numbers: NDArray[np.intp]) -> bool:
    return bool(np.unique(numbers, return_counts=True)[1].min() < FEW)


def validating(inner: Sequence[Fold], n_train: int) -> Sequence[Fold]:
    """Take the folds that validate: as many as hold enough images.

    Examples
    --------
    >>> folds = [(np.arange(0), np.arange(0))] * 5
    >>> [len(validating(folds, n)) for n in (200, 1000, 3409)]
    [5, 2, 1]
    """
    return inner[: max(1, -(-VALIDATED * len(inner) // n_train))]


def seed_of(candidate: str, random_state: int) -> int:
    """Give a seed of a candidate's own."""
    return zlib.crc32(candidate.encode()) ^ random_state


def _best(tried: Sequence[Tried], candidate: str) -> Tried:
    """Take the best score; of equal ones, the smaller loss."""
    finite = [one for one in tried if np.isfinite(one.score)]
    if not finite:
        rates = ", ".join(f"{one.setting.lr:.2g}" for one in tried)
        curve = next(one.curve for one in tried[0].outcomes if one.curve.diverged)
        losses = ", ".join(f"{loss:.3g}" for loss in curve.loss)
        raise DivergedError(
            f"Fine-tuning from {candidate} diverged at every learning rate that was tried: {rates} "
            f"(losses of the first, epoch by epoch: {losses}). Give lower ones with --lr LOW:HIGH."
        )
    return max(finite, key=lambda one: (one.score, -one.loss))


def _between(ends: tuple[float, float], place: float) -> float:
    low, high = ends
    return low if low == high else float(low * (high / low) ** place)


def _near(
    value: float, ends: tuple[float, float], decades: float, rng: np.random.Generator
) -> float:
    if ends[0] == ends[1]:
        return value
    return float(np.clip(value * 10 ** rng.uniform(-decades, decades), *ends))
