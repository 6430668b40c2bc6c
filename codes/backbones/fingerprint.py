"""Fingerprints: what a network of one's own computes, besides its state dict."""

from __future__ import annotations

import enum
import hashlib
import sys
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from importlib.metadata import packages_distributions, version
from operator import attrgetter
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from codes.backbones.source_code import names_read, source_of
from codes.graph.traced_graph import TracedGraph

_PINNED = {"torch", "torchvision", "numpy", *sys.stdlib_module_names}
"""Packages whose code a version stands for."""
_WRITTEN = (
    *(int, float, complex, str, bytes, type(None), PurePath),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Types of values that are what is written for them."""
_BESIDE = set(vars(nn.Module())) - {"_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}
"""Attributes of every module that its codes do not depend on, or that its state dict holds."""
_OF_FIELDS = {
    *("__init__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__hash__"),
    *("__setattr__", "__delattr__", "__replace__"),
}
"""Methods that a dataclass makes of its fields, in another way in each version of Python."""


def fingerprint(traced: TracedGraph) -> str:
    """Compute the SHA-256 of all that a network's codes depend on, its state dict aside.

    That is its traced operations, with constants and tensors that are neither parameters nor
    persistent buffers; and what tracing does not look into: the settings and hooks of the modules
    that are called as a whole, such as PyTorch's own, and functions under ``@torch.fx.wrap``.

    Functions and classes count by their source, without comments, docstrings and layout, and with
    their defaults and what they hold and read (closures, globals, functions that they call); those
    of other packages that are installed, by the package's version. So the fingerprint is the same
    in each version of Python. Where the source of a function is not known (it was made by ``exec``
    or typed in, it shares its line with another lambda, its file has changed since), its bytecode
    counts with the version of Python: another version then has other codes. What a function imports
    only when it is called is not followed.

    Returns
    -------
    digest : str
        64 hexadecimal digits; the same each time that the same network is traced.

    Examples
    --------
    >>> from codes.graph.tracing import trace
    >>> half, whole = nn.LeakyReLU(0.5).eval(), nn.LeakyReLU(1.0).eval()
    >>> fingerprint(trace(half)) == fingerprint(trace(whole))
    False
    """
    describe, sha = _Description(traced), hashlib.sha256()
    for node in traced.graph.nodes:
        target: object = None if node.op == "placeholder" else node.target
        if node.op == "call_module":
            target = target, traced.module(node)
        elif node.op == "get_attr":  # Not by its name: tensors made while tracing are numbered.
            target = attrgetter(str(target))(traced.root)
        sha.update(f"{node.op} {describe((target, node.args, node.kwargs))}\n".encode())
    return sha.hexdigest()


class _Description:
    """Says what values are, in a way that is the same in another process."""

    def __init__(self, traced: TracedGraph) -> None:
        self._nodes = {node: place for place, node in enumerate(traced.graph.nodes)}
        self._paths = {id(module): path for path, module in traced.root.named_modules()}
        self._met: dict[int, tuple[int, object]] = {}  # With them, or another had their id later.

    def __call__(self, value: Any) -> str:
        kind = next((t for t in (tuple, list, dict) if isinstance(value, t)), type(value))
        name = f"{kind.__module__}.{kind.__qualname__}"
        if isinstance(value, fx.Node):
            return f"node {self._nodes[value]}"
        if isinstance(value, enum.Enum):
            return f"{name}.{value.name} {self(value.value)}"
        if isinstance(value, _WRITTEN):
            return repr(value)
        if isinstance(value, torch.Tensor):
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
        if isinstance(value, tuple):
            return f"{name} {_listed(map(self, value))}"
        if id(value) in self._met:
            return f"as {self._met[id(value)][0]}"
        self._met[id(value)] = len(self._met), value
        return f"{name} {self._parts(value)}"

    def _parts(self, value: Any) -> str:
        """Say what a value is made of that may hold itself."""
        if isinstance(value, Mapping):
            return _listed(f"{self(key)}: {self(value[key])}" for key in value)
        if isinstance(value, (set, frozenset)):
            return _listed(sorted(map(self, value)))
        if isinstance(value, list):
            return _listed(map(self, value))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, MethodType):
            return self((value.__func__, value.__self__))
        if isinstance(value, (staticmethod, classmethod)):
            return self(value.__func__)
        if isinstance(value, (property, cached_property)):
            return self(value.fget if isinstance(value, property) else value.func)
        if isinstance(value, torch.jit.ScriptFunction):
            return str(value.code)
        if isinstance(value, ModuleType) or type(value).__module__ == "torch._ops":
            return str(getattr(value, "__name__", value))
        if isinstance(value, BuiltinFunctionType) or _is_of_release(value):
            return _name(value)
        if hasattr(value, "__wrapped__"):  # As of functools.cache.
            return self(value.__wrapped__)
        try:  # An object, as of functools.partial or weight_norm: its class and its settings.
            copied = value.__reduce_ex__(4)
        except Exception:  # What cannot be copied, such as a lock, is no setting.
            return ""
        if isinstance(copied, str):
            return copied
        made, given, state, items, pairs = (*copied, None, None, None)[:5]
        return self((made, given, state, list(items or ()), list(pairs or ())))

    def _function(self, function: FunctionType) -> str:
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        held = {name: _content(cell) for name, cell in cells}
        if _package(function) in _PINNED:  # Around another one, perhaps, as of torch.no_grad.
            return f"{_name(function)} {function.__code__.co_name} {self(held)}"
        names = names_read(function.__code__)
        read = self._read_all(function.__globals__, names, function)
        defaults = function.__defaults__, function.__kwdefaults__
        return f"{source_of(function)} {self((defaults, held))} {read}"

    def _read_all(self, held: Mapping[str, Any], names: Set[str], *how: Any) -> str:
        return _listed(
            f"{n}: {self._read(held[n], names, *how)}" for n in sorted(names & set(held))
        )

    def _read(
        self, value: Any, names: Set[str], by: FunctionType, within: tuple[ModuleType, ...] = ()
    ) -> str:
        """Say what a function reads: a value, or of a module what the function knows by name."""
        package, is_module = _package(value), isinstance(value, ModuleType)
        if package != _package(by) and (is_module or hasattr(value, "__qualname__")):
            file = getattr(sys.modules.get(package), "__file__", None)
            if package not in _PINNED and "site-packages" in str(file):
                releases = [version(name) for name in packages_distributions().get(package, [])]
                return f"{package} {releases} {_name(value)}"
        if not is_module:
            return self(value)
        if package in _PINNED or value in within:
            return _name(value)
        return self._read_all(vars(value), names, by, (*within, value))

    def _class(self, kind: type) -> str:
        if _is_of_release(kind):
            return _name(kind)
        made = dict(sorted((k, v) for k, v in vars(kind).items() if _counts(kind, k, v)))
        return f"{_name(kind)} {self(kind.__bases__)} {self(made)}"

    def _module(self, module: nn.Module) -> str:
        path = self._paths.get(id(module))
        held = {name: value for name, value in vars(module).items() if name not in _BESIDE}
        for name in ("_forward_hooks", "_forward_pre_hooks"):  # By numbers that count all hooks.
            with_keywords = getattr(module, f"{name}_with_kwargs")
            held[name] = [(hook, number in with_keywords) for number, hook in held[name].items()]
        if path is None:  # Not in the state dict.
            held["_parameters"] = module._parameters
        return f"{path} {self(type(module))} {self(dict(sorted(held.items())))}"


def _listed(said: Iterable[str]) -> str:
    return f"[{', '.join(said)}]"


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{getattr(value, '__module__', None) or ''}.{name}"


def _package(value: Any) -> str:
    """Name the package that a value is from; of a function, that which its code is from."""
    if isinstance(value, FunctionType):
        module = value.__globals__.get("__name__")
    elif isinstance(value, ModuleType):
        module = value.__name__
    else:
        module = getattr(value, "__module__", None)
    return str(module or type(value).__module__).partition(".")[0]


def _is_of_release(value: Any) -> bool:
    """Tell whether a value is known by its name, in a package that a version stands for."""
    return hasattr(value, "__qualname__") and _package(value) in _PINNED


def _counts(kind: type, name: str, value: object) -> bool:
    """Tell whether a member of a class is one that was written into it."""
    if issubclass(kind, enum.Enum) and name[:1] == name[-1:] == "_":
        return False
    if not (name.startswith("__") and name.endswith("__")):
        return True
    if not isinstance(value, FunctionType) or name.startswith("__annotate"):
        return False
    return name not in _OF_FIELDS or "__dataclass_fields__" not in vars(kind)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # It is empty yet.
        return None
