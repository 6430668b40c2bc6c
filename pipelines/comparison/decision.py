"""The decision: which depth is chosen, which cannot be distinguished from it, which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.evaluate import Fit
from pipelines.comparison.guessing import guess
from pipelines.comparison.intervals import Told, explained_range, tell_apart
from pipelines.comparison.protocol import TrainSize
from pipelines.comparison.results import Best, Comparison, FoldScore, Mistake
from pipelines.comparison.verdict import Candidate, Verdict


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """How a depth is chosen and recommended.

    Attributes
    ----------
    verdict : Verdict
    costs : mapping of str to float
        What each layer costs to compute, in any unit. Default: its place among the layers.
    max_loss : float
        See `pipelines.comparison.splits.Protocol`.
    copied : ndarray of shape (n_samples,), bool, or None
        Test images that are copies of training images.
    """

    verdict: Verdict
    costs: Mapping[str, float] = field(default_factory=dict)
    max_loss: float = 0.02
    copied: NDArray[np.bool_] | None = None

    def comparison(self, notes: Sequence[str]) -> Comparison:
        """Gather all that was found."""
        verdict = self.verdict
        by_size = [self.best(size) for size in verdict.sizes]
        best = max(by_size, key=lambda found: _number(found.train_size))
        confusion, mistakes = _predictions(verdict, (best.layer, best.classifier), best.train_size)
        return Comparison(
            scoring=verdict.scoring,
            best=best,
            by_size=tuple(by_size),
            layers=tuple(
                verdict.layer_score(candidate, size)
                for candidate in verdict.fits
                for size in verdict.sizes
            ),
            folds=tuple(_folds(verdict)),
            classes=tuple(verdict.classes.tolist()),
            confusion=confusion,
            mistakes=mistakes,
            notes=(*notes, *_unconverged(verdict)),
            tested=verdict.tested(verdict.chosen(best.train_size), best.train_size),
        )

    def best(self, size: TrainSize) -> Best:
        """Choose at one training size, and score the way of choosing."""
        verdict = self.verdict
        candidates = list(verdict.fits)
        cv = np.array([[f.cv_score for f in verdict.fits_of(c, size)] for c in candidates])
        winner = candidates[int(cv.mean(1).argmax())]
        chosen = verdict.chosen(size)
        told = _told(verdict, winner, size)
        better = [c for c, is_better in zip(candidates, told.better, strict=True) if is_better]
        tied = [
            candidate
            for candidate, is_worse in zip(candidates, told.worse, strict=True)
            if not is_worse and candidate != winner and candidate not in better
        ]
        score, low, high = verdict.scored(chosen, size)
        guessed = _guess_score(verdict, size)
        take = self._recommended(winner, tied, told) if low > guessed else (None, None)
        explained = _explained(verdict, winner, size, float(cv.mean(1).max()))
        alone = self._without_copies(chosen, size)
        return Best(
            layer=winner[0],
            classifier=winner[1],
            train_size=size,
            score=score,
            ci_low=low,
            ci_high=high,
            tied=tuple(dict.fromkeys(layer for layer, _ in tied if layer != winner[0])),
            recommended=take[0],
            recommended_classifier=take[1],
            tied_classifiers=tuple(tied),
            better=tuple(better),
            guess=guessed,
            cv_score=float(cv.mean(1).max()),
            explained_low=explained[0],
            explained_high=explained[1],
            unexplained=explained[2],
            score_without_leaks=alone[0],
            ci_low_without_leaks=alone[1],
            ci_high_without_leaks=alone[2],
        )

    def _recommended(self, winner: Candidate, tied: Sequence[Candidate], told: Told) -> Candidate:
        """Find the cheapest of the winner and its ties that gives up next to nothing."""
        candidates = list(self.verdict.fits)
        layers = list(dict.fromkeys(layer for layer, _ in candidates))
        costs = {layer: self.costs.get(layer, float(i)) for i, layer in enumerate(layers)}
        most = dict(zip(candidates, np.minimum(told.error, self.max_loss), strict=True))
        loss = dict(zip(candidates, told.loss, strict=True))
        eligible = [
            candidate
            for candidate in tied
            if loss[candidate] <= most[candidate] and costs[candidate[0]] < costs[winner[0]]
        ]
        return min(eligible, key=lambda c: (costs[c[0]], loss[c]), default=winner)

    def _without_copies(
        self, chosen: Sequence[Fit], size: TrainSize
    ) -> tuple[float, float, float] | tuple[None, None, None]:
        """Score on the test images that are no copies of training images."""
        tested = np.concatenate([draw.test for draw in self.verdict.draws_of(size)])
        if self.copied is None or not self.copied[tested].any() or self.copied[tested].all():
            return None, None, None
        return self.verdict.scored(chosen, size, only=~self.copied)


def _told(verdict: Verdict, winner: Candidate, size: TrainSize) -> Told:
    """Compare every candidate with the winner."""
    candidates = list(verdict.fits)
    draws, repeats = verdict.draws_of(size), verdict.repeats(size)
    fits = [verdict.fits_of(candidate, size) for candidate in candidates]
    pooled = [verdict.pooled(of, size) for of in fits]
    by_draw = np.array(
        [[verdict.score_of(*pair) for pair in zip(draws, of, strict=True)] for of in fits]
    )
    return tell_apart(
        pooled[0][0],
        [answers for _, answers in pooled],
        np.stack([by_draw[:, of].mean(1) for of in repeats], axis=1),
        candidates.index(winner),
        chose=len(repeats[0]) > 1,  # The outer folds of a cross-validation.
    )


def _guess_score(verdict: Verdict, size: TrainSize) -> float:
    k = len(verdict.classes)
    return float(
        np.mean(
            [
                verdict.score_of(draw, guess(verdict.numbers, draw, k, verdict.scoring))
                for draw in verdict.draws_of(size)
            ]
        )
    )


def _explained(
    verdict: Verdict, winner: Candidate, size: TrainSize, cv_score: float
) -> tuple[float, float, str | None] | tuple[None, None, None]:
    """Bound what cross-validation explains of the winner's test score, and say if it is outside."""
    draws = verdict.draws_of(size)
    if len(verdict.repeats(size)[0]) > 1:  # Folds of a cross-validation, not a test split.
        return None, None, None
    fits = verdict.fits_of(winner, size)
    score = float(np.mean([verdict.score_of(*pair) for pair in zip(draws, fits, strict=True)]))
    held_out, answers = verdict.pooled(fits, size)
    low, high = explained_range(
        held_out,
        score,
        answers,
        cv_score=cv_score,
        trained=verdict.numbers[draws[0].train],
        n_folds=min(len(draw.inner) for draw in draws),
    )
    return low, high, "lower" if score < low else "higher" if score > high else None


