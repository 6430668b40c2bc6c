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
from pipelines.uncertainty import (
    score_interval,
    tied_with,
)

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
        )

    def best(self, size: TrainSize) -> Best:
        """Choose at one training size, and score the way of choosing."""
        candidates = list(self.fits)
        cv = np.array([[fit.cv_score for fit in self._of(c, size)] for c in candidates])
        winner = candidates[int(cv.mean(1).argmax())]
        # Each draw's own choice, scored on images that had no say in it.
        chosen = [
            self._of(candidates[choice], size)[i] for i, choice in enumerate(cv.argmax(0).tolist())
        ]
        tied = self._tied(winner, size)
        layers = dict.fromkeys(layer for layer, _ in candidates)
        score, low, high = self.scored(chosen, size)
        return Best(
            layer=winner[0],
            classifier=winner[1],
            train_size=size,
            score=score,
            ci_low=low,
            ci_high=high,
            tied=tied,
            recommended=next(layer for layer in layers if layer in (winner[0], *tied)),
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
        # The folds of one repeat test each image once, together; a test split is tested again by
        # each draw.
        numbers = [draw.repeat for draw in draws]
        repeats = [
            [i for i, n in enumerate(numbers) if n == number] for number in sorted(set(numbers))
        ]
        tested = np.concatenate([draws[i].test for i in repeats[0]])
        order = [np.argsort(np.concatenate([draws[i].test for i in of])) for of in repeats]
        low, high = score_interval(
            self.scoring,
            score,
            self._numbers[np.sort(tested)],
            [
                np.concatenate([fits[i].answers for i in of])[sort]
                for of, sort in zip(repeats, order, strict=True)
            ],
            len(self._classes),
            groups=None if self.groups is None else self.groups[np.sort(tested)],
            random_state=self.random_state,
        )
        return score, low, high

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

    def _tied(self, winner: Candidate, size: TrainSize) -> tuple[str, ...]:
        others = [candidate for candidate in self.fits if candidate != winner]
        if not others:
            return ()
        tied = tied_with(
            self.scoring,
            self._numbers,
            [draw.test for draw in self._draws(size)],
            [fit.answers for fit in self._of(winner, size)],
            [[fit.answers for fit in self._of(other, size)] for other in others],
            len(self._classes),
            groups=self.groups,
            random_state=self.random_state,
        )
        names = (c[0] for c, is_tied in zip(others, tied, strict=True) if is_tied)
        return tuple(name for name in dict.fromkeys(names) if name != winner[0])

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
            f"{layer} ({classifier}): {n} of {len(fits)} fits are not certified to have converged "
            "at the largest C; a smaller end of --Cs avoids it"
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
