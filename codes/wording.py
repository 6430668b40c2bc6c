"""Wording: numbers with their nouns, and long lists cut short, as messages give them."""

from __future__ import annotations

from collections.abc import Iterable


def counted(n: int, noun: str) -> str:
    """Write a number with its noun, in the singular or the plural of its last word.

    Examples
    --------
    >>> counted(1, "image"), counted(2000, "training image"), counted(0, "class")
    ('1 image', '2,000 training images', '0 classes')
    >>> counted(2, "copy")
    '2 copies'
    """
    return f"{n:,} {noun if n == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def some(names: Iterable[str], most: int = 10) -> str:
    """Join names by commas, the first ones of many.

    Examples
    --------
    >>> some("abcde", most=3)
    'a, b, c and 2 more'
    """
    listed = list(names)
    rest = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def megabytes(n_bytes: int) -> str:
    """Write a size.

    Examples
    --------
    >>> megabytes(1_250_000), megabytes(2_500)
    ('1.2 MB', '2.5 kB')
    """
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes >= 100_000 else f"{n_bytes / 1e3:,.1f} kB"
