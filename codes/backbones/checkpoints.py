"""Checkpoints: where in a file a network's weights are → a plain state dict, and what was done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from codes.backbones.weight_files import NestedState, read_checkpoint
from codes.wording import counted, some

RECOGNISED = 0.5
"""Share of the network's names, or of the file's, that have to be the other's: all of a network may
be in a file among others (a second encoder), or all of a file be in the network (no head)."""
PLAUSIBLE = 0.9
"""Share of the names that fit best in a file, from which others there fit as well."""
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What PyTorch calls a module inside of one that spreads, compiles or recomputes it."""
COUNTER = "num_batches_tracked"
"""How many batches a normalisation has seen: of no influence on codes."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a network by its own names, as a file holds them.

    Attributes
    ----------
    state : dict of str to Tensor
        May have tensors that are none of the network's.
    origin : str
        The file, and the place in it if one was named.
    prefix : str
        What was removed from the names.
    left_out : tuple of str
        Tensors beside them that have another prefix.
    beside : tuple of str
        Other entries of the file, such as the optimizer's state.
    said : tuple of str
        What was done to find them.
    """

    state: dict[str, Tensor]
    origin: str
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def read_weights(weights: str, wanted: Mapping[str, Tensor]) -> Weights:
    """Read a network's weights from a file, as ``FILE`` or ``FILE::PLACE``.

    Parameters
    ----------
    weights : str
    wanted : mapping of str to Tensor
        The network's own tensors, on whatever device.

    Returns
    -------
    found : Weights

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        As `read_checkpoint` and `find_weights` raise it.
    """
    file, place = split_place(weights)
    return find_weights(read_checkpoint(file), wanted, file=file, place=place)


def split_place(weights: str) -> tuple[str, str | None]:
    """Split ``FILE::PLACE``, a file and which of its sets of tensors is meant, if one is named.

    Examples
    --------
    >>> split_place("last.ckpt::state_dict.encoder_q"), split_place("last.ckpt")
    (('last.ckpt', 'state_dict.encoder_q'), ('last.ckpt', None))
    """
    file, mark, place = weights.rpartition("::")
    return (file, place) if mark and not Path(weights).is_file() else (weights, None)


