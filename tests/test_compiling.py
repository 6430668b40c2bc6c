"""The compiled network against the network as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codes import CodeExtractor, Preprocessing, load_backbone, load_images
from pipelines import ExtractionOptions
from pipelines.diagnostics.reproducibility import measure_reproducibility
from pipelines.extraction.extract import extract

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "tests.test_compiling:build"

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def build() -> tuple[nn.Module, Preprocessing]:
    """Make a network that compiles in seconds."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2),
    )  # fmt: skip
    half = (0.5, 0.5, 0.5)
    return network, Preprocessing(resize_size=16, crop_size=16, mean=half, std=half)


@needs_compiler
def test_compiled_codes_are_the_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    backbone = load_backbone(NETWORK)
    digits = load_images("sklearn:digits").take(np.arange(12))
    compiled, plain = (CodeExtractor(backbone, "all", compile=c) for c in (True, False))
    ran = []
    network = compiled._reader._network._network
    compiled._reader._network._network = lambda x: ran.append(len(x)) or network(x)
    # The last batch is filled up, a larger one afterwards is compiled anew.
    found = [*compiled.extract(digits, batch_size=5), *compiled.extract(digits, batch_size=12)]
    assert set(ran[:-1]) == {5}
    assert ran[-1] == 12
    assert [len(batch.codes["5"]) for batch in found] == [5, 5, 2, 12]
    [expected] = plain.extract(digits)
    for layer, codes in expected.codes.items():
        rows = np.concatenate([batch.codes[layer] for batch in found])
        tolerance = 1e-5 * np.abs(codes).max()
        np.testing.assert_allclose(rows, np.tile(codes, (2, 1)), rtol=0, atol=tolerance)
    options = ExtractionOptions(backbone=NETWORK, store=tmp_path / "store", compile=True)
    extraction = extract(digits, options)
    measured = measure_reproducibility(extraction)
    assert measured.again == 0
    assert measured.compiled is not None
    assert measured.compiled <= 1e-5


def test_without_a_compiler_the_error_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "extract", "sklearn:digits", "--backbone",
         NETWORK, "--device", "cpu", "--compile", "--store", str(tmp_path / "store")],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"CXX": "/nonexistent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "no")},
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot be compiled" in done.stderr
    assert "Leave --compile out" in done.stderr
    assert "Traceback" not in done.stderr
