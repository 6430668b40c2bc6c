"""Arguments: words of the command line, checked and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cyclopts

from codes.wording import counted
from pipelines.extraction.options import ExtractionOptions


def convert(kind: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read words as what an option takes; unlike cyclopts, round no fraction to a whole number."""
    if kind in (int, int | None):
        try:
            return int(tokens[0].value)
        except ValueError:
            raise ValueError(f"{tokens[0].value!r} is not a whole number.") from None
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


def of_each_backbone(
    options: ExtractionOptions, backbones: Sequence[str], weights: Sequence[str]
) -> list[ExtractionOptions]:
    """Give each backbone its options.

    Parameters
    ----------
    options : ExtractionOptions
        What they have in common.
    backbones, weights : sequence of str
        As many, or no weights.

    Examples
    --------
    >>> common = ExtractionOptions(backbone="")
    >>> found = of_each_backbone(common, ["alexnet", "vgg16"], ["default", "vgg.pth"])
    >>> [(one.backbone, one.weights) for one in found]
    [('alexnet', 'default'), ('vgg16', 'vgg.pth')]
    """
    if weights and len(weights) != len(backbones):
        raise ValueError(
            f"{counted(len(backbones), 'backbone')} and {len(weights)} --weights were given. Give "
            "as many, in the same order, where the word default stands for a backbone's own "
            "weights; or give no --weights."
        )
    own: Sequence[str | None] = weights or [None] * len(backbones)
    pairs = zip(backbones, own, strict=True)
    return [replace(options, backbone=backbone, weights=weight) for backbone, weight in pairs]
