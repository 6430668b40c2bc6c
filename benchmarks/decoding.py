"""How fast photographs become the pixels that a network sees, and codes of large ones.

    python benchmarks/decoding.py --data ../shared

prints images a second, medians of five, the sides in turn: decoding, resizing and cropping on one
core, of photographs of clothing as they are and of the same at 12 megapixels, against Pillow with
torchvision's transforms; what the pipeline hands to a network that costs nothing; and the large
photographs from files to the store, against the loop that people write. ``--photographs FOLDER``
takes other large ones (class folders of JPEG files). ``--toy`` takes seconds.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from extraction import NETWORKS, ROOT, everyday, link_images, make_images, measure, ours

LARGE = 4000, 3000


def enlarge(source: Path, folder: Path, size: tuple[int, int]) -> Path:
    """Make photographs of as many pixels as a phone's, with a little noise, as sensors have."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for file in sorted(source.rglob("*.jpg")):
        with Image.open(file) as image:
            large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(large) + rng.normal(0, 3, (size[1], size[0], 1))
        to = folder / file.parent.name / file.name
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(to, quality=90)
    return folder


def by_pillow(content: bytes) -> Any:
    """Decode, resize and crop as torchvision's transforms do with Pillow's images."""
    from PIL import Image
    from torchvision.transforms import functional as F

    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.asarray(F.center_crop(F.resize(image, [256], antialias=True), [224]))


def by_us(decode: str) -> Callable[[bytes], Any]:
    """Do the same with what an extractor uses."""
    from codes import Preprocessing
    from codes.decoding.decode import decode as decoded

    steps = Preprocessing(decode=decode)

    def crop(content: bytes) -> Any:
        pixels = decoded(lambda: io.BytesIO(content), decoding=steps.decoding)
        return steps.crops(pixels)[0].permute(1, 2, 0).numpy()

    return crop


def decoding(name: str, folder: Path, repeats: int, *, toy: bool) -> None:
    """Print the rates of one kind of photograph, and how far pixels are from Pillow's."""
    contents = [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))]
    ways = {"Pillow": by_pillow, "full": by_us("full"), "scaled": by_us("scaled")}

    def all_of(way: Callable[[bytes], Any]) -> Callable[[], None]:
        return lambda: [way(content) for content in contents] and None

    found = measure({side: all_of(way) for side, way in ways.items()}, repeats)
    for side, way in ways.items():
        rate = "" if toy else f"{len(contents) / found[side]:.0f}"
        ratio = "" if toy else f"{found['Pillow'] / found[side]:.2f}"
        away = [np.abs(way(c).astype(int) - by_pillow(c)) for c in contents[:50]]
        mean, most = np.mean([a.mean() for a in away]), max(a.max() for a in away)
        print(f"| {name} | {side} | {rate} | {ratio} | {mean:.3f} | {most} |", flush=True)


def handing_over(n: int, repeats: int, *, toy: bool) -> None:
    """Print how many crops a second reach a network, from images that are decoded."""
    from codes import ImageList, Preprocessing
    from codes.data.images import digest_images
    from codes.data.loading import load_crops
    from codes.data.sources import ArraySource

    pixels = np.random.default_rng(0).integers(0, 256, (n, 224, 224, 3), np.uint8)
    images = ImageList(
        name="decoded", source=ArraySource(pixels, name=""), labels=np.repeat("a", n), ignored={}
    )
    digests = digest_images(images)

    def run() -> None:
        for load in load_crops(
            images, Preprocessing(resize_size=224), batch_size=256, workers=0, pin_memory=False,
            digests=digests,
        ):  # fmt: skip
            load()

    seconds = measure({"crops": run}, repeats)["crops"]
    print(f"\nDecoded crops handed to a network: {'' if toy else f'{n / seconds:.0f}'} a second")


def large_to_store(folder: Path, weights: Path | None, repeats: int, *, toy: bool) -> None:
    """Print how large photographs become codes in the store, and in the everyday loop."""
    from codes import CodeExtractor, load_backbone, load_images

    print("\n| network | side | images/s | ours over it |\n|---|---|--:|--:|")
    images = load_images(folder)
    for name in list(NETWORKS)[: 1 if toy else None]:
        given = weights if name == "squeezenet1_0" else None  # Trained or not changes no time.
        backbone, plain = (load_backbone(name, weights=given or "none") for _ in range(2))
        batch = CodeExtractor(backbone, NETWORKS[name]).default_batch_size
        full = replace(backbone, preprocessing=replace(backbone.preprocessing, decode="full"))
        sides: dict[str, Any] = {
            "ours": ours(images, backbone, name, "float32", batch),
            "ours, --decode full": ours(images, full, name, "float32", batch),
            "ours, --precision auto": ours(images, backbone, name, "auto", batch),
            "the everyday loop, float32": everyday(folder, plain, NETWORKS[name].split(",")),
        }
        found = measure(sides, repeats)
        for side, seconds in found.items():
            rate = "" if toy else f"{len(images) / seconds:.1f}"
            ratio = "" if toy else f"{seconds / found['ours']:.2f}"
            print(f"| {name} | {side} | {rate} | {ratio} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--images", type=int, default=60, help="large ones")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    import torch

    toy, repeats = options.toy, 1 if options.toy else options.repeats
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as scratch:
        small, few = Path(scratch) / "small", Path(scratch) / "few"
        if toy:
            make_images(small, 4)
            make_images(few, 4)
        else:
            for folder, n in ((small, 300), (few, options.images)):
                folder.mkdir()
                link_images(options.data / "data/clothing", folder, n)
        size = (2000, 1500) if toy else LARGE
        large = options.photographs or enlarge(few, Path(scratch) / "large", size)
        torch.set_num_threads(1)
        print("| photographs | decoded | images/s | times Pillow | levels away | at most |")
        print("|---|---|--:|--:|--:|--:|")
        decoding("small", small, repeats, toy=toy)
        decoding("large", large, repeats, toy=toy)
        handing_over(64 if toy else 4096, repeats, toy=toy)
        torch.set_num_threads(threads)
        weights = None if toy else options.data / "weights/squeezenet1_0-imagenet.pth"
        large_to_store(large, weights, repeats, toy=toy)


if __name__ == "__main__":
    main()
