"""The table of a report's fields: every field that is written is in it, and no other."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_iris
from sklearn.utils import Bunch

from pipelines.comparison.protocol import Protocol
from tests.conftest import Run
from tests.documentation import ROOT

PAGE = (ROOT / "docs" / "report-files.md").read_text(encoding="utf-8")
JSON, CSV = re.split(r"^## scores.csv$", PAGE, flags=re.MULTILINE)
NETWORK = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )
    for _ in range(20):
        model(torch.randn(8, 3, 64, 64))
    return model.eval()
"""
Field = tuple[str, ...]


def _documented(table: str) -> set[Field]:
    """Find the fields in the first column of a page's tables."""
    rows = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(names) == len(set(names))
    return {tuple(name.replace("[]", ".[]").split(".")) for name in names}


def _written(value: Any, path: Field = ()) -> Iterator[Field]:
    """Find the fields of a report that hold something; ``by_size`` is as ``best``."""
    if path == ("by_size", "[]"):
        yield path
        path = ("best",)
    if isinstance(value, dict) and value:
        for name, below in value.items():
            yield from _written(below, (*path, name))
    elif isinstance(value, list) and value:
        for below in value:
            yield from _written(below, (*path, "[]"))
    else:
        yield path


def _matches(field: Field, row: Field) -> bool:
    """Say whether a field is a row's; what is null or empty may hold a row's.

    The last key of a row, where it is any, may hold a list.
    """
    if row[-1] == "*" and field[-1] == "[]" and len(field) == len(row) + 1:
        field = field[:-1]
    known = all(wanted in ("*", own) for own, wanted in zip(field, row, strict=False))
    return known and len(field) <= len(row)


def _holds(field: Field, row: Field) -> bool:
    """Say whether a report has what a row describes, or an empty list in its place."""
    n_lists = next(i for i, name in enumerate((*reversed(row), "")) if name != "[]")
    return _matches(field, row) and len(field) >= len(row) - n_lists


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw images of 16 bits with splits and groups, copies, a broken one and another file."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 6)):
        for label in (0, 1):
            to = folder / split / ("dark", "light")[label]
            to.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 3000 + 9000 * label, (40, 40), dtype=np.uint16)
                Image.fromarray(pixels).save(to / f"{i}.png")
            (to / "notes.txt").write_text("not an image")
    (folder / "test" / "dark" / "copy.png").write_bytes(
        (folder / "train" / "dark" / "0.png").read_bytes()
    )
    (folder / "train" / "dark" / "broken.png").write_bytes(b"broken")
    (folder / "net_of_mine.py").write_text(NETWORK)
    return folder


def _demo(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    whole = load_digits()
    few = Bunch(images=whole.images[::6], target=whole.target[::6])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    monkeypatch.setattr("pipelines.cli.compare.Protocol", partial(Protocol, repeats=1))
    done = run("demo", "--out", folder / "demo", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return _read(folder / "demo")


def _read(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.mark.timeout(900)
def test_the_table_has_what_reports_have(
    slides: Path, tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _documented(JSON)
    demo = _demo(tmp_path, run_cli, monkeypatch)
    # What the demo has not: a network with batch normalisation, fine-tuned, on images with a test
    # split, of 16 bits; and codes without a network.
    monkeypatch.syspath_prepend(str(slides))
    fast = ("--cv", "2", "--Cs", "1e-3,1e-2", "--repeats", "1", "--jobs", "1")
    done = run_cli(
        "compare", slides, "--backbone", "net_of_mine:net", "--finetune", "--from", "input",
        "--epochs", "2", "--augment", "none", "--skip-unreadable", "--seeds", "2", *fast,
        "--out", tmp_path / "net",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    X, y = load_iris(return_X_y=True)
    np.savez(tmp_path / "codes.npz", y=y.astype(str), X=X, Z=X[:, ::-1])
    done = run_cli("compare", f"npz:{tmp_path / 'codes.npz'}", *fast, "--out", tmp_path / "given")
    assert done.returncode == 0, done.stderr
    reports = [demo, _read(tmp_path / "net"), _read(tmp_path / "given")]
    fields = {field for report in reports for field in _written(report)}
    unknown = {f for f in fields if not any(_matches(f, row) for row in rows)}
    assert sorted(unknown) == []
    gone = {row for row in rows if not any(_holds(field, row) for field in fields)}
    assert sorted(gone) == []
    assert reports[0].keys() == reports[1].keys() == reports[2].keys()
    with (tmp_path / "net" / "scores.csv").open() as file:
        header = next(csv.reader(file))
    assert {(name,) for name in header} == _documented(CSV)
