"""Codes that another tool made: each format gives the same scores, and nothing wrong is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numcodecs import Pickle
from sklearn.datasets import load_iris

from pipelines import ExtractionOptions, Protocol, compare, compare_layers
from pipelines.exchange.loading import load_given
from tests.conftest import Run

FAST = ("--cv", "2", "--Cs", "1e-2,1", "--jobs", "1", "--repeats", "1")
Arrays = dict[str, Any]


@pytest.fixture
def arrays() -> Arrays:
    """Two layers of iris, of two types, with a test split and groups; no two rows are equal."""
    X, y = load_iris(return_X_y=True)
    X = X + np.arange(len(X))[:, None] * 1e-4
    order = np.random.default_rng(0).permutation(len(y))
    test = np.arange(len(y)) % 3 == 0
    return {
        "y": np.array(["setosa", "versicolor", "virginica"])[y[order]],
        "split": np.where(test, "test", "train"),
        "group": np.where(test, "t", "r") + (np.arange(len(y)) // 6).astype(str),
        "path": np.array([f"{i:03d}.png" for i in range(len(y))]),
        "sepal/2": X[order, :2].astype(np.float32),
        "petal.1": X[order, 2:],
    }


def _npz(folder: Path, arrays: Arrays) -> str:
    np.savez(folder / "codes.npz", **arrays)
    return f"npz:{folder / 'codes.npz'}"


def _parquet(folder: Path, arrays: Arrays) -> str:
    columns = {"label" if k == "y" else k: pa.array(v.tolist()) for k, v in arrays.items()}
    pq.write_table(pa.table(columns), folder / "codes.parquet", row_group_size=40)
    return f"parquet:{folder / 'codes.parquet'}"


def _zarr(folder: Path, arrays: Arrays, *, zarr_format: Any = 3) -> str:
    layers = [name for name, values in arrays.items() if values.ndim == 2]
    plain = {name: name.replace("/", "_") for name in arrays}
    listed = {"layers": [plain[name] for name in layers]}
    group = zarr.create_group(folder / "codes.zarr", zarr_format=zarr_format, attributes=listed)
    for name, values in arrays.items():
        text = values.dtype.kind == "U"
        array = group.create_array(
            plain[name], shape=values.shape, dtype=str if text else values.dtype
        )
        array[...] = values.astype(object) if text else values
    return f"zarr:{folder / 'codes.zarr'}"


def _scores(folder: Path) -> list[list[str]]:
    return [line.split(",") for line in (folder / "scores.csv").read_text().splitlines()]


@pytest.mark.parametrize("write", [_npz, _parquet, _zarr])
def test_the_scores_are_those_of_the_arrays(
    write: Callable[[Path, Arrays], str], arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    protocol = Protocol(cv=2, Cs=(1e-2, 1), train_sizes=(5, "all"), repeats=1)
    expected = compare_layers(
        {"sepal": arrays["sepal/2"], "petal": arrays["petal.1"]},
        arrays["y"],
        protocol=protocol,
        test=arrays["split"] == "test",
        groups=arrays["group"],
    )
    done = run_cli("compare", write(tmp_path, arrays), *FAST, "--train-sizes", "5,all",
                   "--controls", "none", "--out", "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    header, *rows = _scores(tmp_path / "out")
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert [row["layer"][:5] for row in found] == [fold.layer for fold in expected.folds]
    for name in ("C", "score", "n_train", "n_test", "n_features", "train_size"):
        assert [row[name] for row in found] == [str(getattr(f, name)) for f in expected.folds]
    assert {row["depth"] for row in found} == {"0.5", "1.0"}


def test_zarr_of_format_2_is_read(arrays: Arrays, tmp_path: Path) -> None:
    numbers = arrays | {"y": np.unique(arrays["y"], return_inverse=True)[1]}
    for name in ("split", "group", "path"):
        del numbers[name]
    given = load_given(_zarr(tmp_path, numbers, zarr_format=2))
    assert np.unique(given.images.labels).tolist() == ["0", "1", "2"]
    np.testing.assert_array_equal(given.readers["petal.1"](), arrays["petal.1"])


def test_without_an_order_zarr_arrays_are_alphabetical_and_that_is_said(
    arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    place = _zarr(tmp_path, arrays)
    assert [one.layer for one in load_given(place).layers] == ["sepal_2", "petal.1"]
    zarr.open_group(tmp_path / "codes.zarr").attrs.put({})
    done = run_cli("compare", place, *FAST, "--controls", "none", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "in alphabetical order" in done.stderr
    assert "in alphabetical order" in (tmp_path / "out" / "report.html").read_text()
    assert [row[0] for row in _scores(tmp_path / "out")[1:]] == ["petal.1", "sepal_2"]


def _with(name: str, value: Any) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {name: value}


def _without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {k: v for k, v in arrays.items() if k != name}


def _column_not_finite(arrays: Arrays) -> Arrays:
    codes = arrays["petal.1"].copy()
    codes[:, 1] = np.nan
    return arrays | {"petal.1": codes}


def _not_finite(arrays: Arrays) -> Arrays:
    codes = arrays["petal.1"].copy()
    codes[[17, 40], 1] = np.nan, np.inf
    return arrays | {"petal.1": codes}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_without("y"), "has no labels: 'y'"),
        (_with("y", np.zeros(150)), "'y': its values are float64"),
        (_with("y", np.zeros((150, 1), int)), r"'y': its shape is \(150, 1\)"),
        (_with("y", np.zeros(150, int)), r"has 1 class \('0'\)"),
        (_with("y", np.array(["a", " "] * 75)), "'y': row 1 .* is empty"),
        (_with("y", np.array(["a", "b"] * 75, object)), "'y'.*without running code"),
        (_with("y", np.array([b"\xe9", b"b"] * 75)), "'y': its text is not UTF-8"),
        (_with("y", np.arange(140) % 2), "'split': it has 150 values, and there are 140 labels"),
        (_with("split", np.array(["tset"] * 150)), "'split': row 0 .* is 'tset'. Allowed: train"),
        (_with("group", np.array(["p"] * 150)), "1 group both in the test split and outside"),
        (_with("petal.1", np.ones((149, 2))), "'petal.1': it has 149 rows, and there are 150"),
        (_with("petal.1", np.ones((150, 0))), "'petal.1': its rows are empty"),
        (_with("maps", np.ones((150, 2, 2))), "'maps': it is of 3 dimensions"),
        (_with("age", np.ones(150)), "'age': it is of 1 dimension"),
        (_with("groups", np.ones(150)), "'groups'.*Did you mean group"),
        (_with("counts", np.ones((150, 2), int)), "'counts': it is of int64 numbers.*float32"),
        (_with("a\x1b[2Jb", np.ones((150, 2))), "control characters"),
        (_not_finite, "'petal.1': row 17 .* in column 1, nan. Remove the row"),
        (_column_not_finite, r"row 0 .* column 1, nan. So has each of .* 1 column: 1. Leave these"),
        (_with("layers", np.array(["petal.1", "other"])), "layers lists petal.1, other"),
        (_with("depths", np.array([0.5])), "depths has 1 value, and there are 2 layers"),
        (_with("depths", np.array([0.5, 1.5])), "depths are 0.5, 1.5. Allowed: numbers from 0"),
        (lambda a: {"y": a["y"]}, "has no codes"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_named(
    change: Callable[[Arrays], Arrays], why: str, arrays: Arrays, tmp_path: Path
) -> None:
    place = _npz(tmp_path, change(arrays))
    with pytest.raises(ValueError, match=why) as raised:
        load_given(place)
    assert str(tmp_path / "codes.npz").replace("\\", "\\\\") in str(raised.value)


def test_no_pickle_is_loaded(arrays: Arrays, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    labels = np.array([Trap(), *arrays["y"][1:]], object)
    with pytest.raises(ValueError, match=r"np\.array\(labels, dtype=str\)"):
        load_given(_npz(tmp_path, arrays | {"y": labels}))
    group = zarr.create_group(tmp_path / "trap.zarr", zarr_format=2)
    group.create_array("y", data=np.arange(4) % 2)
    codes = group.create_array("codes", shape=(4, 1), chunks=(4, 1), dtype=float, compressors=None)
    (tmp_path / "trap.zarr" / "codes" / "0.0").write_bytes(Pickle().encode(labels[:1]))
    described = tmp_path / "trap.zarr" / "codes" / ".zarray"
    kept = json.loads(described.read_text()) | {"filters": [{"id": "pickle", "protocol": 5}]}
    described.write_text(json.dumps(kept))
    assert codes.shape == (4, 1)
    with pytest.raises(ValueError, match=r"is of a kind that is not read .*pickle"):
        load_given(f"zarr:{tmp_path / 'trap.zarr'}")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ([[0.1, 0.2], [0.3]], r"'v': the vector of row 1 \(from 0\) has 1 value.* 2\."),
        ([[0.1, 0.2], None], r"'v': row 1 \(from 0\) has no value"),
        ([[0.1, 0.2], [0.3, None]], r"'v': a value of the vector of row 1 .* is missing"),
        ([[1, 2], [3, 4]], "'v': it is of int64 numbers"),
        ([["a"], ["b"]], "'v': its vectors hold string"),
    ],
)
def test_vectors_that_do_not_fit_are_named(column: Any, why: str, tmp_path: Path) -> None:
    table = pa.table({"label": ["a", "b"], "v": column})
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=why):
        load_given(f"parquet:{tmp_path / 'v.parquet'}")


def test_other_columns_of_a_table_are_ignored_and_misspelt_ones_refused(
    arrays: Arrays, tmp_path: Path
) -> None:
    _parquet(tmp_path, arrays)
    table = pq.read_table(tmp_path / "codes.parquet")
    pq.write_table(table.append_column("age", pa.array(range(150))), tmp_path / "more.parquet")
    given = load_given(f"parquet:{tmp_path / 'more.parquet'}")
    assert given.images.ignored == {"column age": 1}
    assert given.images.source.names[2] == "002.png"
    misspelt = table.rename_columns([n.replace("split", "splits") for n in table.column_names])
    pq.write_table(misspelt, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="'splits' is not read, and is near to 'split'"):
        load_given(f"parquet:{tmp_path / 'bad.parquet'}")


def test_without_pyarrow_it_says_what_to_install(
    arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = _parquet(tmp_path, arrays)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"pip install 'cnn-codes\[parquet\]'"):
        load_given(place)


@pytest.mark.parametrize("scheme", ["npz", "parquet", "zarr"])
def test_a_file_of_another_kind_is_refused(scheme: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no codes" * 50)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_given(f"{scheme}:{tmp_path / 'absent'}")
    right, wrong = ("folder", "file") if scheme == "zarr" else ("file", "folder")
    with pytest.raises(ValueError, match="is not a"):
        load_given(f"{scheme}:{tmp_path / right}")
    with pytest.raises(ValueError, match=f"is a {wrong}"):
        load_given(f"{scheme}:{tmp_path / wrong}")


def test_a_damaged_table_is_named(arrays: Arrays, tmp_path: Path) -> None:
    place = _parquet(tmp_path, arrays)
    file = tmp_path / "codes.parquet"
    data = bytearray(file.read_bytes())
    start = pq.ParquetFile(file).metadata.row_group(0).column(4).data_page_offset
    data[start : start + 40] = bytes(40)
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"codes\.parquet' is not a Parquet file, or is damaged"):
        load_given(place)


def test_layers_are_chosen_by_name_or_expression(arrays: Arrays, tmp_path: Path) -> None:
    place = _npz(tmp_path, arrays)
    assert [one.layer for one in load_given(place, "petal.1").layers] == ["petal.1"]
    assert len(load_given(place, "s.*, petal.*").layers) == 2
    with pytest.raises(ValueError, match=r"has no layer 'fc7'\. Allowed: sepal/2, petal\.1"):
        load_given(place, "petal.1,fc7")


def test_rows_that_are_in_train_and_test_are_leaks(
    arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    # Row 1 trains and row 0 tests; rows 3 and 4, and 6 and 7, are alike in one layer only.
    for name, rows in (("sepal/2", [1, 4]), ("petal.1", [1, 7])):
        arrays[name][[row - 1 for row in rows]] = arrays[name][rows]
    arrays["y"][0] = arrays["y"][1]
    place = _npz(tmp_path, arrays)
    done = run_cli("compare", place, *FAST, "--controls", "none", "--out", "out")
    assert "Warning: 1 of 50 test images (2 %) is a copy" in done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [leak["images"] for leak in report["leaks"]] == [["000.png", "001.png"]]
    assert report["best"]["n_without_leaks"] == 49
    done = run_cli("compare", place, *FAST, "--controls", "none", "--drop-leaks", "--out", "b")
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["dataset"]["n_dropped"] == 1
    assert report["dataset"]["n_images"] == 149
    fewer = {name: values[1:] for name, values in arrays.items()}
    run_cli("compare", _npz(tmp_path, fewer), *FAST, "--controls", "none", "--out", "c")
    assert _scores(tmp_path / "b") == _scores(tmp_path / "c")


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("--backbone resnet18", "--backbone"),
        ("--weights none", "--weights"),
        ("--image-size 64 --pool avg --device cpu", "--image-size, --pool, --device"),
        ("--finetune", "--finetune"),
        ("--from layer4", "the options of fine-tuning"),
        ("--controls majority,pixels", "Controls pixels need the images and the network"),
    ],
)
def test_options_of_a_network_are_refused(
    typed: str, named: str, arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    done = run_cli("compare", _npz(tmp_path, arrays), *typed.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "fit {} --backbone bundled --out m.skops",
        "extract {} --backbone bundled",
        "export {} --backbone bundled --out c.npz",
        "similarity {} --backbone bundled",
    ],
)
def test_what_needs_images_says_so(
    command: str, arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    place = _npz(tmp_path, arrays)
    done = run_cli(*[word.format(place) for word in command.split()])
    assert done.returncode == 1
    assert "is a file of codes, and images are needed here" in done.stderr
    # Nor is a network asked for first.
    without = command.replace(" --backbone bundled", "")
    done = run_cli(*[word.format(place) for word in without.split()])
    assert done.returncode == 2
    assert f"needs images, and {place!r} is a file of codes" in done.stderr
    assert "--backbone" not in done.stderr


def test_the_page_says_that_codes_were_given(arrays: Arrays, tmp_path: Path, run_cli: Run) -> None:
    del arrays["split"], arrays["group"]
    place = _npz(tmp_path, arrays)
    done = run_cli("compare", place, *FAST, "--out", "out")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    absent = ("backbone", "similarity", "advice", "reproducibility", "preprocessing_check")
    assert [report[name] for name in absent] == [None] * len(absent)
    assert report["given"] == {
        "file": place, "order": "in the file's order", "has_depths": False,
    }  # fmt: skip
    names = [control["name"] for control in report["controls"]]
    assert names == ["majority", "shuffled", "concatenated"]
    assert report["best"]["recommended"] == report["best"]["layer"]
    for page in ("report.html", "report.md"):
        text = (tmp_path / "out" / page).read_text()
        assert "not extracted" in text
        assert "(depth" not in text
        assert "None" not in text
        assert "the chosen layer, training labels shuffled" in text
        assert "all layers side by side" in text
    again = (tmp_path / "out" / "report.html").read_text()
    assert run_cli("report", "out").returncode == 0
    assert (tmp_path / "out" / "report.html").read_text() == again


def test_depths_in_the_file_are_depths_on_the_page(arrays: Arrays, tmp_path: Path) -> None:
    described = {"layers": np.array(["petal.1", "sepal/2"]), "depths": np.array([0.25, 0.75]),
                 "pools": np.array(["avg", "max"])}  # fmt: skip
    given = load_given(_npz(tmp_path, arrays | described))
    assert given.has_depths
    found = [(one.layer, one.depth, one.pool) for one in given.layers]
    assert found == [("petal.1", 0.25, "avg"), ("sepal/2", 0.75, "max")]


def test_reports_of_codes_and_of_a_network_stand_side_by_side(
    arrays: Arrays, image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    assert run_cli("compare", _npz(tmp_path, arrays), *FAST, "--out", "a").returncode == 0
    assert run_cli("compare", image_folder, "--backbone", "bundled", "--layers", "fc7.relu", *FAST,
                   "--controls", "none", "--out", "b").returncode == 0  # fmt: skip
    done = run_cli("report", "a", "b", "--out", "both.html")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "both.html").read_text()
    assert "Put all codes into one file, each as a layer" in page


def test_a_study_of_few_images_is_refused_as_for_images(arrays: Arrays, tmp_path: Path) -> None:
    few = {"y": np.array(["a", "a", "b"]), "codes": np.eye(3)}
    with pytest.raises(ValueError, match=r"2 folds need 2 images of each class.*'b' has 1"):
        compare(_npz(tmp_path, few), protocol=Protocol(cv=2))


def test_python_takes_codes_as_the_command_line_does(
    arrays: Arrays, tmp_path: Path, run_cli: Run
) -> None:
    place = _npz(tmp_path, arrays)
    study = compare(place, cv=2, Cs="1e-2,1", repeats=1, layers="petal.1")
    assert [control.name for control in study.controls] == ["majority", "shuffled"]
    assert run_cli("compare", place, *FAST, "--layers", "petal.1", "--out", "out").returncode == 0
    names, *rows = _scores(tmp_path / "out")
    assert list(study.cv_results_) == names
    scores = [str(score) for score in study.cv_results_["score"].tolist()]
    assert scores == [row[names.index("score")] for row in rows]
    wrong: list[dict[str, Any]] = [
        {"backbone": "bundled"}, {"finetune": True}, {"store": "x"}, {"cvv": 3},
        {"options": ExtractionOptions(backbone="bundled")},
    ]  # fmt: skip
    for settings in wrong:
        with pytest.raises(TypeError, match=f"{next(iter(settings))}( cannot be used|. Did you)"):
            compare(place, **settings)
    with pytest.raises(ValueError, match="pixels need the images"):
        compare(place, controls="pixels")
    with pytest.raises(TypeError, match="needs a backbone"):
        compare(tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"classifer": "svm"}, TypeError, "no setting classifer. Did you mean classifier"),
        ({"n_jobs": 0}, ValueError, "allowed are 1 or more, or -1"),
        ({"finetune": "yes"}, TypeError, "allowed are True, False or FinetuneOptions"),
        ({"random_state": None}, TypeError, "random_state=None is of type NoneType"),
        ({"backbone": "bundled"}, TypeError, "holds codes: .* backbone cannot be used"),
    ],
)
def test_settings_that_are_wrong_say_so(
    arrays: Arrays, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        compare(_npz(tmp_path, arrays), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"backbone": ["bundled"]}, "backbone=.* of type list"),
     ({"backbone": "bundled", "image_size": "64"}, "image_size='64' is of type str")],
)  # fmt: skip
def test_options_of_another_type_say_so(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        compare("images", **settings)


def test_layers_may_be_listed(arrays: Arrays, tmp_path: Path) -> None:
    study = compare(
        _npz(tmp_path, arrays), layers=["petal.1"], controls="none", protocol=Protocol(cv=2)
    )
    assert {row.layer for row in study.comparison.layers} == {"petal.1"}


@pytest.mark.parametrize("options", [[], ["--backbone", "bundled"]])
def test_a_file_of_codes_without_its_scheme_is_named_with_it(
    arrays: Arrays, tmp_path: Path, run_cli: Run, options: list[str]
) -> None:
    file = _npz(tmp_path, arrays).removeprefix("npz:")
    done = run_cli("compare", file, *options)
    assert done.returncode == 1
    assert f"cnn-codes compare npz:{file}" in done.stderr
