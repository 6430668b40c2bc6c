"""Records of fine-tuning for a report: settings that were tried, loss curves, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipelines.finetuning.finetune import Finetuned
from pipelines.finetuning.search import Tried

APART = 0.1
"""Of training and validation score, from which a network overfits."""


def describe_finetuning(finetuned: Sequence[Finetuned]) -> list[dict[str, Any]]:
    """Gather what a report shows of each start at the largest training size.

    Parameters
    ----------
    finetuned : sequence of Finetuned

    Returns
    -------
    records : list of dict
        ``start``, ``reads`` (the graph node), ``depth``, ``searched``, ``setting``, ``trials``
        (each with ``setting``, ``score``, ``loss`` of every epoch, ``diverged``), ``loss``,
        ``first_loss``, ``loss_of_guessing`` and ``memorized_loss``.
    """
    records = []
    for one in finetuned:
        chosen, outcome = one.chosen[-1], one.outcomes[-1]
        n_classes = outcome.log_proba.shape[1]
        records.append(
            {
                "start": one.name,
                "reads": one.start.reads,
                "depth": one.start.depth,
                "searched": chosen.searched,
                "setting": asdict(chosen.best.setting),
                "validation_score": chosen.best.score,
                "trials": [_describe(tried) for tried in chosen.tried],
                "loss": outcome.curve.loss,
                "first_loss": outcome.first_loss,
                "loss_of_guessing": math.log(n_classes),
                "memorized_loss": one.memorized_loss,
            }
        )
    return records


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


def fit_verdict(train_score: float, validation_score: float) -> str:
    """Say whether a network learned its training images too well, or not well enough.

    Parameters
    ----------
    train_score, validation_score : float
        Both on the centres of images.

    Returns
    -------
    verdict : {"overfitting", "underfitting", "neither"}

    Examples
    --------
    >>> fit_verdict(1.0, 0.8), fit_verdict(0.6, 0.58), fit_verdict(0.9, 0.88)
    ('overfitting', 'underfitting', 'neither')
    """
    if train_score - validation_score > APART:
        return "overfitting"
    return "underfitting" if train_score < 1 - 2 * APART else "neither"
