"""Options: what to read from which network, as typed on the command line or given in Python.

A new field is an option of every command that extracts: `pipelines.cli.shared_options` makes them.
"""

# Annotations are evaluated here: the command line reads them from classes derived elsewhere.

import numbers
from dataclasses import dataclass
from pathlib import Path

from codes.decoding.intensity import parse_intensity

DTYPES = ("float16", "float32")
PRECISIONS = ("float32", "bfloat16", "float16", "auto")
FREE = ("device", "batch_size", "workers", "store", "skip_unreadable")
"""Options that codes do not depend on."""


_ALLOWED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "backbone": (str, "a str, such as resnet18"),
    "weights": (str, "a str, or None"),
    "image_size": (numbers.Integral, "an int, or None"),
    "page": (numbers.Integral, "an int, or None"),
    "batch_size": (numbers.Integral, "an int, or None"),
    "workers": (numbers.Integral, "an int, or None"),
    "random_state": (numbers.Integral, "an int, 0 or more"),
}
"""Field → its types, and what is allowed in words."""


@dataclass(frozen=True, kw_only=True)
class ExtractionOptions:
    """What to read, with what, and where to keep it.

    Attributes
    ----------
    backbone : str
        A torchvision classifier, timm:NAME (a model of timm's, perhaps with the tag of its weights:
        timm:resnet50.a1_in1k), "bundled", or package.module:function: a function of your own that
        returns an nn.Module, or a tuple of it and its preprocessing, such as
        codes.Preprocessing(resize_size=256, crop_size=224, mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225)).
    weights : str, optional
        A torchvision weights name, a .pth or .safetensors state dict or checkpoint (FILE::PLACE
        where it holds several networks, such as last.pth::module.encoder_q), "none" (random: a
        control), or "default": the backbone's own, downloaded by torchvision or timm.
    image_size : int, optional
        Side of the network's input, in pixels. Default: its own.
    normalize : str, optional
        What is done to pixel values: "imagenet" (torchvision's), "none" (values in [0, 1]), "half"
        (mean and deviation 0.5), "caffe" (0 to 255 less Caffe's means, BGR), "caffe-rgb",
        MEAN:STD such as 0.5:0.25 or 0.5,0.5,0.5:0.2,0.2,0.2 (of red, green and blue; MEAN:STD:BGR
        where the network takes blue first), or "auto" (another than the network's own where the
        training images show that this is wrong). Default: the network's own.
    intensity : str, optional
        What the values of images of more than 8 bits a channel are scaled by: "image" (each image's
        own range, so that absolute brightness is lost), "dataset" (one range, found on all training
        images), LOW:HIGH such as 0:4095 (values outside are clipped), or "dtype" (integers by the
        range of their type; floats are from 0 to 1). Images of 8 bits stay as they are. Default:
        image, or what the preprocessing of a network of your own says.
    dense : bool
        Run the fully-connected layers of AlexNet and VGG as convolutions: with a larger image_size
        they give maps of codes, which are pooled.
    views : str
        What of an image is seen, its codes averaged: "center", "hflip" (and mirrored),
        "five-crop" (and the corners), "ten-crop" (and those mirrored).
    each_view : bool
        Keep the views apart, as rows of their own to train on, which stay with their image in every
        fold; a tested image answers with the average over its views.
    decode : str
        "scaled" (JPEG photographs far larger than needed are decoded at 1/2 or 1/4 of their size,
        several times as fast: crops differ by some 0.3 of 255 levels on average), or "full".
    page : int, optional
        Which page of image files with several (TIFF, GIF), from 1. Default: they are refused.
    layers : str
        "default" (the last activation of each resolution, everything after the last convolution,
        the network's own pooled features, and activations between where these are far apart; of a
        transformer, the end of every quarter of its blocks and its last normalisation), "all", or
        names and regular expressions joined by commas, each perhaps with a pooling of its
        own (conv5:avg).
    pool : str
        "grid" (at most 4096 values a layer), "grid:K", "avg", "max", "flatten", and of transformers
        "token" (the class token) or "patches" (the average of the others); several, joined by
        commas, are read in one pass, and compared as layer:pooling.
    activation : str
        "post" reads codes after the layer's non-linearity, "pre" before it.
    precision : str
        What the network computes in: "float32", "bfloat16", "float16", or "auto": bfloat16 where
        the device has it (processors with AVX512-BF16 or AMX, GPUs from NVIDIA's Ampere on),
        several times as fast, and float32 elsewhere.
    dtype : str
        What codes are stored as: "float16" or "float32".
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1", "mps".
    deterministic : bool
        Use only algorithms that give the same codes each time on the same machine, where a GPU
        has faster ones that do not.
    compile : bool
        Compile the network first: some seconds to minutes, which long runs win back.
    batch_size : int, optional
        Images that pass the network together. Default: what is fastest on the CPU, for each core a
        batch of its own; 256 on a GPU. Halved when the device's memory does not hold them.
    workers : int, optional
        Processes that decode images, 0 for this one. Default: one for every four cores on the CPU,
        all cores but one with a GPU.
    store : str or Path, optional
        Folder of the codes, or s3://bucket/prefix. Default: CNN_CODES_STORE, otherwise the user's
        cache folder.
    skip_unreadable : bool
        Go on without the images that cannot be decoded; each is named, and why.
    random_state : int
        Seed of everything that is drawn, from 0 to 4294967295.
    """

    backbone: str
    weights: str | None = None
    image_size: int | None = None
    normalize: str | None = None
    intensity: str | None = None
    dense: bool = False
    views: str = "center"
    each_view: bool = False
    decode: str = "scaled"
    page: int | None = None
    layers: str = "default"
    pool: str = "grid"
    activation: str = "post"
    precision: str = "float32"
    dtype: str = "float16"
    device: str = "auto"
    deterministic: bool = False
    compile: bool = False
    batch_size: int | None = None
    workers: int | None = None
    store: str | Path | None = None
    skip_unreadable: bool = False
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, (kinds, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                raise TypeError(
                    f"{name}={value!r} is of type {type(value).__name__}. Allowed: {allowed}."
                )
        if self.intensity is not None:
            object.__setattr__(self, "intensity", parse_intensity(self.intensity))
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision={self.precision!r} is unknown. Allowed: {', '.join(PRECISIONS)}."
            )
        if self.precision == "auto":
            from codes.inference.devices import find_device, has_bfloat16  # Here: torch is slow.

            native = has_bfloat16(find_device(self.device))
            object.__setattr__(self, "precision", "bfloat16" if native else "float32")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is unknown. Allowed: {', '.join(DTYPES)}.")
        if self.each_view and self.views == "center":
            raise ValueError(
                "each_view keeps the views of an image apart, and views='center' is one. Choose "
                "views hflip, five-crop or ten-crop."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: allowed are 1 or more.")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers={self.workers}: allowed are 0 or more.")
        if not 0 <= self.random_state < 2**32:
            raise ValueError(f"random_state={self.random_state}: allowed are 0 to {2**32 - 1}.")
