"""Codes larger than memory: the same answers as in memory, within the limit, and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from codes import load_images
from pipelines import ExtractionOptions, Protocol, compare
from pipelines.comparison.compare import compare_layers
from pipelines.comparison.evaluate import Fit, evaluate_layers
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.controls.controls import Concatenated, LeftOutError
from pipelines.controls.run import run_controls
from pipelines.exchange.loading import load_given
from pipelines.extraction.extract import extract
from pipelines.fitted.linear import fit
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.linear.mapped import KEPT, MappedCodes
from pipelines.progress import Silent
from pipelines.reading import memory
from pipelines.reading.memory import TooLargeError, fits_in_memory, memory_limit
from pipelines.reading.readers import Block, Reader, SideBySide
from pipelines.reading.scratch import ScratchSpaceError, opened, scratch_file, scratch_folder
from tests.conftest import ROOT, Run
from tests.oracle import assert_same_answer

KINDS = {"svm": LinearSVCCV, "logistic": LogisticCV}
Array = NDArray[Any]


class ArrayReader(Reader):
    """Reads an array, its last rows first."""

    def __init__(self, codes: Array, *, fails: type[BaseException] | None = None) -> None:
        self._codes, self._fails = codes, fails

    @property
    def shape(self) -> tuple[int, ...]:
        return self._codes.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._codes.dtype

    def __call__(self) -> Array:
        return self._codes

    def blocks(self) -> Iterator[Block]:
        for start in reversed(range(0, len(self._codes), 70)):
            codes = self._codes[start : start + 70]
            yield Block(rows=np.arange(start, start + len(codes)), codes=codes)
            if self._fails is not None:
                raise self._fails("it fails")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of scratch files, into which all codes go, in blocks of few rows."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(memory, "SHARE", 10**12)
    for name in ("pipelines.linear.scaling.SMALL", "pipelines.reading.rows.SMALL"):
        monkeypatch.setattr(name, 0)
    monkeypatch.setattr("pipelines.linear.scaling.BLOCK_SIZE", 1)
    monkeypatch.setattr("pipelines.linear.problems.BLOCK_SIZE", 1)
    monkeypatch.setattr("pipelines.linear.problems.CACHED", 1)
    monkeypatch.setattr("pipelines.linear.mapped.KEPT", 1000)
    return folder


def _made(
    n: int, n_features: int, n_classes: int, dtype: str = "float64"
) -> tuple[Array, NDArray[np.intp]]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, n)
    X = rng.standard_normal((n, n_features)) + rng.standard_normal((n_classes, n_features))[y] / 4
    X = np.maximum(X, 0) + 30 * rng.random(n_features)  # Means that are large beside deviations.
    X[:, 0] = 3.0
    return X.astype(dtype), y


def _mapped(X: Array, folder: Path) -> MappedCodes:
    X.tofile(folder / "codes")
    return MappedCodes(folder / "codes", X.shape, X.dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("scale", ["standard", "l2", None])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("shape", [(330, 40), (90, 260)])
def test_a_file_gives_the_answer_of_an_array(
    kind: str, n_classes: int, scale: Any, dtype: str, shape: tuple[int, int], scratch: Path
) -> None:
    X, y = _made(*shape, n_classes, dtype)
    model = KINDS[kind](
        [1e-4, 1e-2], cv=3, scale=scale, class_weight="balanced", random_state=0, tol=1e-9
    )
    expected = model.fit(X, y)
    wanted = expected.coef_, expected.intercept_, expected.decision_function(X)
    C, scores = expected.C_, expected.scores_
    mapped = _mapped(X, scratch)
    got = model.fit(mapped, y)
    assert got.C_ == C
    np.testing.assert_array_equal(got.scores_, scores)
    for found, of_array in zip(
        (got.coef_, got.intercept_, got.decision_function(mapped)), wanted, strict=True
    ):
        assert np.abs(found - of_array).max() <= 1e-8 * np.abs(of_array).max()
    np.testing.assert_array_equal(got.predict(mapped), got.predict(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_file_gives_the_answer_of_scikit_learn(
    kind: str, n_classes: int, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = _made(330, 20, n_classes)
    X = X[:, 1:]
    mapped = _mapped(X, scratch)
    of_array = KINDS[kind].fit
    monkeypatch.setattr(KINDS[kind], "fit", lambda self, X, y: of_array(self, mapped, y))
    rows = np.random.default_rng(1).permutation(len(y))
    splits = [(np.sort(rows[110:]), rows[:110]), (np.sort(rows[:220]), rows[220:])]
    assert_same_answer(kind, X, y, np.array([1e-3, 1e-1]), splits)


def _evaluated(codes: Any, y: Array, protocol: Protocol, *, n_jobs: int = 1) -> list[Fit]:
    test = np.arange(len(y)) % 4 == 0
    splits, _ = make_splits(Samples(y=y, test=test), protocol)
    fits = evaluate_layers({"a": codes}, y, splits, protocol, n_jobs=n_jobs)
    return [one for of_candidate in fits.values() for one in of_candidate]


def _assert_same_fits(found: list[Fit], expected: list[Fit]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert (one.C, one.n_features) == (other.C, other.n_features)
        np.testing.assert_array_equal(one.cv_scores, other.cv_scores)
        np.testing.assert_array_equal(one.predicted, other.predicted)
        assert one.train_score == other.train_score


@pytest.mark.parametrize("n_views", [1, 3])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_layer_in_a_scratch_file_scores_as_in_memory(
    n_views: int, n_jobs: int, scratch: Path
) -> None:
    X, numbers = _made(200, 30, 3, "float16")
    y = numbers.astype(str)
    if n_views > 1:
        noise = np.random.default_rng(1).standard_normal((200, n_views, 30))
        X = (X[:, None] + noise).astype(np.float16)
    protocol = Protocol(
        classifier="both", Cs=(1e-3, 1e-1), cv=3, train_sizes=(20, "all"), repeats=2
    )
    assert not fits_in_memory(X.nbytes, 1)
    found = _evaluated(ArrayReader(X), y, protocol, n_jobs=n_jobs)
    _assert_same_fits(found, _evaluated(X, y, protocol))
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("index", [
    3, -1, slice(None), slice(2, 9, 3), np.array([5, 0, 5]), np.arange(20) % 3 == 0,
    (slice(None), 1), (3, slice(1, 3)), (np.array([7, 2]), slice(None, None, 2)), slice(4, 4),
])  # fmt: skip
def test_what_indexing_gives_is_what_an_array_gives(index: Any, scratch: Path) -> None:
    codes = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.testing.assert_array_equal(_mapped(codes, scratch)[index], codes[index])


@pytest.mark.parametrize("rows", [3, slice(2, 9, 3), np.array([5, 0, 5]), slice(None)])
def test_views_are_indexed_by_image(rows: Any, scratch: Path) -> None:
    codes = np.random.default_rng(0).standard_normal((10, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(_mapped(codes, scratch)[rows], codes[rows])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_are_given_back_whichever_rows_are_read(tmp_path: Path) -> None:
    """Those that several selections read count together, and those around rows that are few."""
    n_rows, width = 2**17, 512
    with (tmp_path / "codes").open("wb") as file:
        file.truncate(n_rows * width * 2)
    codes = MappedCodes(tmp_path / "codes", (n_rows, width), np.dtype(np.float16))
    rng = np.random.default_rng(0)
    for share in (0.2, 0.2, 0.2, 0.05):
        rows = np.flatnonzero(rng.random(n_rows) < share)
        some, most = codes.select(rows), len(rows) if share > 0.1 else len(rows) // 2
        for start in range(0, most, 1000):
            some[start : start + 1000]
        assert _resident(tmp_path / "codes") < KEPT * 1.5
    with MemoryPeak(tmp_path / "codes") as peak:
        codes[np.flatnonzero(rng.random(n_rows) < 0.2)]  # At once.
    assert peak.bytes < KEPT * 2.5


class MemoryPeak:
    """Looks at how much of a mapped file is in memory, until it ends."""

    def __init__(self, file: Path) -> None:
        self.bytes, self._file, self._ended = 0, file, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.is_set():
            self.bytes = max(self.bytes, _resident(self._file))

    def __enter__(self) -> MemoryPeak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def _resident(file: Path) -> int:
    """Say how many bytes of a mapped file are in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    [first] = [number for number, line in enumerate(lines) if line.endswith(str(file))]
    [size] = [line.split()[1] for line in lines[first + 1 : first + 6] if line.startswith("Rss:")]
    return int(size) * 1024


