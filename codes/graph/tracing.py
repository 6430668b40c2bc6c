"""Tracing: a network's forward pass becomes a graph, for images of one size and any number of them.

Every value is an operation of the graph. Where Python must know one, to branch on it, the graph so
far is run on images without values, few and many: what is the same for both, such as a shape, is
known.
"""

from __future__ import annotations

import inspect
import linecache
import operator
import traceback
from collections.abc import Callable, Iterator
from functools import wraps
from threading import RLock, get_ident
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torchvision.models.feature_extraction import NodePathTracer

from codes.graph.traced_graph import TracedGraph

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

IMAGE_SIZE = 224
FEW, MANY = 1, 999
"""Images; what a forward pass knows of both, it knows of any number."""

Given = ParamSpec("Given")
Result = TypeVar("Result")

_ALONE = RLock()


def alone(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let one thread at a time build and trace networks.

    While torch.fx traces, it patches `nn.Module` for all threads, and takes that back in the order
    in which it ends; and PyTorch has one generator of random numbers.
    """

    @wraps(function)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with _ALONE:
            return function(*args, **kwargs)

    return run


class UnfollowedError(ValueError):
    """A network does what its graph leaves out, so that the graph would answer otherwise."""


class _Value(fx.Proxy):
    """A value while it is traced, which Python can ask for what is known of it."""

    tracer: _Tracer

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)

    def __len__(self) -> int:
        return self.tracer.answer(self, len)

    def __index__(self) -> int:
        return self.tracer.answer(self, operator.index)

    def __int__(self) -> int:
        return self.tracer.answer(self, int)

    def __float__(self) -> float:
        return self.tracer.answer(self, float)


class _Attribute(_Value, fx.proxy.Attribute):
    """An attribute of one, which becomes an operation where it is no method that is called."""


class _Tracer(NodePathTracer):  # type: ignore[misc]
    """Follow what its own thread calls; others may run networks in the meantime.

    The first argument of the network is its images; every other one is its default, as where the
    network is called with images alone.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self._image_size = image_size
        self._thread: int | None = get_ident()
        self._autocast = _autocast()
        self._runs: list[fx.Interpreter] = []
        self.asked = False

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _autocast() != self._autocast:
            raise UnfollowedError(
                "computes under torch.autocast within its forward pass, which its graph leaves "
                "out. Take that away; --precision says what the whole network computes in"
            )
        node: fx.Node = super().create_node(*args, **kwargs)
        return node

    def proxy(self, node: fx.Node) -> _Value:
        return _Value(node, self)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        if get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: Any) -> bool:
        return self.answer(obj, bool)

    def iter(self, obj: Any) -> Iterator[Any]:
        return (obj[place] for place in range(self.answer(obj, len)))

    def answer(self, value: Any, ask: Callable[[Any], Result]) -> Result:
        """Answer what Python asks of a value, where it is the same for any number of images."""
        self.asked = True
        try:
            few, many = (ask(found) for found in self._run(value.node))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise UnfollowedError(
                f"branches on values that it computes from the images, in {_line()}, which a graph "
                "cannot follow. Choose with torch.where, or move this into a function under "
                "@torch.fx.wrap"
            ) from error
        if few != many:
            raise UnfollowedError(
                f"branches on the number of images in a batch, in {_line()}. Codes must not "
                "depend on that: take the branch away"
            )
        return few

    def _run(self, wanted: fx.Node) -> list[Any]:
        """Run the graph up to a node on few and on many images without values."""
        if not self._runs:
            side = self._image_size
            for n in (FEW, MANY):
                with FakeTensorMode(allow_non_fake_inputs=True):
                    images = torch.empty(n, 3, side, side)
                self._runs.append(fx.Interpreter(self.root, graph=self.graph))
                self._runs[-1].args_iter = iter([images])
        thread, self._thread = self._thread, None  # What runs now is not traced.
        try:
            with torch.no_grad():
                for run in self._runs:
                    for node in self.graph.nodes:
                        if node not in run.env:
                            run.env[node] = run.run_node(node)
        finally:
            self._thread = thread
        return [run.env[wanted] for run in self._runs]

    def drop_answered(self, graph: fx.Graph) -> None:
        """Erase what was only asked for: all that is no tensor and that nothing computes with."""
        if not self._runs:
            return
        for node in reversed(list(graph.nodes)):
            tensor = isinstance(self._runs[0].env.get(node, torch.empty(0)), Tensor)
            if not node.users and (node.op == "get_attr" or not tensor) and node.op != "output":
                graph.erase_node(node)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        given = list(inspect.signature(root_fn).parameters.values())[1:]
        if len(given) < 2 or given[0].kind not in _POSITIONAL:
            args: tuple[Any, list[Any]]
            args = super().create_args_for_root(root_fn, is_module, concrete_args)
            return args
        image, *others = given
        for other in others:
            if other.default is other.empty and other.kind not in _COLLECTING:
                raise UnfollowedError(
                    f"needs the argument {other.name!r} besides the images. Give it a default, or "
                    "return a module whose forward takes the images alone"
                )
        default = () if image.default is image.empty else (image.default,)
        kind = None if image.annotation is image.empty else image.annotation
        images = self.create_proxy("placeholder", image.name, default, {}, type_expr=kind)
        return root_fn, [self.root, images]


