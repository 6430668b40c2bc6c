"""Exported codes are those in the store, and come back with the same scores."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr

from codes import load_images
from pipelines import ExtractionOptions, extract
from pipelines.exchange.arrays import Labelled, Rows
from pipelines.exchange.loading import load_given
from pipelines.exchange.npz import write_npz
from pipelines.exchange.parquet import write_parquet
from pipelines.exchange.zarr_groups import write_zarr
from pipelines.reading import readers
from tests.conftest import Run

NETWORK = ("--backbone", "bundled", "--layers", "conv5.relu:avg,fc7.relu")
LAYERS = ["conv5.relu:avg", "fc7.relu"]
WRITERS = {"npz": write_npz, "parquet": write_parquet, "zarr": write_zarr}


@pytest.fixture
def table(image_folder: Path) -> Path:
    """A CSV file with splits and groups, in an order of its own; one image is listed twice."""
    files = sorted(image_folder.rglob("*.png"))
    files = [files[i] for i in np.random.default_rng(0).permutation(len(files))]
    test = {file: int(file.stem) % 3 == 0 for file in files}
    rows = [
        (file, file.parent.name, "test" if test[file] else "train", f"{file.stem}{test[file]}")
        for file in [*files, next(file for file in files if not test[file])]
    ]
    with (image_folder.parent / "list.csv").open("w", newline="") as opened:
        csv.writer(opened).writerows([("path", "label", "split", "group"), *rows])
    return image_folder.parent / "list.csv"


def _read(file: Path) -> dict[str, Any]:
    """Read a file as its own library does."""
    if file.suffix == ".npz":
        with np.load(file) as found:
            return {name: found[name] for name in found.files}
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
        found = {name: np.stack(frame[name]) for name in LAYERS}
        return found | {"y" if n == "label" else n: frame[n].to_numpy() for n in frame.columns[:4]}
    group = zarr.open_group(file, mode="r")
    return {str(a.attrs.get("layer", name)): a[...] for name, a in group.arrays()}


@pytest.mark.parametrize("kind", WRITERS)
def test_exported_codes_are_those_in_the_store_with_their_labels(
    kind: str, table: Path, tmp_path: Path, run_cli: Run
) -> None:
    done = run_cli("export", table, *NETWORK, "--out", f"new/codes.{kind}")
    assert done.returncode == 0, done.stderr
    assert "36 images extracted, 1 is a copy" in done.stdout
    found = _read(tmp_path / "new" / f"codes.{kind}")
    with table.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for column in ("path", "split", "group"):
        assert found[column].tolist() == [row[column] for row in rows]
    assert found["y"].tolist() == [row["label"] for row in rows]
    options = ExtractionOptions(backbone="bundled", layers=NETWORK[-1])
    stored = extract(load_images(table), options)
    assert stored.n_extracted == 0
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer], stored.codes(layer))
        assert found[layer].dtype == (np.float32 if kind == "parquet" else np.float16)
    assert [file.name for file in (tmp_path / "new").iterdir()] == [f"codes.{kind}"]


def test_exported_codes_come_back_with_the_same_scores(
    table: Path, tmp_path: Path, run_cli: Run
) -> None:
    how = ("--cv", "2", "--Cs", "1e-3,1e-1", "--jobs", "1", "--train-sizes", "4,all",
           "--random-state", "3", "--controls", "none")  # fmt: skip
    assert run_cli("compare", table, *NETWORK, *how, "--out", "store").returncode == 0
    expected = (tmp_path / "store" / "scores.csv").read_text()
    assert expected.count("\n") > 10
    for kind in WRITERS:
        assert run_cli("export", table, *NETWORK, "--out", f"codes.{kind}").returncode == 0
        done = run_cli("compare", f"{kind}:codes.{kind}", *how, "--out", kind)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / kind / "scores.csv").read_text() == expected


class Slow:
    """Codes that note how many rows are read together, and can fail."""

    def __init__(self, codes: np.ndarray, *, until: int = 10**9) -> None:
        self._codes, self._until = codes, until
        self.shape, self.dtype = codes.shape, codes.dtype
        self.most = 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        if rows.stop > self._until:
            raise OSError("the store is gone")
        self.most = max(self.most, rows.stop - rows.start)
        return self._codes[rows]


def _labelled(layers: dict[str, Rows], labels: Sequence[str]) -> Labelled:
    n = len(layers)
    return Labelled(
        columns={
            "label": np.array(labels),
            "path": np.array([f"é{i}" for i in range(len(labels))]),
        },
        layers=layers,
        descriptions={"layers": list(layers), "depths": [0.5] * n, "pools": ["avg"] * n},
    )


@pytest.mark.parametrize("kind", WRITERS)
def test_few_rows_are_in_memory_and_any_name_of_a_layer_comes_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 1)
    rng = np.random.default_rng(0)
    names = ["b/c", "b_c", "b:c", "é ü", "a.b", "a", ".hidden", "__x", "con?"]
    codes = {name: rng.normal(size=(300, 3)).astype(np.float32) for name in names}
    layers = {name: Slow(values) for name, values in codes.items()}
    file, counted = tmp_path / f"codes.{kind}", []
    WRITERS[kind](file, _labelled(dict(layers), ["a", "b"] * 150), counted.append)
    assert max(one.most for one in layers.values()) == 64
    assert sum(counted) == 300 * len(names)
    given = load_given(f"{kind}:{file}")
    assert [one.layer for one in given.layers] == names
    assert given.images.labels.tolist() == ["a", "b"] * 150
    assert given.images.source.names[7] == "é7"
    for name, read in given.readers.items():
        np.testing.assert_array_equal(read(), codes[name])


@pytest.mark.parametrize("kind", WRITERS)
def test_an_export_that_fails_leaves_nothing_behind(
    kind: str, table: Path, tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    file = tmp_path / "out" / f"codes.{kind}"
    if kind != "zarr":
        file.write_text("what was there")
    before = [one.name for one in (tmp_path / "out").iterdir()]
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.extraction.extract.Extraction.view",
                      lambda *_: Slow(np.ones((37, 2), np.float16), until=0))  # fmt: skip
        done = run_cli("export", table, *NETWORK, "--out", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the store is gone" in done.stderr
    assert [one.name for one in (tmp_path / "out").iterdir()] == before
    assert kind == "zarr" or file.read_text() == "what was there"


@pytest.mark.parametrize(
    ("out", "more", "why"),
    [
        ("codes.csv", (), "Allowed: .npz, .parquet, .zarr"),
        ("codes", (), "Allowed: .npz, .parquet, .zarr"),
        ("there.zarr", (), "exists. Remove it"),
        ("there.npz", (), "is a folder"),
        ("codes.npz", ("--views", "hflip", "--each-view"), "--each-view gives an image several"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_extracted(
    out: str, more: tuple[str, ...], why: str, tmp_path: Path, run_cli: Run
) -> None:
    for name in ("there.zarr", "there.npz"):
        (tmp_path / name).mkdir()
    done = run_cli("export", "no-images", "--backbone", "bundled", *more, "--out", out)
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr


def test_parquet_is_what_other_programs_read(tmp_path: Path) -> None:
    codes = np.arange(12, dtype=np.float16).reshape(6, 2)
    layers: dict[str, Rows] = {"a": codes}
    write_parquet(tmp_path / "c.parquet", _labelled(layers, list("ababab")), lambda _: None)
    table = pa.parquet.read_table(tmp_path / "c.parquet")
    assert table.schema.field("a").type == pa.list_(pa.float32(), 2)
    assert table.schema.field("label").type == pa.string()
