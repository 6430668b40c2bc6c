"""Every example of the documentation, run as it stands, on small images that are drawn here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from sklearn.datasets import load_digits
from sklearn.utils import Bunch
from torchvision.models import resnet18

from pipelines.comparison.protocol import Protocol
from tests.conftest import draw_image, run_here
from tests.documentation import PAGES, ROOT, Block, blocks, commands, quick, words_of

NOT_COMMANDS = ("pip install", "pytest")
"""What installs and tests the program itself; CI does that before the tests."""
CNN_CODES = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipelines.cli.app import main
from tests.documentation import quick
sys.exit(main(quick(sys.argv[1:])))
"""


def _draw(folder: Path, n: int, first: int = 0, names: str = "blue green red") -> None:
    for label, name in enumerate(names.split()):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            draw_image(100 * label + first + i, hue=2 - label).save(folder / name / f"{i:02d}.png")


def _write_slides(folder: Path) -> None:
    """Write images of 16 bits, three of each patient."""
    (folder / "slides").mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,label,group"]
    for i in range(24):
        pixels = rng.integers(0, 2000 + 1500 * (i % 2), (40, 40), dtype=np.uint16)
        tifffile.imwrite(folder / "slides" / f"{i:04d}.tif", pixels)
        rows.append(f"slides/{i:04d}.tif,{('benign', 'malign')[i % 2]},patient-{i // 6}{i % 2}")
    (folder / "slides.csv").write_text("\n".join(rows) + "\n")
    for i in range(12):
        label = folder / "stacks" / ("flat", "round")[i % 2]
        label.mkdir(parents=True, exist_ok=True)
        planes = rng.integers(0, 4000, (2, 40, 40), dtype=np.uint16)
        tifffile.imwrite(label / f"{i}.tif", planes, photometric="minisblack")


def _pack(folder: Path) -> None:
    files = sorted((folder / "my-images").rglob("*.png"))
    with zipfile.ZipFile(folder / "my-images.zip", "w") as archive:
        for file in files:
            archive.write(file, file.relative_to(folder))
    for shard in range(2):
        with tarfile.open(folder / f"birds-{shard}.tar", "w") as tar:
            for i, file in enumerate(files[shard::2]):
                tar.add(file, f"{shard}-{i:03d}.png")
                label = folder / "label.cls"
                label.write_text(str(sorted(["blue", "green", "red"]).index(file.parent.name)))
                tar.add(label, f"{shard}-{i:03d}.cls")
    (folder / "label.cls").unlink()


def _save_weights(folder: Path) -> None:
    torch.manual_seed(0)
    state, other = resnet18().state_dict(), resnet18().state_dict()
    torch.save(state, folder / "resnet18-imagenet.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "resnet18.ckpt")
    torch.save({"state_dict": state, "ema": other}, folder / "averaged.ckpt")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw what the examples read; none of them changes it."""
    folder = tmp_path_factory.mktemp("material")
    _draw(folder / "my-images", 12)
    _draw(folder / "split-images" / "train", 8, 20)
    _draw(folder / "split-images" / "test", 5, 40)
    _draw(folder / "labelled-images", 3, 60)
    for i, name in enumerate(("birds", "cells")):
        _draw(folder / name, 4, 70 + 5 * i, "one two")
    (folder / "new-images").mkdir()
    for i in range(3):
        draw_image(300 + i, hue=i).save(folder / "new-images" / f"{i}.png")
    _write_slides(folder)
    _pack(folder)
    _save_weights(folder)
    return folder


@pytest.fixture
def folder(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the current folder one with all of it, and the demo's digits a few."""
    for entry in material.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    whole = load_digits()
    few = Bunch(images=whole.images[::6], target=whole.target[::6])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    monkeypatch.setattr("pipelines.cli.compare.Protocol", partial(Protocol, repeats=1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


EXAMPLES = [
    page
    for page in PAGES
    if any(
        block.runs and block.language != "text" and not line.startswith(NOT_COMMANDS)
        for block in blocks(page)
        for line in commands(block)
    )
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.stem)
def test_examples_run(page: Path, folder: Path) -> None:
    names: dict[str, Any] = {}
    n_run = 0
    try:
        for block in filter(lambda block: block.runs, blocks(page)):
            n_run += _run(block, folder, names)
    finally:
        sys.modules.pop("my_nets", None)
    assert n_run
    if page.stem == "python":
        study = names["study"]
        columns = study.cv_results_
        chosen = (columns["layer"] == study.best.layer) & (columns["train_size"] == "all")
        assert columns["score"][chosen].size == study.protocol.cv * 5
        assert names["model"].card["layer"] in (study.best.layer, study.best.recommended)
        assert names["X"].shape == (36, names["classifier"].n_features_in_)
        assert names["classifier"].score(names["X"], names["images"].labels) > 0.9
    if page.stem == "store":
        expected = names["study"].extraction.codes("conv5.relu")
        np.testing.assert_array_equal(names["view"], expected)


def _run(block: Block, folder: Path, names: dict[str, Any]) -> int:
    """Run a block, and return the number of its commands."""
    if block.language == "python" and block.title:
        (folder / block.title).write_text(block.text)
        return 0
    if block.language == "python":
        exec(block.text, names)
        return 1
    if block.language == "csv":  # The header of a file; the whole file is drawn above.
        assert re.match(r"path,label(,split)?(,group)?\n", block.text)
        return 0
    if block.language == "text":  # What is printed.
        return 0
    assert block.language == "bash", block
    if block.text.startswith("#!"):
        _run_script(block.text, folder)
        return 1
    runnable = [line for line in commands(block) if not line.startswith(NOT_COMMANDS)]
    for line in runnable:
        _run_command(line, folder)
    return len(runnable)


def _run_command(line: str, folder: Path) -> None:
    words, out = words_of(line)
    if words[0] == "torchrun":
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    else:
        assert words[0] == "cnn-codes", line
        done = run_here(folder, *quick(words[1:]))
    assert done.returncode == 0, (line, done.stderr)
    assert done.stdout or done.stderr, line
    if out is not None:
        (folder / out).write_text(done.stdout)


def _run_script(script: str, folder: Path) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "cnn-codes"
    program.write_text(CNN_CODES)
    program.chmod(0o755)
    (folder / "job.sh").write_text("set -e\n" + script)
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "job.sh"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(list((folder / "reports").glob("*/report.html"))) == 4
