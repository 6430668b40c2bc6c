"""Building: a network by its name, with its weights and its own preprocessing."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models

from codes.backbones import bundled as bundled_net
from codes.backbones.checkpoints import Weights, read_weights, split_place
from codes.backbones.random_weights import reset_weights, seeded
from codes.backbones.state_dicts import Loaded, fit_state_dict, inferred_num_classes
from codes.graph.copying import copy_module
from codes.preprocessing import Preprocessing
from codes.wording import counted

_ENDINGS = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".tar", ".pkl")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network, its own preprocessing, where its weights come from, and what it is made with.

    `loaded` says what came of loading a file of weights; `random` weights are trained on nothing.
    A network of a `fixed_size` takes no images of another.
    """

    model: nn.Module
    preprocessing: Preprocessing
    weights: str
    architecture: dict[str, Any]
    loaded: Loaded
    random: bool = False
    fixed_size: bool = False


def is_file(weights: str) -> bool:
    """Tell whether weights are named by a file: one that is there, or what looks like one."""
    path = Path(split_place(weights)[0])
    return path.is_file() or path.suffix in _ENDINGS or os.sep in weights


def load_file(model: nn.Module, weights: str) -> Loaded:
    """Load weights from a file into a network, with as many classes as they have."""
    model.float()  # Half precision would round them.
    wanted = model.state_dict()
    found = read_weights(weights, wanted)
    num_classes = inferred_num_classes(wanted, found.state)
    if num_classes is not None and _resize_classifier(model, found.state, num_classes):
        found = _with_classes(found, num_classes)
    return fit_state_dict(model, found)


def _with_classes(found: Weights, num_classes: int) -> Weights:
    return replace(found, said=(*found.said, counted(num_classes, "class")))


def _resize_classifier(model: nn.Module, state: Mapping[str, Tensor], num_classes: int) -> bool:
    """Give a network's last layer as many classes as the weights have, if only it differs."""
    wanted = model.state_dict()
    differing = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    names = {key.rpartition(".")[0] for key in differing}
    last = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if names != {last[-1]}:
        return False
    old = model.get_submodule(last[-1])
    bias = old.bias is not None
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, num_classes, bias=bias)
    elif isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1) and old.groups == 1:
        new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
    else:
        return False
    model.set_submodule(last[-1], new)
    return True


def build_bundled(weights: str | None, random_state: int) -> Built:
    """Build the bundled network; its arguments, errors and result as for `load_backbone`."""
    preprocessing = Preprocessing(
        resize_size=bundled_net.IMAGE_SIZE,
        crop_size=bundled_net.IMAGE_SIZE,
        mean=bundled_net.MEAN,
        std=bundled_net.STD,
    )
    if weights not in (None, "none") and not is_file(str(weights)):
        raise ValueError(
            f"bundled has no weights {weights!r}. Allowed: none, or a .pth or .safetensors file."
        )
    model: nn.Module = bundled_net.bundled(weights=weights is None, random_state=random_state)
    said = "bundled" if weights is None else f"random (random_state={random_state})"
    loaded = Loaded()
    if weights is not None and weights != "none":
        loaded, said = load_file(model, weights), weights
    return Built(
        model=model,
        preprocessing=preprocessing,
        weights=said,
        loaded=loaded,
        architecture={"name": "bundled"},
        random=weights == "none",
    )


