"""Long steps tell how far they are, in a pipe too, also while nothing is finished."""

from __future__ import annotations

import io
import re
import threading
import time

import pytest
from rich.console import Console

from pipelines.cli.streams.terminal import Terminal, stdout, terminal


def _steps(every: float) -> tuple[Terminal, io.StringIO]:
    stream = io.StringIO()
    return Terminal(Console(file=stream), every=every), stream


def test_a_line_now_and_then_while_nothing_is_finished() -> None:
    terminal, stream = _steps(0.05)
    with terminal.step("Comparing", 40) as advance:
        time.sleep(0.3)
        waiting = stream.getvalue().splitlines()
        advance(10)
        time.sleep(0.2)
        started = stream.getvalue().splitlines()[len(waiting) :]
        advance(10)
        time.sleep(0.2)
    lines = stream.getvalue().splitlines()
    assert 1 <= len(waiting) <= 6
    assert set(waiting) == {"Comparing: 0 of 40 after 1 s"}
    assert len(lines) > len(waiting)
    # What came first took the time to start, and gives no rate.
    assert set(started) == {"Comparing: 10 of 40 after 1 s"}
    assert all(
        re.fullmatch(r"Comparing: 20 of 40 after 1 s, about 1 s left", line)
        for line in lines[len(waiting) + len(started) + 1 :]
    )
    time.sleep(0.1)
    assert stream.getvalue().splitlines() == lines, "it goes on after the end"
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_the_first_estimate_is_told_at_once() -> None:
    terminal, stream = _steps(5.0)
    with terminal.step("Comparing", 1000) as advance:
        advance(1)  # Too little to estimate from.
        time.sleep(0.12)
        assert not stream.getvalue()
        advance(20)
        [line] = stream.getvalue().splitlines()
        advance(20)
    assert re.fullmatch(r"Comparing: 21 of 1,000 after 1 s, about \d+ s left", line)
    assert stream.getvalue().splitlines() == [line]


def test_short_steps_and_failures_are_silent() -> None:
    terminal, stream = _steps(30.0)
    with terminal.step("Reading files", 3) as advance:
        advance(3)
    with pytest.raises(KeyError), terminal.step("Reading files", 3):
        raise KeyError
    assert not stream.getvalue()
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_what_is_printed_is_what_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    terminal().info("a wider grid: --Cs 1e-08:100:11")  # Not an emoji.
    stdout().print("--Cs 1e-08:100:11")
    printed = capsys.readouterr()
    assert "1e-08:100:11" in printed.out
    assert "1e-08:100:11" in printed.err
