"""Standard output: it carries results only; what other people's code prints is a message.

A backbone's function, a download, a data set's own reader, a library in C or a process that any of
them starts may print. Their words would stand among the rows of a CSV file.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from contextvars import ContextVar
from typing import TextIO

STDOUT, STDERR = 1, 2
"""File descriptors, which C code and other processes write to."""


class ClosedOutputError(Exception):
    """The reader of standard output has closed it, as in ``cnn-codes predict … | head -1``."""


class _Results(io.TextIOWrapper):
    """The standard output, beside the file descriptor that others print to."""

    def write(self, text: str, /) -> int:
        with _closed_by_its_reader():
            return super().write(text)

    def flush(self) -> None:
        with _closed_by_its_reader():
            super().flush()


_results: ContextVar[TextIO] = ContextVar("results")


def results() -> TextIO:
    """Return the stream that results are written to: what standard output was at first."""
    return _results.get(sys.stdout or io.StringIO())


@contextmanager
def results_only() -> Iterator[None]:
    """Send to standard error what is printed meanwhile, by Python, C or other processes.

    Only what is written to `results` goes to standard output. Letters that its encoding does not
    have are escaped there.

    Raises
    ------
    ClosedOutputError
        If standard output was closed by the program that reads it.

    Examples
    --------
    >>> with results_only():
    ...     print("a library's own words")
    ...     print("path,label", file=results())
    path,label
    """
    own = sys.stdout
    found = _open(own)
    token = _results.set(found)
    aside = redirect_stdout(sys.stderr) if sys.stderr is not None else nullcontext()
    try:
        with _descriptor_aside(), aside:
            yield
        found.flush()
    finally:
        _results.reset(token)
        with suppress(ClosedOutputError, BrokenPipeError):
            _close(found, own)


def _open(own: TextIO | None) -> TextIO:
    """Open standard output a second time, so that the first can be turned aside."""
    if own is None:  # The shell closed it: >&-
        return io.StringIO()
    buffer = getattr(own, "buffer", None)
    if buffer is None:  # A StringIO holds every letter.
        return own
    own.flush()
    if _descriptor(own) == STDOUT:
        buffer = os.fdopen(os.dup(STDOUT), "wb")
    # "surrogateescape" is what Python itself chooses in the C locale.
    errors = own.errors if own.errors not in ("strict", "surrogateescape", None) else None
    return _Results(
        buffer,
        encoding=own.encoding,
        errors=errors or "backslashreplace",
        line_buffering=own.isatty(),
    )


def _close(found: TextIO, own: TextIO | None) -> None:
    if found is own:
        return
    if isinstance(found, _Results) and own is not None and found.buffer is own.buffer:
        found.detach()
    else:
        found.close()


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


@contextmanager
def _descriptor_aside() -> Iterator[None]:
    """Let the descriptor of standard output lead to standard error."""
    _flush_c()
    try:
        kept = os.dup(STDOUT)
    except OSError:
        kept = None
    try:
        os.dup2(STDERR, STDOUT)
    except OSError:  # No standard error either.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, STDOUT)
    try:
        yield
    finally:
        _flush_c()
        if kept is None:
            os.close(STDOUT)
        else:
            os.dup2(kept, STDOUT)
            os.close(kept)


def _flush_c() -> None:
    """Write out what C code has printed and not yet written."""
    with suppress(TypeError, OSError, AttributeError):  # Windows has no library of that name.
        ctypes.CDLL(None).fflush(None)


@contextmanager
def _closed_by_its_reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedOutputError(
            "Standard output was closed by the program that reads it."
        ) from error
