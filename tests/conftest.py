"""What several tests share: real data where it is there, small folders of images, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a process of its own."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            check=False,
            timeout=200,
        )

    return run
