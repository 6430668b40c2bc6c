"""Memory of an extraction against the number of images: it must not grow with it.

``python benchmarks/memory.py [--dataset ARCHIVE]`` extracts the codes of the bundled backbone from
few and from many images of a zip archive, each in a process of its own, and prints the peak memory
of both. Without an archive, images of noise are drawn.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from PIL import Image

CHILD = """
import resource, sys
from codes import load_images
from pipelines import ExtractionOptions
from pipelines.extraction.extract import extract
dataset, store = sys.argv[1:]
done = extract(
    load_images(dataset),
    ExtractionOptions(backbone="bundled", layers="all", workers=0, store=store),
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(done.images), peak, sum(done.seconds.values()))
"""


def draw_images(n_images: int) -> Iterator[tuple[str, bytes]]:
    """Draw distinct images of two classes: their names, and their files' content."""
    rng = np.random.default_rng(0)
    for i in range(n_images):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=0)
        yield f"{i % 2}/{i}.png", file.getvalue()


def images_of(dataset: Path, n_images: int) -> Iterator[tuple[str, bytes]]:
    """Take images of a zip archive, evenly from its list."""
    with zipfile.ZipFile(dataset) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) < n_images:
            raise ValueError(f"{str(dataset)!r} has {len(names)} files; wanted are {n_images}.")
        for i in range(n_images):
            name = names[i * len(names) // n_images]
            yield name, archive.read(name)


def extract(images: Iterator[tuple[str, bytes]], n_images: int) -> tuple[float, float]:
    """Extract images, packed in an archive of their own, in a new process.

    Returns
    -------
    peak : float
        Resident memory in MiB.
    seconds : float
    """
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch, "images.zip")
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in images:
                archive.writestr(name, content)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(packed), f"{scratch}/store"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    n_extracted, peak, seconds = map(float, done.stdout.split())
    if n_extracted != n_images:
        raise RuntimeError(f"{n_extracted:.0f} images were extracted, not {n_images}.")
    return peak / (2**20 if sys.platform == "darwin" else 2**10), seconds


def main(
    *,
    dataset: Path | None = None,
    few: int = 5000,
    many: int = 50_000,
    toy: Annotated[bool, cyclopts.Parameter(help="To see that it runs.")] = False,
) -> None:
    """Print a line for each side."""
    few, many = (50, 100) if toy else (few, many)
    small, large = (
        extract(draw_images(n) if dataset is None else images_of(dataset, n), n)
        for n in (few, many)
    )
    print("| images | peak memory, MiB | seconds |\n|--:|--:|--:|")
    for n_images, (peak, seconds) in ((few, small), (many, large)):
        print(f"| {n_images} | {peak:.0f} | {'' if toy else f'{seconds:.1f}'} |")
    print(f"\nratio of memory: {large[0] / small[0]:.3f}")


if __name__ == "__main__":
    cyclopts.run(main)
