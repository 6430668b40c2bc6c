"""Memory of an extraction against the number of images: it must not grow with it.

``python benchmarks/memory.py`` draws images, extracts the codes of the bundled backbone from a
few and from many of them, each in a process of its own, and prints the peak memory of both.
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
from pathlib import Path
from codes import load_images
from pipelines import ExtractionOptions
from pipelines.extraction import extract
folder = Path(sys.argv[1])
done = extract(
    load_images(folder / "images.csv"),
    ExtractionOptions(backbone="bundled", layers="all", workers=0, store=folder / "store"),
)
print(done.n_extracted, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_memory(n_images: int) -> float:
    """Extract ``n_images`` distinct images in a new process.

    Returns
    -------
    float
        Peak resident memory in MiB.
    """
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ["path,label"]
        for i in range(n_images):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=0)
            lines.append(f"{i}.png,{i % 2}")
        (folder / "images.csv").write_text("\n".join(lines))
        done = subprocess.run(
            [sys.executable, "-c", CHILD, name], check=True, capture_output=True, text=True
        )
    extracted, peak = map(int, done.stdout.split())
    if extracted != n_images:
        raise RuntimeError(f"{extracted} images were extracted, not {n_images}.")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return peak / unit


def main(
    *,
    few: int = 2000,
    many: int = 20_000,
    toy: Annotated[bool, cyclopts.Parameter(help="To see that it runs.")] = False,
) -> None:
    """Print a line for each side."""
    few, many = (50, 100) if toy else (few, many)
    small, large = peak_memory(few), peak_memory(many)
    print("| images | peak memory, MiB |\n|--:|--:|")
    print(f"| {few} | {small:.0f} |\n| {many} | {large:.0f} |")
    print(f"\nratio: {large / small:.3f}")


if __name__ == "__main__":
    cyclopts.run(main)
