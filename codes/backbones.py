"""Backbones: a pretrained network, its own preprocessing, and the digest of its weights."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models

from codes import bundled as bundled_net
from codes.dense import as_convolutions
from codes.fingerprint import fingerprint
from codes.graph import TracedGraph, trace
from codes.layers import Layer, find_layers, measure_layers
from codes.preprocessing import Preprocessing
from codes.state_dicts import fit_state_dict, inferred_num_classes, read_state_dict


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone:
    """A pretrained network, ready to be read.

    Attributes
    ----------
    name : str
        As the user called it.
    model : nn.Module
        In evaluation mode, on the CPU, float32.
    preprocessing : Preprocessing
        The network's own.
    weights : str
        Where the weights come from, in words: a torchvision name, a file, ``"bundled"``,
        ``"random (random_state=0)"``.
    architecture : dict
        Name and arguments of the network: what its codes depend on besides weights and input.
    graph : TracedGraph
        The network's operations.
    layers : list of Layer
        Every activation output, in forward order.
    weights_digest : str
        SHA-256 of all parameters and buffers as they were loaded: names, types, shapes, values.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    architecture: dict[str, Any]
    graph: TracedGraph
    layers: list[Layer]
    weights_digest: str = field(repr=False)


def load_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    image_size: int | None = None,
    dense: bool = False,
    random_state: int = 0,
) -> Backbone:
    """Load a pretrained network.

    Parameters
    ----------
    name : str
        A torchvision classifier, such as ``"resnet50"``; ``"bundled"``; or
        ``"package.module:function"``, a function without arguments that returns an ``nn.Module``,
        or an ``nn.Module`` and its `Preprocessing`.
    weights : str or Path, optional
        A torchvision weights name, such as ``"IMAGENET1K_V1"`` (default: the backbone's own
        ``DEFAULT``, downloaded by torchvision where it is not yet on disk); a ``.pth``, ``.pt`` or
        ``.safetensors`` state dict; or ``"none"`` for random weights, a control.
    image_size : int, optional
        Side of the network's input in pixels (default: its preprocessing's).
    dense : bool, default=False
        Run fully-connected layers as convolutions, as `codes.dense.as_convolutions` does.
    random_state : int, default=0
        Seed of random weights.

    Returns
    -------
    backbone : Backbone

    Raises
    ------
    ValueError
        If the backbone or the weights' name is unknown (the message gives the nearest), the
        weights do not fit (it names the tensors), or the network cannot be run densely.
    FileNotFoundError
        If the weights' file does not exist.
    ConnectionError
        If weights must be downloaded and cannot be (the message gives the file and the way to pass
        a local one).

    Examples
    --------
    >>> backbone = load_backbone("bundled")
    >>> [layer.name for layer in backbone.layers][-2:]
    ['fc6.relu', 'fc7.relu']
    """
    weights = None if weights is None else str(weights)
    if name == "bundled":
        built = _build_bundled(weights, random_state)
    elif ":" in name:
        built = _build_own(name, weights, random_state)
    else:
        built = _build_torchvision(name, weights, random_state)
    preprocessing = built.preprocessing
    if image_size is not None:
        preprocessing = preprocessing.at_size(image_size)
    model = built.model.eval().float().requires_grad_(False)
    graph = trace(model)
    digest = digest_weights(model)
    architecture = built.architecture
    if ":" in name:  # Its code is not pinned by a release: what was traced stands for it.
        architecture = {**architecture, "graph": fingerprint(model, graph)}
    if dense:
        layers = find_layers(graph, _blank(built.preprocessing))
        graph = as_convolutions(graph)
        layers = measure_layers(graph, layers, _blank(preprocessing))
        architecture, model = {**architecture, "dense": True}, graph.root
    else:
        layers = find_layers(graph, _blank(preprocessing))
    return Backbone(
        name=name,
        model=model,
        preprocessing=preprocessing,
        weights=built.weights,
        architecture=architecture,
        graph=graph,
        layers=layers,
        weights_digest=digest,
    )


