"""timm's models: by their names, with their own weights and preprocessing."""

from __future__ import annotations

import difflib
import logging
import math
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from codes.backbones.building import Built, is_file, load_file
from codes.backbones.random_weights import seeded
from codes.backbones.state_dicts import Loaded
from codes.preprocessing import Preprocessing
from codes.resizing import RESAMPLING

PREFIX = "timm:"
"""Of the names of backbones that are timm's."""


def build_timm(name: str, weights: str | None, random_state: int) -> Built:
    """Build a model of timm's, with its published weights, a file's, or random ones.

    Parameters
    ----------
    name : str
        ``"timm:"``, a model's name, and perhaps the tag of its weights:
        ``"timm:resnet50.a1_in1k"``. Without a tag, timm's default one.
    weights : str or None
        None for the published weights, which timm finds in its cache or downloads; a file; or
        ``"none"``.
    random_state : int

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed.
    ValueError
        If the name, the tag or the weights' name is unknown, the weights do not fit, or images
        cannot be prepared as for this model.
    FileNotFoundError
        If the weights' file does not exist.
    ConnectionError
        If weights must be downloaded and cannot be.
    """
    timm = _import_timm(name)
    config = _find_config(timm.models, name)
    preprocessing = preprocessing_of(name, config)
    tagged = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    loaded = Loaded()
    if weights is None:
        model, said = _pretrained(timm, name, tagged, config), tagged
    elif weights != "none" and not is_file(weights):
        raise ValueError(
            f"{name} has no weights {weights!r}. Allowed: default, none, or a .pth or .safetensors "
            "file. Other published weights of timm have a name of their own: "
            f"{_some_names(timm.models, config.architecture)}."
        )
    else:
        model = seeded(lambda: timm.create_model(tagged, pretrained=False), random_state)
        said = f"random (random_state={random_state})"
        if weights != "none":
            loaded, said = load_file(model, weights), weights
    return Built(
        model=model,
        preprocessing=preprocessing,
        weights=said,
        architecture={"name": f"{PREFIX}{config.architecture}"},
        loaded=loaded,
        random=weights == "none",
        fixed_size=bool(config.fixed_input_size),
    )


def _import_timm(name: str) -> ModuleType:
    try:
        return import_module("timm")
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            f"The backbone {name!r} needs the package timm: pip install 'cnn-codes[timm]'.",
            name="timm",
        ) from error


def _find_config(models: ModuleType, name: str) -> Any:
    """Find the pretrained configuration of a name, with or without a tag."""
    asked = name.removeprefix(PREFIX)
    architecture = asked.partition(".")[0]
    known = models.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, 5, 0.3)
        raise ValueError(
            f"The backbone {name!r} is unknown to timm. Nearest: "
            f"{', '.join(PREFIX + one for one in near) or 'timm:resnet50'}. "
            "`timm.list_models()` lists all."
        )
    try:
        return models.get_pretrained_cfg(asked, allow_unregistered=False)
    except RuntimeError as error:  # Also of an architecture without weights, and so without tags.
        if asked == architecture:
            return models.PretrainedCfg(architecture=architecture)
        raise ValueError(
            f"The backbone {name!r} is unknown to timm: {architecture} has no such weights. "
            f"Nearest: {_some_names(models, asked)}. Without a tag, {PREFIX}{architecture} has "
            "timm's default weights."
        ) from error


def preprocessing_of(name: str, config: Any) -> Preprocessing:
    """Read how images are prepared for a model of timm's when it is evaluated.

    Parameters
    ----------
    name : str
        Of the backbone, for messages.
    config : timm.models.PretrainedCfg

    Returns
    -------
    preprocessing : Preprocessing
        The steps of ``timm.data.create_transform`` for ``timm.data.resolve_data_config``.

    Raises
    ------
    ValueError
        If the configuration has no mean and deviation, is not of square images with three
        channels, or has another crop or interpolation than are known here.
    """
    channels, height, width = config.input_size
    problems = {
        f"images of {channels} channels": channels != 3,
        f"images of {height} x {width} pixels, which are not square": height != width,
        f"the crop mode {config.crop_mode!r}": config.crop_mode not in ("center", "squash"),
        f"the interpolation {config.interpolation!r}": config.interpolation not in RESAMPLING,
        "no mean and standard deviation of three colours": not (
            config.mean and config.std and len(config.mean) == len(config.std) == 3
        ),
    }
    odd = [problem for problem, there in problems.items() if there]
    if odd:
        raise ValueError(
            f"The configuration of {name} in timm has {' and '.join(odd)}. Allowed: square RGB "
            "images, resized and cropped in the centre as for ImageNet. A function of your own "
            "that returns the model and a codes.Preprocessing can say otherwise: --backbone "
            "package.module:function."
        )
    return Preprocessing(
        resize_size=math.floor(height / config.crop_pct),
        crop_size=height,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        squash=config.crop_mode == "squash",
    )


def _pretrained(timm: ModuleType, name: str, tagged: str, config: Any) -> nn.Module:
    """Let timm find its weights in its cache, or download them."""
    if not config.has_weights:
        raise ValueError(
            f"timm publishes no weights of {name}. Pass a file with --weights FILE, take "
            "--weights none for random weights, or another of: "
            f"{_some_names(timm.models, config.architecture)}."
        )
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)  # Its twelve warnings of a lost connection are one message here.
    try:
        model: nn.Module = timm.create_model(tagged, pretrained=True)
    except OSError as error:
        if error.errno and not isinstance(error, (ConnectionError, TimeoutError)):
            raise  # The disk is full, or the like.
        origin = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        raise ConnectionError(
            f"The weights {tagged} of timm are not on this machine and could not be downloaded "
            f"from {origin} ({error.__cause__ or error}). Download them (model.safetensors) on "
            "another machine and pass them with --weights FILE, or take --weights none for random "
            "weights."
        ) from error
    finally:
        hub.setLevel(level)
    return model


def _some_names(models: ModuleType, asked: str, most: int = 6) -> str:
    """Name the most similar published weights: of an architecture, or else of all."""
    published = models.list_models(pretrained=True)
    own = [name for name in published if name.partition(".")[0] == asked.partition(".")[0]]
    if own and "." not in asked:
        near = own[:most]
    else:
        near = difflib.get_close_matches(asked, own or published, most, 0.3)
    return ", ".join(PREFIX + name for name in near)
