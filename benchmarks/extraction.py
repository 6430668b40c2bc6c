"""How near to the network's own speed images become codes, and how far beyond what people use.

    python benchmarks/extraction.py --data ../shared [--thingsvision /path/to/python]

prints the table of ``benchmarks/README.md``: images a second, medians of five, the sides in turn.
``--thingsvision`` names a Python in whose environment thingsvision is installed, ``--precision``
one of the two, for CPUs that only imitate bfloat16, and ``--compiled`` adds ours compiled.
``--toy`` takes seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EVERYDAY_BATCH = 32
PRECISIONS = "float32", "bfloat16"
NETWORKS = {
    "squeezenet1_0": "features.3.cat,features.5.cat,features.8.cat,features.12.cat,classifier.2",
    "resnet18": "relu,layer1.1.relu_1,layer2.1.relu_1,layer3.1.relu_1,layer4.1.relu_1",
}
# The modules whose outputs thingsvision hooks: as deep, and as large.
MODULES = {
    "squeezenet1_0": ["features.3", "features.5", "features.8", "features.12", "classifier.2"],
    "resnet18": ["relu", "layer1.1", "layer2.1", "layer3.1", "layer4.1"],
}


def make_images(folder: Path, n: int) -> Path:
    """Draw images for a toy run."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(n):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i}.jpg")
    return folder


def link_images(source: Path, folder: Path, n: int) -> None:
    """Link to the first n photographs, in class folders."""
    files = sorted(source.rglob("*.jpg"), key=lambda file: file.name)[:n]
    for file in files:
        (folder / file.parent.name).mkdir(exist_ok=True)
        (folder / file.parent.name / file.name).symlink_to(file.resolve())


def bare(
    backbone: Any, crops: Any, precision: str, batch: int, device: str = "cpu"
) -> Callable[[], None]:
    """Run the whole network on tensors that are ready there, and throw the answers away."""
    import torch

    from codes.extractor import PRECISIONS

    kind = torch.device(device).type
    model = backbone.model.to(device, memory_format=torch.channels_last)
    batches = [
        backbone.preprocessing.normalize(part.to(device)).to(memory_format=torch.channels_last)
        for part in crops.split(batch)
    ]

    def run() -> None:
        enabled = precision != "float32"
        with torch.inference_mode(), torch.autocast(kind, PRECISIONS[precision], enabled=enabled):
            for batch in batches:
                model(batch)
        if kind == "cuda":
            torch.cuda.synchronize()

    return run


def ours(images: Any, backbone: Any, name: str, precision: str, batch: int) -> Callable[[], None]:
    """Fill a new store."""
    from pipelines import ExtractionOptions
    from pipelines.extraction.extract import extract

    def run() -> None:
        with tempfile.TemporaryDirectory() as store:
            options = ExtractionOptions(
                backbone=name, layers=NETWORKS[name], precision=precision, batch_size=batch,
                store=store, device="cpu",
            )  # fmt: skip
            done = extract(images, options, backbone=backbone)
            assert done.n_extracted == len(images)

    return run


def batches(
    images: Any, backbone: Any, layers: str, batch: int, *, workers: int = 0, **options: Any
) -> Callable[[], None]:
    """Read codes and throw them away; compiling, where it is asked for, is the warming up."""
    from codes import CodeExtractor

    extractor = CodeExtractor(backbone, layers, **options)

    def run() -> None:
        for _ in extractor.extract(images, batch_size=batch, workers=workers):
            pass

    return run


def everyday(
    folder: Path, backbone: Any, layers: list[str], *, device: str = "cpu", workers: int = 2
) -> Callable[[], None]:
    """Loop as people write it."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.models.feature_extraction import create_feature_extractor

    from codes.graph.pooling import resolve_pooling

    model = backbone.model.to(device, memory_format=torch.contiguous_format)
    extractor = create_feature_extractor(model, layers)
    shapes = {layer.name: layer.shape for layer in backbone.layers}
    grids = {n: resolve_pooling("grid", shapes[n]).removeprefix("grid:") for n in layers}
    sides = {n: int(grid) if grid.isdigit() else 1 for n, grid in grids.items()}
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def run() -> None:
        rows: dict[str, list[Any]] = {layer: [] for layer in layers}
        loader = DataLoader(ImageFolder(folder, transform), EVERYDAY_BATCH, num_workers=workers)
        with torch.no_grad():
            for batch, _ in loader:
                for layer, maps in extractor(batch.to(device)).items():
                    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, sides[layer])
                    rows[layer].append(pooled.flatten(1).cpu().numpy())
        for parts in rows.values():
            np.concatenate(parts)

    return run


def thingsvision(python: str, folder: Path, name: str, weights: Path | None) -> Callable[[], float]:
    """Have thingsvision's own environment time it; seconds."""

    def run() -> float:
        words = [python, __file__, "--as-thingsvision", str(folder), "--network", name]
        words += ["--weights", str(weights)] if weights else []
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found: float = json.loads(done.stdout.splitlines()[-1])
        return found

    return run