def test_the_codes_of_a_store_are_mapped_in_the_order_of_the_images(
    image_folder: Path, tmp_path: Path, scratch: Path
) -> None:
    images = load_images(image_folder)
    options = ExtractionOptions(
        backbone="bundled", layers="conv5.relu,fc7.relu", pool="avg", store=tmp_path / "s",
        views="hflip", each_view=True,
    )  # fmt: skip
    half = np.arange(len(images))[::2]
    extract(images.take(half[::-1]), options)  # Another order, and two parts.
    found = extract(images, options)
    reader = found.readers["conv5.relu"]
    with opened(reader) as codes:
        assert isinstance(codes, MappedCodes)
        assert codes.shape == reader.shape
        np.testing.assert_array_equal(codes[:], found.codes("conv5.relu"))
        few = codes.averaged().select(np.array([3, 1]))
        np.testing.assert_array_equal(few[:], found.codes("conv5.relu")[[3, 1]].mean(1, np.float32))
    together = SideBySide(list(found.readers.values()))
    with opened(together) as codes:
        np.testing.assert_array_equal(codes[:], together())
    assert not list(scratch.iterdir())


def test_a_comparison_and_a_fit_do_not_depend_on_where_codes_are(
    image_folder: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def study() -> Any:
        return compare(
            image_folder, backbone="bundled", layers="fc6.relu,fc7.relu", store=tmp_path / "s",
            Cs="1e-3,1e-1", cv=2, repeats=1, controls="shuffled,concatenated",
        )  # fmt: skip

    found = study()
    again = fit(found.extraction, found.comparison, found.protocol)
    monkeypatch.setattr(memory, "SHARE", 0)
    expected = study()
    assert found.comparison.folds == expected.comparison.folds
    assert found.controls == expected.controls
    wanted = fit(expected.extraction, expected.comparison, expected.protocol)
    np.testing.assert_allclose(again.classifier.coef_, wanted.classifier.coef_, atol=1e-6)
    assert not list(scratch.iterdir())


def _files(folder: Path, X: Array, y: Array) -> list[str]:
    """Write codes in each format, twice the layers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.savez(folder / "plain.npz", y=y, a=X, b=np.asfortranarray(X[:, :5]))
    np.savez_compressed(folder / "packed.npz", y=y, a=X, b=X[:, :5])
    columns = {"a": pa.array(X.tolist()), "b": pa.array(X[:, :5].tolist())}
    table = pa.table({"label": pa.array(y.tolist()), **columns})
    pq.write_table(table, folder / "codes.parquet", row_group_size=64)
    group = zarr.create_group(folder / "codes.zarr")
    group.create_array("y", shape=y.shape, dtype=str)[...] = y.astype(object)
    for name, codes in (("a", X), ("b", X[:, :5])):
        group.create_array(name, shape=codes.shape, dtype=codes.dtype, chunks=(50, 4))[...] = codes
    return [
        f"npz:{folder / 'plain.npz'}", f"npz:{folder / 'packed.npz'}",
        f"parquet:{folder / 'codes.parquet'}", f"zarr:{folder / 'codes.zarr'}",
    ]  # fmt: skip


def test_given_codes_of_each_format_are_read_in_blocks(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.reading.readers.BLOCK_BYTES", 1)
    X, numbers = _made(200, 9, 2)
    for dataset in _files(tmp_path, X, np.array(["x", "y"])[numbers]):
        rows = np.arange(0, 200, 3)
        given = load_given(dataset).keep(rows)
        for layer, expected in (("a", X[rows]), ("b", X[rows, :5])):
            with opened(given.readers[layer]) as codes:
                np.testing.assert_array_equal(codes[:], expected)
            np.testing.assert_array_equal(given.readers[layer](), expected)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_scratch_file_is_left_by_what_ends_early(
    error: type[BaseException], scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, numbers = _made(200, 9, 2)
    y, protocol = numbers.astype(str), Protocol(Cs=(1e-2,), cv=2)
    with pytest.raises(error):
        _evaluated(ArrayReader(X, fails=error), y, protocol)
    assert not list(scratch.iterdir())

    def end(*arguments: object) -> None:
        assert len(list(scratch.glob("*/codes"))) == 1
        raise error("it ends")

    monkeypatch.setattr("pipelines.comparison.evaluate.evaluate_layer", end)
    with pytest.raises(error, match="it ends"):
        _evaluated(ArrayReader(X), y, protocol)
    assert not list(scratch.iterdir())


def test_too_small_a_disk_is_one_message(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Run
) -> None:
    X, numbers = _made(200, 9, 2)
    [*_, dataset] = _files(tmp_path, X, np.array(["x", "y"])[numbers])
    usage = shutil.disk_usage(scratch)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage)
        done = run_cli("compare", dataset, "--cv", "2", "--jobs", "1", "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "do not fit into memory, and neither into a scratch file" in done.stderr
    assert "TMPDIR" in done.stderr
    assert not list(scratch.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of file sizes is an error there")
def test_a_disk_that_fills_up_is_one_message(scratch: Path) -> None:
    import resource

    X, _ = _made(200, 900, 2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (X.nbytes // 2, before[1]))
    try:
        with pytest.raises(ScratchSpaceError, match="TMPDIR"), scratch_file(ArrayReader(X)):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(scratch.iterdir())


def test_what_cannot_be_solved_in_memory_is_refused_before_it_is_read(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 10**6)
    X, numbers = _made(400, 390, 2)
    y = numbers.astype(str)
    never = ArrayReader(X, fails=AssertionError)
    with pytest.raises(TooLargeError, match=r"layer 'a' takes about .* GB of memory.*--pool avg"):
        _evaluated(never, y, Protocol(Cs=(1e-2,), cv=2))
    given = load_given(_files(tmp_path, X, y)[0])
    with pytest.raises(LeftOutError, match="all layers"):
        Concatenated().read(given, "a", Silent())


def test_the_limit_is_the_least_of_machine_group_and_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = memory_limit()
    assert limit is not None
    child = (
        "import resource; from pipelines.reading.memory import memory_limit\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29)); print(memory_limit())"
    )
    done = subprocess.run(
        [sys.executable, "-c", child], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert int(done.stdout) == min(limit, 2**29)
    (tmp_path / "own").write_text("4:memory:/outer/inner\n0::/unified\n")
    for folder, name, value in (
        ("memory/outer", "memory.limit_in_bytes", "7000"),
        ("memory/outer/inner", "memory.limit_in_bytes", "9223372036854771712"),
        ("unified", "memory.max", "max"),
    ):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(value + "\n")
    assert min(memory._group_limits(tmp_path / "own", tmp_path)) == 7000
    (tmp_path / "memory.max").write_text("5000\n")
    assert min(memory._group_limits(tmp_path / "own", tmp_path)) == 5000
    assert memory._group_limits(tmp_path / "absent", tmp_path) == []


CHILD = """
import re, resource, sys
from pathlib import Path
from pipelines import Protocol
from pipelines.comparison.evaluate import evaluate_layers
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.exchange.loading import load_given
from pipelines.reading import memory

folder, share, extra = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
memory.SHARE, memory.LIBRARIES = share, 0
protocol = Protocol(classifier="logistic", Cs="1e-5", cv=2)
for name in ("small", "large"):
    given = load_given(f"zarr:{folder}/{name}")
    samples = Samples(y=given.images.labels, test=given.images.test)
    splits, _ = make_splits(samples, protocol)
    if name == "large":  # What a small comparison loads is not what a large one takes.
        status = Path("/proc/self/status").read_text()
        limit = int(re.search(r"VmData:\\s+(\\d+)", status)[1]) * 1024 + extra
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    [[fit]] = evaluate_layers(given.readers, samples.y, splits, protocol).values()
print(fit.train_score)
"""


def _write_large(folder: Path, n: int, n_features: int) -> None:
    """Write codes of two classes that overlap, a chunk at a time."""
    rng = np.random.default_rng(0)
    group = zarr.create_group(folder)
    codes = group.create_array(
        "a", shape=(n, n_features), dtype="float16", chunks=(5000, n_features)
    )
    y = rng.integers(0, 2, n)
    for start in range(0, n, 5000):
        rows = slice(start, min(start + 5000, n))
        drawn = rng.standard_normal((rows.stop - start, n_features), dtype=np.float32)
        codes[rows] = np.maximum(drawn + 0.1 * y[rows, None], 0).astype(np.float16)
    for name, words in (
        ("y", y.astype(str)),
        ("split", np.where(rng.random(n) < 0.2, "test", "train")),
    ):
        group.create_array(name, shape=n, dtype=str)[...] = words.astype(object)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count data as Linux does")
def test_a_comparison_stays_within_memory_that_its_codes_would_exceed(tmp_path: Path) -> None:
    _write_large(tmp_path / "small", 2000, 512)
    _write_large(tmp_path / "large", 110_000, 512)  # 113 MB, of which 90 train

    def run(share: int) -> subprocess.CompletedProcess[str]:
        words = [str(tmp_path), str(share), str(160 * 2**20)]
        return subprocess.run(
            [sys.executable, "-c", CHILD, *words], cwd=ROOT, check=False, capture_output=True,
            text=True, env=os.environ | {"TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    in_memory = run(0)
    assert in_memory.returncode != 0
    assert "MemoryError" in in_memory.stderr
    within = run(8)
    assert within.returncode == 0, within.stderr
    assert 0.6 < float(within.stdout) < 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "small"]


def test_a_control_that_reads_no_codes_opens_none(scratch: Path) -> None:
    X, numbers = _made(60, 5, 2)
    protocol = Protocol(Cs=(1e-2,), cv=2, repeats=1)
    comparison = compare_layers({"a": X}, numbers.astype(str), protocol=protocol)
    never = ArrayReader(X, fails=AssertionError)
    [score] = run_controls({"majority": never}, comparison, protocol=protocol)
    assert score.name == "majority"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("named", ["missing", "file"])
def test_a_folder_that_cannot_be_written_to_is_named(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / named))
    with pytest.raises(ScratchSpaceError, match=f"TMPDIR='.*{named}'"):
        scratch_folder()
    monkeypatch.setenv("TMPDIR", "")
    assert scratch_folder() == Path("/var/tmp")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_scratch_file(how: signal.Signals, tmp_path: Path) -> None:
    _write_large(tmp_path / "large", 30_000, 256)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import sys; from pipelines.reading import memory; memory.SHARE = 10**12\n"
        "from pipelines.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "compare", f"zarr:{tmp_path / 'large'}", "--jobs", "1"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
        # Tests in a shell's background have SIGINT ignored, and so would this process.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(scratch.glob("*/codes")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert list(scratch.glob("*/codes"))
    process.send_signal(how)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted" in said
    assert not list(scratch.iterdir())


def test_the_size_of_scratch_files_is_said(tmp_path: Path, scratch: Path) -> None:
    class Noted(Silent):
        said = ""

        def info(self, text: str) -> None:
            self.said += text

    X, numbers = _made(200, 9, 2)
    noted = Noted()
    dataset = _files(tmp_path, X, np.array(["x", "y"])[numbers])[3]
    protocol = Protocol(Cs=(1e-2,), cv=2, repeats=1)
    compare(dataset, protocol=protocol, controls="none", progress=noted)
    assert f"scratch file of up to 14.4 kB in {str(scratch)!r}" in noted.said
