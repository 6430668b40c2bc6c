"""What tuning a network for the CPU saves: PyTorch's own convolutions, packed ones, ours, compiled.

    python benchmarks/tuning.py squeezenet1_0 resnet18 resnet50 mobilenet_v2

prints images a second of the thread's own time and, in brackets, how many times as fast that is as
PyTorch's own: one thread, a batch of the extractor's own size, all layers averaged (medians of
nine, the sides in turn); and the seconds by the clock that the first two batches take compiled.
*Packed* are all convolutions whose weights are laid out for oneDNN once; *ours* is what the
extractor does; *compiled* is ``--compile``. ``--toy`` takes seconds, and compiles nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = "float32", "bfloat16"
SIDES = "PyTorch's own", "packed", "ours", "compiled"
CALLS = 3


def pack(network: Any) -> None:
    """Pack each convolution, in any precision."""
    import torch
    from torch import nn

    from codes.inference.tuning import _Calls, _PackedConvolution

    class Packed(_PackedConvolution):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return super().forward(maps.to(dtype))

    calls = _Calls(network)
    for node in network.graph.nodes:
        conv = calls.plain(node, nn.Conv2d)
        if conv is not None and conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
            dtype = conv.weight.dtype
            network.set_submodule(node.target, Packed(conv))


def prepared(backbone: Any, precision: str, side: str) -> partial[Any]:
    """Prepare a network; what runs one batch."""
    import torch

    from codes import CodeExtractor
    from codes.inference.tuning import prepare_convolutions

    how = {SIDES[0]: lambda _: None, SIDES[1]: pack}.get(side, prepare_convolutions)
    compiled = side == SIDES[3]
    extractor = CodeExtractor(backbone, "all", pool="avg", precision=precision, compile=compiled)
    with patch("codes.inference.reading.prepare_convolutions", how):
        _ = extractor._reader
    crop = backbone.preprocessing.crop_size
    n = extractor.default_batch_size
    pixels = torch.randint(256, (n, 3, crop, crop), dtype=torch.uint8)
    return partial(extractor, pixels)


def measured(runs: list[partial[Any]], repeats: int) -> list[float]:
    """Run the sides in turn; median seconds of this thread, whatever else the machine does."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, found, strict=True):
            start = time.thread_time()
            for _ in range(CALLS):
                run()
            seconds.append((time.thread_time() - start) / CALLS)
    return [median(seconds) for seconds in found]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["squeezenet1_0", "resnet18"])
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from codes import load_backbone

    toy = options.toy
    torch.set_num_threads(1)
    sides = SIDES[:3] if toy else SIDES
    print(f"| network | precision | batch | {' | '.join(sides)} | first two batches, compiled |")
    print("|---|---|--:|" + "--:|" * (len(sides) + 1))
    for name in ["resnet18"] if toy else options.networks:
        backbone = load_backbone(name, weights="none", image_size=64 if toy else None)
        for precision in options.precision or PRECISIONS:
            runs = [prepared(backbone, precision, side) for side in sides]
            first = []
            for run in runs:
                start = time.perf_counter()
                for _ in range(2):
                    run()
                first.append(time.perf_counter() - start)
            seconds = measured(runs, 1 if toy else 9)
            n = len(runs[0].args[0])
            cells = [f"{n / s:.0f} ({seconds[0] / s:.2f})" for s in seconds]
            said = [""] * (len(sides) + 1) if toy else [*cells, f"{first[-1]:.0f} s"]
            print(f"| {name} | {precision} | {n} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
