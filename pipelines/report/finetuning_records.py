"""Records of fine-tuning for a report: settings that were tried, and what they gave and cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codes.graph.suffix import Suffix
from pipelines.comparison.compare import Comparison
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Split
from pipelines.finetuning.calibration import (
    calibrate,
    calibration_error,
    confidence_bins,
    tempered,
)
from pipelines.finetuning.finetune import Finetuned, Finetuning, searched_in
from pipelines.finetuning.search import Chosen, Tried, validating
from pipelines.report.figures.filters import MOST_FILTERS, filters_picture
from pipelines.training.kept import Outcome
from pipelines.training.trials import Candidate

Tested = tuple[Split, Chosen, Outcome]
"""A split, the search that chose its setting, and what was trained on it with that."""


def describe_finetuning(
    finetuning: Finetuning | None, comparison: Comparison
) -> list[dict[str, Any]]:
    """Gather what a report shows of each start at the largest training size.

    Parameters
    ----------
    finetuning : Finetuning or None
    comparison : Comparison
        Of everything.

    Returns
    -------
    records : list of dict
        ``start``, ``reads`` (the graph node), ``depth``, ``searched``, ``setting``,
        ``validation_score``, ``options`` (of training), ``views`` (random ones of each image that
        are stored), ``trials`` (each with ``setting``, ``score``, ``loss`` of every epoch,
        ``diverged``), ``loss``, ``first_loss``, ``train_loss``, ``loss_of_guessing``,
        ``memorized_loss``, ``reliability``, ``filters``, ``seconds`` (of training, of all trials
        that are known, at every size) and ``gigabytes`` (of stored maps).
    """
    if finetuning is None:
        return []
    scored, size = comparison.scored, comparison.best.train_size
    records = []
    for one in finetuning.found:
        candidate = finetuning.trainer.candidates[one.name]
        tested = [
            found
            for found in _tested(one, scored.splits, scored.samples)
            if found[0].train_size == size
        ]
        _, chosen, outcome = tested[-1]
        trials = [outcome for of in one.chosen for tried in of.tried for outcome in tried.outcomes]
        records.append(
            {
                "start": one.name,
                "reads": one.start.reads,
                "depth": one.start.depth,
                "searched": chosen.searched,
                "setting": asdict(chosen.best.setting),
                "validation_score": chosen.best.score,
                "trials": [_describe(tried) for tried in chosen.tried],
                "options": asdict(candidate.options),
                "views": len(candidate.maps.fields()["views"]) - 1,
                "loss": outcome.curve.loss,
                "first_loss": outcome.first_loss,
                "train_loss": outcome.train_loss,
                "loss_of_guessing": math.log(len(scored.samples.classes)),
                "memorized_loss": one.memorized_loss,
                "reliability": _reliability(tested, scored.samples),
                "filters": _filters(candidate, outcome.filters),
                "seconds": sum(outcome.seconds for outcome in (*trials, *one.outcomes)),
                "gigabytes": candidate.maps.n_bytes / 1e9,
            }
        )
    return records


def _tested(one: Finetuned, splits: Sequence[Split], samples: Samples) -> list[Tested]:
    """Give each split the search that chose its setting, and what was trained on it."""
    numbers = searched_in(splits, same_test=samples.test is not None)
    chosen = dict(zip(dict.fromkeys(numbers), one.chosen, strict=True))
    return [
        (split, chosen[number], outcome)
        for split, number, outcome in zip(splits, numbers, one.outcomes, strict=True)
    ]


def _describe(tried: Tried) -> dict[str, Any]:
    curves = [outcome.curve.loss for outcome in tried.outcomes]
    shortest = min(map(len, curves))
    return {
        "setting": asdict(tried.setting),
        "score": tried.score,
        "validation_loss": tried.loss,
        "loss": np.mean([curve[:shortest] for curve in curves], axis=0).tolist(),
        "diverged": any(outcome.curve.diverged for outcome in tried.outcomes),
    }


def _reliability(tested: Sequence[Tested], samples: Samples) -> dict[str, Any] | None:
    """Compare confidence with accuracy on test images, with temperatures of validation images.

    Those are of the search that chose the setting, made in the first of the splits that share it.
    None where a network diverged.
    """
    if any(outcome.curve.diverged for _, _, outcome in tested):
        return None
    temperatures: dict[Chosen, float] = {}
    for split, chosen, _ in tested:
        if chosen not in temperatures:
            folds = validating(split.inner, len(split.train))
            temperatures[chosen] = calibrate(
                [outcome.log_proba for outcome in chosen.best.outcomes],
                [samples.numbers[split.train[validation]] for _, validation in folds],
            )
    truth = np.concatenate([samples.numbers[split.test] for split, _, _ in tested])
    before = np.concatenate([outcome.log_proba for _, _, outcome in tested])
    after = np.concatenate(
        [tempered(found.log_proba, temperatures[chosen]) for _, chosen, found in tested]
    )
    bins = confidence_bins(after, truth)
    return {
        "temperature": float(np.median(list(temperatures.values()))),
        "bins": [asdict(bin) for bin in bins],
        "error_before": calibration_error(confidence_bins(before, truth)),
        "error": calibration_error(bins),
    }


def _filters(candidate: Candidate, after: NDArray[np.float32]) -> dict[str, Any] | None:
    """Draw the first convolution's filters before and after training, where it was trained."""
    if not len(after) or not np.isfinite(after).all():
        return None
    backbone = candidate.backbone
    before = Suffix(backbone.graph, candidate.start, 1, backbone.preprocessing).filters()
    return {
        "before": filters_picture(before),
        "after": filters_picture(after),
        "change": float(np.linalg.norm(after - before) / np.linalg.norm(before)),
        "n": len(after),
        "shown": min(len(after), MOST_FILTERS),
    }
