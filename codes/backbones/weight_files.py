"""Files of weights: the state dicts in one, read without running any code in it."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

MOST_NESTED = 3


class _Unread:
    """What stands where a file has an object that is not needed, whatever the file says of it."""

    def __new__(cls, *_: Any) -> _Unread:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


# What training scripts keep beside the weights; making one of these runs no code of the file.
# numpy's own types would take whatever state a file gives them. Paths moved in Python 3.13.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    *(
        (_Unread, f"numpy.{name}")
        for core in ("core.multiarray", "_core.multiarray")
        for name in ("dtype", "ndarray", f"{core}.scalar", f"{core}._reconstruct")
    ),
    *(
        (_Unread, f"{module}.{pure}{system}Path")
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    ),
]


@dataclass(frozen=True, kw_only=True)
class NestedState:
    """The tensors of one dictionary in a file, by name, and what else the file holds.

    `beside` names the entries that are not on the way to this dictionary, as they are nested.
    """

    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()


def read_checkpoint(file: str | Path) -> dict[str, NestedState]:
    """Read the sets of tensors in a file without running any code in it.

    Parameters
    ----------
    file : str or Path
        Safetensors, or what ``torch.save`` wrote: a state dict, or dictionaries that hold state
        dicts. Its content says which, not its name.

    Returns
    -------
    checkpoint : dict of str to NestedState
        Where each set is nested, such as ``""`` or ``"state_dict"``, and its tensors by name, on
        the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no tensors by name, or cannot be read without running code; the message names
        the class that is in the way.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     torch.save({"epoch": 3, "net": {"weight": torch.ones(2)}}, Path(folder, "last.ckpt"))
    ...     read_checkpoint(Path(folder, "last.ckpt"))
    {'net': NestedState(tensors={'weight': tensor([1., 1.])}, beside=('epoch',))}
    """
    content = _read_content(Path(file))
    checkpoint = dict(_nested(content, "", (), 0)) if isinstance(content, Mapping) else {}
    if not checkpoint:
        raise ValueError(
            f"{str(file)!r} holds {type(content).__name__}, not a state dict (tensors by name). "
            "Save one with torch.save(model.state_dict(), FILE)."
        )
    return checkpoint


def _nested(
    content: Mapping[Any, Any], path: str, beside: tuple[str, ...], depth: int
) -> Iterator[tuple[str, NestedState]]:
    """Yield each dictionary that has tensors by name, and where it is."""
    inner = {f"{path}.{key}" if path else str(key): value for key, value in content.items()}
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        others = (at for at, value in inner.items() if not isinstance(value, Tensor))
        yield path, NestedState(tensors=tensors, beside=(*beside, *others))
    for at, value in inner.items():
        if isinstance(value, Mapping) and depth < MOST_NESTED:
            yield from _nested(value, at, (*beside, *(it for it in inner if it != at)), depth + 1)


def _read_content(file: Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(
            f"The weights' file {str(file)!r} does not exist, or is not a file."
        )
    try:
        if _is_safetensors(file):
            return load_file(file)
        with (
            file.open("rb") as opened,  # Of a path, PyTorch would go by its ending.
            warnings.catch_warnings(),
            torch.serialization.safe_globals(_HARMLESS),
        ):
            # Of pickle protocols that torch.save does not write; what fails, fails below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(opened, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # Unpickling what is not a pickle raises nearly anything.
        raise ValueError(_refusal(file, error)) from error


def _is_safetensors(file: Path) -> bool:
    """Tell whether a file begins with a length and a JSON object of that length."""
    with file.open("rb") as opened:
        length, brace = int.from_bytes(opened.read(8), "little"), opened.read(1)
    return brace == b"{" and 8 + length <= file.stat().st_size


def _refusal(file: Path, error: Exception) -> str:
    """Say why a file cannot be read, and what to do instead."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    said, trusted = f"{str(file)!r}", f"torch.load({str(file)!r}, weights_only=False)"
    alone = "Save the weights alone, torch.save(model.state_dict(), FILE), or as .safetensors"
    if "TorchScript" in str(error):
        return (
            f"{said} holds TorchScript, a program. {alone}; if you trust the file, with "
            f"torch.save(torch.jit.load({str(file)!r}).state_dict(), FILE)."
        )
    if named is None:
        return (
            f"{said} holds no state dict that can be read: it is not a file of weights, or is "
            f"damaged ({type(error).__name__}). {alone}."
        )
    if named[1].startswith(("torch.nn.", "torchvision.models.")):
        return (
            f"{said} holds a whole model ({named[1]}): reading it would run code. {alone}; if you "
            f"trust the file, with torch.save({trusted}.state_dict(), FILE)."
        )
    return (
        f"{said} holds {named[1]}, a class or function: reading it would run code. {alone}; if you "
        f"trust the file, where {named[1].partition('.')[0]} can be imported, with "
        f"torch.save({trusted}['state_dict'], FILE), or whatever name the weights have in it."
    )
