"""A comparison of ten layers on a Dask cluster, against processes of the same machine.

    python benchmarks/cluster.py

starts a scheduler and two workers of one thread each, and compares ten layers of synthetic codes,
read from a file, on these workers and with ``n_jobs=2``, in turns. Both sides are warm: their
processes are started, and have loaded what they need, before the clock is. It prints the seconds
of each run and the ratio of the medians, and fails where scores differ. ``--toy`` takes seconds
and prints no times: it checks that the benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines import Protocol, compare  # noqa: E402
from pipelines.studies.given_study import GivenStudy  # noqa: E402

N_CLASSES, N_WORKERS = 10, 2


def write_codes(file: Path, n_layers: int, n_samples: int, n_features: int) -> None:
    """Write layers whose classes are further apart the later they are."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(n_samples) % N_CLASSES)
    layers = {}
    for number in range(n_layers):
        centers = rng.normal(size=(N_CLASSES, n_features)) * (0.02 * (number + 1))
        codes = (centers[y] + rng.normal(size=(n_samples, n_features))).clip(0)
        layers[f"layer{number}"] = codes.astype(np.float16)
    np.savez(file, y=y.astype(str), **layers)  # type: ignore[arg-type]


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """Start a scheduler and workers; the scheduler's address."""
    dask = [sys.executable, "-m"]
    address = folder / "scheduler.json"
    same = {"cwd": folder, "stderr": subprocess.DEVNULL, "env": {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}}  # fmt: skip
    scheduler = [*dask, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
                 "--no-dashboard", "--no-show", "--scheduler-file", str(address)]  # fmt: skip
    worker = [*dask, "distributed.cli.dask_worker", "--scheduler-file", str(address),
              "--nthreads", "1", "--no-nanny", "--no-dashboard"]  # fmt: skip
    started = [subprocess.Popen(command, **same)  # type: ignore[call-overload]
               for command in (scheduler, *[worker] * N_WORKERS)]  # fmt: skip
    try:
        while not (address.exists() and address.read_text()):
            time.sleep(0.1)
        yield json.loads(address.read_text())["address"]
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def timed(dataset: str, protocol: Protocol, scheduler: str | None) -> tuple[float, GivenStudy]:
    """Compare, on a cluster or here; the seconds, without those of reading labels."""
    study = compare(
        dataset,
        protocol=protocol,
        controls="none",
        n_jobs=1 if scheduler else N_WORKERS,
        scheduler=scheduler,
    )
    return study.codes.seconds["compare"], study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="of each side, after one of warming up")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--toy", action="store_true")
    given = parser.parse_args()
    n_layers, n_samples, n_features, runs = 10, given.images, given.features, given.runs
    if given.toy:
        n_layers, n_samples, n_features, runs = 2, 60, 8, 1
    protocol = Protocol(cv=2 if given.toy else 5, repeats=1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_codes(folder / "codes.npz", n_layers, n_samples, n_features)
        dataset = f"npz:{folder / 'codes.npz'}"
        with cluster(folder) as scheduler:
            sides = {"cluster": scheduler, "processes": None}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for run in range(runs + 1):
                folds = []
                for side, address in sides.items():
                    took, study = timed(dataset, protocol, address)
                    folds.append(study.comparison.folds)
                    if run > 0:
                        seconds[side].append(took)
                if folds[0] != folds[1]:
                    raise SystemExit("The scores differ.")
    print("The scores are the same.")
    if given.toy:
        return
    for side, of in seconds.items():
        print(f"{side:<10}", *(f"{one:.1f}" for one in of), "s")
    ratio = median(seconds["cluster"]) / median(seconds["processes"])
    print(f"cluster / processes, ratio of medians: {ratio:.2f}")


if __name__ == "__main__":
    main()
