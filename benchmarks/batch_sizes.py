"""How many images should pass a network together on the CPU, and how near that is to the most.

    python benchmarks/batch_sizes.py squeezenet1_0 resnet18 vgg16

prints images a second by batch size (medians of three, the sizes in turn, nothing stored), pages of
new memory that a pass over the images asked for, and, to compare with, floating-point operations a
second of the network and of large matrix products. ``--toy`` takes seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1, 2, 4, 5, 6, 7, 8, 10, 16, 27, 43, 64)


def measured(sides: dict[int, Callable[[], Any]], repeats: int) -> dict[int, tuple[float, float]]:
    """Run the sides in turn; median seconds and pages of new memory of each."""
    import resource

    found: dict[int, list[tuple[float, int]]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, run in sides.items():
            pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if repeat:  # The first warms up.
                used = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
                found[side].append((seconds, used))
    return {
        side: (median(s for s, _ in rows), median(p for _, p in rows))
        for side, rows in found.items()
    }


def read(extractor: Any, images: Any, size: int) -> None:
    """Read codes and throw them away."""
    for _ in extractor.extract(images, batch_size=size):
        pass


def product_rate(size: int) -> float:
    """Floating-point operations a second of a product of square matrices."""
    import torch

    left, right = torch.randn(size, size), torch.randn(size, size)
    [(seconds, _)] = measured({0: lambda: left @ right}, 9).values()
    return 2 * size**3 / seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["squeezenet1_0", "resnet18"])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from codes import CodeExtractor, load_backbone
    from codes.data.images import ImageList
    from codes.data.sources import ArraySource

    toy = options.toy
    networks, sizes = (["resnet18"], (1, 2)) if toy else (options.networks, options.sizes)
    n = 4 if toy else options.images
    rate = product_rate(64 if toy else 2048)
    print(f"Matrix products: {'' if toy else f'{rate / 1e9:.0f}'} GFLOP/s\n")
    print("| network | batch | images/s | GFLOP/s | new pages |\n|---|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    for name in networks:
        backbone = load_backbone(name, weights="none", image_size=64 if toy else None)
        side = backbone.preprocessing.crop_size
        pixels = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
        images = ImageList(
            name="noise",
            source=ArraySource(pixels, name="noise"),
            labels=np.full(n, "a"),
            ignored={},
        )
        extractor = CodeExtractor(backbone, "all", pool="avg")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone.model(torch.zeros(1, 3, side, side))
        own = extractor.default_batch_size
        runs = {size: partial(read, extractor, images, size) for size in sizes}
        found = measured(runs, 1 if toy else 3)
        for size, (seconds, pages) in found.items():
            work = n * counter.get_total_flops() / seconds
            cells = f"{n / seconds:.1f} | {work / 1e9:.0f} | {pages:.0f}"
            ours = " (ours)" if size == own else ""
            print(f"| {name} | {size}{ours} | {' | | ' if toy else cells} |", flush=True)


if __name__ == "__main__":
    main()
