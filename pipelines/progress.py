"""Progress: long steps say how far they are, at what rate, and how long they will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipelines.output import results


class Narrator(Protocol):
    """What a long computation tells of itself."""

    def say(self, text: str) -> None:
        """Tell one thing."""

    def step(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin a step of `total` units; yields a function to advance it."""


class Silent:
    """A narrator for library use."""

    def say(self, text: str) -> None:
        """Tell nothing."""

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Count nothing."""
        yield lambda n: None


class Terminal:
    """A narrator on stderr: bars on a terminal, one line for each thing otherwise.

    Parameters
    ----------
    console : rich.console.Console
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar with the rate and the time left, where there is a terminal."""
        with Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        ) as progress:
            task = progress.add_task(name, total=total)
            yield lambda n: progress.advance(task, n)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def stdout() -> Console:
    """Open what results are printed on."""
    # Into a pipe or a file nothing is cut off at a width that is nobody's.
    file = results()
    width = None if file.isatty() else 1000
    return Console(file=file, highlight=False, markup=False, width=width)


def terminal() -> Terminal:
    """Open what progress is told on: stderr."""
    return Terminal(Console(stderr=True))


def table(*columns: str) -> Table:
    """Begin a table; all columns but the first are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        if i == 0:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a block takes, under the name of its stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
