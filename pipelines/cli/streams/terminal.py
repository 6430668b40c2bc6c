"""The terminal: results on standard output; on standard error progress, as bars or as lines."""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from pipelines.cli.streams.output import results
from pipelines.progress import Advance, duration

EVERY = 30.0
"""Seconds between the lines of a step, where there is no terminal for a bar."""

FIRST_SHARE = 0.02
"""How much of a step is done, after what came first, before the rest is estimated."""


class Terminal:
    """Progress on standard error: bars on a terminal; otherwise lines, of steps that take long.

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

    def info(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def show(self, table: Table) -> None:
        """Print a table."""
        self._console.print(table, highlight=False, markup=False)

    @contextmanager
    def step(self, name: str, total: int) -> Iterator[Advance]:
        """Show a bar with the rate and the time left, or a line now and then."""
        if not self._console.is_terminal:
            with self._lines(name, total) as advance:
                yield advance
            return
        with Bars(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
        ) as bars:
            task = bars.add_task(name, total=total)

            def show(n: int, /, note: str = "") -> None:
                said = f"{name}: {note}" if note else None
                bars.update(task, advance=n, description=said)

            yield show

    @contextmanager
    def _lines(self, name: str, total: int) -> Iterator[Advance]:
        """Print the progress from a thread of its own, also while nothing is finished."""
        begun, done, ended, lock = time.perf_counter(), 0, threading.Event(), threading.Lock()
        how = ""
        # The time of what came first includes the start: the rest is not estimated from it.
        first: tuple[float, int] | None = None
        estimated = False

        def left() -> float | None:
            if first is None or done == first[1]:
                return None
            return (time.perf_counter() - first[0]) * (total - done) / (done - first[1])

        def report() -> None:
            seconds = time.perf_counter() - begun
            self.info(_progress_line(name, done, total, seconds, left(), how))

        def advance(n: int, /, note: str = "") -> None:
            nonlocal done, estimated, first, how
            with lock:
                done, how = done + n, note
                if first is None:
                    first = time.perf_counter(), done
                rest = left()
                if not estimated and rest is not None and done - first[1] >= total * FIRST_SHARE:
                    estimated = True
                    if rest > self._every:
                        report()

        def tick() -> None:
            while not ended.wait(self._every):
                report()

        reporter = threading.Thread(target=tick, name="progress", daemon=True)
        reporter.start()
        try:
            yield advance
        finally:
            ended.set()
            reporter.join()


def _progress_line(
    name: str, done: int, total: int, seconds: float, left: float | None, note: str = ""
) -> str:
    """Say how far a step is.

    Examples
    --------
    >>> _progress_line("Comparing", 10, 40, 60.0, 180.0)
    'Comparing: 10 of 40 after 60 s, about 3 min left'
    >>> _progress_line("Comparing", 0, 40, 30.0, None)
    'Comparing: 0 of 40 after 30 s'
    >>> _progress_line("Fine-tuning", 1, 4, 30.0, 90.0, "loss 0.5")
    'Fine-tuning: 1 of 4 after 30 s, about 2 min left, loss 0.5'
    """
    about = "" if left is None else f", about {duration(left)} left"
    how = f", {note}" if note else ""
    return f"{name}: {done:,} of {total:,} after {duration(seconds)}{about}{how}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def stdout() -> Console:
    """Open what results are printed on: lines are not wrapped; for tables unset ``soft_wrap``."""
    return _console(results(), soft_wrap=True)


def terminal() -> Terminal:
    """Open standard error for progress."""
    return Terminal(_console(sys.stderr or io.StringIO()))


def _console(file: TextIO, *, soft_wrap: bool = False) -> Console:
    # Into a pipe or a file nothing is cut off at the width of a terminal.
    width = None if file.isatty() else 1000
    return Console(
        emoji=False, file=file, highlight=False, markup=False, soft_wrap=soft_wrap, width=width
    )


def table(*columns: str) -> Table:
    """Begin a table; all columns but the first are aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        if i == 0:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table
