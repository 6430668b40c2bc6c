"""Progress: long steps say how far they are, at what rate, and how long they will take."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

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

EVERY = 30.0
"""Seconds between the lines of a step, where there is no terminal for a bar."""

FIRST_SHARE = 0.02
"""How much of a step is done before the rest is estimated: the first batch is slower than others.
"""


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
    """A narrator on stderr: bars on a terminal; otherwise lines, of steps that take long.

    There is one as soon as an estimate can be made, and one every 30 seconds.

    Parameters
    ----------
    console : rich.console.Console
    every : float, default=30
        Seconds between the lines of a step. Shorter steps have none.
    """

    def __init__(self, console: Console, *, every: float = EVERY) -> None:
        self._console = console
        self._every = every

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar with the rate and the time left, or a line now and then."""
        if not self._console.is_terminal:
            with self._lines(name, total) as advance:
                yield advance
            return
        with Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
        ) as progress:
            task = progress.add_task(name, total=total)
            yield lambda n: progress.advance(task, n)

    @contextmanager
    def _lines(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Tell the progress from a thread of its own, also while nothing is finished."""
        begun, done, ended = time.perf_counter(), 0, threading.Event()
        estimated = False

        def tell() -> None:
            self.say(_progress_line(name, done, total, time.perf_counter() - begun))

        def advance(n: int) -> None:
            nonlocal done, estimated
            done += n
            if not estimated and done >= total * FIRST_SHARE:
                estimated = True
                if (time.perf_counter() - begun) * (total - done) / done > self._every:
                    tell()

        def tick() -> None:
            while not ended.wait(self._every):
                tell()

        teller = threading.Thread(target=tick, name="progress", daemon=True)
        teller.start()
        try:
            yield advance
        finally:
            ended.set()
            teller.join()


def _progress_line(name: str, done: int, total: int, seconds: float) -> str:
    """Tell how far a step is.

    Examples
    --------
    >>> _progress_line("Comparing", 10, 40, 60.0)
    'Comparing: 10 of 40 after 60 s, about 3 min left'
    >>> _progress_line("Comparing", 0, 40, 30.0)
    'Comparing: 0 of 40 after 30 s'
    """
    left = f", about {duration(seconds * (total - done) / done)} left" if done else ""
    return f"{name}: {done:,} of {total:,} after {duration(seconds)}{left}"


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


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def stdout() -> Console:
    """Open what results are printed on."""
    return _console(results())


def terminal() -> Terminal:
    """Open what progress is told on: stderr."""
    return Terminal(_console(sys.stderr or io.StringIO()))


def _console(file: TextIO) -> Console:
    # Into a pipe or a file nothing is cut off at a width that is nobody's.
    width = None if file.isatty() else 1000
    return Console(file=file, highlight=False, markup=False, width=width)


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
