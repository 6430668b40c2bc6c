"""The store against arrays kept in memory; keys; damage; interruption."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from cache import CodesKey, CodeStore, DamagedCodesError, ExtractionKey, StoreError
from cache.chunks import chunk_rows
from cache.key import canonical_json
from cache.records import read_record, write_record
from cache.storage.local import LocalStorage
from cache.storage.opening import open_storage
from cache.verify import repair, verify
from codes.data.readers.published_datasets import load_torchvision
from pipelines import LinearSVCCV

KEY = ExtractionKey(
    architecture={"name": "net"},
    weights="0" * 64,
    preprocessing={"crop_size": 224},
    precision="float32",
    extractor=1,
)
FC7 = CodesKey(layer="fc7", activation="post", pool="flatten", dtype="float32")
CONV = CodesKey(layer="conv5", activation="post", pool="grid:2", dtype="float16")


def _digests(numbers: object) -> np.ndarray:
    rows = [np.random.default_rng(int(i)).bytes(32) for i in np.atleast_1d(numbers)]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)


def _codes(numbers: object, n_features: int) -> np.ndarray:
    rows = [
        np.random.default_rng([7, int(i)]).normal(size=n_features) for i in np.atleast_1d(numbers)
    ]
    return np.maximum(np.array(rows, np.float32), 0)


def _write(store: CodeStore, numbers: object, arrays: dict[CodesKey, int], batch: int = 50) -> None:
    numbers = np.atleast_1d(numbers)
    with store.write(KEY, arrays, _digests(numbers)) as part:
        for start in range(0, len(numbers), batch):
            some = numbers[start : start + batch]
            part.write({key: _codes(some, n) for key, n in arrays.items()}, {})


def test_what_is_written_is_read_back_bit_for_bit_in_any_order(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(1500), {FC7: 40, CONV: 3000})
    _write(store, range(1500, 1600), {FC7: 40, CONV: 3000})
    order = np.random.default_rng(0).permutation(1600)[:900]
    assert store.missing(KEY, [FC7, CONV], _digests(order)) == []
    np.testing.assert_array_equal(store.codes(KEY, FC7, _digests(order)), _codes(order, 40))
    conv = store.codes(KEY, CONV, _digests(order))
    assert conv.dtype == np.float16
    np.testing.assert_array_equal(conv, _codes(order, 3000).astype(np.float16))
    repeated = np.array([3, 3, 1599, 3])
    np.testing.assert_array_equal(store.codes(KEY, FC7, _digests(repeated)), _codes(repeated, 40))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 12), min_size=1, unique=True), st.booleans()),
             min_size=1, max_size=4),
    st.lists(st.integers(0, 15), min_size=1, max_size=10),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_gaps_are_what_a_set_difference_says(
    parts: list[tuple[list[int], bool]], asked: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = CodeStore(folder)
        held: dict[CodesKey, set[int]] = {FC7: set(), CONV: set()}
        for numbers, both in parts:
            arrays = {FC7: 3, CONV: 4} if both else {FC7: 3}
            _write(store, numbers, arrays)
            for key in arrays:
                held[key] |= set(numbers)
        lacking = {
            (number, key)
            for gap in store.missing(KEY, [FC7, CONV], _digests(asked))
            for number in np.array(asked)[gap.images]
            for key in gap.arrays
        }
        assert lacking == {(n, key) for key in held for n in set(asked) - held[key]}
        there = [n for n in asked if n in held[FC7]]
        if there:
            np.testing.assert_array_equal(store.codes(KEY, FC7, _digests(there)), _codes(there, 3))


def test_every_field_of_a_key_changes_what_is_found(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(3), {FC7: 4})
    other = {"architecture": {"name": "net", "k": 2}, "weights": "1" * 64, "extractor": 2,
             "preprocessing": {"crop_size": 225}, "precision": "bfloat16"}  # fmt: skip
    assert other.keys() == {field.name for field in fields(ExtractionKey)}
    for name, value in other.items():
        [gap] = store.missing(replace(KEY, **{name: value}), [FC7], _digests(range(3)))
        assert len(gap.images) == 3, name
    for field in fields(CodesKey):
        changed = replace(FC7, **{field.name: "float16" if field.name == "dtype" else "other"})
        assert store.missing(KEY, [changed], _digests(range(3))), field.name
    assert not store.missing(KEY, [FC7], _digests(range(3)))
    flipped = _digests(range(3)).copy()
    flipped[1, 31] ^= 1
    assert store.missing(KEY, [FC7], flipped)[0].images.tolist() == [1]


def test_keys_that_json_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"mean": float("nan")})


def test_a_group_under_a_wrong_name_is_not_read(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(3), {FC7: 4})
    other = replace(KEY, precision="bfloat16")
    shutil.copytree(tmp_path / KEY.folder(), tmp_path / other.folder())
    with pytest.raises(DamagedCodesError, match="is not as it was written"):
        store.codes(other, FC7, _digests(range(3)))
    (tmp_path / other.folder() / "zarr.json").unlink()
    write_record(store.storage, other.folder(), {"key": KEY.fields()})
    with pytest.raises(StoreError, match="another extraction"):
        store.codes(other, FC7, _digests(range(3)))


def test_an_early_end_keeps_what_arrived(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)

    def interrupted() -> None:
        with store.write(KEY, {FC7: 4}, _digests(range(2000))) as part:
            part.write({FC7: _codes(range(1100), 4)}, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    [gap] = store.missing(KEY, [FC7], _digests(range(2000)))
    assert gap.images.tolist() == list(range(1100, 2000))
    np.testing.assert_array_equal(
        store.codes(KEY, FC7, _digests(range(1100))), _codes(range(1100), 4)
    )


def test_rows_without_a_marker_are_never_read(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(1500), {FC7: 4})
    [part] = [p for p in (tmp_path / KEY.folder()).iterdir() if p.is_dir()]
    shutil.rmtree(part / "committed" / "000001024")
    [gap] = store.missing(KEY, [FC7], _digests(range(1500)))
    assert gap.images.tolist() == list(range(1024, 1500))
    with pytest.raises(StoreError, match="476 of 1500"):
        store.codes(KEY, FC7, _digests(range(1500)))


def test_a_part_that_got_no_row_is_removed(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    with store.write(KEY, {FC7: 4}, _digests(range(2))) as part:
        part.write({FC7: np.full((2, 4), np.nan, np.float32)}, {0: "empty", 1: "empty"})
    assert not (tmp_path / part.path).exists()


def test_unreadable_images_stay_missing(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    rows = _codes(range(5), 4)
    rows[2] = np.nan
    with store.write(KEY, {FC7: 4}, _digests(range(5))) as part:
        part.write({FC7: rows}, {2: "truncated"})
    assert store.missing(KEY, [FC7], _digests(range(5)))[0].images.tolist() == [2]
    np.testing.assert_array_equal(store.codes(KEY, FC7, _digests([4, 0])), _codes([4, 0], 4))


def _chunks(root: Path, array: CodesKey) -> list[Path]:
    return sorted(root.glob(f"*/*/{array.array()}/c.*.0"))


def test_a_flipped_byte_is_an_error_and_never_numbers(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(300), {FC7: 20})
    [chunk] = _chunks(tmp_path, FC7)
    whole = chunk.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 50):
        bad = bytearray(whole)
        bad[place] ^= 1 << int(place % 8)
        chunk.write_bytes(bytes(bad))
        with pytest.raises(DamagedCodesError, match=r"fc7-post.*rows 0 to 299"):
            store.codes(KEY, FC7, _digests(range(300)))
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(store.codes(KEY, FC7, _digests([5])), _codes([5], 20))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_lost_chunk_is_an_error(tmp_path: Path, damage: str) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(10), {FC7: 20})
    [chunk] = _chunks(tmp_path, FC7)
    if damage == "missing":
        chunk.unlink()
    else:
        chunk.write_bytes(chunk.read_bytes()[:40])
    with pytest.raises(DamagedCodesError, match="extracted again"):
        store.codes(KEY, FC7, _digests(range(10)))


def test_a_code_too_large_for_float16_names_the_layer(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    with (
        pytest.raises(OverflowError, match=r"'conv5'.*7e\+04.*--dtype float32"),
        store.write(KEY, {CONV: 2}, _digests([0])) as part,
    ):
        part.write({CONV: np.array([[1, 70_000]], np.float32)}, {})


def test_codes_too_small_for_float16_name_the_layer(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    small = np.array([[0, 6e-10], [3e-10, 0]], np.float32)
    with (
        pytest.raises(OverflowError, match=r"'conv5'.*--dtype float32"),
        store.write(KEY, {CONV: 2}, _digests([0, 1])) as part,
    ):
        part.write({CONV: small}, {})
    exact = dataclasses.replace(CONV, dtype="float32")
    zero, beside = np.zeros((2, 2), np.float32), np.array([[1, 6e-10], [0, 0]], np.float32)
    for key, codes in ((CONV, zero), (CONV, beside), (exact, small)):
        storage = CodeStore(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        with storage.write(KEY, {key: 2}, _digests([0, 1])) as part:
            part.write({key: codes}, {})
        np.testing.assert_allclose(
            storage.codes(KEY, key, _digests([0, 1])), codes, rtol=0, atol=2**-25
        )


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CodeStore(tmp_path / "not" / "yet" / "there")
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"1,200\.0 MB.* 0\.0 MB") as caught:
        store.write(KEY, {FC7: 100_000}, _digests(range(3000)))
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_not_said_to_be_full() -> None:
    with pytest.raises(StoreError, match=r"'/proc'.*--store"):
        CodeStore("/proc/store").storage.require_space(1)
    CodeStore("/proc/store").storage.require_space(0)


def test_a_disk_that_fills_up_keeps_the_committed_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CodeStore(tmp_path)
    write = LocalStorage.write

    def full(storage: LocalStorage, path: str, data: bytes) -> None:
        if not path.endswith("/c.0.0"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(storage, path, data)

    monkeypatch.setattr(LocalStorage, "write", full)
    with pytest.raises(OSError, match="No space"):
        _write(store, range(2000), {FC7: 4})
    monkeypatch.undo()
    assert len(store.missing(KEY, [FC7], _digests(range(2000)))[0].images) == 2000 - 1024


def test_a_store_that_is_removed_meanwhile_is_said_to_be(tmp_path: Path) -> None:
    store = CodeStore(tmp_path / "store")
    part = store.write(KEY, {FC7: 4}, _digests(range(2000)))
    part.write({FC7: _codes(range(100), 4)}, {})
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreError, match="is gone"):
        part.write({FC7: _codes(range(100, 2000), 4)}, {})


def test_two_writers_of_the_same_images_do_no_harm(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    barrier = threading.Barrier(2, timeout=20)

    def work() -> None:
        barrier.wait()
        with store.write(KEY, {FC7: 6}, _digests(range(1200))) as part:
            for start in range(0, 1200, 100):
                barrier.wait()
                part.write({FC7: _codes(range(start, start + 100), 6)}, {})

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(
        store.codes(KEY, FC7, _digests(range(1200))), _codes(range(1200), 6)
    )


def test_a_marker_is_created_once(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    write_record(storage, "000", {"first": True})
    with pytest.raises(FileExistsError):
        write_record(storage, "000", {"first": False})
    assert read_record(storage, "000") == {"first": True}
    assert zarr.open_group(tmp_path / "000", mode="r").attrs["first"] is True
    assert os.listdir(tmp_path / "000") == ["zarr.json"]


def test_any_zarr_reader_sees_a_clean_hierarchy(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(5), {FC7: 4})
    group = zarr.open_group(tmp_path / KEY.folder(), mode="r")
    [(_, part)] = list(group.groups())
    assert {name for name, _ in part.members()} == {"images", "committed", FC7.array()}
    np.testing.assert_array_equal(part[FC7.array()][:], _codes(range(5), 4))
    assert dict(group.members(max_depth=None))


@given(st.integers(1, 200_000), st.sampled_from([2, 4]))
def test_chunks_are_powers_of_two_near_512_kib(n_features: int, itemsize: int) -> None:
    rows = chunk_rows(n_features, itemsize)
    assert rows & (rows - 1) == 0
    assert 1 <= rows <= 1024
    if 1 < rows < 1024:
        size = rows * n_features * itemsize
        assert 2**-0.51 <= size / 2**19 <= 2**0.51


def test_a_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="a folder is needed"):
        CodeStore(tmp_path / "file")


def test_a_view_reads_the_rows_it_is_asked_for(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(700), {FC7: 40})
    _write(store, range(700, 900), {FC7: 40})
    order = np.random.default_rng(1).integers(0, 900, 500)
    view, whole = store.view(KEY, FC7, _digests(order)), _codes(order, 40)
    assert (view.shape, view.dtype, len(view), view.ndim) == ((500, 40), np.float32, 500, 2)
    for rows in (slice(None), slice(20, 90, 3), [3, 3, 499, -1], order[:50] % 500, order > 300, 7,
                 np.array([], int)):  # fmt: skip
        np.testing.assert_array_equal(view[rows], whole[rows])
    np.testing.assert_array_equal(view[10:20, 3:5], whole[10:20, 3:5])
    np.testing.assert_array_equal(np.asarray(view, np.float64), whole.astype(np.float64))
    with pytest.raises(IndexError):
        view[500]


def test_classifiers_take_a_view(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(120), {FC7: 40})
    view, y = store.view(KEY, FC7, _digests(range(120))), np.arange(120) % 3
    fitted = LinearSVCCV([1e-2, 1.0], cv=3, random_state=0).fit(view, y)
    expected = LinearSVCCV([1e-2, 1.0], cv=3, random_state=0).fit(_codes(range(120), 40), y)
    np.testing.assert_array_equal(fitted.coef_, expected.coef_)
    np.testing.assert_array_equal(fitted.predict(view), expected.predict(view[:]))


def test_any_zarr_reader_reads_the_same_codes(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(1500), {FC7: 40, CONV: 3000})
    for key, n_features in ((FC7, 40), (CONV, 3000)):
        [folder] = tmp_path.glob(f"*/*/{key.array()}")
        expected = _codes(range(1500), n_features).astype(key.dtype)
        np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[:], expected)
        lazy = dask.array.from_zarr(zarr.open_array(folder, mode="r"))
        np.testing.assert_array_equal(lazy[100:1200:7].compute(), expected[100:1200:7])


def test_short_segments_are_whole_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.writer.SEGMENT_ROWS", 64)
    store = CodeStore(tmp_path)
    _write(store, range(300), {FC7: 4, CONV: 3000})
    for key, n_features in ((FC7, 4), (CONV, 3000)):
        codes = store.codes(KEY, key, _digests(range(300)))
        np.testing.assert_array_equal(codes, _codes(range(300), n_features).astype(key.dtype))


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5])
def test_ctrl_c_at_any_moment_keeps_what_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    numbers, wide = np.arange(2500), {FC7: 700, CONV: 10}
    codes = {key: _codes(numbers, n) for key, n in wide.items()}
    store = CodeStore(tmp_path)
    really = LocalStorage.write

    def slowly(disk: LocalStorage, path: str, data: bytes) -> None:
        time.sleep(0.02)
        really(disk, path, data)

    arrived = 0

    def write() -> None:
        nonlocal arrived
        with store.write(KEY, wide, _digests(numbers)) as part:
            timer.start()
            for start in range(0, 2500, 32):
                part.write({key: rows[start : start + 32] for key, rows in codes.items()}, {})
                arrived = min(2500, start + 32)
            time.sleep(5)

    timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # Off in background jobs.
    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "write", slowly)
        with pytest.raises(KeyboardInterrupt):
            write()
    signal.signal(signal.SIGINT, before)
    assert list(verify(store.storage)) == []
    gaps = store.missing(KEY, [FC7], _digests(numbers))
    lacking = gaps[0].images if gaps else np.empty(0, int)
    assert lacking.min(initial=2500) >= arrived
    kept = np.setdiff1d(numbers, lacking)
    if len(kept):
        np.testing.assert_array_equal(store.codes(KEY, FC7, _digests(kept)), codes[FC7][kept])


def test_a_marker_that_counts_too_few_chunks_is_a_fault(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(100), {FC7: 40_000})
    marker = next(tmp_path.glob("*/*/committed/0*"))
    attributes = read_record(store.storage, marker.relative_to(tmp_path).as_posix())
    assert attributes is not None
    attributes["chunks"][FC7.array()].popitem()
    shutil.rmtree(marker)
    write_record(store.storage, marker.relative_to(tmp_path).as_posix(), attributes)
    with pytest.raises(DamagedCodesError, match="its marker does not count it"):
        store.codes(KEY, FC7, _digests(range(100)))
    faults = list(verify(store.storage))
    assert [fault.array for fault in faults] == [FC7.array()]
    repair(store.storage, faults)
    assert len(store.missing(KEY, [FC7], _digests(range(100)))[0].images) == 100


INDICES = [
    3, -2, np.int64(5), slice(None), slice(2, 40, 3), slice(40, 2, -7), slice(0, 0), ..., (),
    [3, 1, 1], [], np.array([-1, 0]), np.arange(50) % 3 == 0, (slice(3), 2), (slice(3), [1, 0]),
    (4, slice(1, 3)), ([1, 2], slice(1, 3)), (..., slice(2)), (4, 1), ([5, 6], 1),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=[str(i) for i in range(len(INDICES))])
def test_a_view_is_indexed_as_an_array(tmp_path: Path, index: object) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(50), {FC7: 4})
    codes = _codes(range(50), 4)
    view = store.view(KEY, FC7, _digests(range(50)))
    wanted = codes[index]  # type: ignore[index]
    np.testing.assert_array_equal(view[index], wanted)
    assert view[index].shape == wanted.shape
    again = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(again[index], wanted)
    assert store.view(KEY, FC7, _digests([])).shape == (0, 4)


@pytest.mark.parametrize(
    "index", [None, True, [[1, 2]], 1.5, "a", ([1, 2], [0, 1]), (1, 2, 3), [True] * 3, 50]
)
def test_a_view_refuses_what_an_array_would_do_otherwise(tmp_path: Path, index: object) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(50), {FC7: 4})
    with pytest.raises(IndexError):
        store.view(KEY, FC7, _digests(range(50)))[index]


def _nan(codes: np.ndarray) -> np.ndarray:
    codes[1, 2] = np.nan
    return codes


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (lambda: {FC7: _nan(_codes(range(3), 4))}, "NaN or infinity"),
        (lambda: {FC7: _codes(range(3), 4) + np.float32(np.inf)}, "NaN or infinity"),
        (lambda: {FC7: _codes(range(3), 1)}, r"wanted are \(3, 4\)"),
        (lambda: {FC7: _codes(range(4), 4)}, "has 3 images"),
        (lambda: {CONV: _codes(range(3), 4)}, "this part holds"),
        (lambda: {}, "this part holds"),
    ],
)
def test_codes_that_could_not_be_read_back_are_refused(
    tmp_path: Path, codes: Callable[[], dict[CodesKey, np.ndarray]], message: str
) -> None:
    with (
        pytest.raises(ValueError, match=message),
        CodeStore(tmp_path).write(KEY, {FC7: 4}, _digests(range(3))) as part,
    ):
        part.write(codes(), {})


@pytest.mark.parametrize(
    ("arrays", "digests", "message"),
    [
        ({FC7: 0}, _digests([0]), "1 or more features"),
        ({}, _digests([0]), "1 or more features"),
        ({replace(FC7, dtype="float64"): 3}, _digests([0]), "float16 or float32"),
        ({FC7: 3}, _digests([0]).astype(np.int64), "wanted are uint8"),
        ({FC7: 3}, _digests([0])[:, :16], "wanted are uint8"),
        ({FC7: 3}, _digests([0])[:0], "of one image or more"),
    ],
)
def test_parts_that_could_not_be_read_back_are_refused(
    tmp_path: Path, arrays: dict[CodesKey, int], digests: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CodeStore(tmp_path).write(KEY, arrays, digests)


@pytest.mark.parametrize(
    "name", ["s3:/bucket", "s3:bucket/x", "https://me:hunter2@host/x", "S3://me:hunter2@b/x"]
)
def test_names_that_are_no_store_are_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(StoreError, match="unknown kind") as error:
        CodeStore(name)
    assert "hunter2" not in str(error.value)
    with pytest.raises(StoreError, match="unknown kind"):
        CodeStore(Path("s3://bucket/x"))


def test_a_store_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="lies in a file"):
        CodeStore(tmp_path / "file" / "store")


def test_a_home_folder_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    for variable in ("HOME", "XDG_CACHE_HOME", "CNN_CODES_STORE", "CNN_CODES_DATA"):
        monkeypatch.delenv(variable, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    with pytest.raises(StoreError, match=r"HOME is not set.*--store or CNN_CODES_STORE"):
        CodeStore()
    for root in ("~/codes", "~somebody/codes"):
        with pytest.raises(StoreError, match=rf"{root}.* home .* --store or CNN_CODES_STORE"):
            CodeStore(root)
    with pytest.raises(OSError, match=r"HOME is not set.*CNN_CODES_DATA"):
        load_torchvision("CIFAR10")
