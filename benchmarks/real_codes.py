"""Real codes to measure on: CIFAR-10 through SqueezeNet 1.0 with ImageNet weights.

    python benchmarks/real_codes.py --data ../shared

takes some minutes and keeps them in a temporary folder, where the other benchmarks find them (and
make them if need be): the maps of fire9 (500 × 86,528), fire5 on a 6×6 grid (2,000 × 9,216) and on
a 4×4 grid (10,000 × 4,096), fire9 averaged (1,000 × 512). ``--toy`` makes small ones of noise.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
N_IMAGES = 10_000


def default_folder(toy: bool) -> Path:
    """Where codes are kept unless --cache says otherwise."""
    return Path(tempfile.gettempdir()) / (
        "cnn-codes-benchmark-toy" if toy else "cnn-codes-benchmark"
    )


def make_codes(folder: Path, data: Path, *, toy: bool) -> None:
    """Write the codes, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if toy:
        toy_codes(folder)
    elif not (folder / "grid4.npy").exists():
        real_codes(folder, data, N_IMAGES)


def toy_codes(folder: Path) -> None:
    """Write made codes, wide and narrow."""
    rng = np.random.default_rng(0)
    for name, n, d in (("wide", 60, 2000), ("narrow", 200, 50)):
        y = np.arange(n) % 4
        X = rng.normal(size=(4, d))[y] + 3 * rng.normal(size=(n, d))
        np.save(folder / f"{name}.npy", np.maximum(X, 0).astype(np.float32))
        np.save(folder / f"{name}-labels.npy", y)


def real_codes(folder: Path, data: Path, n_images: int) -> None:
    """Write the codes of CIFAR-10's first training images, the classes in turn."""
    import torch
    from PIL import Image
    from torch.nn.functional import adaptive_avg_pool2d
    from torchvision.models import SqueezeNet1_0_Weights, squeezenet1_0
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.set_num_threads(1)
    net = squeezenet1_0()
    weights = data / "weights/squeezenet1_0-imagenet.pth"
    net.load_state_dict(torch.load(weights, weights_only=True))
    nodes = {"features.7.cat": "fire5", "features.12.cat": "fire9"}
    tap = create_feature_extractor(net.eval(), nodes)
    transform = SqueezeNet1_0_Weights.IMAGENET1K_V1.transforms()
    shapes = {"maps": (500, 86_528), "grid6": (2000, 9216), "average": (1000, 512)}
    shapes["grid4"] = (n_images, 4096)
    out = {k: np.zeros((min(n, n_images), d), np.float32) for k, (n, d) in shapes.items()}
    with zipfile.ZipFile(data / "data/cifar10/train.zip") as archive, torch.inference_mode():
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        classes = sorted({name.split("/")[1] for name in names})
        by_class = [sorted(x for x in names if x.split("/")[1] == c) for c in classes]
        labels = np.arange(n_images) % len(classes)
        for i, label in enumerate(labels):
            raw = archive.read(by_class[label][i // len(classes)])
            maps = tap(transform(Image.open(io.BytesIO(raw)).convert("RGB"))[None])
            codes = {
                "maps": maps["fire9"],
                "grid6": adaptive_avg_pool2d(maps["fire5"], 6),
                "average": maps["fire9"].mean((2, 3)),
                "grid4": adaptive_avg_pool2d(maps["fire5"], 4),
            }
            for name, value in codes.items():
                if i < len(out[name]):
                    out[name][i] = value.flatten().numpy()
    for name, array in out.items():
        np.save(folder / f"{name}-labels.npy", labels[: len(array)])
        np.save(folder / f"{name}.npy", array)


def main() -> None:
    """Make the codes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--cache", type=Path, help="where codes are kept")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    folder = options.cache or default_folder(options.toy)
    make_codes(folder, options.data, toy=options.toy)
    for path in sorted(folder.glob("*.npy")):
        print(path, np.load(path, mmap_mode="r").shape)


if __name__ == "__main__":
    main()
