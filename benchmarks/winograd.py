"""What Winograd's convolutions save, and what they cost in rounding.

    python benchmarks/winograd.py

prints, for 3×3 convolutions as networks have them, how many times as fast ours is as oneDNN's on
weights that are laid out for it, one batch on each core (medians of nine, the sides in turn), and
the largest error of each, against float64, as a share of the largest value. ``--toy``: seconds.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from batch_sizes import measured

ROOT = Path(__file__).resolve().parents[1]

# Network, channels in and out, side of the maps, images in a batch (the extractor's own).
LAYERS = [
    ("ResNet-18, layer1", 64, 64, 56, 6),
    ("ResNet-18, layer2", 128, 128, 28, 6),
    ("ResNet-18, layer3", 256, 256, 14, 6),
    ("ResNet-18, layer4", 512, 512, 7, 6),
    ("VGG-16, features.2", 64, 64, 224, 1),
    ("VGG-16, features.7", 128, 128, 112, 1),
    ("VGG-16, features.12", 256, 256, 56, 1),
    ("VGG-16, features.19", 512, 512, 28, 1),
    ("VGG-16, features.26", 512, 512, 14, 1),
    ("AlexNet, features.8", 384, 256, 13, 27),
    ("GoogLeNet, inception3a", 96, 128, 28, 6),
    ("ResNet-18, layer4, one image", 512, 512, 7, 1),
    ("too few channels: SqueezeNet, fire4", 32, 128, 54, 4),
    ("too few channels: DenseNet", 128, 32, 28, 6),
    ("maps too small for tiles", 256, 256, 3, 16),
]
REPEATS = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    toy = parser.parse_args().toy
    sys.path.insert(0, str(ROOT))
    import torch
    from torch import nn

    from codes.inference.tuning import _PackedConvolution
    from codes.inference.winograd import WinogradConvolution

    n_lanes = torch.get_num_threads()

    def run(convolution: nn.Module, maps: torch.Tensor) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            for _ in range(1 if toy else REPEATS):
                convolution(maps)

    print("| convolution | in → out | maps | images | times as fast | error | oneDNN's |")
    print("|---|---|---|--:|--:|--:|--:|")
    torch.manual_seed(0)
    with ThreadPoolExecutor(n_lanes) as pool:
        for name, n_in, n_out, side, n in LAYERS[3:4] if toy else LAYERS:
            conv = nn.Conv2d(n_in, n_out, 3, padding=1).requires_grad_(False)
            # As maps are that a ReLU leaves behind.
            maps = torch.randn(n, n_in, side, side).relu()
            maps = maps.contiguous(memory_format=torch.channels_last)
            sides = [WinogradConvolution(conv), _PackedConvolution(conv)]
            exact = nn.functional.conv2d(
                maps[:1].double(), conv.weight.double(), conv.bias.double(), padding=1
            )
            with torch.inference_mode():
                off = [(one(maps[:1]) - exact).abs().max() / exact.abs().max() for one in sides]
                sides[1] = _PackedConvolution(conv)  # Laid out for all of the images.

            def lanes(convolution: nn.Module, maps: torch.Tensor) -> None:
                list(pool.map(run, [convolution] * n_lanes, [maps] * n_lanes))

            runs = {i: partial(lanes, side, maps) for i, side in enumerate(sides)}
            seconds = measured(runs, 1 if toy else 9)
            faster = seconds[1][0] / seconds[0][0]
            cells = f"{faster:.2f} | {off[0]:.0e} | {off[1]:.0e}"
            print(
                f"| {name} | {n_in} → {n_out} | {side}×{side} | {n} | "
                f"{' | | ' if toy else cells} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