def find_weights(
    checkpoint: Mapping[str, NestedState],
    wanted: Mapping[str, Tensor],
    *,
    file: str,
    place: str | None = None,
) -> Weights:
    """Find a network's weights among the tensors of a file.

    They may be nested in dictionaries, and their names may have one prefix in common, as
    data-parallel training, ``torch.compile`` and training frameworks give them: the place and the
    prefix are those after which most names are the network's. Others after which nearly as many are
    (a student's beside its teacher's, an average beside what is averaged) must hold the same. Where
    parts of a network were wrapped (``features.module.0.weight``), the wrappers are removed.

    Parameters
    ----------
    checkpoint : mapping of str to NestedState
        As `read_checkpoint` returns it.
    wanted : mapping of str to Tensor
        The network's own tensors, on whatever device.
    file : str
        For messages.
    place : str, optional
        Which set of tensors is meant: where it is nested and its prefix, joined by a dot, or what
        these begin with; wrappers (``module``) may be left out.

    Returns
    -------
    found : Weights

    Raises
    ------
    ValueError
        If the names are of another network, none are at the place that is named, or two different
        sets of tensors fit.

    Examples
    --------
    >>> tensors = {"model.weight": torch.zeros(3, 2), "loss.scale": torch.ones(1)}
    >>> file = {"state_dict": NestedState(tensors=tensors, beside=("epoch",))}
    >>> found = find_weights(file, {"weight": torch.empty(3, 2)}, file="last.ckpt")
    >>> list(found.state), found.left_out, found.beside
    (['weight'], ('loss.scale',), ('epoch',))
    >>> print("; ".join(found.said))
    under 'state_dict'; prefix 'model.' removed
    """
    origin = file if place is None else f"{file}::{place}"
    candidates, wrappers = _candidates(checkpoint, wanted), ""
    unwrapped, found = _unwrapped(checkpoint, wanted)
    inner = _candidates(unwrapped, wanted) if found else []
    if inner and (not candidates or inner[0].n_known > candidates[0].n_known):
        checkpoint, candidates, wrappers = unwrapped, inner, ", ".join(map(repr, found))
    if not candidates:
        raise ValueError(_no_match(checkpoint, wanted, origin))
    if place is not None:
        candidates = _at(place.strip("."), candidates, origin)
    best = _only(candidates, wanted, file, origin)
    held = checkpoint[best.path]
    return Weights(
        state=best.state,
        origin=origin,
        prefix=best.prefix,
        left_out=tuple(name for name in held.tensors if not name.startswith(best.prefix)),
        beside=held.beside,
        said=(
            *[f"under {best.path!r}"] * bool(best.path),
            *[f"{wrappers} removed within names"] * bool(wrappers),
            *[f"prefix {best.prefix!r} removed"] * bool(best.prefix),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A set of tensors that may be the network's: where it is nested, its prefix, its tensors."""

    path: str
    prefix: str
    state: dict[str, Tensor]
    n_known: int

    @property
    def place(self) -> str:
        return ".".join(filter(None, (self.path, self.prefix))).rstrip(".")

    def is_at(self, place: str) -> bool:
        """Tell whether it is at a place or, if that is not the top of the file, nested there."""
        names = self.place, _without_wrappers(self.place, WRAPPERS)
        return self.place == place or (
            bool(place) and any(f"{name}.".startswith(f"{place}.") for name in names)
        )


def _candidates(
    checkpoint: Mapping[str, NestedState], wanted: Mapping[str, Tensor]
) -> list[_Candidate]:
    """Find the sets of tensors that are recognised as the network's, most names first."""
    names = frozenset(_not_counters(wanted))
    known = Counter(
        (path, name.removesuffix(suffix))
        for path, held in checkpoint.items()
        for name in held.tensors
        for suffix in _suffixes(name)
        if suffix in names
    )
    sizes = {path: len(_not_counters(held.tensors)) for path, held in checkpoint.items()}
    return [
        _Candidate(
            path=path, prefix=prefix, n_known=count,
            state=_without_prefix(checkpoint[path].tensors, prefix),
        )
        for (path, prefix), count in known.most_common()
        if count >= RECOGNISED * min(len(names), sizes[path])
    ]  # fmt: skip


def _unwrapped(
    checkpoint: Mapping[str, NestedState], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, NestedState], list[str]]:
    """Remove the names of wrappers that the network does not have; return which there were."""
    own = {part for name in wanted for part in name.split(".")}
    names = {part for held in checkpoint.values() for it in held.tensors for part in it.split(".")}
    found = [wrapper for wrapper in WRAPPERS if wrapper in names - own]
    return {
        path: replace(
            held, tensors={_without_wrappers(k, found): v for k, v in held.tensors.items()}
        )
        for path, held in checkpoint.items()
    }, found


def _without_wrappers(name: str, wrappers: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in wrappers)


def _plausible(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Return those with nearly as many of the network's names as the first has."""
    return [it for it in candidates if it.n_known >= PLAUSIBLE * candidates[0].n_known]


def _at(place: str, candidates: Sequence[_Candidate], origin: str) -> list[_Candidate]:
    """Return the candidates at a place or, where there are none, those nested in it."""
    inside = [it for it in candidates if it.is_at(place)]
    if not inside:
        raise ValueError(
            f"The weights {origin} hold no tensors of the network at {place!r}. Allowed: "
            f"{', '.join(repr(it.place) for it in _plausible(candidates))}."
        )
    return [it for it in inside if it.place == place] or inside


def _only(
    candidates: Sequence[_Candidate], wanted: Mapping[str, Tensor], file: str, origin: str
) -> _Candidate:
    """Return the candidate that fits best, if all that fit as well have the same values."""
    best, *others = _plausible(candidates)
    differing = [it for it in others if not _same(best.state, it.state, wanted)]
    if differing:
        places = [it.place for it in (best, *differing)]
        *first, last = map(repr, places)
        raise ValueError(
            f"The weights {origin} hold {counted(len(places), 'set')} of tensors that fit the "
            f"network, {', '.join(first)} and {last}. Name the one that is meant: --weights "
            f"{' or '.join(f'{file}::{it}' for it in places)}."
        )
    return best


def _same(
    state: Mapping[str, Tensor], other: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> bool:
    """Tell whether what two sets both have of the network has the same values."""
    both = [name for name in wanted if name in state and name in other]
    return all(
        state[name].dtype == other[name].dtype and torch.equal(state[name], other[name])
        for name in both
    )


def _suffixes(name: str) -> Iterator[str]:
    """Yield a name, and what is behind each of its dots."""
    yield name
    for found in re.finditer(r"\.", name):
        yield name[found.end() :]


def _not_counters(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.endswith(COUNTER)]


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _no_match(
    checkpoint: Mapping[str, NestedState], wanted: Mapping[str, Tensor], origin: str
) -> str:
    """Say which names there are on both sides, where those of a file are of another network."""
    path = max(checkpoint, key=lambda it: len(checkpoint[it].tensors))
    tensors = checkpoint[path].tensors
    missing = [name for name in _not_counters(wanted) if name not in tensors]
    strange = [name for name in _not_counters(tensors) if name not in wanted]
    where = f" (under {path!r})" if path else ""
    return (
        f"The weights {origin} do not fit the network: their names are others, whatever prefix is "
        f"removed. Missing: {some(missing, 5)}. Not in the network{where}: {some(strange, 5)}. "
        "Check that --backbone names the architecture they were trained in."
    )
