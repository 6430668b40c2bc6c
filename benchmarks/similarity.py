"""How similar SqueezeNet finds photographs, scans and noise to what it was trained on.

    python benchmarks/similarity.py --data ../shared

prints the table of ``benchmarks/README.md``. ``--toy`` takes seconds and asks the bundled backbone.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from codes import load_images  # noqa: E402
from codes.datasets import list_images  # noqa: E402
from pipelines import ExtractionOptions  # noqa: E402
from pipelines.extraction import extract  # noqa: E402
from pipelines.similarity import measure_similarity  # noqa: E402


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


def make_folders(scratch: Path, data: Path | None, n: int) -> dict[str, Path]:
    """Gather n images of each kind."""
    rng = np.random.default_rng(0)
    digits = load_images("sklearn:digits")
    kinds = {
        "scanned digits": [digits.source.open(i) for i in rng.choice(len(digits), n, False)],
        "noise, 1/f": [noise(rng, 1.0) for _ in range(n)],
        "noise, white": [noise(rng, 0.0) for _ in range(n)],
    }
    if data is not None:
        files = sorted((data / "data/clothing/train").rglob("*.jpg"))
        clothing = [Image.open(files[i]) for i in rng.choice(len(files), n, False)]
        with zipfile.ZipFile(data / "data/cifar10/train.zip") as archive:
            names = [name for name in archive.namelist() if name.endswith(".jpg")]
            cifar = [
                Image.open(io.BytesIO(archive.read(names[i])))
                for i in rng.choice(len(names), n, False)
            ]
        kinds = {"photographs of clothing": clothing, "CIFAR-10, 32 pixels": cifar} | kinds
    return {
        kind: save(scratch / str(number), images)
        for number, (kind, images) in enumerate(kinds.items())
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    data = None if options.toy else options.data
    with tempfile.TemporaryDirectory() as scratch:
        backbone = ExtractionOptions(backbone="bundled", layers="fc7.relu", store=scratch)
        if data is not None:
            backbone = ExtractionOptions(
                backbone="squeezenet1_0",
                weights=str(data / "weights/squeezenet1_0-imagenet.pth"),
                layers="classifier.2",
                store=scratch,
            )
        print("| images | similarity | 95 % interval |\n|---|---|---|")
        n = 8 if options.toy else 200
        for kind, folder in make_folders(Path(scratch), data, n).items():
            found = measure_similarity(extract(list_images([folder]), backbone))
            print(f"| {kind} | {found.value:.2f} | {found.ci_low:.2f} – {found.ci_high:.2f} |")


if __name__ == "__main__":
    main()
