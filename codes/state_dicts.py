"""State dicts: read weights from a file, and say which tensors do not fit."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_state_dict(file: str | Path) -> dict[str, Tensor]:
    """Read weights without running any code in the file.

    Parameters
    ----------
    file : str or Path
        A ``.safetensors`` file, or what ``torch.save(model.state_dict(), file)`` wrote. A
        dictionary under ``"state_dict"``, ``"model_state_dict"`` or ``"model"`` and a
        ``"module."`` before every name (data-parallel training) are seen through.

    Returns
    -------
    state : dict of str to Tensor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no state dict.
    """
    file = Path(file)
    state: Any
    if not file.is_file():
        raise FileNotFoundError(f"The weights' file {str(file)!r} does not exist, or is no file.")
    try:
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            with warnings.catch_warnings():
                # Of pickle protocols that torch.save does not write; what fails, fails below.
                warnings.simplefilter("ignore", UserWarning)
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Unpickling what is no pickle raises nearly anything.
        whole = "it holds a whole model" if "GLOBAL" in str(error) else type(error).__name__
        raise ValueError(
            f"{str(file)!r} holds no state dict that can be read safely ({whole}). "
            "Save one with torch.save(model.state_dict(), FILE) or as .safetensors."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"{str(file)!r} holds {type(state).__name__}, not a state dict (names and tensors). "
            "Save one with torch.save(model.state_dict(), FILE)."
        )
    if state and all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def fit_state_dict(model: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load weights into a network, every tensor of it.

    Parameters
    ----------
    model : nn.Module
    state : mapping of str to Tensor
    origin : str
        Where the weights come from, for the message.

    Raises
    ------
    ValueError
        If tensors are missing, left over or of another shape; the message names them.

    Examples
    --------
    >>> fit_state_dict(nn.Linear(2, 3), {"weight": torch.zeros(3, 4)}, origin="mine.pth")
    Traceback (most recent call last):
        ...
    ValueError: The weights mine.pth do not fit Linear. Missing: bias. Other shape: weight ...
    """
    wanted = model.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in state and name not in counters]
    left_over = [name for name in state if name not in wanted]
    other = [
        f"{name} (file {tuple(state[name].shape)}, network {tuple(wanted[name].shape)})"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    problems = [
        f"{word}: {_some(names)}."
        for word, names in {
            "Missing": missing,
            "Not in the network": left_over,
            "Other shape": other,
        }.items()
        if names
    ]
    if problems:
        raise ValueError(
            f"The weights {origin} do not fit {type(model).__name__}. {' '.join(problems)} Check "
            "that --backbone names the architecture they were trained in."
        )
    fitting = OrderedDict(state)
    # Which layout a module's tensors have (MNASNet asks): they fit, so the present one.
    fitting._metadata = wanted._metadata  # type: ignore[attr-defined]
    model.load_state_dict(fitting, strict=not counters)


def inferred_num_classes(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> int | None:
    """Find the number of classes that fine-tuned weights have.

    Parameters
    ----------
    wanted : mapping of str to Tensor
        The state of the published architecture, on whatever device.
    state : mapping of str to Tensor

    Returns
    -------
    num_classes : int or None
        None where the weights differ from the published architecture by nothing, or by more than
        the first axis of some tensors.
    """
    pairs = [(state[k].shape, wanted[k].shape) for k in wanted if k in state]
    differing = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    sizes = {ours[0] for ours, theirs in differing if ours[1:] == theirs[1:] and len(ours)}
    same_rest = all(ours[1:] == theirs[1:] for ours, theirs in differing)
    return int(sizes.pop()) if len(sizes) == 1 and same_rest else None


def _some(names: list[str], most: int = 6) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
