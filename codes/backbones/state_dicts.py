"""State dicts: load one into a network, and say which tensors do not fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from codes.backbones.checkpoints import COUNTER, Weights
from codes.wording import counted, some

PLAUSIBLE = 0.9
"""Share of a network's tensors that a file has, by name and shape, from which it is taken to be of
this architecture."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What came of loading weights from a file.

    Attributes
    ----------
    missing : tuple of str
        Parameters and buffers that the file lacks.
    read : str
        What was done to the weights, left out and missing, in words; empty where nothing was.
    """

    missing: tuple[str, ...] = ()
    read: str = ""


def fit_state_dict(model: nn.Module, weights: Weights) -> Loaded:
    """Load weights into a network.

    Tensors may be missing (a head that was cut off): they become NaN, so that whatever is computed
    with them cannot be mistaken for codes. Tensors of another head, in place of one that is
    missing, and of modules that the network does not have are left out. Floating-point numbers of
    another precision are cast to the network's.

    Parameters
    ----------
    model : nn.Module
        Changed in place.
    weights : Weights

    Returns
    -------
    loaded : Loaded

    Raises
    ------
    ValueError
        If tensors are of another shape or type, or others in their place; the message names them.

    Examples
    --------
    >>> state = {"weight": torch.ones(3, 2, dtype=torch.float16), "bias": torch.zeros(3)}
    >>> fit_state_dict(nn.Linear(2, 3), Weights(state=state, origin="mine.pth"))
    Loaded(missing=(), read='float16 cast to float32')
    >>> fit_state_dict(nn.Linear(2, 4), Weights(state={"weight": state["weight"]}, origin="f.pth"))
    Traceback (most recent call last):
        ...
    ValueError: The weights f.pth do not fit Linear. Missing: bias. Other shape: weight ...
    """
    wanted = model.state_dict()
    # Where a whole file was cast, counters are floats; evaluation does not use them.
    state = {
        name: tensor
        for name, tensor in weights.state.items()
        if not (name.endswith(COUNTER) and tensor.is_floating_point())
    }
    missing = [name for name in wanted if name not in state and not name.endswith(COUNTER)]
    cut = {_top(name) for name in missing}
    own = {name for name, _ in model.named_children()} - cut
    beside = [name for name in state if name not in wanted]
    strange = [
        name
        for name in beside
        if (_top(name) in own or "." not in name) and not name.endswith(COUNTER)
    ]
    both = [name for name in wanted if name in state]
    other = [name for name in both if not _fits(state[name], wanted[name])]
    if other or strange:
        raise ValueError(_mismatch(model, weights, missing, strange, other))
    fitted = OrderedDict((name, state.get(name, wanted[name])) for name in wanted)
    for name in missing:
        empty = torch.full_like(wanted[name], torch.nan if wanted[name].is_floating_point() else 0)
        fitted[name] = empty
    # Which layout a module's tensors have (MNASNet asks): they fit, so the present one.
    fitted._metadata = wanted._metadata  # type: ignore[attr-defined]
    model.load_state_dict(fitted)
    cast = {
        f"{_type(state[name])} cast to {_type(wanted[name])}": None
        for name in both
        if state[name].is_floating_point() and state[name].dtype != wanted[name].dtype
    }
    tensors = [*weights.left_out, *(weights.prefix + name for name in beside)]
    left_out = [*weights.beside, *by_branch(tensors, weights.prefix)]
    read = [*weights.said, *cast]
    read += [f"left out: {some(left_out, 5)}"] * bool(left_out)
    read += [f"missing: {some(missing, 3)}, and so the layers that need them"] * bool(missing)
    return Loaded(missing=tuple(missing), read="; ".join(read))


def _fits(tensor: Tensor, wanted: Tensor) -> bool:
    """Tell whether a tensor can stand for another: of its shape, and numbers of its kind."""
    floats = tensor.dtype in _FLOATS and wanted.is_floating_point()
    integers = not (tensor.is_floating_point() or wanted.is_floating_point())
    return tensor.shape == wanted.shape and (floats or integers)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _top(name: str) -> str:
    return name.partition(".")[0]


def _mismatch(
    model: nn.Module, weights: Weights, missing: list[str], strange: list[str], other: list[str]
) -> str:
    wanted, state = model.state_dict(), weights.state
    problems = {
        "Missing": missing,
        "Not in the network": strange,
        "Other shape": [
            f"{name} (file {tuple(state[name].shape)}, network {tuple(wanted[name].shape)})"
            for name in other
            if state[name].shape != wanted[name].shape
        ],
        "Other type": [
            f"{name} (file {_type(state[name])}, network {_type(wanted[name])})"
            for name in other
            if state[name].shape == wanted[name].shape
        ],
    }
    said = " ".join(f"{word}: {some(names, 5)}." for word, names in problems.items() if names)
    text = f"The weights {weights.origin} do not fit {type(model).__name__}. {said}"
    first = next((name for name in other if _is_first_convolution(wanted[name], state[name])), None)
    if first is not None:
        channels = counted(state[first].shape[1], "channel")
        text += (
            f" The first convolution, {first}, was trained on images of {channels}; images are "
            "read as RGB. A network of your own (--backbone package.module:function) can make "
            f"{channels} of them before that convolution."
        )
    fitting = sum(name in state for name in wanted) - len(other)
    if fitting < PLAUSIBLE * len(wanted):
        text += " Check that --backbone names the architecture they were trained in."
    return text


def _is_first_convolution(wanted: Tensor, tensor: Tensor) -> bool:
    """Tell whether a tensor is of a convolution that reads RGB images, for other channels."""
    return (
        wanted.ndim == tensor.ndim == 4
        and wanted.shape[1] == 3
        and wanted.shape[:1] + wanted.shape[2:] == tensor.shape[:1] + tensor.shape[2:]
        and tensor.shape[1] != 3
    )


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


def by_branch(names: Iterable[str], prefix: str) -> list[str]:
    """Sum up the names of tensors by where they branch off from a prefix.

    Counters of a network's normalisations, in many of its branches, are summed up by themselves.

    Examples
    --------
    >>> names = ["module.k.conv.weight", "module.k.conv.bias", "module.queue", "module.q.fc.weight"]
    >>> by_branch(names, "module.q.")
    ['module.k.* (2 tensors)', 'module.queue', 'module.q.fc.weight']
    """
    along = prefix.split(".")[:-1]
    branches: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        shared = next((i for i, it in enumerate(parts) if along[i : i + 1] != [it]), len(parts))
        branch = ".".join(parts[: shared + 1]) + ".*"
        if name.startswith(prefix) and name.endswith(COUNTER):
            branch = f"*.{COUNTER}"
        branches.setdefault(branch, []).append(name)
    return [
        inside[0] if len(inside) == 1 else f"{branch} ({counted(len(inside), 'tensor')})"
        for branch, inside in branches.items()
    ]
