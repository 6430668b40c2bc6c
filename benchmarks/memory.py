"""Memory of an extraction against the number of images: it must not grow with it.

``python benchmarks/memory.py [--dataset FOLDER]`` extracts the codes of the bundled backbone from
a few and from many images, each in a process of its own, and prints the peak memory of both.
Without a dataset, images of noise are drawn.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
from PIL import Image

CHILD = """
import resource, sys
import numpy as np
from codes import load_images
from pipelines import ExtractionOptions
from pipelines.extraction import extract
dataset, n_images, store = sys.argv[1:]
done = extract(
    load_images(dataset).take(np.arange(int(n_images))),
    ExtractionOptions(backbone="bundled", layers="all", workers=0, store=store),
)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(done.images), peak, sum(done.seconds.values()))
"""


def draw_images(folder: Path, n_images: int) -> Path:
    """Draw distinct images, and list them in a CSV file."""
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    for i in range(n_images):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=0)
        lines.append(f"{i}.png,{i % 2}")
    (folder / "images.csv").write_text("\n".join(lines))
    return folder / "images.csv"


def extract(dataset: Path, n_images: int) -> tuple[float, float]:
    """Extract the first images of a dataset in a new process.

    Returns
    -------
    peak : float
        Resident memory in MiB.
    seconds : float
    """
    with tempfile.TemporaryDirectory() as store:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(dataset), str(n_images), store],
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
    with tempfile.TemporaryDirectory() as scratch:
        found = dataset or draw_images(Path(scratch), many)
        small, large = extract(found, few), extract(found, many)
    print("| images | peak memory, MiB | seconds |\n|--:|--:|--:|")
    for n_images, (peak, seconds) in ((few, small), (many, large)):
        print(f"| {n_images} | {peak:.0f} | {'' if toy else f'{seconds:.1f}'} |")
    print(f"\nratio of memory: {large[0] / small[0]:.3f}")


if __name__ == "__main__":
    cyclopts.run(main)