def _predictions(
    verdict: Verdict, candidate: Candidate, size: TrainSize
) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
    """Count predictions, and list the wrong ones, each image once."""
    names = verdict.classes
    confusion = np.zeros((len(names), len(names)), np.intp)
    mistakes: dict[int, Mistake] = {}
    seen: set[int] = set()
    for draw, fit in zip(verdict.draws_of(size), verdict.fits_of(candidate, size), strict=True):
        labels = verdict.numbers[draw.test].tolist()
        for image, label, answer in zip(
            draw.test.tolist(), labels, fit.predicted.tolist(), strict=True
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


def _unconverged(verdict: Verdict) -> list[str]:
    return [
        f"{layer} ({classifier}): {n} of {len(fits)} fits stopped short of the accuracy asked, "
        "at the largest C; leave out the largest values with --Cs"
        for (layer, classifier), fits in verdict.fits.items()
        if (n := sum(not fit.converged for fit in fits))
    ]


def _folds(verdict: Verdict) -> list[FoldScore]:
    return [
        FoldScore(
            layer=layer,
            classifier=classifier,
            train_size=draw.train_size,
            repeat=draw.repeat,
            fold=draw.fold,
            C=fit.C,
            score=verdict.score_of(draw, fit),
            n_train=len(draw.train),
            n_test=len(draw.test),
        )
        for (layer, classifier), fits in verdict.fits.items()
        for draw, fit in zip(verdict.draws, fits, strict=True)
    ]


def _number(size: TrainSize) -> float:
    return float("inf") if size == "all" else float(size)
