"""Whatever happens to the store, the scores in the end are the same."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def clothing(shared: Path, tmp_path: Path) -> list[str]:
    """Twelve photographs of each of five classes, and the real SqueezeNet."""
    rows = []
    for label in ("dress", "hat", "pants", "shoes", "t-shirt"):
        for split, n in (("train", 8), ("test", 4)):
            folder = shared / "data" / "clothing" / split / label
            rows += [(path, label, split) for path in sorted(folder.iterdir())[:n]]
    table = tmp_path / "clothing.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    weights = shared / "weights" / "squeezenet1_0-imagenet.pth"
    return [str(table), "--backbone", "squeezenet1_0", "--weights", str(weights), "--layers",
            "features.5.cat,features.12.cat"]  # fmt: skip


def _scores(run_cli: Run, clothing: list[str], out: Path) -> str:
    done = run_cli("compare", *clothing, "--cv", "3", "--Cs", "1e-4,1e-2", "--train-sizes",
                   "4,all", "--jobs", "1", "--out", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (out / "scores.csv").read_text()


@pytest.mark.parametrize("damage", ["half deleted", "flipped", "two processes"])
def test_a_disturbed_store_ends_in_the_same_scores(
    damage: str, clothing: list[str], tmp_path: Path, run_cli: Run
) -> None:
    expected = _scores(run_cli, clothing, tmp_path / "first")
    store = tmp_path / "store"
    if damage == "two processes":
        os.rename(store, tmp_path / "old")
        command = [sys.executable, "-m", "pipelines.cli", "extract", *clothing]
        both = [
            subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
            for _ in range(2)
        ]
        assert [process.wait(timeout=150) for process in both] == [0, 0]
    else:
        files = sorted(p for p in store.rglob("*") if p.is_file() and "use" not in p.parts)
        if damage == "half deleted":
            for file in random.Random(0).sample(files, len(files) // 2):
                file.unlink()
        else:
            chunk = next(
                file for file in files if "features.12" in str(file) and file.name[:2] == "c."
            )
            data = bytearray(chunk.read_bytes())
            data[1000] ^= 1
            chunk.write_bytes(bytes(data))
            done = run_cli("compare", *clothing, "--out", tmp_path / "no")
            assert done.returncode == 1
            assert "features.12.cat-post" in done.stderr
        assert run_cli("cache", "verify", "--repair").returncode == 0
    assert _scores(run_cli, clothing, tmp_path / "second") == expected
    assert run_cli("cache", "verify").returncode == 0
