"""Scored fits: what the fits of every candidate on every split score, and with what interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.evaluate import Candidate, Fit
from pipelines.comparison.held_out_answers import HeldOutAnswers
from pipelines.comparison.protocol import FINETUNE, TrainSize
from pipelines.comparison.results import ComparedLayer, FoldScore, LayerScore
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split
from pipelines.statistics.held_out import HeldOut
from pipelines.statistics.intervals import score_interval
from pipelines.statistics.scoring import score_answers
from pipelines.statistics.variance_components import Stability, measure_stability


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredFits:
    """What the fits say.

    Attributes
    ----------
    samples : Samples
    splits : list of Split
    fits : dict of Candidate to list of Fit
        One for each split; layers in forward order.
    scoring : str
    random_state : int
    layers : mapping of Candidate to ComparedLayer
        What is known of each besides its name.
    again : tuple of ScoredFits, or None
        The same with folds cut again (`pipelines.comparison.splits.cut_again`), which have no part
        in scores and decisions; None where it was not asked how stable these are.
    """

    samples: Samples
    splits: list[Split]
    fits: dict[Candidate, list[Fit]]
    scoring: str
    random_state: int
    layers: Mapping[Candidate, ComparedLayer] = field(default_factory=dict)
    again: tuple[ScoredFits, ...] | None = None

    def layer_score(self, candidate: Candidate, size: TrainSize) -> LayerScore:
        """Score a candidate at one training size, and where copies are tested without these."""
        fits = self.fits_of(candidate, size)
        score, low, high = self.mean_score(fits, size)
        clean = self.clean
        alone = (None, None, None) if clean is None else self.mean_score(fits, size, only=clean)
        edges = [fit.C_at_edge for fit in fits]
        curves = np.array([fit.cv_scores for fit in fits])
        return LayerScore(
            **self._described(candidate),
            n_features=fits[0].n_features,
            classifier=candidate[1],
            train_size=size,
            score=score,
            ci_low=low,
            ci_high=high,
            C=float(np.percentile([fit.C for fit in fits], 50, method="lower")),
            C_at_edge=next((e for e in edges if e and edges.count(e) > len(edges) / 2), None),
            cv_score=float(np.mean([fit.cv_score for fit in fits])),
            cv_curve=tuple(curves.mean(0).tolist()),
            train_score=float(np.mean([fit.train_score for fit in fits])),
            score_without_leaks=alone[0],
            ci_low_without_leaks=alone[1],
            ci_high_without_leaks=alone[2],
            cv_searched=tuple(np.mean(~np.isnan(curves), axis=0).tolist()),
            stability=self.stability(candidate, size),
        )

    def stability(self, candidate: Candidate, size: TrainSize) -> Stability | None:
        """Say where the variance of a candidate's score comes from, where that was asked."""
        if self.again is None or candidate[1] == FINETUNE:
            return None
        held_out, own = self.pooled(self.fits_of(candidate, size), size, only=self.clean)
        if not held_out.units.any():  # One group: nothing is known of others.
            return None
        cuts = [own]
        for again in self.again:
            if size in again.sizes:
                cuts.append(again.pooled(again.fits_of(candidate, size), size, only=self.clean)[1])
        draws = list(zip(*cuts, strict=True))
        deviations = np.array([[held_out.deviations([one]) for one in of] for of in draws])
        return measure_stability(
            np.array([[held_out.score(one) for one in of] for of in draws]),
            deviations,
            source="splits" if self.samples.test is None else "draw",
            n_tested=held_out.n_tested,
            freedom=held_out.freedom(deviations.mean((0, 1))),
        )

    def mean_score(
        self, fits: Sequence[Fit], size: TrainSize, *, only: NDArray[np.bool_] | None = None
    ) -> tuple[float, float, float]:
        """Give the mean score of a fit on each split of a size, and its 95 % interval.

        Parameters
        ----------
        fits : sequence of Fit
            One for each split of the size.
        size : int or "all"
        only : ndarray of shape (n_samples,), bool, optional
            The test images to score on. Default: all of them.

        Returns
        -------
        score, ci_low, ci_high : float
        """
        pairs = zip(self.splits_of(size), fits, strict=True)
        score = float(np.mean([self.score_of(*pair, only=only) for pair in pairs]))
        held_out, answers = self.pooled(fits, size, only=only)
        low, high = score_interval(held_out, score, answers)
        return score, low, high

    def fold_scores(self) -> list[FoldScore]:
        """Score every candidate on every split."""
        return [
            FoldScore(
                **self._described(candidate),
                n_features=fit.n_features,
                classifier=candidate[1],
                train_size=split.train_size,
                repeat=split.repeat,
                fold=split.fold,
                C=fit.C,
                score=self.score_of(split, fit),
                n_train=len(split.train),
                n_test=len(split.test),
                Cs_not_searched=" ".join(f"{C:g}" for C in fit.not_searched),
                cut=split.cut,
            )
            for candidate, fits in self.fits.items()
            for split, fit in zip(self.splits, fits, strict=True)
        ]

    @property
    def costs(self) -> dict[Candidate, float]:
        """What each candidate costs to compute; empty where that is not known of all."""
        known = {candidate: layer.multiply_adds for candidate, layer in self.layers.items()}
        costs = {candidate: cost for candidate, cost in known.items() if cost is not None}
        return costs if len(costs) == len(known) else {}

    def _described(self, candidate: Candidate) -> dict[str, Any]:
        return vars(self.layers.get(candidate, ComparedLayer(layer=candidate[0])))

    @cached_property
    def clean(self) -> NDArray[np.bool_] | None:
        """The images that decide: no copies; None where no tested one is a copy, or all are."""
        copied = self.samples.copied
        if copied is None:
            return None
        tested = copied[self.is_tested]
        return None if tested.all() or not tested.any() else ~copied

    def tested(self, fits: Sequence[Fit], size: TrainSize) -> HeldOutAnswers:
        """Gather the answers of a fit on each split of a size, and the score of each repeat."""
        splits, repeats = self.splits_of(size), self.repeats(size)
        held_out, answers = self.pooled(fits, size)
        scores = np.array([self.score_of(*pair) for pair in zip(splits, fits, strict=True)])
        return HeldOutAnswers(
            held_out=held_out,
            answers=np.stack(answers),
            scores=np.array([scores[of].mean() for of in repeats]),
            images=np.sort(np.concatenate([splits[i].test for i in repeats[0]])),
            splits=tuple(splits),
        )

    def chosen(self, size: TrainSize) -> list[Fit]:
        """List each split's own choice: its test images had no say in it."""
        fits = [self.fits_of(candidate, size) for candidate in self.fits]
        cv = np.array([[fit.cv_score for fit in of] for of in fits])
        return [fits[choice][i] for i, choice in enumerate(cv.argmax(0).tolist())]

    def pooled(
        self, fits: Sequence[Fit], size: TrainSize, *, only: NDArray[np.bool_] | None = None
    ) -> tuple[HeldOut, list[NDArray[np.float64]]]:
        """Gather the answers of each repeat: its folds test each image once, together."""
        splits, repeats = self.splits_of(size), self.repeats(size)
        images = np.sort(np.concatenate([splits[i].test for i in repeats[0]]))
        kept = np.ones(len(images), bool) if only is None else only[images]
        answers = []
        for of in repeats:
            order = np.argsort(np.concatenate([splits[i].test for i in of]))
            answers.append(np.concatenate([fits[i].answers for i in of])[order][kept])
        images, groups = images[kept], self.samples.groups
        held_out = HeldOut(
            scoring=self.scoring,
            truth=self.samples.numbers[images],
            n_classes=len(self.samples.classes),
            groups=None if groups is None else groups[images],
            random_state=self.random_state,
        )
        return held_out, answers

    def repeats(self, size: TrainSize) -> list[list[int]]:
        """List the splits of each repeat; a test split is tested again by each split."""
        numbers = [split.repeat for split in self.splits_of(size)]
        return [[i for i, n in enumerate(numbers) if n == one] for one in sorted(set(numbers))]

    @cached_property
    def sizes(self) -> list[TrainSize]:
        """Training sizes, in the order asked for."""
        return list(dict.fromkeys(split.train_size for split in self.splits))

    @cached_property
    def is_tested(self) -> NDArray[np.bool_]:
        """Mark the images that some split tests."""
        tested = np.zeros(len(self.samples.y), bool)
        for split in self.splits:
            tested[split.test] = True
        return tested

    def splits_of(self, size: TrainSize) -> list[Split]:
        """List the splits of a training size."""
        return [split for split in self.splits if split.train_size == size]

    def fits_of(self, candidate: Candidate, size: TrainSize) -> list[Fit]:
        """List the fits of a candidate, one for each split of a training size."""
        pairs = zip(self.splits, self.fits[candidate], strict=True)
        return [fit for split, fit in pairs if split.train_size == size]

    def score_of(self, split: Split, fit: Fit, *, only: NDArray[np.bool_] | None = None) -> float:
        """Score a fit on the test images of its split."""
        kept = slice(None) if only is None else only[split.test]
        truth, answers = self.samples.numbers[split.test][kept], fit.answers[kept]
        return float(score_answers(self.scoring, truth, answers, len(self.samples.classes))[0])
