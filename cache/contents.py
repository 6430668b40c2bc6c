"""Contents: what a store holds, as a user thinks of it: datasets, backbones, layers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache.key import canonical_json
from cache.upkeep import Holding

_POOLING = re.compile(r"(grid:\d+|avg|max|flatten)(:each-view)?")
"""Of codes; whatever else is kept belongs to a comparison, such as its similarity."""
_SIGNS = {"pool": ":", "activation": " ", "dtype": " "}
"""Fields of an array's key → what stands before their value in its name."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The codes of a dataset that one key stands for, however many parts they are in.

    Attributes
    ----------
    dataset, backbone : str
        What was typed when the codes were extracted.
    weights : str or None
        As typed; None if nothing was.
    key : dict
        The fields of the extraction's key: all that the codes depend on, besides their arrays'.
    arrays : list of dict
        Layer, activation, pooling and stored type of each array of codes. Empty where there are
        no codes, but what a comparison keeps besides.
    n_images : int
        Distinct images.
    size : int
        Bytes on the disk, with what a comparison keeps besides codes: pixels, similarity.
    used : float
        Seconds since 1970.
    parts : list of str
        Their paths.
    """

    dataset: str
    backbone: str
    weights: str | None
    key: dict[str, Any]
    arrays: list[dict[str, Any]]
    n_images: int
    size: int
    used: float
    parts: list[str]

    @property
    def layers(self) -> list[str]:
        """A name for each array: its layer, and what else tells it from others of that layer."""
        return [
            array["layer"]
            + "".join(
                f"{sign}{array[field]}"
                for field, sign in _SIGNS.items()
                if len({a[field] for a in self.arrays if a["layer"] == array["layer"]}) > 1
            )
            for array in self.arrays
        ]

    @property
    def image_size(self) -> int | None:
        """Side of the network's input, in pixels."""
        size: int | None = self.key.get("preprocessing", {}).get("crop_size")
        return size


def list_entries(holdings: Iterable[Holding]) -> list[Entry]:
    """Gather the parts of a store by dataset and key.

    Parameters
    ----------
    holdings : iterable of Holding
        As `cache.upkeep.list_parts` returns them.

    Returns
    -------
    entries : list of Entry
        The most recently used first; no two have the same dataset and key. The pixels of a dataset
        and what tells its similarity are counted with the codes that they were made beside, as long
        as these are there.
    """
    groups: dict[tuple[str, str], list[Holding]] = {}
    beside: list[Holding] = []
    for holding in holdings:
        if _is_own(holding):
            groups.setdefault((holding.dataset, canonical_json(holding.key)), []).append(holding)
        else:
            beside.append(holding)
    for holding in beside:
        near = [
            own
            for own in groups.values()
            if own[0].dataset == holding.dataset
            and (_network(own[0]) == _network(holding) or own[0].backbone == holding.backbone)
        ]
        # Where several fit, those of the same key, then of its own weights: others are controls.
        near.sort(key=lambda own: (own[0].key != holding.key, own[0].weights == "none"))
        alone = holding.dataset, canonical_json(holding.key)
        (near[0] if near else groups.setdefault(alone, [])).append(holding)
    return sorted(map(_gather, groups.values()), key=lambda entry: entry.used, reverse=True)


def _is_own(holding: Holding) -> bool:
    """Tell whether a part is codes of a network, or nothing yet."""
    pixels = holding.key.get("architecture") == {"name": "pixels"}
    return not pixels and all(_POOLING.fullmatch(a["pool"]) for a in holding.arrays)


def _network(holding: Holding) -> str:
    """Say which network it is, and what it sees; not what it computes in, or which version."""
    key = {k: v for k, v in holding.key.items() if k not in ("precision", "extractor")}
    return canonical_json(key)


def _gather(holdings: list[Holding]) -> Entry:
    first = holdings[0]
    own = [holding for holding in holdings if _is_own(holding)]
    digests = np.concatenate([holding.digests for holding in own or holdings])
    arrays = {canonical_json(array): array for holding in own for array in holding.arrays}
    return Entry(
        dataset=first.dataset,
        backbone=first.backbone if own else str(first.key["architecture"]["name"]),
        weights=first.weights,
        key=first.key,
        arrays=sorted(arrays.values(), key=lambda array: _by_number(array["layer"])),
        n_images=len(np.unique(digests, axis=0)),
        size=sum(holding.size for holding in holdings),
        used=max(holding.used for holding in holdings),
        parts=[holding.path for holding in holdings],
    )


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sort layer 10 behind layer 9."""
    return [
        (int(part or 0), "") if i % 2 else (0, part)
        for i, part in enumerate(re.split(r"(\d+)", name))
    ]
