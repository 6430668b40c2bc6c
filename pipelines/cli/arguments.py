"""Arguments: words of the command line, checked and read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cyclopts


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
