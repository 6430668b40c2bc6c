"""The verdict: from fits of every candidate on every draw to the best depth and its ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipelines.draws import Draw, TrainSize
from pipelines.evaluation import Fit
from pipelines.results import Best, Comparison, FoldScore, LayerScore, Mistake
from pipelines.scorings import score_answers
from pipelines.tested import HeldOutAnswers
from pipelines.uncertainty import HeldOut, score_interval, tell_apart

Candidate = tuple[str, str]
"""Layer and classifier."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What the fits say.

    Attributes
    ----------
    y : ndarray of shape (n_samples,), str
    draws : list of Draw
    fits : dict of Candidate to list of Fit
        One for each draw; layers in forward order.
    scoring : str
    groups : ndarray of shape (n_samples,), str, or None
    random_state : int
    """

    y: NDArray[np.str_]
    draws: list[Draw]
    fits: dict[Candidate, list[Fit]]
    scoring: str
    groups: NDArray[np.str_] | None = None
    random_state: int

    def comparison(self, notes: Sequence[str]) -> Comparison:
        """Gather all that was found."""
        by_size = [self.best(size) for size in self.sizes]
        best = max(by_size, key=lambda found: _number(found.train_size))
        confusion, mistakes = self._predictions((best.layer, best.classifier), best.train_size)
        return Comparison(
            scoring=self.scoring,
            best=best,
            by_size=tuple(by_size),
            layers=tuple(
                self.layer_score(candidate, size) for candidate in self.fits for size in self.sizes
            ),
            folds=tuple(self._folds()),
            classes=tuple(self._classes.tolist()),
            confusion=confusion,
            mistakes=mistakes,
            notes=(*notes, *self._unconverged()),
            tested=self.tested(self._chosen(best.train_size), best.train_size),
        )

    def best(self, size: TrainSize) -> Best:
        """Choose at one training size, and score the way of choosing."""
        candidates = list(self.fits)
        cv = np.array([[fit.cv_score for fit in self._of(c, size)] for c in candidates])
        winner = candidates[int(cv.mean(1).argmax())]
        tied, better = self._told(winner, size)
        recommended = next(candidate for candidate in candidates if candidate in (winner, *tied))
        score, low, high = self.scored(self._chosen(size), size)
        return Best(
            layer=winner[0],
            classifier=winner[1],
            train_size=size,
            score=score,
            ci_low=low,
            ci_high=high,
            tied=tuple(dict.fromkeys(layer for layer, _ in tied if layer != winner[0])),
            recommended=recommended[0],
            recommended_classifier=recommended[1],
            tied_classifiers=tuple(tied),
            better=tuple(better),
        )

    def layer_score(self, candidate: Candidate, size: TrainSize) -> LayerScore:
        """Score a candidate at one training size."""
        fits = self._of(candidate, size)
        score, low, high = self.scored(fits, size)
        edges = [fit.C_at_edge for fit in fits]
        return LayerScore(
            layer=candidate[0],
            classifier=candidate[1],
            train_size=size,
            score=score,
            ci_low=low,
            ci_high=high,
            C=float(np.median([fit.C for fit in fits])),
            C_at_edge=next((e for e in edges if e and edges.count(e) > len(edges) / 2), None),
            cv_score=float(np.mean([fit.cv_score for fit in fits])),
            cv_curve=tuple(np.mean([fit.cv_scores for fit in fits], axis=0).tolist()),
            train_score=float(np.mean([fit.train_score for fit in fits])),
        )

    def scored(self, fits: Sequence[Fit], size: TrainSize) -> tuple[float, float, float]:
        """Give the mean score of a fit on each draw of a size, and its 95 % interval."""
        draws = self._draws(size)
        score = float(np.mean([self._score(*pair) for pair in zip(draws, fits, strict=True)]))
        held_out, answers = self._pooled(fits, size)
        low, high = score_interval(held_out, score, answers)
        return score, low, high

    def tested(self, fits: Sequence[Fit], size: TrainSize) -> HeldOutAnswers:
        """Gather the answers of a fit on each draw of a size, and the score of each repeat."""
        draws, repeats = self._draws(size), self._repeats(size)
        held_out, answers = self._pooled(fits, size)
        scores = np.array([self._score(*pair) for pair in zip(draws, fits, strict=True)])
        return HeldOutAnswers(
            held_out=held_out,
            answers=np.stack(answers),
            scores=np.array([scores[of].mean() for of in repeats]),
            images=np.sort(np.concatenate([draws[i].test for i in repeats[0]])),
            draws=tuple(draws),
        )

    def _chosen(self, size: TrainSize) -> list[Fit]:
        """List each draw's own choice: its test images had no say in it."""
        fits = [self._of(candidate, size) for candidate in self.fits]
        cv = np.array([[fit.cv_score for fit in of] for of in fits])
        return [fits[choice][i] for i, choice in enumerate(cv.argmax(0).tolist())]

    def _pooled(
        self, fits: Sequence[Fit], size: TrainSize
    ) -> tuple[HeldOut, list[NDArray[np.float64]]]:
        """Gather the answers of each repeat: its folds test each image once, together."""
        draws, repeats = self._draws(size), self._repeats(size)
        images = np.concatenate([draws[i].test for i in repeats[0]])
        answers = []
        for of in repeats:
            order = np.argsort(np.concatenate([draws[i].test for i in of]))
            answers.append(np.concatenate([fits[i].answers for i in of])[order])
        images = np.sort(images)
        held_out = HeldOut(
            scoring=self.scoring,
            truth=self._numbers[images],
            n_classes=len(self._classes),
            groups=None if self.groups is None else self.groups[images],
            random_state=self.random_state,
        )
        return held_out, answers

    def _repeats(self, size: TrainSize) -> list[list[int]]:
        """List the draws of each repeat; a test split is tested again by each draw."""
        numbers = [draw.repeat for draw in self._draws(size)]
        return [[i for i, n in enumerate(numbers) if n == one] for one in sorted(set(numbers))]

    @cached_property
    def sizes(self) -> list[TrainSize]:
        """Training sizes, in the order asked for."""
        return list(dict.fromkeys(draw.train_size for draw in self.draws))

    @cached_property
    def _classes(self) -> NDArray[np.str_]:
        return np.unique(self.y)

    @cached_property
    def _numbers(self) -> NDArray[np.intp]:
        return np.searchsorted(self._classes, self.y)

    def _truth(self, draw: Draw) -> NDArray[np.intp]:
        return self._numbers[draw.test]

    def _draws(self, size: TrainSize) -> list[Draw]:
        return [draw for draw in self.draws if draw.train_size == size]

    def _of(self, candidate: Candidate, size: TrainSize) -> list[Fit]:
        pairs = zip(self.draws, self.fits[candidate], strict=True)
        return [fit for draw, fit in pairs if draw.train_size == size]

    def _score(self, draw: Draw, fit: Fit) -> float:
        found = score_answers(self.scoring, self._truth(draw), fit.answers, len(self._classes))
        return float(found[0])

    def _told(self, winner: Candidate, size: TrainSize) -> tuple[list[Candidate], list[Candidate]]:
        """List the candidates that cannot be told from the winner, and those that are better."""
        candidates = list(self.fits)
        draws, repeats = self._draws(size), self._repeats(size)
        pooled = [self._pooled(self._of(candidate, size), size) for candidate in candidates]
        by_draw = np.array(
            [
                [self._score(*pair) for pair in zip(draws, self._of(candidate, size), strict=True)]
                for candidate in candidates
            ]
        )
        told = tell_apart(
            pooled[0][0],
            [answers for _, answers in pooled],
            np.stack([by_draw[:, of].mean(1) for of in repeats], axis=1),
            candidates.index(winner),
            chose=len(repeats[0]) > 1,  # The outer folds of a cross-validation.
        )
        better = [c for c, is_better in zip(candidates, told.better, strict=True) if is_better]
        tied = [
            candidate
            for candidate, is_worse in zip(candidates, told.worse, strict=True)
            if not is_worse and candidate != winner and candidate not in better
        ]
        return tied, better

    def _predictions(
        self, candidate: Candidate, size: TrainSize
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
        """Count predictions, and list the wrong ones, each image once."""
        k = len(self._classes)
        confusion = np.zeros((k, k), np.intp)
        mistakes: dict[int, Mistake] = {}
        seen: set[int] = set()
        for draw, fit in zip(self._draws(size), self._of(candidate, size), strict=True):
            for image, label, answer in zip(
                draw.test.tolist(), self._truth(draw).tolist(), fit.predicted.tolist(), strict=True
            ):
                if image in seen:
                    continue
                seen.add(image)
                confusion[label, answer] += 1
                if label != answer:
                    mistakes[image] = Mistake(
                        image=image,
                        label=str(self._classes[label]),
                        predicted=str(self._classes[answer]),
                    )
        return tuple(map(tuple, confusion.tolist())), tuple(mistakes.values())

    def _unconverged(self) -> list[str]:
        return [
            f"{layer} ({classifier}): {n} of {len(fits)} fits stopped short of the accuracy asked, "
            "at the largest C; leave out the largest values with --Cs"
            for (layer, classifier), fits in self.fits.items()
            if (n := sum(not fit.converged for fit in fits))
        ]

    def _folds(self) -> list[FoldScore]:
        return [
            FoldScore(
                layer=layer,
                classifier=classifier,
                train_size=draw.train_size,
                repeat=draw.repeat,
                fold=draw.fold,
                C=fit.C,
                score=self._score(draw, fit),
                n_train=len(draw.train),
                n_test=len(draw.test),
            )
            for (layer, classifier), fits in self.fits.items()
            for draw, fit in zip(self.draws, fits, strict=True)
        ]


def _number(size: TrainSize) -> float:
    return float("inf") if size == "all" else float(size)
