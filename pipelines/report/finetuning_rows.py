"""What a page says of fine-tuning beside linear classifiers.

Rows are records of ``report.json``'s ``layers`` at the largest training size, each with its
``roles``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipelines.comparison.protocol import FINETUNE, SCRATCH, WHOLE, finetuned_name

APART = 0.1
"""Of training and validation score, from which a network overfits."""
LEARNED = 0.05
"""Loss below which images are learned by heart."""
WORSENED = "underfitting, as training made it worse"
REMEDIES = {
    "overfitting": "Against overfitting: more images, more augmentation, a higher weight decay, "
    "dropout, a later start.",
    "underfitting": "Against underfitting: more epochs, a higher learning rate, an earlier start.",
    WORSENED: "Where training made it worse, the loss on its own "
    "images rose: the learning rate is too high (--lr).",
}

OPTIMIZER_NAMES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}

Row = dict[str, Any]


def fit_verdict(train_score: float, validation_score: float, scoring: str = "accuracy") -> str:
    """Say whether a network learned its training images too well, or not well enough.

    Parameters
    ----------
    train_score, validation_score : float
        Both on the centres of images.
    scoring : str, default="accuracy"
        What they are; of "neg_log_loss", the exponential is taken, the geometric mean of the right
        classes' probabilities.

    Returns
    -------
    verdict : {"overfitting", "underfitting", "neither"}

    Examples
    --------
    >>> fit_verdict(1.0, 0.8), fit_verdict(0.6, 0.58), fit_verdict(0.9, 0.88)
    ('overfitting', 'underfitting', 'neither')
    """
    if scoring == "neg_log_loss":
        train_score, validation_score = math.exp(train_score), math.exp(validation_score)
    if train_score - validation_score > APART:
        return "overfitting"
    return "underfitting" if train_score < 1 - 2 * APART else "neither"


def finetuned_rows(
    records: Sequence[dict[str, Any]], rows: Sequence[Row], scoring: str
) -> list[dict[str, Any]]:
    """Join each start's record, its row, and what follows from both."""
    return [
        {
            "name": finetuned_name(record["start"]),
            "record": record,
            "row": row,
            "verdict": _verdict(record, row, scoring),
            "learned": _is_learned(record["memorized_loss"]),
        }
        for record in records
        for row in rows
        if (row["layer"], row["classifier"]) == (record["start"], FINETUNE)
    ]


def _verdict(record: dict[str, Any], row: Row, scoring: str) -> str:
    verdict = fit_verdict(row["train_score"], row["cv_score"], scoring)
    rose = record["train_loss"] is None or record["train_loss"] > record["first_loss"]
    return WORSENED if verdict == "underfitting" and rose else verdict


def training_sentence(records: Sequence[dict[str, Any]]) -> str:
    """Say how networks were trained; those from scratch differ in what needs no pretraining."""
    pretrained = [record for record in records if record["start"] != SCRATCH]
    if not pretrained:
        return "Trained from random weights, with batch normalisation of each batch."
    options, views = pretrained[0]["options"], pretrained[0]["views"]
    head = {"probe": "the logistic regression on the last codes", "random": "random weights"}
    seen = "centres only"
    if options["augment"] != "none":
        of = f"{views} stored random views" if not options["fresh"] else "a new random view"
        seen = f"{of} of each image{' in every epoch' * options['fresh']} ({options['augment']})"
    norms = {"frozen": "keeps its statistics", "train": "takes the statistics of each batch"}
    return (
        f"Trained by {OPTIMIZER_NAMES[options['optimizer']]} on {seen}, beginning with "
        f"{head[options['head']]}; batch normalisation after the start "
        f"{norms[options['batch_norm']]}, before it nothing changes."
    )


def _is_learned(loss: float | None) -> bool:
    """Say whether images are learned by heart; a loss that is not a number is null in a report."""
    return loss is not None and loss <= LEARNED


def linear_rows(rows: Sequence[Row]) -> list[Row]:
    """Give the linear classifiers to compare fine-tuning with: the deepest and the best one."""
    linear = [row for row in rows if row["classifier"] != FINETUNE]
    [last], [best] = _best(_deepest(linear)), _best(linear)
    return [last | {"place": "the last depth"}] * (last is not best) + [
        best | {"place": "the best depth"}
    ]


def measured_cases(rows: Sequence[Row]) -> dict[tuple[bool, bool], list[Row]]:
    """Give what was measured of what the CS231n notes advise in each of their four cases.

    Parameters
    ----------
    rows : sequence of dict

    Returns
    -------
    cases : dict of (large, similar) to list of dict
        As `pipelines.diagnostics.advice.CASES`; rows with their ``name``. Of several that fit a
        case, that with the best validation score.
    """
    linear = [row for row in rows if row["classifier"] != FINETUNE]
    last = _deepest(linear)
    starts = {row["layer"]: row for row in rows if row["classifier"] == FINETUNE}
    inner = [row for start, row in starts.items() if start not in (WHOLE, SCRATCH)]
    found = {
        (False, True): _best(last),
        (False, False): _best([row for row in linear if row not in last]),
        (True, True): _best(inner),
        (True, False): [starts[start] for start in (WHOLE, SCRATCH) if start in starts],
    }
    return {case: [row | {"name": _named(row)} for row in of] for case, of in found.items()}


def _deepest(rows: Sequence[Row]) -> list[Row]:
    """Give the rows of the last depth."""
    deepest = max(row["depth"] for row in rows)
    return [row for row in rows if row["depth"] == deepest]


def _best(rows: Sequence[Row]) -> list[Row]:
    """Take the row with the best validation score, the first of equal ones, if there are any."""
    return sorted(rows, key=lambda row: -row["cv_score"])[:1]


def _named(row: Row) -> str:
    if row["classifier"] == FINETUNE:
        return finetuned_name(row["layer"])
    return f"{row['classifier']} on {row['layer']}"
