"""A comparison of codes that are larger than the memory it may use, and how it grows with images.

    python benchmarks/scale.py

draws codes chunk by chunk (classes that overlap, rectified, float16), writes them as a Zarr group,
and compares them with ``cnn-codes compare zarr:FOLDER`` in a process of its own, whose data are
limited by the operating system (``RLIMIT_DATA``): first 200,000 × 2,048 in a quarter of what they
take as float64; then 1,000 to 200,000 × 512 in one limit. It prints seconds, CPU seconds and the
peak of resident memory, and the slope of CPU seconds against images on a log-log scale. ``--toy``
takes seconds and checks that the benchmark runs. Linux only.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import zarr

ROOT = Path(__file__).resolve().parents[1]
CHUNK = 4096
GROWTH_LIMIT = 640 * 10**6
"""Bytes; Python and its libraries take some 300 million of them."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a comparison took.

    Attributes
    ----------
    seconds, cpu_seconds : float
    peak : float
        Resident memory, MB.
    in_file : bool
        Whether codes were read from a scratch file.
    score : str
        The line of the table of scores.
    """

    seconds: float
    cpu_seconds: float
    peak: float
    in_file: bool
    score: str


def write_codes(folder: Path, n_images: int, n_features: int, *, n_classes: int = 4) -> None:
    """Draw codes of some classes, a fifth of them for the test, a chunk at a time."""
    rng = np.random.default_rng(0)
    # As far apart, whatever the width.
    means = 0.5 + 1.8 / np.sqrt(n_features) * rng.standard_normal((n_classes, n_features))
    labels = rng.integers(0, n_classes, n_images)
    group = zarr.create_group(folder)
    codes = group.create_array(
        "codes", shape=(n_images, n_features), dtype="float16", chunks=(CHUNK, n_features)
    )
    for start in range(0, n_images, CHUNK):
        of_chunk = labels[start : start + CHUNK]
        drawn = rng.standard_normal((len(of_chunk), n_features), dtype=np.float32)
        drawn += means[of_chunk].astype(np.float32)
        codes[start : start + len(drawn)] = np.maximum(drawn, 0).astype(np.float16)
    split = np.where(rng.random(n_images) < 0.2, "test", "train")
    for name, words in (("y", labels.astype(str)), ("split", split)):
        group.create_array(name, shape=n_images, dtype=str)[...] = words.astype(object)


def written(folder: Path, n_images: int, n_features: int) -> Path:
    """Write codes in a process of its own.

    The system counts the memory of this process, when it starts another, as that one's peak.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(write_codes, folder, n_images, n_features).result()
    return folder


def compare(folder: Path, scratch: Path, limit: int, classifier: str, Cs: str) -> Measured:
    """Compare codes in a new process that may hold `limit` bytes of data."""
    command = [
        sys.executable, "-m", "pipelines.cli", "compare", f"zarr:{folder}", "--cv", "3",
        "--classifier", classifier, "--Cs", Cs, "--jobs", "1", "--controls", "none",
        "--out", str(scratch / "out"),
    ]  # fmt: skip
    output = scratch / "output.txt"
    start = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(scratch), "OMP_NUM_THREADS": "1"},
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_DATA, (limit, limit)),
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = output.read_text()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
    rows = [" ".join(line.split()[2:4]) for line in said.splitlines() if line.startswith("codes ")]
    return Measured(
        seconds=time.perf_counter() - start,
        cpu_seconds=used.ru_utime + used.ru_stime,
        peak=used.ru_maxrss * 1024 / 1e6,
        in_file="scratch file" in said,
        score=", ".join(rows),
    )


def print_row(n_images: int, n_features: int, limit: int, found: Measured, *, toy: bool) -> None:
    """Print a line of the table."""
    times = "|" if toy else f"{found.seconds:.0f} | {found.cpu_seconds:.0f}"
    where = "scratch file" if found.in_file else "memory"
    print(
        f"| {n_images:,} × {n_features:,} | {8 * n_images * n_features / 1e6:,.0f} | "
        f"{limit / 1e6:,.0f} | {where} | {times} | {found.peak:,.0f} | {found.score} |",
        flush=True,
    )


def main(
    *,
    images: int = 200_000,
    features: int = 2048,
    growth: tuple[int, ...] = (1000, 5000, 20_000, 50_000, 200_000),
    growth_features: int = 512,
    classifier: str = "both",
    growth_classifier: str = "svm",
    Cs: str = "1e-5,1e-4,1e-3",
    toy: Annotated[bool, cyclopts.Parameter(help="To see that it runs.")] = False,
) -> None:
    """Print a line for each comparison, and the slope."""
    limit = 8 * images * features // 4
    if toy:
        images, features, limit, growth, growth_features = 3000, 64, 10**9, (300, 600), 32
    print("| codes | MB in float64 | limit, MB | read from | s | CPU s | peak, MB | scores |")
    print("|---|--:|--:|---|--:|--:|--:|---|")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if images:
            large = written(scratch / "large", images, features)
            found = compare(large, scratch, limit, classifier, Cs)
            print_row(images, features, limit, found, toy=toy)
        cpu = []
        for n_images in growth:
            folder = written(scratch / str(n_images), n_images, growth_features)
            own = max(GROWTH_LIMIT, limit) if toy else GROWTH_LIMIT
            found = compare(folder, scratch, own, growth_classifier, Cs)
            print_row(n_images, growth_features, own, found, toy=toy)
            cpu.append(found.cpu_seconds)
    if not toy and len(cpu) > 1:
        slope = np.polyfit(np.log(growth), np.log(cpu), 1)[0]
        last = np.log(cpu[-1] / cpu[-2]) / np.log(growth[-1] / growth[-2])
        print(f"\nlog CPU seconds over log images: slope {slope:.2f}; of the last two {last:.2f}")


if __name__ == "__main__":
    cyclopts.run(main)