def as_thingsvision(folder: Path, name: str, weights: Path | None) -> float:
    """Extract five layers into memory with thingsvision; seconds."""
    import torch
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(
        model_name=name, source="torchvision", device="cpu", pretrained=False,
        **({"model_path": str(weights)} if weights else {}),
    )  # fmt: skip
    torch.set_grad_enabled(False)
    start = time.perf_counter()
    dataset = ImageDataset(
        root=str(folder), out_path=tempfile.mkdtemp(), backend=extractor.get_backend(),
        transforms=extractor.get_transformations(),
    )  # fmt: skip
    backend = extractor.get_backend()
    batches = DataLoader(dataset=dataset, batch_size=EVERYDAY_BATCH, backend=backend)
    features = extractor.extract_features(
        batches=batches, module_names=MODULES[name], flatten_acts=True, output_type="ndarray"
    )
    assert len(features) == len(MODULES[name])
    return time.perf_counter() - start


def measure(sides: dict[str, Callable[[], float | None]], repeats: int) -> dict[str, float]:
    """Run the sides in turn; median seconds of each."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 1):
        for side, run in sides.items():
            start = time.perf_counter()
            found = run()
            if repeat:  # The first warms up.
                seconds[side].append(found or time.perf_counter() - start)
    return {side: median(values) for side, values in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--thingsvision", metavar="PYTHON")
    parser.add_argument("--as-thingsvision", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--batch", type=int, help="of ours and the bare pass; default: ours")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--compiled", action="store_true", help="ours compiled too")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if options.as_thingsvision is not None:
        print(as_thingsvision(options.as_thingsvision, options.network, options.weights))
        return
    sys.path.insert(0, str(ROOT))
    import torch

    from codes import CodeExtractor, load_backbone, load_images
    from codes.data.sources import ArraySource

    repeats = 1 if options.toy else options.repeats
    names = [options.network] if options.network else list(NETWORKS)[: 1 if options.toy else None]
    file = None if options.toy else options.data / "weights/squeezenet1_0-imagenet.pth"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.toy:
            make_images(folder, 40)
        else:
            link_images(options.data / "data/clothing", folder, options.images)
        images = load_images(folder)
        print(
            "| network | side | images/s | ours over it, float32 | bfloat16 |"
            "\n|---|---|---|---|---|"
        )
        for name in names:
            # Whether weights are trained changes no time.
            weights = file if name == "squeezenet1_0" else None
            backbone, plain = (load_backbone(name, weights=weights or "none") for _ in range(2))
            ready = replace(
                backbone, preprocessing=replace(backbone.preprocessing, resize_size=224)
            )
            crop, source = backbone.preprocessing.crop, images.source
            crops = torch.stack([crop(source.open(i)) for i in range(len(images))])
            arrays = np.ascontiguousarray(crops.permute(0, 2, 3, 1).numpy())
            decoded = replace(images, source=ArraySource(arrays, name="decoded"))
            sides: dict[str, Any] = {}
            for precision in options.precision or PRECISIONS:
                extractor = CodeExtractor(backbone, NETWORKS[name], precision=precision)
                batch = options.batch or extractor.default_batch_size
                sides[f"bare forward pass, {precision}"] = bare(backbone, crops, precision, batch)
                for compiled in (False, True)[: 1 + options.compiled]:
                    said = ", compiled" if compiled else ""
                    sides[f"ours from decoded images, nothing stored{said}, {precision}"] = batches(
                        decoded, ready, NETWORKS[name], batch,
                        precision=precision, compile=compiled,
                    )  # fmt: skip
                sides[f"ours from decoded images, {precision}"] = ours(
                    decoded, ready, name, precision, batch
                )
                sides[f"ours from files, {precision}"] = ours(
                    images, backbone, name, precision, batch
                )
            sides["the everyday loop, float32"] = everyday(folder, plain, NETWORKS[name].split(","))
            if options.thingsvision:
                sides["thingsvision, float32"] = thingsvision(
                    options.thingsvision, folder, name, weights
                )
            found = measure(sides, repeats)
            for side, seconds in found.items():
                rate = "" if options.toy else f"{len(images) / seconds:.0f}"
                print(
                    f"| {name} | {side} | {rate} | {' | '.join(ratios(side, found))} |", flush=True
                )


def ratios(side: str, seconds: dict[str, float]) -> list[str]:
    """Divide a side's time by ours, at each precision that it is compared with."""
    if side.startswith("ours"):
        return ["", ""]
    start = "decoded images" if side.startswith("bare") else "files"
    return [
        f"{seconds[side] / seconds[f'ours from {start}, {precision}']:.2f}"
        if f"ours from {start}, {precision}" in seconds
        and (not side.startswith("bare") or side.endswith(precision))
        else ""
        for precision in PRECISIONS
    ]


if __name__ == "__main__":
    main()
