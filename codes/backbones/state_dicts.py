"""State dicts: find a network's weights in a file, and say which tensors do not fit."""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from codes.wording import some

MOST_NESTED = 3
PLAUSIBLE = 0.9
"""Share of a network's tensors that a file has, by name and shape, from which it is taken to be of
this architecture; and of the names that fit best in a file, from which others there fit as well."""


class _Unread:
    """What stands where a file has a number or an array of numpy, whatever the file says of it."""

    def __new__(cls, *_: Any) -> _Unread:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


# What training scripts keep beside the weights; making one of these runs no code of the file.
# numpy's own types would take whatever state a file gives them.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    *(
        (_Unread, f"numpy.{name}")
        for core in ("core.multiarray", "_core.multiarray")
        for name in ("dtype", "ndarray", f"{core}.scalar", f"{core}._reconstruct")
    ),
]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of a network by its own names, as the file `origin` holds them.

    `left_out` names tensors in the file that are none of the network's, as of a training wrapper;
    `said` is what was seen through to find them.
    """

    state: dict[str, Tensor]
    origin: str
    left_out: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def read_checkpoint(file: str | Path) -> dict[str, dict[str, Tensor]]:
    """Read the sets of tensors in a file without running any code in it.

    Parameters
    ----------
    file : str or Path
        A ``.safetensors`` file, or what ``torch.save`` wrote: a state dict, or dictionaries that
        hold state dicts.

    Returns
    -------
    found : dict of str to dict of str to Tensor
        Where each set is nested, such as ``""`` or ``"state_dict"``, and its tensors by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no tensors, or cannot be read without running code.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(
            f"The weights' file {str(file)!r} does not exist, or is not a file."
        )
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
                # Of pickle protocols that torch.save does not write; what fails, fails below.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Unpickling what is not a pickle raises nearly anything.
        raise ValueError(
            f"{str(file)!r} holds no state dict that can be read safely: {_why_unsafe(error)}. "
            "Save the weights alone, with torch.save(model.state_dict(), FILE) or as .safetensors."
        ) from error
    found = dict(_nested(content, ""))
    if not found:
        raise ValueError(
            f"{str(file)!r} holds {type(content).__name__}, not a state dict (names and tensors). "
            "Save one with torch.save(model.state_dict(), FILE)."
        )
    return found


