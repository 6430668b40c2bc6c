"""Progress: what a long computation says of itself, and how long its stages take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Says that so many units of a step are done, and perhaps how it goes."""

    def __call__(self, n: int, /, note: str = "") -> None:
        """Say so; from any thread."""


class Progress(Protocol):
    """Where a long computation says what it does, and how far it is."""

    def info(self, text: str) -> None:
        """Say one thing."""

    def step(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Begin a step of `total` units; yields a function to advance it."""


def say_nothing(n: int, /, note: str = "") -> None:
    """Report no progress."""


class Silent:
    """No progress, for library use."""

    def info(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Advance]:
        """Count nothing."""
        yield say_nothing


def duration(seconds: float) -> str:
    """Write a time as people say it.

    Examples
    --------
    >>> duration(0.2), duration(89), duration(200), duration(4 * 3600)
    ('1 s', '89 s', '3 min', '4.0 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a block takes, under the name of its stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