def trace(model: nn.Module, image_size: int = IMAGE_SIZE) -> TracedGraph:
    """Trace a network symbolically.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    image_size : int, default=224
        Side of the images that it will be given, in pixels: branches on shapes are followed as for
        these.

    Raises
    ------
    ValueError
        If the network's forward pass branches on computed values or on the number of images, does
        not take images of this size, or does more than its graph says.
    """
    before = _buffers(model)
    tracer = _Tracer(image_size)
    try:
        graph = tracer.trace(model)
        for name, (buffer, version) in _buffers(model).items():
            known, was = before.get(name, (None, version))
            if known is not buffer or was != version:
                raise UnfollowedError(
                    f"changes its buffer {name!r} in each forward pass, so that an image has other "
                    "codes each time. Leave that out where the module is not training"
                )
    except UnfollowedError as error:
        raise ValueError(f"{type(model).__name__} {error}.") from None
    except Exception as error:  # What a forward pass raises, and several unrelated types of fx.
        raise ValueError(_untraced(model, tracer, image_size, error)) from error
    tracer.drop_answered(graph)
    for node in graph.nodes:
        # Channels-last maps cannot be viewed as vectors; a reshape copies them in the same order.
        if node.op == "call_method" and node.target == "view" and _is_shape(node.args[1:]):
            node.target = "reshape"
    alive = set(graph.nodes)
    names = {node: name for node, name in tracer.node_to_qualname.items() if node in alive}
    return TracedGraph(
        root=tracer.root,
        graph=graph,
        names=names,
        nodes={name: node for node, name in names.items()},
    )


def _untraced(model: nn.Module, tracer: _Tracer, image_size: int, error: Exception) -> str:
    """Say why a network could not be traced: its own refusal of a shape, or what fx lacks."""
    name, passed = type(model).__name__, traceback.extract_tb(error.__traceback__)
    at = ([step for step in passed if not _is_foreign(step.filename)] or passed)[-1]
    where = f"{at.filename}, line {at.lineno} ({at.line})"
    if tracer.asked and not isinstance(error, (TypeError, AttributeError, fx.proxy.TraceError)):
        return (
            f"{name} does not take images of {image_size} x {image_size} pixels: "
            f"{type(error).__name__}: {error}, in {where}. Choose another --image-size, or take "
            "that check away."
        )
    return (
        f"{name} cannot be traced by torch.fx: {error}, in {where}. Its forward pass must be made "
        "of operations on tensors; move what is not into a function under @torch.fx.wrap."
    )


def _line() -> str:
    """Name the line of the network's code that is being traced."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and _is_foreign(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return "its code"
    file, number = frame.f_code.co_filename, frame.f_lineno
    return f"{file}, line {number} ({linecache.getline(file, number).strip()})"


def _is_foreign(file: str) -> bool:
    """Tell whether a file is of PyTorch or is this one, not the network's own."""
    return file == __file__ or file.startswith(_TORCH)


_TORCH = str(torch.__file__).removesuffix("__init__.py")


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def _buffers(model: nn.Module) -> dict[str, tuple[torch.Tensor, int]]:
    """Return the buffers of a network, and how often each was changed."""
    return {
        name: (buffer, -1 if buffer.is_inference() else buffer._version)
        for name, buffer in model.named_buffers()
    }


def _is_shape(arguments: tuple[Any, ...]) -> bool:
    return bool(arguments) and not isinstance(arguments[0], torch.dtype)
