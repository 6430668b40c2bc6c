"""The store against ``np.memmap``: writing, reading, size, look-ups; and what float16 costs.

    python benchmarks/store.py --data ../shared

prints the tables of ``benchmarks/README.md``. Both sides write and read the same real codes, in
turn, in one run; the memory map is flushed and forced to the disk as the store's chunks are, and
is read from the system's cache as they are. ``--toy`` takes seconds and needs no data.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.real_codes import default_folder, make_codes  # noqa: E402
from cache import CodesKey, CodeStore, ExtractionKey  # noqa: E402

KEY = ExtractionKey(
    architecture={"name": "squeezenet1_0"},
    weights="0" * 64,
    preprocessing={},
    precision="float32",
    extractor=1,
)
BATCH = 32


def array_key(dtype: str) -> CodesKey:
    """Name the array."""
    return CodesKey(layer="fire", activation="post", pool="grid", dtype=dtype)


def make_digests(n: int) -> Any:
    """Digests of images that are none."""
    return np.frombuffer(np.random.default_rng(0).bytes(32 * n), np.uint8).reshape(n, 32)


def write_store(root: Path, X: Any, dtype: str) -> None:
    """Write codes as an extraction does, a batch at a time."""
    with CodeStore(root).write(KEY, {array_key(dtype): X.shape[1]}, make_digests(len(X))) as part:
        for start in range(0, len(X), BATCH):
            part.write({array_key(dtype): X[start : start + BATCH]}, {})


def write_memmap(path: Path, X: Any, dtype: str) -> None:
    """Write codes into a memory map, and force them to the disk."""
    mapped = np.memmap(path, mode="w+", dtype=dtype, shape=X.shape)
    for start in range(0, len(X), BATCH):
        mapped[start : start + BATCH] = X[start : start + BATCH]
    mapped.flush()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_memmap(path: Path, X: Any, dtype: str, rows: Any, digests: Any) -> Any:
    """Read rows of a memory map."""
    return np.array(np.memmap(path, mode="r", dtype=dtype, shape=X.shape)[rows])


def read_store(root: Path, X: Any, dtype: str, rows: Any, digests: Any) -> Any:
    """Read rows of a store, the look-up included."""
    return CodeStore(root).codes(KEY, array_key(dtype), digests)


def timed(work: Callable[..., Any], *arguments: Any) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def measure(X: Any, dtype: str, folder: Path, n_repeats: int) -> str:
    """Time both sides on one array of codes; a line of the table."""
    n, d = X.shape
    seconds: dict[str, list[tuple[float, float]]] = {}
    rng = np.random.default_rng(0)
    mapped, root = folder / "memmap", folder / "store"
    for _ in range(n_repeats):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pair = timed(write_memmap, mapped, X, dtype), timed(write_store, root, X, dtype)
        seconds.setdefault("write", []).append(pair)
        choices = {
            "all": slice(None),
            "most": rng.permutation(n)[: n * 8 // 10],
            "few": rng.permutation(n)[:100],
        }
        for name, rows in choices.items():
            digests = make_digests(n)[rows]
            theirs, ours = (read(at, X, dtype, rows, digests) for read, at in
                            ((read_memmap, mapped), (read_store, root)))  # fmt: skip
            if not np.array_equal(theirs, ours):
                raise AssertionError("the two sides differ")
            del theirs, ours
            pair = (
                timed(read_memmap, mapped, X, dtype, rows, digests),
                timed(read_store, root, X, dtype, rows, digests),
            )
            seconds.setdefault(name, []).append(pair)
    medians = {name: np.median(np.array(pairs), axis=0) for name, pairs in seconds.items()}
    ratio = {name: theirs / ours for name, (theirs, ours) in medians.items()}
    size = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    return (
        f"| {n:,} × {d:,} | {dtype} | {(X == 0).mean():.0%} | {ratio['write']:.2f} "
        f"| {ratio['all']:.2f} | {ratio['most']:.2f} | {1e3 * medians['few'][1]:.0f} ms "
        f"| {n * d * 2 / size:.2f} |"
    )


def sparse(X: Any, share: float) -> Any:
    """Subtract so much that this share of the values is zero, as behind a ReLU of higher bias."""
    return np.maximum(X - np.quantile(X, share), 0).astype(np.float32)


def peak_of_writing(n: int, d: int) -> float:
    """Peak memory, in MiB, of a process that writes n rows."""
    command = [sys.executable, __file__, "--child", json.dumps([n, d])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def child(n: int, d: int) -> None:
    """Write rows of made codes and print the peak memory."""
    rng = np.random.default_rng(0)
    batch = np.maximum(rng.normal(size=(BATCH, d)), 0).astype(np.float32)
    with (
        tempfile.TemporaryDirectory() as root,
        CodeStore(root).write(KEY, {array_key("float16"): d}, make_digests(n)) as part,
    ):
        for start in range(0, n, BATCH):
            part.write({array_key("float16"): batch[: n - start]}, {})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def look_up(n: int, folder: Path) -> float:
    """Seconds to find that a store holds n images."""
    shutil.rmtree(folder, ignore_errors=True)
    write_store(folder, np.ones((n, 1), np.float32), "float16")
    digests = make_digests(n)[np.random.default_rng(1).permutation(n)]
    return float(
        np.median(
            [
                timed(lambda: CodeStore(folder).missing(KEY, [array_key("float16")], digests))
                for _ in range(3)
            ]
        )
    )


def float16_accuracy(folder: Path, names: list[str]) -> list[str]:
    """Accuracies with codes kept as float32 and as float16: lines of a table."""
    from scipy.stats import binomtest

    from pipelines import LinearSVCCV

    lines = []
    for name in names:
        X = np.load(folder / f"{name}.npy", mmap_mode="r")
        y = np.load(folder / f"{name}-labels.npy")
        n = min(len(X), 2000)
        train, test = np.arange(n // 2), np.arange(n // 2, n)
        hits = [
            (
                LinearSVCCV(cv=3, random_state=0)
                .fit(np.array(X[train]).astype(dtype), y[train])
                .predict(np.array(X[test]).astype(dtype))
                == y[test]
            )
            for dtype in (np.float32, np.float16)
        ]
        low, high = binomtest(int(hits[0].sum()), len(test)).proportion_ci(method="wilson")
        lines.append(
            f"| {name} | {n // 2:,} × {X.shape[1]:,} | {hits[0].mean():.4f} | {hits[1].mean():.4f} "
            f"| {low:.3f} – {high:.3f} | {(hits[0] != hits[1]).sum()} of {len(test):,} |"
        )
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--cache", type=Path, help="where codes are kept")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*json.loads(options.child))
        return
    folder = options.cache or default_folder(options.toy)
    make_codes(folder, options.data, toy=options.toy)
    # Before anything is loaded: a process begins with its parent's peak.
    ns = (200, 2000) if options.toy else (2000, 20_000)
    peaks = [peak_of_writing(n, 4096) for n in ns]
    print(
        f"Peak memory of writing {ns[1]:,} rows over {ns[0]:,}: {peaks[1]:.0f} / {peaks[0]:.0f} "
        f"MiB = {peaks[1] / peaks[0]:.3f}\n"
    )
    if options.toy:
        arrays = [np.load(folder / "wide.npy"), np.load(folder / "narrow.npy")]
        n_repeats, n_images, names = 1, 3000, ["wide", "narrow"]
    else:
        grid = np.load(folder / "grid4.npy")
        maps = np.load(folder / "maps.npy")
        # Each position of the grid as a row of its own: as many bytes in shorter rows.
        arrays = [grid.reshape(-1, 512), grid, sparse(grid, 0.7), maps]
        n_repeats, n_images = 5, 1_000_000
        names = ["average", "grid6", "grid4", "maps"]
    print("| codes | kept as | zero | write | read all | read 80 % | 100 rows | smaller |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for X in arrays:
            for dtype in ("float16", "float32"):
                print(measure(X, dtype, Path(scratch, "codes"), n_repeats), flush=True)
        print(f"\nLook-up of {n_images:,} digests: {look_up(n_images, Path(scratch, 'l')):.2f} s")
    print("\n| codes | training codes | float32 | float16 | 95 % interval | decided otherwise |")
    print("|---|---|---|---|---|---|")
    print("\n".join(float16_accuracy(folder, names)))


if __name__ == "__main__":
    main()
