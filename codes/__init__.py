"""Images → codes: the activations of many depths of a pretrained network, read in one pass."""

from codes.backbones import Backbone, load_backbone
from codes.datasets import load_images
from codes.extractor import CodeExtractor
from codes.images import ImageList
from codes.layers import Layer
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
