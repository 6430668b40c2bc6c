"""The bundled backbone: a small AlexNet-like network that has only ever seen drawn images.

It makes the demonstration and the tests work without a download. The drawings it was trained on
come from `codes.backbones.drawn_images`, the training is `codes.backbones.pretrain`, and its card
is ``weights/bundled.md``.
"""

from __future__ import annotations

import importlib.resources
from collections import OrderedDict
from copy import deepcopy
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from codes.backbones.random_weights import seeded

IMAGE_SIZE = 64
"""Side of the square input: shorter side resized to it (bilinear, antialias), centre crop."""

MEAN = (0.5, 0.5, 0.5)
"""Mean of each RGB channel, of values in [0, 1]; drawings of both polarities centre on grey."""

STD = (0.25, 0.25, 0.25)
"""Standard deviation of each RGB channel, of values in [0, 1]."""

N_CLASSES = 1000
"""Number of drawn classes behind the bundled weights."""

WEIGHTS_FILE = "bundled.safetensors"


def _block(name: str, layer: nn.Module, norm: nn.Module | None) -> nn.Sequential:
    layers = OrderedDict({name: layer})
    if norm is not None:
        layers["norm"] = norm
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _conv(n_in: int, n_out: int, size: int, *, stride: int = 1, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=not norm)
    return _block("conv", convolution, nn.BatchNorm2d(n_out) if norm else None)


def _fc(n_in: int, n_out: int, *, norm: bool) -> nn.Sequential:
    linear = nn.Linear(n_in, n_out, bias=not norm)
    return _block("fc", linear, nn.BatchNorm1d(n_out) if norm else None)


class BundledNet(nn.Module):
    """A small AlexNet (Krizhevsky et al., 2012) for 64×64 images.

    The activation outputs in forward order, for one image:

    ==========  ============
    conv1.relu  (48, 32, 32)
    conv2.relu  (128, 15, 15)
    conv3.relu  (192, 7, 7)
    conv4.relu  (192, 7, 7)
    conv5.relu  (128, 7, 7)
    fc6.relu    (512,)
    fc7.relu    (512,)
    ==========  ============

    Parameters
    ----------
    num_classes : int, default=1000
        Number of outputs of the last linear layer, ``classifier``; at least 1.
    norm : bool, default=False
        Put batch normalisation between each weight layer and its ReLU. Training needs it; the
        shipped network has it folded into the weights, see `fold_norm`.

    Examples
    --------
    >>> import torch
    >>> BundledNet(num_classes=10)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    def __init__(self, *, num_classes: int = N_CLASSES, norm: bool = False) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; allowed: 1 or more.")
        self.conv1 = _conv(3, 48, 5, stride=2, norm=norm)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.conv2 = _conv(48, 128, 5, norm=norm)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.conv3 = _conv(128, 192, 3, norm=norm)
        self.conv4 = _conv(192, 192, 3, norm=norm)
        self.conv5 = _conv(192, 128, 3, norm=norm)
        self.pool5 = nn.MaxPool2d(3, 2)
        self.flatten = nn.Flatten()
        self.fc6 = _fc(128 * 3 * 3, 512, norm=norm)
        self.fc7 = _fc(512, 512, norm=norm)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, shape (n, 3, 64, 64), normalised by `MEAN` and `STD`, to class scores."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = self.conv5(self.conv4(self.conv3(x)))
        x = self.flatten(self.pool5(x))
        scores: Tensor = self.classifier(self.fc7(self.fc6(x)))
        return scores


def fold_norm(net: BundledNet) -> BundledNet:
    """Fold batch normalisation into the weights before it.

    The network, built with ``norm=True``, is left as it is; what is returned is as if built with
    ``norm=False``, in eval mode, and has the same outputs up to rounding.
    """
    folded = deepcopy(net).eval()
    for name, block in folded.named_children():
        if not isinstance(block, nn.Sequential):
            continue
        norm: Any = block._modules.pop("norm", None)
        if norm is None:
            raise ValueError(f"{name} has no batch normalisation; build it with norm=True.")
        fuse: Any = fuse_conv_bn_eval if isinstance(block[0], nn.Conv2d) else fuse_linear_bn_eval
        block[0] = fuse(block[0], norm)
    return folded


def bundled(*, weights: bool = True, random_state: int = 0) -> BundledNet:
    """Return the bundled backbone in eval mode.

    Parameters
    ----------
    weights : bool, default=True
        Load the pretrained weights from the package (float16 on disk, float32 in memory).
        Otherwise the weights are random: a control.
    random_state : int, default=0
        Seed of the random weights; the global random state is left untouched. Not used with
        ``weights=True``.

    Examples
    --------
    >>> bundled(weights=False).conv1.conv.weight.shape
    torch.Size([48, 3, 5, 5])
    """
    net = seeded(BundledNet, random_state)
    if weights:
        path = importlib.resources.files("codes.backbones").joinpath("weights", WEIGHTS_FILE)
        state = load(path.read_bytes())
        net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return net.eval()
