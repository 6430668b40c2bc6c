"""The table of ``cnn-codes cache list``: a line for each entry of the store, no two of them alike.

Entries that would look the same are distinguished by a column of their own: the parts of their keys
(`cache.key`) that differ, in the words of the options that they come from. What most of these
entries have is left out; a dash stands for the one that has nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from cache.contents import Entry
from codes.wording import megabytes

HEADS = ("dataset", "backbone", "settings", "layers", "images", "size", "last used", "which")
_NUMBERS = range(3, 6)
_TOGETHER = {"size": ("crop_size", "resize_size"), "normalize": ("mean", "std", "channels")}
"""Fields of a key that are written as one."""


def table_rows(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Write a row for each entry: values of the columns `HEADS`."""
    return [
        (
            entry.dataset,
            _title(entry),
            ", ".join(settings),
            str(len(entry.arrays)),
            f"{entry.n_images:,}",
            megabytes(entry.size),
            f"{datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}",
            ", ".join(entry.layers) or "no codes, but what compare keeps beside them",
        )
        for entry, settings in zip(entries, _settings(entries), strict=True)
    ]


def fit_rows(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lay rows out under their heads, each on one line of the terminal's width.

    Of long datasets and backbones the end is kept, of the layers the first. The settings are left
    out where none has any.
    """
    most = (width * 3 // 10, width // 4)
    if any(row[2] for row in rows):
        most = (width // 5, width // 5)
    shortened = [_ends([row[i] for row in rows], n) for i, n in enumerate(most)]
    cells = [[*HEADS], *([*ends, *row[2:]] for *ends, row in zip(*shortened, rows, strict=True))]
    shown = [i for i, head in enumerate(HEADS) if head != "settings" or any(r[i] for r in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    lines = []
    for row in cells:
        line = "  ".join(
            row[i].rjust(widths[i]) if i in _NUMBERS else row[i].ljust(widths[i]) for i in shown
        ).rstrip()
        lines.append(line if len(line) <= width else f"{line[: width - 1]}…")
    return lines


def _title(entry: Entry) -> str:
    """Name an entry's backbone, and its weights if they were chosen."""
    if entry.weights is None:
        return entry.backbone
    weights = "random" if entry.weights == "none" else Path(entry.weights).name
    return f"{entry.backbone}, {weights}"


def _settings(entries: Sequence[Entry]) -> list[list[str]]:
    """Say how each entry differs from those of the same dataset and the same title."""
    alike: dict[tuple[str, str], list[int]] = {}
    for number, entry in enumerate(entries):
        alike.setdefault((entry.dataset, _title(entry)), []).append(number)
    settings: list[list[str]] = [[] for _ in entries]
    for numbers in alike.values():
        fields = [_fields(entries[number]) for number in numbers]
        counts = {
            name: Counter(repr(own.get(name)) for own in fields)
            for name in dict.fromkeys(name for own in fields for name in own)
        }
        differ = [name for name, values in counts.items() if len(values) > 1]
        if len(counts["file"]) == len(fields):  # It says more than a digest.
            differ = [name for name in differ if name != "weights"]
        tails = _tails(own["file"] for own in fields)
        for number, own in zip(numbers, fields, strict=True):
            rare = [n for n in differ if 2 * counts[n][repr(own.get(n))] <= len(fields)]
            own["file"] = tails[own["file"]]
            words = [_word(name, own.get(name)) for name in rare]
            settings[number] = words or ["–"] * bool(differ)
    return settings


def _fields(entry: Entry) -> dict[str, Any]:
    """Take an entry's key apart, one level deep."""
    fields: dict[str, Any] = {"file": entry.weights}
    for name, value in entry.key.items():
        fields |= value if isinstance(value, Mapping) else {name: value}
    return fields | {
        name: tuple(fields.pop(part, None) for part in parts) for name, parts in _TOGETHER.items()
    }


def _tails(files: Iterable[str | None]) -> dict[str | None, str]:
    """Cut paths down to as much of their ends as distinguishes them."""
    parts = {file: Path(file or "").parts for file in files}
    for n in range(1, max(map(len, parts.values()), default=0)):
        tails = {file: "/".join(own[-n:]) for file, own in parts.items()}
        if len(set(tails.values())) == len(tails):
            return tails
    return {file: file or "" for file in parts}


def _word(name: str, value: Any) -> str:
    """Write a field; a key leaves out those that are off."""
    if name == "normalize" and value[0] is not None:
        return f"normalize {_normalization(*value)}"
    if name == "intensity":
        return f"intensity {value or 'image'}"
    if name == "size":
        crop, resized = value
        return f"{crop} px" + (f" of {resized}" if resized != crop else "")
    if value is None or isinstance(value, bool):
        return name if value else f"not {name}"
    if name in ("weights", "graph"):
        return f"{'code' if name == 'graph' else name} {value[:8]}"
    return str(value) if name in ("file", "name") else f"{name} {value}"


def _normalization(mean: Sequence[float], std: Sequence[float], channels: str | None) -> str:
    from codes import Preprocessing  # Here: torch takes seconds to import.

    steps = Preprocessing(mean=tuple(mean), std=tuple(std), channels=channels or "RGB")
    return steps.normalization


def _ends(texts: Sequence[str], most: int) -> list[str]:
    """Keep the ends of long texts, or more where two would become the same."""
    for n in range(most, max(map(len, texts), default=0)):
        ends = [text if len(text) <= n else f"…{text[1 - n :]}" for text in texts]
        if len(set(ends)) == len(set(texts)):
            return ends
    return list(texts)
