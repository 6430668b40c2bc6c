"""What tuning a network for the CPU saves: PyTorch's own convolutions, packed ones, ours, compiled.

    python benchmarks/tuning.py squeezenet1_0 resnet18 resnet50 mobilenet_v2

prints images a second and, in brackets, how many times as fast that is as PyTorch's own: one
thread, a batch of the extractor's own size, all layers averaged (medians of nine, the sides in
turn); and the seconds that compiling and the first two batches take. *Packed* are all convolutions
whose weights are laid out for oneDNN once; *ours* is what the extractor does; *compiled* is
``--compile``. ``--toy`` takes seconds, and compiles nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from batch_sizes import measured

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


def prepared(backbone: Any, precision: str, side: str) -> Callable[[], Any]:
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


def repeated(run: Callable[[], Any], times: int) -> None:
    """Run several batches."""
    for _ in range(times):
        run()


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
            runs = {at: prepared(backbone, precision, side) for at, side in enumerate(sides)}
            start = time.perf_counter()
            repeated(runs[len(sides) - 1], 2)
            first = time.perf_counter() - start
            calls = 1 if toy else CALLS
            batches = {at: partial(repeated, run, calls) for at, run in runs.items()}
            n = len(runs[0].args[0])  # type: ignore[attr-defined]
            seconds = [s for s, _ in measured(batches, 1 if toy else 9).values()]
            cells = [f"{calls * n / s:.0f} ({seconds[0] / s:.2f})" for s in seconds]
            said = [*cells, f"{first:.0f} s"] if not toy else [""] * (len(sides) + 1)
            print(f"| {name} | {precision} | {n} | {' | '.join(said)} |", flush=True)


if __name__ == "__main__":
    main()
