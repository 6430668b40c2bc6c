"""The bundled backbone: a small AlexNet-like network that has only ever seen drawn images.

It makes the demonstration and the tests work without a download. The drawings it was trained on
come from `codes.backbones.drawn_images`, the training is `codes.backbones.pretrain`, and its card
is ``weights/bundled.md``.
"""

from __future__ import annotations

import importlib.resources
from collections import OrderedDict

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

IMAGE_SIZE = 64
"""Side of the square input: shorter side resized to it (bilinear, antialias), centre crop."""

MEAN = (0.5, 0.5, 0.5)
"""Mean of each RGB channel, of values in [0, 1]; drawings of both polarities centre on grey."""

STD = (0.25, 0.25, 0.25)
"""Standard deviation of each RGB channel, of values in [0, 1]."""

N_CLASSES = 1000
"""Number of drawn classes behind the bundled weights."""

WEIGHTS_FILE = "bundled.safetensors"


def _conv(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int, norm: bool
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=not norm
    )
    if norm:
        layers["norm"] = nn.BatchNorm2d(out_channels)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _fc(in_features: int, out_features: int, *, norm: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["fc"] = nn.Linear(in_features, out_features, bias=not norm)
    if norm:
        layers["norm"] = nn.BatchNorm1d(out_features)
    layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


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
        self.conv1 = _conv(3, 48, kernel_size=5, stride=2, norm=norm)
        self.pool1 = nn.MaxPool2d(3, 2)
        self.conv2 = _conv(48, 128, kernel_size=5, stride=1, norm=norm)
        self.pool2 = nn.MaxPool2d(3, 2)
        self.conv3 = _conv(128, 192, kernel_size=3, stride=1, norm=norm)
        self.conv4 = _conv(192, 192, kernel_size=3, stride=1, norm=norm)
        self.conv5 = _conv(192, 128, kernel_size=3, stride=1, norm=norm)
        self.pool5 = nn.MaxPool2d(3, 2)
        self.flatten = nn.Flatten()
        self.fc6 = _fc(128 * 3 * 3, 512, norm=norm)
        self.fc7 = _fc(512, 512, norm=norm)
        self.classifier = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to class scores.

        Parameters
        ----------
        x : Tensor of shape (n_samples, 3, 64, 64), float
            RGB images in [0, 1], normalised by `MEAN` and `STD`.

        Returns
        -------
        Tensor of shape (n_samples, num_classes)
            Unnormalised log-probabilities.
        """
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = self.conv5(self.conv4(self.conv3(x)))
        x = self.flatten(self.pool5(x))
        scores: Tensor = self.classifier(self.fc7(self.fc6(x)))
        return scores


def fold_norm(net: BundledNet) -> BundledNet:
    """Fold batch normalisation into the weights before it.

    Parameters
    ----------
    net : BundledNet
        A network built with ``norm=True``; it is left as it is.

    Returns
    -------
    BundledNet
        A network built with ``norm=False``, in eval mode, whose outputs equal those of ``net``
        in eval mode up to rounding.
    """
    folded = BundledNet(num_classes=net.classifier.out_features)
    # The fusion functions deep-copy the layer, so `net` can go on training afterwards.
    source = net.training
    net.eval()
    for name, block in net.named_children():
        target = folded.get_submodule(name)
        if not isinstance(block, nn.Sequential):
            target.load_state_dict(block.state_dict())
            continue
        weight, norm = block[0], block[1]
        if isinstance(weight, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            target.get_submodule("conv").load_state_dict(
                fuse_conv_bn_eval(weight, norm).state_dict()
            )
        elif isinstance(weight, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
            target.get_submodule("fc").load_state_dict(
                fuse_linear_bn_eval(weight, norm).state_dict()
            )
        else:
            raise ValueError(
                f"{name} holds {type(weight).__name__} and {type(norm).__name__}; allowed: a "
                "weight layer and its batch normalisation. Build the network with norm=True."
            )
    net.train(source)
    return folded.eval()


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

    Returns
    -------
    BundledNet
        The network, with 1000 outputs.

    Examples
    --------
    >>> bundled(weights=False).conv1.conv.weight.shape
    torch.Size([48, 3, 5, 5])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        net = BundledNet()
    if weights:
        path = importlib.resources.files("codes.backbones").joinpath("weights", WEIGHTS_FILE)
        state = load(path.read_bytes())
        net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return net.eval()
