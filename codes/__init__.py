"""Images → codes: the activations of many depths of a pretrained network, read in one pass."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codes.backbones.backbone import Backbone, load_backbone
    from codes.data.images import ImageList
    from codes.data.readers.datasets import load_images
    from codes.extractor import CodeExtractor
    from codes.graph.layers import Layer
    from codes.preprocessing import Preprocessing

_HOMES = {
    "Backbone": "codes.backbones.backbone",
    "CodeExtractor": "codes.extractor",
    "ImageList": "codes.data.images",
    "Layer": "codes.graph.layers",
    "Preprocessing": "codes.preprocessing",
    "load_backbone": "codes.backbones.backbone",
    "load_images": "codes.data.readers.datasets",
}

__all__ = [
    "Backbone",
    "CodeExtractor",
    "ImageList",
    "Layer",
    "Preprocessing",
    "load_backbone",
    "load_images",
]


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import: what needs it is loaded when it is asked for (PEP 562).
    if name not in _HOMES:
        raise AttributeError(f"module 'codes' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
