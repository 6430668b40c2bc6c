"""Images → codes: the activations of many depths of a pretrained network, read in one pass."""

from codes.backbones.backbone import Backbone, load_backbone
from codes.data.images import ImageList
from codes.data.readers.datasets import load_images
from codes.extractor import CodeExtractor
from codes.graph.layers import Layer
from codes.preprocessing import Preprocessing

__all__ = [
    "Backbone",
    "CodeExtractor",
    "ImageList",
    "Layer",
    "Preprocessing",
    "load_backbone",
    "load_images",
]
