"""A small residual network trained on CIFAR-10, for benchmarks that need one with real weights.

    python benchmarks/cifar_resnet.py --data ../shared --out /tmp/cifar_resnet.safetensors

About a quarter of an hour on one core; prints the accuracy on the test images.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, ResNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def network() -> ResNet:
    """Make a ResNet of eight blocks for images of 32 pixels and ten classes; random weights."""
    model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    narrow(model, 4)
    return model


def narrow(model: nn.Module, factor: int) -> None:
    """Divide the channels of every layer, in place."""
    for name, child in list(model.named_children()):
        if isinstance(child, nn.Conv2d):
            width = child.in_channels if child.in_channels == 3 else child.in_channels // factor
            shape = child.kernel_size, child.stride, child.padding
            new: nn.Module = nn.Conv2d(width, child.out_channels // factor, *shape, bias=False)
        elif isinstance(child, nn.BatchNorm2d):
            new = nn.BatchNorm2d(child.num_features // factor)
        elif isinstance(child, nn.Linear):
            new = nn.Linear(child.in_features // factor, child.out_features)
        else:
            narrow(child, factor)
            continue
        setattr(model, name, new)


def read(archive: Path) -> tuple[Tensor, Tensor]:
    """Read images of shape (n, 3, 32, 32), normalised, and labels."""
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".jpg"))
        classes = sorted({Path(name).parent.name for name in names})
        pixels = np.stack([np.asarray(Image.open(files.open(name))) for name in names])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std, torch.tensor(
        [classes.index(Path(name).parent.name) for name in names]
    )


def train(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int) -> None:
    """Train with SGD, mirrored and shifted images, one cycle of the learning rate."""
    steps = epochs * (len(images) // 128)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.2, total_steps=steps)
    for step in range(steps):
        if step % (len(images) // 128) == 0:
            order = torch.randperm(len(images))
        rows = order[(step * 128) % (len(images) // 128 * 128) :][:128]
        batch = F.pad(images[rows], (4, 4, 4, 4))
        top, left = torch.randint(0, 9, (2,)).tolist()
        batch = batch[:, :, top : top + 32, left : left + 32]
        batch = batch.flip(3) if step % 2 else batch
        loss = F.cross_entropy(model(batch.to(memory_format=torch.channels_last)), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Train, test, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("cifar_resnet.safetensors"))
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--toy", action="store_true", help="two steps on noise; nothing is saved")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = network().to(memory_format=torch.channels_last)
    if options.toy:
        train(model, torch.randn(256, 3, 32, 32), torch.randint(0, 10, (256,)), epochs=3)
        return
    train(model, *read(options.data / "data/cifar10/train.zip"), epochs=options.epochs)
    model.eval()
    images, labels = read(options.data / "data/cifar10/test.zip")
    with torch.inference_mode():
        right = [
            (model(images[i : i + 500]).argmax(1) == labels[i : i + 500]).float().sum()
            for i in range(0, len(images), 500)
        ]
    print(f"test accuracy {float(sum(right)) / len(labels):.3f}")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, options.out)


if __name__ == "__main__":
    main()
