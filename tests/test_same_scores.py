"""Whatever happens to the store, the scores in the end are the same."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run, run_here


@pytest.fixture(scope="module")
def clothing(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Twelve photographs of each of five classes, and the real SqueezeNet."""
    rows = []
    for label in ("dress", "hat", "pants", "shoes", "t-shirt"):
        for split, n in (("train", 8), ("test", 4)):
            folder = shared / "data" / "clothing" / split / label
            rows += [(path, label, split) for path in sorted(folder.iterdir())[:n]]
    table = tmp_path_factory.mktemp("clothing") / "clothing.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    weights = shared / "weights" / "squeezenet1_0-imagenet.pth"
    return [str(table), "--backbone", "squeezenet1_0", "--weights", str(weights), "--image-size",
            "96", "--layers", "features.5.cat,features.12.cat"]  # fmt: skip


def _compare(folder: Path, clothing: list[str]) -> str:
    """Compare with the store in a folder; the scores."""
    done = run_here(folder, "compare", *clothing, "--cv", "3", "--Cs", "1e-4,1e-2",
                    "--train-sizes", "4,all", "--jobs", "1", "--controls", "majority",
                    "--out", folder / "out", CNN_CODES_STORE=str(folder / "store"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "out" / "scores.csv").read_text()


@pytest.fixture(scope="module")
def undisturbed(clothing: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Give the store of a comparison, and its scores."""
    folder = tmp_path_factory.mktemp("undisturbed")
    scores = _compare(folder, clothing)
    return folder / "store", scores


@pytest.mark.parametrize("damage", ["half deleted", "flipped", "two processes"])
def test_a_disturbed_store_ends_in_the_same_scores(
    damage: str, clothing: list[str], undisturbed: tuple[Path, str], tmp_path: Path, run_cli: Run
) -> None:
    store, expected = tmp_path / "store", undisturbed[1]
    if damage == "two processes":
        command = [sys.executable, "-m", "pipelines.cli", "extract", *clothing]
        both = [
            subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
            for _ in range(2)
        ]
        assert [process.wait(timeout=150) for process in both] == [0, 0]
    else:
        shutil.copytree(undisturbed[0], store)
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
    assert _compare(tmp_path, clothing) == expected
    assert run_cli("cache", "verify").returncode == 0