def build_own(name: str, weights: str | None, random_state: int) -> Built:
    """Build a network that a function of the user's returns."""
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
        made = seeded(function, random_state)
    except Exception as error:
        raise ValueError(
            f"Backbone {name!r} raised {type(error).__name__} ({error}) when called without "
            "arguments, as it must allow. --debug shows where."
        ) from error
    returned = made if isinstance(made, tuple) else (made,)
    model, preprocessing, *rest = (*returned, Preprocessing())[: max(2, len(returned))]
    if rest or not isinstance(model, nn.Module) or not isinstance(preprocessing, Preprocessing):
        raise ValueError(
            f"Backbone {name!r} returned {', '.join(type(it).__name__ for it in returned)}. "
            "Allowed: an nn.Module, or an nn.Module and a codes.Preprocessing."
        )
    _check_own(name, model)
    model = copy_module(model)  # The function may return the same network again.
    said = "its own"
    loaded = Loaded()
    if weights == "none":
        reset_weights(name, model, random_state)
        said = f"random (random_state={random_state})"
    elif weights is not None:
        loaded, said = load_file(model, weights), weights
    return Built(
        model=model,
        preprocessing=preprocessing,
        weights=said,
        loaded=loaded,
        architecture={"name": name},
        random=weights == "none",
    )


def _check_own(name: str, model: nn.Module) -> None:
    """Refuse a network that cannot be traced, or has no values to be traced with."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"Backbone {name!r} is TorchScript, which has no Python to trace. Return the module "
            "that it was made from."
        )
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"Backbone {name!r} is a {type(model).__name__}, which spreads a network over devices. "
            "Return its .module."
        )
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_meta or nn.parameter.is_lazy(value):
            raise ValueError(
                f"Backbone {name!r}: {key!r} has no values yet (it is lazy, or on the meta "
                "device). Run a first batch, or load weights, before it is returned."
            )


def build_torchvision(name: str, weights: str | None, random_state: int) -> Built:
    """Build a torchvision classifier, with published weights, a file's, or random ones."""
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "bundled"], 5, 0.3)
        raise ValueError(
            f"Backbone {name!r} is unknown. Nearest: {', '.join(near) or 'bundled, resnet50'}. "
            "Allowed: a torchvision classifier, timm:NAME, bundled, or package.module:function."
        )
    published = models.get_model_weights(name)
    default = published.DEFAULT
    loaded = Loaded()
    if weights == "none":
        model = seeded(lambda: _random_torchvision(name), random_state)
        said, entry = f"random (random_state={random_state})", default
    elif weights is not None and weights not in published.__members__ and is_file(weights):
        entry = next((it for it in published if _is_published(Path(weights), it)), None)
        if entry is not None:
            # Torchvision's own file: its builder knows what else belongs to it (GoogLeNet's input
            # transform, DenseNet's old names).
            with _hub_with(Path(weights), entry):
                model = models.get_model(name, weights=entry)
            said = f"{weights} ({entry.name})"
        else:
            wanted = _state_of(name)
            found = read_weights(weights, wanted)
            num_classes = inferred_num_classes(wanted, found.state)
            if num_classes is not None:
                found = _with_classes(found, num_classes)
            model = _random_torchvision(name, num_classes)
            loaded = fit_state_dict(model, found)
            said, entry = weights, default
    else:
        entry = default if weights in (None, "DEFAULT") else _named_weights(name, str(weights))
        model = _downloaded(name, entry)
        said = entry.name
    arguments: dict[str, Any] = {"name": name}
    if getattr(model, "transform_input", False):
        arguments["transform_input"] = True
    return Built(
        model=model,
        preprocessing=Preprocessing.from_torchvision(entry.transforms()),
        weights=said,
        loaded=loaded,
        architecture=arguments,
        random=weights == "none",
    )


def _random_torchvision(name: str, num_classes: int | None = None) -> nn.Module:
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # Their own initialisation takes a minute; both warn unless told which is wanted.
        arguments |= {"init_weights": False}
    model: nn.Module = models.get_model(name, weights=None, **arguments)
    return model


def _state_of(name: str) -> dict[str, Tensor]:
    """Return a network's tensors, without their values where it can be built so."""
    try:
        with torch.device("meta"):
            return _random_torchvision(name).state_dict()
    except NotImplementedError:  # RegNet computes with tensors what it is made of.
        return seeded(lambda: _random_torchvision(name), 0).state_dict()


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
    if not file.is_file():
        return False
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
