"""The decision: which depth is chosen, which cannot be distinguished from it, which to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.comparison.evaluate import Candidate
from pipelines.comparison.guessing import guess
from pipelines.comparison.protocol import FINETUNE, TrainSize
from pipelines.comparison.results import Best
from pipelines.comparison.scored_fits import ScoredFits
from pipelines.statistics.intervals import explained_range
from pipelines.statistics.paired_tests import PairedTests, paired_tests

SAVES = 0.05
"""Share of the chosen depth's cost that another has to save to be recommended in its place."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """How a depth is chosen and recommended.

    Attributes
    ----------
    scored : ScoredFits
        Test images that are copies of training images have no part in any decision.
    max_loss : float
        See `pipelines.comparison.protocol.Protocol`.
    """

    scored: ScoredFits
    max_loss: float = 0.02

    def best(self, size: TrainSize) -> Best:
        """Choose at one training size, and score the way of choosing."""
        scored = self.scored
        candidates = list(scored.fits)
        cv = np.array([[f.cv_score for f in scored.fits_of(c, size)] for c in candidates])
        winner = candidates[int(cv.mean(1).argmax())]
        chosen = scored.chosen(size)
        tests = _paired_tests(scored, winner, size)
        better = [c for c, is_better in zip(candidates, tests.better, strict=True) if is_better]
        tied = [
            candidate
            for candidate, is_worse in zip(candidates, tests.worse, strict=True)
            if not is_worse and candidate != winner and candidate not in better
        ]
        score, low, high = scored.mean_score(chosen, size)
        guessed = _guess_score(scored, size)
        explained = _explained(scored, winner, size, float(cv.mean(1).max()))
        clean = scored.clean
        alone = (None, None, None) if clean is None else scored.mean_score(chosen, size, only=clean)
        shown = (low if alone[1] is None else alone[1]) > guessed
        take = self._recommended(winner, tied, tests) if shown else (None, None)
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
            n_without_leaks=None if clean is None else int((clean & scored.is_tested).sum()),
        )

    def _recommended(
        self, winner: Candidate, tied: Sequence[Candidate], tests: PairedTests
    ) -> Candidate:
        """Find the cheapest of the winner and its ties that gives up next to nothing.

        Cheapest to predict with; of those that cost the same, to train.
        """
        candidates = list(self.scored.fits)
        layers = list(dict.fromkeys(layer for layer, _ in candidates))
        costs, share = self.scored.costs, SAVES
        if not costs:  # An earlier layer is cheaper; it is not known by how much.
            costs, share = {c: float(layers.index(c[0])) for c in candidates}, 0.0
        most = dict(zip(candidates, np.minimum(tests.error, self.max_loss), strict=True))
        loss = dict(zip(candidates, tests.loss, strict=True))
        eligible = [
            candidate
            for candidate in tied
            if loss[candidate] <= most[candidate]
            and (
                saves(costs[candidate], costs[winner], share)
                or self._trained(candidate) < self._trained(winner)
            )
        ]
        key = {c: (costs[c], self._trained(c), loss[c]) for c in eligible}
        return min(eligible, key=key.__getitem__, default=winner)

    def _trained(self, candidate: Candidate) -> float:
        """Give the share of the network's depth that is trained: none for a linear classifier."""
        start = self.scored.layers.get(candidate)
        return 0.0 if candidate[1] != FINETUNE or start is None else 1.0 - start.depth


def saves(cost: float, chosen: float, share: float = SAVES) -> bool:
    """Tell whether a depth costs so much less than the chosen one that it is preferred.

    Parameters
    ----------
    cost, chosen : float
        Of the two, in one unit.
    share : float, default=0.05
        What has to be saved at least, as a share of what the chosen one costs.

    Returns
    -------
    enough : bool

    Examples
    --------
    >>> saves(90, 100), saves(99, 100), saves(0, 0)
    (True, False, False)
    """
    return cost < chosen and cost <= (1 - share) * chosen


def _paired_tests(scored: ScoredFits, winner: Candidate, size: TrainSize) -> PairedTests:
    """Compare every candidate with the winner."""
    only = scored.clean
    candidates = list(scored.fits)
    splits, repeats = scored.splits_of(size), scored.repeats(size)
    fits = [scored.fits_of(candidate, size) for candidate in candidates]
    pooled = [scored.pooled(of, size, only=only) for of in fits]
    by_draw = np.array(
        [
            [scored.score_of(*pair, only=only) for pair in zip(splits, of, strict=True)]
            for of in fits
        ]
    )
    return paired_tests(
        pooled[0][0],
        [answers for _, answers in pooled],
        np.stack([by_draw[:, of].mean(1) for of in repeats], axis=1),
        candidates.index(winner),
        chose=len(repeats[0]) > 1,  # The outer folds of a cross-validation.
    )


def _guess_score(scored: ScoredFits, size: TrainSize) -> float:
    splits = scored.splits_of(size)
    guesses = [guess(scored.samples, split, scored.scoring) for split in splits]
    pairs = zip(splits, guesses, strict=True)
    return float(np.mean([scored.score_of(*pair, only=scored.clean) for pair in pairs]))


def _explained(
    scored: ScoredFits, winner: Candidate, size: TrainSize, cv_score: float
) -> tuple[float, float, str | None] | tuple[None, None, None]:
    """Bound what cross-validation explains of the winner's test score, and say if it is outside."""
    splits = scored.splits_of(size)
    if len(scored.repeats(size)[0]) > 1:  # Folds of a cross-validation, not a test split.
        return None, None, None
    fits, only = scored.fits_of(winner, size), scored.clean
    pairs = zip(splits, fits, strict=True)
    score = float(np.mean([scored.score_of(*pair, only=only) for pair in pairs]))
    held_out, answers = scored.pooled(fits, size, only=only)
    low, high = explained_range(
        held_out,
        score,
        answers,
        cv_score=cv_score,
        trained=scored.samples.numbers[splits[0].train],
        n_folds=min(len(split.inner) for split in splits),
    )
    return low, high, "lower" if score < low else "higher" if score > high else None
