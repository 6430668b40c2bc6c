"""What several tests share: real data where it is there, small folders of images, processes."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from pipelines.cli.app import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real weights and photographs, which are not part of the project."""
    folder = Path(os.environ.get("CNN_CODES_TEST_DATA", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CNN_CODES_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's store."""
    monkeypatch.setenv("CNN_CODES_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="session", autouse=True)
def _one_core() -> Iterator[None]:
    """Leave the other cores to other tests, where a process for each is the default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOKY_MAX_CPU_COUNT", "1")
        yield


def draw_image(seed: int, *, size: tuple[int, int] = (40, 30), hue: int = 0) -> Image.Image:
    """Draw a smooth random image whose colour tells its class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels[..., hue] = np.maximum(pixels[..., hue], 160)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of twelve images each, in class folders."""
    for label, name in enumerate(("blue", "green", "red")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for i in range(12):
            draw_image(100 * label + i, hue=2 - label).save(folder / f"{i:02d}.png")
    return tmp_path / "images"


Run = Callable[..., CompletedProcess[str]]


def run_here(folder: Path, *arguments: str | Path, **environment: str) -> CompletedProcess[str]:
    """Run the command line, in this process: a new one spends seconds on imports."""
    words = list(map(str, arguments))
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["cnn-codes", *words])
        for name, value in environment.items():
            patch.setenv(name, value)
        status = main(words)
    return CompletedProcess(words, status, out.getvalue(), err.getvalue())


@pytest.fixture
def run_cli(tmp_path: Path) -> Run:
    """Run the command line in the test's own folder."""
    return partial(run_here, tmp_path)
