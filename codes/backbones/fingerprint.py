"""Fingerprints: what a network of one's own computes, besides its state dict."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import fx, nn

from codes.graph.traced_graph import TracedGraph

_PINNED = ("torch", "torchvision", "builtins", "operator", "_operator", "math", "numpy")
"""Packages whose code a version stands for."""


def fingerprint(model: nn.Module, traced: TracedGraph) -> str:
    """Compute the SHA-256 of all that a network's codes depend on, its state dict aside.

    That is its traced operations, the type and the settings of every module, tensors that are
    neither parameters nor persistent buffers, and the code of functions and hooks that tracing
    cannot look into.

    Parameters
    ----------
    model : nn.Module
    traced : TracedGraph

    Returns
    -------
    digest : str
        64 hexadecimal digits.

    Examples
    --------
    >>> from codes.graph.tracing import trace
    >>> half, whole = nn.LeakyReLU(0.5).eval(), nn.LeakyReLU(1.0).eval()
    >>> fingerprint(half, trace(half)) == fingerprint(whole, trace(whole))
    False
    """
    sha = hashlib.sha256(f"{traced.graph}\n{model!r}\n".encode())
    for line in _settings(model):
        sha.update(f"{line}\n".encode())
    for node in traced.graph.nodes:
        if node.op in ("call_function", "get_attr"):
            sha.update(f"{node.name}: {_called(traced, node)}\n".encode())
    return sha.hexdigest()


def traced_alike(one: TracedGraph, other: TracedGraph) -> bool:
    """Tell whether two tracings of a network found the same operations and the same constants."""

    def lines(traced: TracedGraph) -> list[str]:
        # Tensors that are made while tracing get a new number each time.
        said = re.sub(r"_tensor_constant\d+", "_tensor_constant", str(traced.graph))
        return [said, *(_called(traced, n) for n in traced.graph.nodes if n.op == "get_attr")]

    return lines(one) == lines(other)


def _called(traced: TracedGraph, node: fx.Node) -> str:
    """Say which function a node calls, or which value it reads."""
    target = str(node.target)
    return _value(_attribute(traced.root, target) if node.op == "get_attr" else node.target)


def _settings(model: nn.Module) -> Iterator[str]:
    """Yield a line for each module, and for each of its settings."""
    for path, module in model.named_modules():
        kind = type(module)
        yield f"{path}: {kind.__module__}.{kind.__qualname__}"
        if not kind.__module__.startswith(_PINNED):
            yield f"{path}.forward: {_value(kind.forward)}"
        for name, value in sorted(vars(module).items()):
            if name in ("_parameters", "_modules", "training"):
                continue
            if "_hooks" in name:  # By numbers that count all hooks of a process.
                value = list(value.values())
            yield f"{path}.{name}: {_value(value)}"


def _attribute(root: nn.Module, path: str) -> object:
    value: object = root
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _value(value: Any, depth: int = 0) -> str:
    """Say what a value is, in a way that is the same in another process."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth > 4:
        return kind
    if isinstance(value, CodeType):
        constants = [_value(constant, depth + 1) for constant in value.co_consts]
        return f"{value.co_code.hex()} {constants} {value.co_names}"
    if isinstance(value, FunctionType):
        if value.__module__ and value.__module__.split(".")[0] in _PINNED:
            return f"{value.__module__}.{value.__qualname__}"
        inner = [_value(cell.cell_contents, depth + 1) for cell in value.__closure__ or ()]
        read = {n: value.__globals__.get(n) for n in value.__code__.co_names}
        plain = {n: v for n, v in read.items() if isinstance(v, (int, float, str, torch.Tensor))}
        parts = (value.__code__, value.__defaults__, value.__kwdefaults__, plain)
        return f"{inner} {[_value(part, depth + 1) for part in parts]}"
    if isinstance(value, Mapping):
        return json.dumps({str(k): _value(v, depth + 1) for k, v in value.items()}, sort_keys=True)
    if isinstance(value, (set, frozenset)):
        return f"{kind} {sorted(_value(v, depth + 1) for v in value)}"
    if isinstance(value, Sequence):
        return f"{kind} {[_value(v, depth + 1) for v in value]}"
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if name != ".":
        return name
    # A hook such as torch's weight normalisation is an object with settings.
    if isinstance(value, nn.Module) or not hasattr(value, "__dict__"):
        return kind
    return f"{kind} {_value(vars(value), depth + 1)}"
