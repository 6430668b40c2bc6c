"""Tested images: what a comparison's own choice answers on them, kept beside its report.

Two networks are compared image by image. That takes answers to the same images, by classifiers
trained on the same images: both are known by content, whatever the files are called.
"""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.splits import Split
from pipelines.statistics.held_out import HeldOut

ANSWERS = "answers.npz"
"""The file in a report's folder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOutAnswers:
    """What each split's own choice answers on images that had no part in it, at one training size.

    Attributes
    ----------
    held_out : HeldOut
    answers : ndarray of shape (n_repeats, n_tested) or (n_repeats, n_tested, n_classes)
        As for `pipelines.statistics.scoring.score_answers`.
    scores : ndarray of shape (n_repeats,)
        As they are reported.
    images : ndarray of shape (n_tested,), intp
        Places in the dataset.
    splits : tuple of Split
    """

    held_out: HeldOut
    answers: NDArray[np.float64]
    scores: NDArray[np.float64]
    images: NDArray[np.intp]
    splits: tuple[Split, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The same, as it is kept.

    Attributes
    ----------
    held_out : HeldOut
        Ordered by the images' content.
    answers, scores : ndarray
        As in `HeldOutAnswers`.
    splits : str
        Digest of the images that train and test in each split, and of their labels.
    """

    held_out: HeldOut
    answers: NDArray[np.float64]
    scores: NDArray[np.float64]
    splits: str


def by_content(
    tested: HeldOutAnswers, digests: NDArray[np.uint8], labels: NDArray[np.str_]
) -> Answers:
    """Order the tested images by their content, and say which images and folds they come from.

    Parameters
    ----------
    tested : HeldOutAnswers
    digests : ndarray of shape (n_samples, n_bytes), uint8
    labels : ndarray of shape (n_samples,), str

    Returns
    -------
    answers : Answers
    """
    found = hashlib.sha256()
    classes, label = np.unique(labels, return_inverse=True)
    # Of a million images, names made of both would take a gigabyte.
    by_image = np.lexsort((label, *reversed(digests.T)))
    digest, label = digests[by_image], label[by_image]
    first = np.ones(len(labels), bool)
    first[1:] = (digest[1:] != digest[:-1]).any(1) | (label[1:] != label[:-1])
    number = np.empty(len(labels), np.intp)
    number[by_image] = np.cumsum(first) - 1
    for i in np.flatnonzero(first).tolist():
        line = f"{digest[i].tobytes().hex()} {classes[label[i]]}"
        found.update(("\n" + line if i else line).encode())
    for split in tested.splits:
        for side in (split.train, split.test):
            found.update(np.append(np.sort(number[side]), -1).astype("<i8").tobytes())
    order = np.argsort(number[tested.images], kind="stable")
    held_out = tested.held_out
    groups = None
    if held_out.groups is not None:
        # Numbered in the order of content: what a group is called does not matter.
        _, first, own = np.unique(held_out.groups[order], return_index=True, return_inverse=True)
        groups = np.argsort(np.argsort(first))[own].astype(str)
    return Answers(
        held_out=HeldOut(
            scoring=held_out.scoring,
            truth=held_out.truth[order],
            n_classes=held_out.n_classes,
            groups=groups,
            random_state=held_out.random_state,
        ),
        answers=tested.answers[:, order],
        scores=tested.scores,
        splits=found.hexdigest(),
    )


def write_answers(file: Path, answers: Answers) -> None:
    """Write answers as an ``.npz`` file.

    Parameters
    ----------
    file : Path
    answers : Answers
    """
    held_out = answers.held_out
    arrays: dict[str, Any] = {
        "scoring": held_out.scoring,
        "truth": held_out.truth,
        "n_classes": held_out.n_classes,
        "random_state": held_out.random_state,
        "answers": answers.answers,
        "scores": answers.scores,
        "draws": answers.splits,
    }
    if held_out.groups is not None:
        arrays["groups"] = held_out.groups
    with file.open("wb") as opened:
        np.savez_compressed(opened, **arrays)


def read_answers(file: Path) -> Answers | None:
    """Read answers that `write_answers` wrote.

    Parameters
    ----------
    file : Path

    Returns
    -------
    answers : Answers or None
        None where there is no such file, or it holds none.
    """
    try:
        with np.load(file, allow_pickle=False) as found:
            return Answers(
                held_out=HeldOut(
                    scoring=str(found["scoring"]),
                    truth=found["truth"],
                    n_classes=int(found["n_classes"]),
                    groups=found.get("groups"),
                    random_state=int(found["random_state"]),
                ),
                answers=found["answers"],
                scores=found["scores"],
                splits=str(found["draws"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
