"""Backbones: a pretrained network, its own preprocessing, and the digest of its weights."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codes.backbones.building import build_bundled, build_own, build_torchvision
from codes.backbones.fingerprint import fingerprint
from codes.backbones.timm_models import PREFIX, build_timm
from codes.graph.dense import as_convolutions
from codes.graph.layers import Layer, find_layers, measure_layers
from codes.graph.traced_graph import TracedGraph, mark_missing
from codes.graph.tracing import alone, trace
from codes.inference.equivalence import Agreement
from codes.preprocessing import Preprocessing


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
    weights_read : str
        What was done to the weights in a file, in words: where they are nested, the prefix that was
        removed, what was cast, left out and missing. Empty where nothing was.
    architecture : dict
        Name and arguments of the network: what its codes depend on besides weights and input.
    graph : TracedGraph
        The network's operations.
    layers : list of Layer
        Every activation output, in forward order.
    random : bool
        Whether the weights are random, trained on nothing.
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
    weights_read: str = ""
    random: bool = False


@alone
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
        A torchvision classifier, such as ``"resnet50"``; ``"timm:"`` and a model of timm's, with or
        without the tag of its weights, such as ``"timm:resnet50.a1_in1k"``; ``"bundled"``; or
        ``"package.module:function"``, a function without arguments that returns an ``nn.Module``,
        or an ``nn.Module`` and its `Preprocessing`.
    weights : str or Path, optional
        A torchvision weights name, such as ``"IMAGENET1K_V1"`` (default: the backbone's own
        ``DEFAULT``, or timm's, downloaded where they are not yet on disk); a ``.pth``, ``.pt`` or
        ``.safetensors`` state dict or checkpoint, with ``::PLACE`` behind it where it holds several
        networks (``"last.pth::module.encoder_q"``); ``"none"`` for random weights, a control; or
        ``"default"``.
    image_size : int, optional
        Side of the network's input in pixels (default: its preprocessing's).
    dense : bool, default=False
        Run fully-connected layers as convolutions, as `codes.graph.dense.as_convolutions` does.
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
    ModuleNotFoundError
        If a model of timm's is named and timm is not installed.
    ConnectionError
        If weights must be downloaded and cannot be (the message gives the file and the way to pass
        a local one).

    Examples
    --------
    >>> backbone = load_backbone("bundled")
    >>> [layer.name for layer in backbone.layers][-2:]
    ['fc6.relu', 'fc7.relu']
    """
    weights = None if weights in (None, "default") else str(weights)
    if name == "bundled":
        built = build_bundled(weights, random_state)
    elif name.startswith(PREFIX):
        built = build_timm(name, weights, random_state)
    elif ":" in name:
        built = build_own(name, weights, random_state)
    else:
        built = build_torchvision(name, weights, random_state)
    preprocessing = built.preprocessing
    if image_size is not None:
        if built.fixed_size and image_size != preprocessing.crop_size:
            raise ValueError(
                f"The backbone {name!r} takes images of {preprocessing.crop_size} pixels only, not "
                f"of {image_size}. Leave --image-size out."
            )
        preprocessing = preprocessing.at_size(image_size)
    model = built.model
    _prepare(name, model)
    # A dense network's layers are known from its own size, and go on to others.
    traced_size = (built.preprocessing if dense else preprocessing).crop_size
    graph = trace(model, traced_size)
    digest = digest_weights(model)
    architecture = built.architecture
    if ":" in name:  # Its code is not pinned by a release: what was traced stands for it.
        architecture = {**architecture, "graph": fingerprint(graph)}
        # Models of timm keep what they computed in the first trace (LeViT its attention biases).
        again = name.startswith(PREFIX) or (
            fingerprint(trace(model, traced_size)) == architecture["graph"]
        )
        if not again:
            raise ValueError(
                f"Backbone {name!r} is another network each time that its forward pass is traced: "
                "it draws random numbers, or counts. Draw them where it is made, and keep them as "
                "a buffer."
            )
    within = mark_missing(graph, built.loaded.missing)
    if within is not None:
        raise ValueError(
            f"The weights {built.weights} do not fit {name!r}: {within!r} is missing, and weights "
            "that come after it in the network are there. Check that --backbone names the "
            "architecture they were trained in."
        )
    if dense:
        layers = find_layers(graph, _blank(built.preprocessing))
        # Afterwards there is nothing left to compare it with: its output is another by design.
        Agreement(model, graph.graph).require(_noise(built.preprocessing))
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
        weights_read=built.loaded.read,
        architecture=architecture,
        graph=graph,
        layers=layers,
        weights_digest=digest,
        random=built.random,
    )


def _prepare(name: str, model: nn.Module) -> None:
    """Put a network into evaluation mode, in float32, or say which part of it refuses."""
    model.eval()  # Whatever these answer: a train() of one's own may forget to return the module.
    model.float()
    model.requires_grad_(False)
    for path, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"Backbone {name!r}: {path or 'the network'!r} ({type(module).__name__}) is in "
                "training mode after eval(), so that codes would depend on the other images of a "
                "batch, or on chance. Let its train(False) put it into evaluation mode."
            )


@alone
def pixels_backbone(preprocessing: Preprocessing) -> Backbone:
    """Make a backbone that hands its input through: raw pixels, a control.

    Resizing and cropping are those of the preprocessing; values are in [0, 1].

    Examples
    --------
    >>> backbone = pixels_backbone(load_backbone("bundled").preprocessing)
    >>> [(layer.name, layer.shape) for layer in backbone.layers]
    [('pixels', (3, 64, 64))]
    """
    preprocessing = preprocessing.normalized("none")
    # What is not negative passes a ReLU as it is.
    model = nn.Sequential(OrderedDict(pixels=nn.ReLU())).eval()
    graph = trace(model, preprocessing.crop_size)
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
    size = preprocessing.crop_size
    try:
        return torch.zeros(1, 3, size, size)
    except RuntimeError as error:
        raise ValueError(
            f"An image of {size} x {size} pixels does not fit into memory. Choose a smaller "
            "--image-size."
        ) from error


def _noise(preprocessing: Preprocessing) -> torch.Tensor:
    shape = 2, 3, preprocessing.crop_size, preprocessing.crop_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def digest_weights(model: nn.Module) -> str:
    """Compute the SHA-256 of a network's parameters and buffers, as 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
