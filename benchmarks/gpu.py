"""How near to the network's own speed a GPU turns images into codes.

    python benchmarks/gpu.py --data ../shared

prints images a second, medians of five, the sides in turn, and how far the GPU's codes are from
the CPU's. ``--device`` takes another device, and ``--toy`` runs in seconds, on the CPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from extraction import ROOT, bare, batches, everyday, link_images, make_images, measure


def main() -> None:
    """Print the rates, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--workers", type=int, help="that decode; default: the machine's cores")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    from codes import CodeExtractor, load_backbone, load_images
    from codes.data.loading import load_crops
    from codes.data.sources import ArraySource

    device = "cpu" if options.toy else options.device
    network = "squeezenet1_1" if options.toy else options.network
    workers = 2 if options.toy else options.workers or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.toy:
            make_images(folder, 8)
        else:
            link_images(options.data / "data/clothing", folder, options.images)
        images = load_images(folder)
        # Whether weights are trained changes no time.
        backbone, plain, loop = (load_backbone(network, weights="none") for _ in range(3))
        how = {"precision": options.precision, "device": device}
        batch = CodeExtractor(backbone, **how).default_batch_size
        preprocessing = backbone.preprocessing
        crops = torch.stack([preprocessing.crop(images.source.open(i)) for i in range(len(images))])
        arrays = np.ascontiguousarray(crops.permute(0, 2, 3, 1).numpy())
        decoded = replace(images, source=ArraySource(arrays, name="decoded"))
        ready = replace(
            backbone, preprocessing=replace(preprocessing, resize_size=preprocessing.crop_size)
        )

        taps = [tap.layer for tap in CodeExtractor(loop).taps]
        maps = list(dict.fromkeys(layer.name for layer in taps if len(layer.shape) == 3))

        def decoders() -> None:
            loaded = load_crops(
                images, preprocessing, batch_size=batch, workers=workers, pin_memory=device != "cpu"
            )
            for load in loaded:
                load()

        sides = {
            "bare forward pass": bare(plain, crops, options.precision, batch, device),
            "ours, from decoded images": batches(decoded, ready, "default", batch, **how),
            f"ours, from files, {workers} processes": batches(
                images, backbone, "default", batch, workers=workers, **how
            ),
            f"{workers} processes that decode": decoders,
            f"the everyday loop, float32, {workers} processes": everyday(
                folder,
                loop,
                maps,
                device=device,
                workers=workers,
            ),
        }
        found = measure(sides, 1 if options.toy else 5)
        print(f"| {network}, {options.precision}, {device} | images/s |\n|---|--:|")
        for side, seconds in found.items():
            print(f"| {side} | {'' if options.toy else f'{len(images) / seconds:.0f}'} |")
        some = decoded.take(np.arange(min(16, len(decoded))))
        for precision in ("float32", options.precision):
            there, here = (
                next(
                    CodeExtractor(ready, precision=chosen, device=where).extract(
                        some, batch_size=len(some)
                    )
                ).codes
                for where, chosen in ((device, precision), ("cpu", "float32"))
            )
            away = max(
                float(np.abs(there[layer] - here[layer]).max() / np.abs(here[layer]).max())
                for layer in here
            )
            print(
                f"Codes of {device} in {precision} are up to {away:.1g} from the CPU's in float32."
            )


if __name__ == "__main__":
    main()