def pixels_backbone(preprocessing: Preprocessing) -> Backbone:
    """Make a backbone that hands its input through: raw pixels, a control.

    Parameters
    ----------
    preprocessing : Preprocessing
        Resizing and cropping are kept; values are in [0, 1].

    Returns
    -------
    backbone : Backbone
        Its one layer is ``"pixels"``.

    Examples
    --------
    >>> backbone = pixels_backbone(load_backbone("bundled").preprocessing)
    >>> [(layer.name, layer.shape) for layer in backbone.layers]
    [('pixels', (3, 64, 64))]
    """
    preprocessing = replace(preprocessing, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    # What is not negative passes a ReLU as it is.
    model = nn.Sequential(OrderedDict(pixels=nn.ReLU())).eval()
    graph = trace(model)
    return Backbone(
        name="pixels",
        model=model,
        preprocessing=preprocessing,
        weights="none",
        architecture={"name": "pixels"},
        graph=graph,
        layers=find_layers(graph, _blank(preprocessing)),
        weights_digest=digest_weights(model),
    )


def _blank(preprocessing: Preprocessing) -> torch.Tensor:
    return torch.zeros(1, 3, preprocessing.crop_size, preprocessing.crop_size)


def digest_weights(model: nn.Module) -> str:
    """Compute the SHA-256 of a network's parameters and buffers.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    digest : str
        64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Built:
    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    architecture: dict[str, Any]


def _seeded(build: Callable[[], nn.Module], random_state: int) -> nn.Module:
    """Build a network with random weights, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        return build()


def _is_file(weights: str) -> bool:
    return Path(weights).suffix in (".pth", ".pt", ".safetensors", ".bin") or os.sep in weights


def _build_bundled(weights: str | None, random_state: int) -> _Built:
    preprocessing = Preprocessing(
        resize_size=bundled_net.IMAGE_SIZE,
        crop_size=bundled_net.IMAGE_SIZE,
        mean=bundled_net.MEAN,
        std=bundled_net.STD,
    )
    if weights not in (None, "none") and not _is_file(str(weights)):
        raise ValueError(
            f"bundled has no weights {weights!r}. Allowed: none, or a .pth or .safetensors file."
        )
    model: nn.Module = bundled_net.bundled(weights=weights is None, random_state=random_state)
    said = "bundled" if weights is None else f"random (random_state={random_state})"
    if weights not in (None, "none"):
        fit_state_dict(model, read_state_dict(str(weights)), origin=str(weights))
        said = str(weights)
    return _Built(
        model=model, preprocessing=preprocessing, weights=said, architecture={"name": "bundled"}
    )


def _build_own(name: str, weights: str | None, random_state: int) -> _Built:
    module_name, _, function_name = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # A console script does not look into the current folder.
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"Backbone {name!r}: the module {module_name!r} cannot be imported: {error}. It must "
            "be installed, or lie in the current folder."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"Backbone {name!r}: {module_name} has no function {function_name!r}.")
    try:
        made = _seeded(function, random_state)
    except Exception as error:
        raise ValueError(
            f"Backbone {name!r} raised {type(error).__name__} ({error}) when called without "
            "arguments, as it must allow. --debug shows where."
        ) from error
    model, preprocessing = made if isinstance(made, tuple) else (made, Preprocessing())
    if not isinstance(model, nn.Module) or not isinstance(preprocessing, Preprocessing):
        raise ValueError(
            f"Backbone {name!r} returned {type(model).__name__} and "
            f"{type(preprocessing).__name__}. Allowed: an nn.Module, or an nn.Module and a "
            "codes.Preprocessing."
        )
    said = "its own"
    if weights == "none":
        raise ValueError(f"Backbone {name!r}: weights=none is for torchvision's and the bundled.")
    if weights is not None:
        fit_state_dict(model, read_state_dict(weights), origin=weights)
        said = weights
    return _Built(
        model=model, preprocessing=preprocessing, weights=said, architecture={"name": name}
    )


def _build_torchvision(name: str, weights: str | None, random_state: int) -> _Built:
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "bundled"], 5, 0.3)
        raise ValueError(
            f"Backbone {name!r} is unknown. Nearest: {', '.join(near) or 'bundled, resnet50'}. "
            "Allowed: a torchvision classifier, bundled, or package.module:function."
        )
    published = models.get_model_weights(name)
    default = published.DEFAULT
    if weights == "none":
        model = _seeded(lambda: _random_torchvision(name), random_state)
        said, entry = f"random (random_state={random_state})", default
    elif weights is not None and _is_file(weights):
        state = read_state_dict(weights)
        entry = next((w for w in published if _is_published(Path(weights), w)), None)
        if entry is not None:
            # Torchvision's own file: its builder knows what else belongs to it (GoogLeNet's input
            # transform, DenseNet's old names).
            with _hub_with(Path(weights), entry):
                model = models.get_model(name, weights=entry)
            said = f"{weights} ({entry.name})"
        else:
            model = _random_torchvision(name, inferred_num_classes(name, state))
            fit_state_dict(model, state, origin=weights)
            said, entry = weights, default
    else:
        entry = default if weights in (None, "DEFAULT") else _named_weights(name, str(weights))
        model = _downloaded(name, entry)
        said = entry.name
    arguments: dict[str, Any] = {"name": name}
    if getattr(model, "transform_input", False):
        arguments["transform_input"] = True
    return _Built(
        model=model,
        preprocessing=Preprocessing.from_torchvision(entry.transforms()),
        weights=said,
        architecture=arguments,
    )


def _random_torchvision(name: str, num_classes: int | None = None) -> nn.Module:
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # Their own initialisation takes a minute; both warn unless told which is wanted.
        arguments |= {"init_weights": False}
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def _named_weights(name: str, weights: str) -> Any:
    published = models.get_model_weights(name)
    short = weights.rpartition(".")[2]
    if short not in published.__members__:
        raise ValueError(
            f"{name} has no weights {weights!r}. Allowed: {', '.join(published.__members__)}, "
            "none, or a .pth or .safetensors file."
        )
    return published[short]


def _downloaded(name: str, entry: Any) -> nn.Module:
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    try:
        model: nn.Module = models.get_model(name, weights=entry)
    except (URLError, ConnectionError, TimeoutError) as error:
        raise ConnectionError(
            f"The weights {entry.name} of {name} are not on this machine and could not be "
            f"downloaded from {entry.url} ({error}). Download that file on another machine and "
            f"pass it with --weights {file.name}, or put it at {str(file)!r}."
        ) from error
    return model


def _is_published(file: Path, entry: Any) -> bool:
    """Tell whether a file is the one torchvision publishes: its name ends in its SHA-256."""
    published = Path(entry.url).stem.rpartition("-")[2]
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest().startswith(published)


@contextmanager
def _hub_with(file: Path, entry: Any) -> Iterator[None]:
    """Let torchvision find a local file where it keeps its downloads."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        (checkpoints / Path(entry.url).name).symlink_to(file.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