def _why_unsafe(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named is None:
        return f"it is not a file of weights ({type(error).__name__})"
    if named[1].startswith(("torch.nn.", "torchvision.models.")):
        return f"it holds a whole model ({named[1]}), which would run code"
    return f"it holds something that would run code ({named[1]})"


def _nested(content: Any, path: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each dictionary that has tensors by name, and where it is."""
    if not isinstance(content, Mapping) or depth > MOST_NESTED:
        return
    own = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if own:
        yield path, own
    for key, value in content.items():
        yield from _nested(value, f"{path}.{key}" if path else str(key), depth + 1)


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
    found: Mapping[str, Mapping[str, Tensor]],
    wanted: Mapping[str, Tensor],
    *,
    origin: str,
    place: str | None = None,
) -> Weights:
    """Find a network's weights among the tensors of a file.

    They may be nested in dictionaries, and their names may have one prefix in common, as
    data-parallel training, ``torch.compile`` and training frameworks give them: the place and the
    prefix are those after which most names are the network's. Others after which nearly as many are
    (a student's beside its teacher's, an average beside what is averaged) must hold the same.

    Parameters
    ----------
    found : mapping of str to mapping of str to Tensor
        As `read_checkpoint` returns it.
    wanted : mapping of str to Tensor
        The network's own tensors, on whatever device.
    origin : str
        The file, for messages.
    place : str, optional
        Which set of tensors is meant: where it is nested and its prefix, joined by a dot.

    Raises
    ------
    ValueError
        If two different sets of tensors fit, or none does at the place that is named.

    Examples
    --------
    >>> file = {"state_dict": {"model.weight": torch.zeros(3, 2), "loss.scale": torch.ones(1)}}
    >>> weights = find_weights(file, nn.Linear(2, 3, bias=False).state_dict(), origin="last.ckpt")
    >>> list(weights.state), weights.left_out
    (['weight'], ('loss.scale',))
    >>> print("; ".join(weights.said))
    under 'state_dict'; prefix 'model.' removed
    """
    counts = Counter(
        (path, name.removesuffix(suffix))
        for path, tensors in found.items()
        for name in tensors
        for suffix in _suffixes(name)
        if suffix in wanted
    )
    fitting = [it for it, count in counts.items() if count >= PLAUSIBLE * max(counts.values())]
    if place is not None:
        named = [it for it in counts if _place(it) == place.strip(".")]
        if not named:
            raise ValueError(
                f"The weights {origin} hold no tensors of the network at {place!r}. Allowed: "
                f"{', '.join(repr(_place(it)) for it in fitting) or 'none'}."
            )
        fitting = [max(named, key=lambda it: counts[it])]
    if not fitting:  # Another architecture: `fit_state_dict` says which names are whose.
        largest = max(found, key=lambda path: len(found[path]))
        return Weights(state=dict(found[largest]), origin=origin)
    best, *others = sorted(fitting, key=lambda it: -counts[it])
    state = _without_prefix(found[best[0]], best[1])
    for other in others:
        again = _without_prefix(found[other[0]], other[1])
        if any(k in again and not torch.equal(state[k], again[k]) for k in state if k in wanted):
            file = split_place(origin)[0]
            places = " and ".join(repr(_place(it)) for it in (best, other))
            choices = " or ".join(f"{file}::{_place(it)}" for it in (best, other))
            raise ValueError(
                f"The weights {origin} hold two sets of tensors that fit the network, {places}. "
                f"Name the one that is meant: --weights {choices}."
            )
    path, prefix = best
    left_out = [name for name in found[path] if not name.startswith(prefix)]
    said = [f"under {path!r}"] * bool(path) + [f"prefix {prefix!r} removed"] * bool(prefix)
    return Weights(state=state, origin=origin, left_out=tuple(left_out), said=tuple(said))


def _place(at: tuple[str, str]) -> str:
    """Name a set of tensors: where it is nested, and its prefix."""
    return ".".join(filter(None, at)).rstrip(".")


def _suffixes(name: str) -> Iterator[str]:
    """Yield a name, and what is behind each of its dots."""
    yield name
    for found in re.finditer(r"\.", name):
        yield name[found.end() :]


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def fit_state_dict(model: nn.Module, weights: Weights) -> tuple[tuple[str, ...], str]:
    """Load weights into a network.

    Tensors may be missing (a head that was cut off): they become NaN, so that whatever is computed
    with them cannot be mistaken for codes. Tensors of another head, in place of one that is
    missing, and of modules that the network does not have are left out.

    Returns
    -------
    missing : tuple of str
        Parameters and buffers that the file lacks.
    said : str
        Where the weights come from, with what was seen through, left out and missing.

    Raises
    ------
    ValueError
        If tensors are of another shape, or others in their place; the message names them.

    Examples
    --------
    >>> weights = Weights(state={"weight": torch.zeros(3, 4)}, origin="mine.pth")
    >>> fit_state_dict(nn.Linear(2, 3), weights)
    Traceback (most recent call last):
        ...
    ValueError: The weights mine.pth do not fit Linear. Missing: bias. Other shape: weight ...
    """
    wanted, state = model.state_dict(), weights.state
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in counters]
    other = [
        f"{name} (file {tuple(state[name].shape)}, network {tuple(wanted[name].shape)})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    cut = {_top(name) for name in missing}
    own = {name for name, _ in model.named_children()} - cut
    beside = [name for name in state if name not in wanted]
    strange = [name for name in beside if _top(name) in own or "." not in name]
    if not any(name in state for name in wanted):
        strange = beside
    if other or strange:
        fitting = sum(name in state for name in wanted) - len(other)
        raise ValueError(_mismatch(model, weights, missing, strange, other, fitting / len(wanted)))
    fitted = OrderedDict((name, state.get(name, wanted[name])) for name in wanted)
    for name in missing:
        empty = torch.full_like(wanted[name], torch.nan if wanted[name].is_floating_point() else 0)
        fitted[name] = empty
    # Which layout a module's tensors have (MNASNet asks): they fit, so the present one.
    fitted._metadata = wanted._metadata  # type: ignore[attr-defined]
    model.load_state_dict(fitted)
    left_out = [*weights.left_out, *beside]
    said = list(weights.said)
    said += [f"left out: {some(left_out, 3)}"] * bool(left_out)
    said += [f"missing: {some(missing, 3)}"] * bool(missing)
    return tuple(missing), weights.origin + f" ({'; '.join(said)})" * bool(said)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _mismatch(
    model: nn.Module,
    weights: Weights,
    missing: list[str],
    strange: list[str],
    other: list[str],
    fitting: float,
) -> str:
    problems = {"Missing": missing, "Not in the network": strange, "Other shape": other}
    said = " ".join(f"{word}: {some(names, 6)}." for word, names in problems.items() if names)
    text = f"The weights {weights.origin} do not fit {type(model).__name__}. {said}"
    if fitting < PLAUSIBLE:
        text += " Check that --backbone names the architecture they were trained in."
    return text


def inferred_num_classes(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Find the number of classes that fine-tuned weights have.

    None where they differ from what is wanted, the state of the published architecture, by nothing,
    or by more than the first axis of some tensors.
    """
    pairs = [(state[k].shape, wanted[k].shape) for k in wanted if k in state]
    differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    sizes = {ours[0] for ours, theirs in differing if ours[1:] == theirs[1:] and len(ours)}
    same_rest = all(ours[1:] == theirs[1:] for ours, theirs in differing)
    return int(sizes.pop()) if len(sizes) == 1 and same_rest else None
