"""Arguments: words of the command line, checked and read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cyclopts

from pipelines.comparison.splits import CLASSIFIERS, TrainSize


def convert(kind: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read words as what an option takes; unlike cyclopts, round no fraction to a whole number."""
    if kind in (int, int | None):
        try:
            return int(tokens[0].value)
        except ValueError:
            raise ValueError(f"{tokens[0].value!r} is no whole number.") from None
    return cyclopts.convert(kind, tokens)


def check_folder(out: Path) -> None:
    """Refuse now what could not be written when all is computed."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(
            f"--out {str(out)!r}: {str(there)!r} is not a folder that can be written to. Choose "
            "another."
        )


def check_file(out: Path) -> None:
    """Refuse now a file that could not be written when all is computed."""
    check_folder(out.parent)
    if out.is_dir():
        raise ValueError(f"--out {str(out)!r} is a folder; name a file in it.")


def check_jobs(jobs: int) -> None:
    """Refuse no process at all."""
    if jobs == 0:
        raise ValueError("--jobs 0: allowed are 1 or more, or -1 for one on each core.")


def parse_grid(text: str) -> tuple[float, ...]:
    """Read values of C.

    Examples
    --------
    >>> parse_grid("1e-2:1:3")
    (0.01, 0.1, 1.0)
    """
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        low, high, count = text.split(":")
        start, stop, n = float(low), float(high), int(count)
        if not (0 < start < stop and n >= 2):
            raise ValueError
        return tuple(start * (stop / start) ** (i / (n - 1)) for i in range(n))
    except ValueError:
        raise ValueError(
            f"--Cs {text!r} is no grid. Allowed: LOW:HIGH:COUNT, such as 1e-6:1e2:9, or values "
            "joined by commas, each positive and larger than the last."
        ) from None


def parse_train_sizes(text: str) -> tuple[TrainSize, ...]:
    """Read numbers of training images of each class.

    Examples
    --------
    >>> parse_train_sizes("20,5,all")
    (5, 20, 'all')
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = sorted({int(part) for part in parts if part != "all"})
        return (*numbers, "all") if "all" in parts else tuple(numbers)
    except ValueError:
        raise ValueError(
            f"--train-sizes {text!r} is no list. Allowed: numbers of images of each class and "
            "all, joined by commas, such as 5,20,all."
        ) from None


def parse_classifiers(text: str) -> tuple[str, ...]:
    """Read which classifiers are meant.

    Examples
    --------
    >>> parse_classifiers("both"), parse_classifiers("svm")
    (('svm', 'logistic'), ('svm',))
    """
    return CLASSIFIERS if text == "both" else (text,)


def parse_controls(text: str) -> list[str]:
    """Read names of controls.

    Examples
    --------
    >>> parse_controls("majority, pixels"), parse_controls("none")
    (['majority', 'pixels'], [])
    """
    return [] if text == "none" else [part.strip() for part in text.split(",")]


def each_backbone(words: Sequence[str]) -> Iterator[tuple[list[str], Path]]:
    """Take apart a comparison of several backbones.

    Parameters
    ----------
    words : sequence of str
        With ``--backbone`` twice or more, and ``--weights`` as often or not at all; ``default``
        stands for a backbone's own.

    Yields
    ------
    words : list of str
        With one backbone, its weights, and a folder of its own.
    folder : Path

    Examples
    --------
    >>> words = ["compare", "birds", "--backbone", "alexnet", "--backbone=vgg16", "--cv", "3"]
    >>> for own, _ in each_backbone(words):
    ...     print(" ".join(own))
    compare birds --cv 3 --backbone alexnet --out cnn-codes-report/1-alexnet
    compare birds --cv 3 --backbone vgg16 --out cnn-codes-report/2-vgg16
    """
    rest, backbones = _take(words, "--backbone")
    rest, weights = _take(rest, "--weights")
    rest, outs = _take(rest, "--out")
    if weights and len(weights) != len(backbones):
        raise ValueError(
            f"{len(backbones)} backbones and {len(weights)} --weights were given. Give as many, in "
            "the same order, where the word default stands for a backbone's own weights; or give "
            "no --weights."
        )
    for number, backbone in enumerate(backbones):
        name = "".join(
            letter if letter.isalnum() or letter in "._-" else "_" for letter in backbone
        )
        folder = Path(outs[-1] if outs else "cnn-codes-report") / f"{number + 1}-{name}"
        own = ["--weights", weights[number]] if weights else []
        yield [*rest, "--backbone", backbone, *own, "--out", str(folder)], folder


def count(words: Sequence[str], option: str) -> int:
    """Count how often an option was typed."""
    return len(_take(words, option)[1])


def _take(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Take an option out, wherever it stands; the other words, and its values."""
    rest: list[str] = []
    values: list[str] = []
    left = iter(words)
    for word in left:
        if word == option:
            values += [next(left, "")]
        elif word.startswith(f"{option}="):
            values.append(word.partition("=")[2])
        else:
            rest.append(word)
    return rest, values
