"""Real extractions, killed with SIGKILL at random moments and started again."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cache import writer
from cache.part import Part
from cache.records import groups
from cache.storage.opening import open_storage
from cache.verify import verify
from codes import load_images
from pipelines.extraction.distributed import Shard
from pipelines.extraction.extract import Extraction, extract
from pipelines.extraction.options import ExtractionOptions
from tests.conftest import ROOT

N_IMAGES, SEGMENT = 5120, 64
LAYERS = "features.1,features.12.cat"
PARTS, MARKERS = "*/*/zarr.json", "*/*/committed/**/zarr.json"


def _options(store: Path) -> ExtractionOptions:
    return ExtractionOptions(
        backbone="squeezenet1_1", weights="none", image_size=64, layers=LAYERS, dtype="float32",
        store=store, workers=0,
    )  # fmt: skip


def _extract(folder: Path, store: Path, shard: Shard) -> Extraction:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # Commits as often as a day's work has in all.
        patch.setattr(writer, "SEGMENT_ROWS", SEGMENT)
        return extract(load_images(folder), _options(store), shard=shard)


def _begin(folder: Path, store: Path, shard: Shard) -> BaseProcess:
    process = _FORKS.Process(target=_extract, args=(folder, store, shard))
    process.start()
    return process


# A server that has the imports behind it: most of a process's life is then extraction.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.test_crash", "torchvision"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        (folder / f"class{i % 3}").mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 3}" / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, NDArray]:  # type: ignore[type-arg]
    done = _extract(folder, tmp_path_factory.mktemp("undisturbed"), Shard())
    return {layer: done.codes(layer) for layer in done.arrays}


def _stored(store: Path) -> list[bytes]:
    """Digests of all committed rows of all parts, as they stand on the disk."""
    storage = open_storage(store)
    parts = [
        Part(storage, f"{group}/{name}")
        for group in groups(storage)
        for name in storage.folders(group)
    ]
    return [
        digest.tobytes()
        for part in parts
        if part.segments
        for digest in part.digests()[part.rows()]
    ]


def _kill_at_random(
    rng: np.random.Generator, begin: Callable[[], BaseProcess], store: Path, n_kills: int
) -> int:
    """Kill runs, some while they begin and most while they write, and count the kills."""
    kills = 0
    while kills < n_kills and len(_stored(store)) < N_IMAGES:
        parts, markers = (len(list(store.glob(p))) for p in (PARTS, MARKERS))
        process = begin()
        if rng.random() < 0.8:
            # Some milliseconds after its part is begun, or, at times, after its first segment.
            ahead = int(rng.random() < 0.3)
            while process.is_alive() and (
                len(list(store.glob(PARTS))) == parts
                or len(list(store.glob(MARKERS))) < markers + 1 + ahead
            ):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 1.0))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    return kills


def _assert_equal(
    folder: Path, store: Path, undisturbed: dict[str, NDArray]  # type: ignore[type-arg]
) -> None:  # fmt: skip
    assert list(verify(open_storage(store))) == []
    found = _extract(folder, store, Shard())
    assert found.n_extracted == 0
    for layer, codes in undisturbed.items():
        np.testing.assert_array_equal(found.codes(layer), codes)


def test_twenty_kills_leave_a_store_that_equals_an_undisturbed_one(
    folder: Path,
    tmp_path: Path,
    undisturbed: dict[str, NDArray],  # type: ignore[type-arg]
) -> None:
    rng = np.random.default_rng(0)
    store = tmp_path / "store"
    shard = Shard()
    kills = _kill_at_random(rng, lambda: _begin(folder, store, shard), store, 20)
    assert kills >= 20, "the data are too few for so many kills"
    before = len(_stored(store))
    assert 0 < before < N_IMAGES
    done = _extract(folder, store, shard)
    assert done.n_extracted == N_IMAGES - before  # No image that was committed is done again.
    _assert_equal(folder, store, undisturbed)


def test_two_ranks_killed_and_resumed_lose_no_row_and_rewrite_none(
    folder: Path,
    tmp_path: Path,
    undisturbed: dict[str, NDArray],  # type: ignore[type-arg]
) -> None:
    rng = np.random.default_rng(1)
    store = tmp_path / "store"
    other = Shard(rank=1, world_size=2)
    beside = _begin(folder, store, other)
    kills = _kill_at_random(
        rng, lambda: _begin(folder, store, Shard(rank=0, world_size=2)), store, 4
    )
    assert kills >= 1
    beside.join()
    assert beside.exitcode == 0
    last = _begin(folder, store, Shard(rank=0, world_size=2))
    last.join()
    assert last.exitcode == 0
    images = _stored(store)
    assert len(images) == len(set(images)) == N_IMAGES
    _assert_equal(folder, store, undisturbed)


def test_torchrun_fills_one_store_killed_once_and_run_again(folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", "pipelines.cli", "extract", str(folder), "--backbone", "squeezenet1_1", "--weights",
        "none", "--image-size", "64", "--layers", "features.1", "--store", str(tmp_path / "store"),
    ]  # fmt: skip
    first = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 100
    while not list((tmp_path / "store").glob("*/*/committed/0*/zarr.json")):
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # torchrun starts each of its processes in a session of its own.
    subprocess.run(["pkill", "-KILL", "--parent", str(first.pid)], check=True)
    assert first.wait(60) != 0
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr
    counted = done.stdout.replace(",", "")
    said = re.findall(r"Rank [01] of 2: (\d+) images extracted (\d+) found", counted)
    extracted, found = (sum(map(int, column)) for column in zip(*said, strict=True))
    assert found >= 1024, "what was committed before the kill is there"
    assert extracted > 0
    assert extracted + found == N_IMAGES
    assert min(sum(map(int, shard)) for shard in said) > 0.4 * N_IMAGES
    options = ExtractionOptions(
        backbone="squeezenet1_1", weights="none", image_size=64, layers="features.1",
        store=tmp_path / "store",
    )  # fmt: skip
    assert extract(load_images(folder), options).n_extracted == 0
