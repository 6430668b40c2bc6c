"""Looking after a store: every flipped bit is found, what is in use stays, and room is made."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cache import CodesKey, CodeStore, StoreError
from cache.contents import list_entries
from cache.digests import DigestMemory
from cache.storage.opening import open_storage
from cache.upkeep import AGES, SIZES, list_parts, parse_quantity, prune
from cache.verify import repair, verify
from codes import load_images
from codes.backbones.backbone import pixels_backbone
from codes.data.sources import FileSource
from pipelines.cli.app import main
from pipelines.cli.streams.output import results
from pipelines.extraction.distributed import Shard, find_shard
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions
from tests.conftest import ROOT, draw_image
from tests.test_store import CONV, FC7, KEY, _codes, _digests, _write


def _faults(root: Path) -> list[str]:
    return [fault.path for fault in verify(open_storage(root))]


def _stored_files(root: Path) -> list[Path]:
    group = root / KEY.folder()
    return sorted(path for path in group.rglob("*") if path.is_file())


def _fill(root: Path) -> CodeStore:
    store = CodeStore(root)
    _write(store, range(1100), {FC7: 30, CONV: 10})
    _write(store, range(1100, 1200), {FC7: 30})
    return store


def test_a_whole_store_has_no_fault(tmp_path: Path) -> None:
    _fill(tmp_path)
    assert _faults(tmp_path) == []


def test_fifty_flipped_bits_are_fifty_faults_and_repair_makes_them_missing(tmp_path: Path) -> None:
    _fill(tmp_path)
    files = _stored_files(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(50):
        # Every file once, then at random: metadata and markers as well as codes.
        file = files[i] if i < len(files) else files[rng.integers(len(files))]
        whole = file.read_bytes()
        bad = bytearray(whole)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(bad))
        faults = list(verify(open_storage(tmp_path)))
        assert faults, file
        # Several files can depend on one; the one that was damaged, or its array, is named.
        assert any(
            str(file.relative_to(tmp_path)).startswith(fault.path) for fault in faults
        ), (file, faults)  # fmt: skip
        file.write_bytes(whole)
    assert _faults(tmp_path) == []
    chunks = [f for f in files if f.name.startswith("c.") and FC7.array() in str(f)]
    chunk = max(chunks, key=lambda file: file.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    storage = open_storage(tmp_path)
    [fault] = verify(storage)
    assert (fault.array, fault.rows) == (FC7.array(), (0, 1023))
    repair(storage, [fault])
    assert _faults(tmp_path) == []
    gaps = CodeStore(tmp_path).missing(KEY, [FC7, CONV], _digests(range(1200)))
    assert sorted(len(gap.images) for gap in gaps) == [100, 1024]
    _write(CodeStore(tmp_path), range(1024), {FC7: 30, CONV: 10})
    np.testing.assert_array_equal(
        CodeStore(tmp_path).codes(KEY, FC7, _digests(range(1200))), _codes(range(1200), 30)
    )


@pytest.mark.parametrize("which", range(0, 14))
def test_a_lost_file_is_an_error_or_missing_codes_and_never_numbers(
    tmp_path: Path, which: int
) -> None:
    _fill(tmp_path)
    files = _stored_files(tmp_path)
    lost = files[which % len(files)]
    lost.unlink()
    found = _faults(tmp_path)
    is_marker = lost.parent.parent.name == "committed"
    in_committed = lost.parent.name == "committed"
    assert bool(found) != (is_marker or in_committed), lost
    if found:
        storage = open_storage(tmp_path)
        while faults := list(verify(storage)):
            repair(storage, faults)
    store = CodeStore(tmp_path)
    for gap in store.missing(KEY, [FC7], _digests(range(1200))):
        _write(store, gap.images, {FC7: 30})
    np.testing.assert_array_equal(
        store.codes(KEY, FC7, _digests(range(1200))), _codes(range(1200), 30)
    )


def test_swapped_chunks_and_foreign_files_are_found(tmp_path: Path) -> None:
    _fill(tmp_path)
    [one, two] = sorted(tmp_path.glob(f"*/*/{FC7.array()}/c.[01].0"))[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert len(_faults(tmp_path)) == 2
    one.write_bytes(first)
    two.write_bytes(second)
    foreign = [
        tmp_path / "notes.txt",
        tmp_path / KEY.folder() / "notes.txt",
        one.parents[0] / "notes.txt",
        one.parents[1] / "notes.txt",
        one.parents[0] / "c.99999.0",
    ]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert sorted(_faults(tmp_path)) == sorted(str(f.relative_to(tmp_path)) for f in foreign)
    storage = open_storage(tmp_path)
    repair(storage, list(verify(storage)))
    assert all(file.read_text() == "mine" for file in foreign)


def test_what_is_no_store_is_left_as_it_is(tmp_path: Path, run_cli) -> None:  # type: ignore[no-untyped-def]
    mine = [tmp_path / "mine" / name for name in ("thesis.txt", ".git/config", "a/b/c.npy", "a/x")]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for command in (["verify", "--repair"], ["prune"], ["prune", "--max-size", "0B"], ["list"]):
        done = run_cli("cache", *command, "--store", tmp_path / "mine")
        assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    # Nor is what lies beside a store.
    _fill(tmp_path / "mine")
    done = run_cli("cache", "verify", "--repair", "--store", tmp_path / "mine")
    assert done.returncode == 1
    assert "left alone" in done.stderr
    assert (
        run_cli("cache", "prune", "--max-size", "0B", "--store", tmp_path / "mine").returncode == 0
    )
    assert all(file.read_text() == "mine" for file in mine)
    assert list_parts(open_storage(tmp_path / "mine")) == []
    assert run_cli("cache", "list", "--store", "").returncode == 1


def test_a_marker_that_is_a_copy_of_another_is_found_and_repaired(tmp_path: Path) -> None:
    _fill(tmp_path)
    storage = open_storage(tmp_path)
    [marker] = tmp_path.glob("*/*/committed/000001024/zarr.json")
    for other in (
        marker.parent.parent / "zarr.json",
        marker.parents[1] / "000000000" / "zarr.json",
    ):
        whole = marker.read_bytes()
        marker.write_bytes(other.read_bytes())
        [fault] = verify(storage)
        assert fault.path == str(marker.relative_to(tmp_path))
        marker.write_bytes(whole)
    marker.write_bytes(other.read_bytes())
    repair(storage, list(verify(storage)))
    assert list(verify(storage)) == []


def test_a_damaged_lock_locks_nobody_out(tmp_path: Path) -> None:
    _fill(tmp_path)
    [lock] = (tmp_path / "use").glob("*.db")
    lock.write_bytes(b"xx" * 5000)
    np.testing.assert_array_equal(
        CodeStore(tmp_path).codes(KEY, FC7, _digests([3])), _codes([3], 30)
    )
    lock.write_bytes(b"xx" * 5000)
    storage = open_storage(tmp_path)
    removed, busy = prune(storage, list_parts(storage), max_size=0)
    assert (len(removed), busy) == (2, [])


_HOLD = """
import sys, time
from filelock import ReadWriteLock
lock = ReadWriteLock(sys.argv[1], is_singleton=False)
lock.acquire_write()
print("held", flush=True)
time.sleep(1.5)
"""


def test_a_long_wait_for_a_lock_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(tmp_path)
    [lock] = (tmp_path / "use").glob("*.db")
    monkeypatch.setattr("cache.storage.locks.PATIENCE", 0.2)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(lock)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        codes = CodeStore(tmp_path).codes(KEY, FC7, _digests([3]))
    np.testing.assert_array_equal(codes, _codes([3], 30))
    [said] = caplog.messages
    assert str(lock) in said
    caplog.clear()
    CodeStore(tmp_path).codes(KEY, FC7, _digests([3]))
    assert not caplog.messages


def test_a_long_wait_for_the_digests_is_said_and_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cache.digests.SETTLED", 0.0)
    monkeypatch.setattr("cache.digests.PATIENCE", 0.1)
    base = tmp_path / "digests.sqlite"
    (tmp_path / "a.png").write_bytes(b"one")
    with DigestMemory(base):
        pass
    other = sqlite3.connect(base, check_same_thread=False)
    asked: list[int] = []
    for start in (0, 1):  # When it is opened, and when it is written to.
        if start == 0:
            other.execute("BEGIN EXCLUSIVE")
            Timer(0.6, other.rollback).start()
        with DigestMemory(base) as memory:
            if start:
                other.execute("BEGIN EXCLUSIVE")
                Timer(0.6, other.rollback).start()
            memory.of(str(tmp_path / "a.png"), lambda: asked.append(1) or b"x" * 32)
        assert str(base) in caplog.messages[0]
    other.close()
    assert asked == [1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused_at_once(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    root = tmp_path / "mount"
    _fill(root)

    def refuse(file: object, command: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    store = CodeStore(root)
    for needs_lock in (
        lambda: store.missing(KEY, [FC7], _digests([3])),
        lambda: store.codes(KEY, FC7, _digests([3])),
        lambda: store.write(KEY, {FC7: 30}, _digests([3])),
        lambda: prune(store.storage, list_parts(store.storage), max_size=0),
        lambda: extract(
            load_images(image_folder), ExtractionOptions(backbone="bundled", store=root)
        ),
    ):
        with pytest.raises(StoreError, match=f"{root}.*{os.strerror(number)}.*--store"):
            needs_lock()
    # What takes no lock works: digests are not remembered, and the store is listed.
    with DigestMemory(root / "digests.sqlite") as memory:
        assert memory.of(str(image_folder / "red/00.png"), lambda: b"x" * 32) == b"x" * 32
    assert len(list_parts(store.storage)) == 2


def test_a_lock_that_cannot_be_taken_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path)
    [lock] = (tmp_path / "use").glob("*.db")
    before = lock.stat().st_ino

    def fail(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR  # type: ignore[misc]
        raise error

    monkeypatch.setattr("filelock.ReadWriteLock.acquire_read", fail)
    with pytest.raises(StoreError, match=f"{lock}.*disk I/O error"):
        CodeStore(tmp_path).codes(KEY, FC7, _digests([3]))
    assert lock.stat().st_ino == before


def test_the_command_names_the_rows_and_repairs(tmp_path: Path, run_cli) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "store"
    _fill(root)
    done = run_cli("cache", "verify")
    assert done.returncode == 0, done.stderr
    assert "2 parts, nothing damaged" in done.stdout
    chunk = sorted(root.glob(f"*/*/{FC7.array()}/c.1.0"))[0]
    chunk.unlink()
    done = run_cli("cache", "verify")
    assert done.returncode == 1
    assert f"{FC7.array()}, rows 1024 to 1099" in done.stdout
    assert "the chunk is gone" in done.stdout
    assert "cache verify --repair" in done.stderr
    assert run_cli("cache", "verify", "--repair").returncode == 0
    assert run_cli("cache", "verify").returncode == 0
    listed = run_cli("cache", "list")
    assert "1,124" in listed.stdout
    assert run_cli("cache", "verify", "--store", tmp_path / "nowhere").returncode == 1


def test_copies_are_accounted_for(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(100), {FC7: 4})
    _write(store, range(60, 120), {FC7: 4})
    assert sorted(h.n_images for h in list_parts(store.storage)) == [60, 100]
    assert [entry.n_images for entry in list_entries(list_parts(store.storage))] == [120]


def test_the_list_has_a_line_for_a_dataset_and_a_backbone(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_images(image_folder)
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu")
    fc7 = extract(images, options)
    digests = fc7.digests
    extract(images.take(np.arange(20)), replace(options, layers="conv1.relu,fc6.relu"))
    random = extract(images, replace(options, weights="none"))
    # What a comparison keeps besides: raw pixels, and what similarity is told from.
    beside = fc7.store.storage
    pixels = pixels_backbone(fc7.backbone.preprocessing)
    extract(images, replace(options, layers="pixels", pool="grid:16"), backbone=pixels)
    moments = CodesKey(layer="output", activation="pre", pool="surrogate:2", dtype="float32")
    in_float32 = replace(fc7.key, precision="bfloat16")
    for key in (fc7.key, in_float32):
        told = {"dataset": images.name}
        with fc7.store.write(key, {moments: 3}, digests[:5], provenance=told) as part:
            part.write({moments: np.ones((5, 3), np.float32)}, {})
    holdings = list_parts(beside)
    assert len(holdings) == 6
    own, control = sorted(list_entries(holdings), key=lambda entry: entry.weights or "")
    assert (own.layers, own.n_images) == (["conv1.relu", "fc6.relu", "fc7.relu"], 36)
    assert (control.layers, control.n_images, control.weights) == (["fc7.relu"], 36, "none")
    assert len(own.parts) == 5
    assert [Path(path).parts[0] for path in control.parts] == [random.key.folder()]
    assert own.size + control.size == sum(holding.size for holding in holdings)

    assert main(["cache", "list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [head[:4] for head in rows[0]] == [
        "data",
        "back",
        "sett",
        "laye",
        "imag",
        "size",
        "last",
        "whic",
    ]
    [ours] = [row for row in rows if row[1:5] == ["bundled", "", "3", "36"]]
    assert ours[0] == images.name
    assert ours[7] == "conv1.relu, fc6.relu, fc7.relu"
    assert {len(row) for row in rows} == {8}
    assert any(row[1:5] == ["bundled, random", "", "1", "36"] for row in rows)

    assert main(["cache", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(entry["bytes"] for entry in found) == own.size + control.size
    assert {array["pool"] for entry in found for array in entry["layers"]} <= {"flatten", "grid:9"}

    monkeypatch.setattr(
        "pipelines.cli.store.stdout",
        lambda: Console(
            file=results(), force_terminal=True, width=120, highlight=False, markup=False
        ),
    )
    assert main(["cache", "list"]) == 0
    printed = capsys.readouterr()
    head, *lines = printed.out.splitlines()
    assert len(lines) == 2
    assert str(beside.name) in printed.err  # The total is no row.
    assert all(len(line) <= 120 for line in lines)
    for start, value in (("images", "36"), ("layers", "3")):
        column = head.index(start) + len(start)
        assert value in [line[:column].split()[-1] for line in lines]
    assert all(images.name.endswith(line.split()[0].lstrip("…")) for line in lines)


def _age(root: Path, part: str, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(root / "use" / part, (then, then))


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    _fill(tmp_path)
    storage = open_storage(tmp_path)
    recent, old = sorted(list_parts(storage), key=lambda h: -h.n_images)
    _age(tmp_path, old.path, 40)
    _age(tmp_path, recent.path, 3)
    store = CodeStore(tmp_path)
    del store
    code = (
        "import sys; from cache.storage.opening import open_storage;"
        "from cache.upkeep import list_parts, prune; storage = open_storage(sys.argv[1]);"
        "removed, busy = prune(storage, list_parts(storage), older_than=float(sys.argv[2]),"
        "                      max_size=eval(sys.argv[3]), dry_run=eval(sys.argv[4]));"
        "print(*[h.path for h in removed], '|', *[h.path for h in busy])"
    )

    def in_another_process(*arguments: object) -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), *map(str, arguments)],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        return [half.split() for half in done.stdout.split("|")]

    month = 30 * 86_400
    # This process has read from the store, so another must leave it alone.
    reading = CodeStore(tmp_path)
    reading.storage.lock_shared(KEY.folder())
    assert in_another_process(month, None, False) == [[], [old.path]]
    reading.storage._held.clear()  # type: ignore[attr-defined]
    del reading
    assert in_another_process(month, None, True) == [[old.path], []]
    assert len(list_parts(storage)) == 2
    assert in_another_process(month, None, False) == [[old.path], []]
    assert [h.path for h in list_parts(storage)] == [recent.path]
    assert in_another_process(1e9, recent.size, False) == [[], []]
    assert in_another_process(1e9, recent.size - 1, False) == [[recent.path], []]


def test_prune_clears_away_what_a_crash_left(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    part = store.write(KEY, {FC7: 4}, _digests(range(5)))  # and never finished
    storage = open_storage(tmp_path)
    removed, busy = prune(store.storage, list_parts(store.storage))
    assert (removed, busy) == ([], [])  # It may still be written to.
    store.storage._held.clear()  # type: ignore[attr-defined]
    removed, _ = prune(storage, list_parts(storage))
    assert [holding.path for holding in removed] == [part.path]
    assert list_parts(storage) == []


def test_a_limit_makes_room_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path)
    total = sum(holding.size for holding in list_parts(open_storage(tmp_path)))
    monkeypatch.setenv("CNN_CODES_STORE_LIMIT", f"{total + 500}B")
    assert CodeStore(tmp_path).require_limit(400) == []
    with pytest.raises(StoreError, match="CNN_CODES_STORE_LIMIT"):
        CodeStore(tmp_path).require_limit(10 * total)
    assert len(list_parts(open_storage(tmp_path))) == 2  # Nothing is removed in vain.
    monkeypatch.setenv("CNN_CODES_STORE_LIMIT", "1B")
    assert CodeStore(tmp_path).require_limit(0) == []  # What is there can be used.
    monkeypatch.setenv("CNN_CODES_STORE_LIMIT", f"{total + 500}B")
    reader = CodeStore(tmp_path)
    reader.missing(KEY, [FC7], _digests([0]))
    with pytest.raises(StoreError, match="in use"):
        CodeStore(tmp_path).require_limit(600)  # Another reads this group.
    [removed] = reader.require_limit(600)  # Its own parts go, but for what it needs.
    assert reader.missing(KEY, [FC7], _digests([0])) == []
    assert removed not in [holding.path for holding in list_parts(open_storage(tmp_path))]
    with pytest.raises(StoreError, match="in use"):
        reader.require_limit(total)


def test_a_part_written_since_it_was_listed_stays(tmp_path: Path) -> None:
    writing = CodeStore(tmp_path).write(KEY, {FC7: 3}, _digests(range(5)))
    storage = open_storage(tmp_path)
    [holding] = list_parts(storage)
    assert holding.n_images == 0
    with writing as part:
        part.write({FC7: _codes(range(5), 3)}, {})
    assert prune(storage, [holding], max_size=0)[0] == []
    assert list_parts(storage)[0].n_images == 5


def test_what_is_foreign_stays_when_a_part_goes(tmp_path: Path) -> None:
    store = _fill(tmp_path)
    del store
    paths = [holding.path for holding in list_parts(open_storage(tmp_path))]
    other = tmp_path / "results-0123456789abcdef" / "20250101T000000-abcdef12"
    notes = [tmp_path / paths[0] / "notes.txt", other / "important.csv"]
    for note in notes:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("mine")
    storage = open_storage(tmp_path)
    prune(storage, list_parts(storage), max_size=0)
    assert all(note.read_text() == "mine" for note in notes)
    assert not list(tmp_path.rglob("c.*"))


@pytest.mark.parametrize("n_gone", [1, 2, 4, 6, 9])
def test_a_killed_prune_leaves_nothing_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_gone: int
) -> None:
    _fill(tmp_path)
    gone = 0

    def unlink(path: object, *rest: object, **named: object) -> None:
        nonlocal gone
        if gone == n_gone:
            raise KeyboardInterrupt
        gone += 1
        really(path, *rest, **named)  # type: ignore[arg-type]

    really = os.unlink
    storage = open_storage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            prune(storage, list_parts(storage), max_size=0)
    assert _faults(tmp_path) == []
    store = CodeStore(tmp_path)
    for gap in store.missing(KEY, [FC7], _digests(range(1200))):
        images = gap.images.tolist()
        _write(store, images, {FC7: 30})
    found = store.codes(KEY, FC7, _digests(range(1200)))
    np.testing.assert_array_equal(found, _codes(range(1200), 30))


@pytest.mark.parametrize("text", ["", "20", "20 XB", "-3GB", "3d"])
def test_sizes_and_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--max-size"):
        parse_quantity(text, "--max-size", SIZES)
    with pytest.raises(ValueError, match="--older-than"):
        parse_quantity(text.replace("d", "s"), "--older-than", AGES)


def test_a_known_file_is_not_read_again_unless_it_changed(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    asked: list[bytes] = []

    def read() -> bytes:
        asked.append(image.read_bytes())
        return asked[-1] * 8

    def digest() -> bytes:
        with DigestMemory(tmp_path / "digests.sqlite") as memory:
            return memory.of(str(image), read)

    digest()
    digest()
    assert asked == [b"one"] * 2  # Changed a moment ago: it may change again unseen.
    time.sleep(2.1)
    assert [digest(), digest(), digest()] == [b"one" * 8] * 3
    assert asked == [b"one"] * 3
    stat = image.stat()
    image.write_bytes(b"two")
    os.utime(image, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as some editors put it back
    assert digest() == b"two" * 8


@pytest.mark.parametrize("kept_together", [1, 4, 7])
def test_many_files_are_remembered(
    kept_together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.digests.SETTLED", 0.0)
    monkeypatch.setattr("cache.digests.KEPT_TOGETHER", kept_together)
    image = tmp_path / "a.tar"
    image.write_bytes(b"one")
    wanted = [bytes([i]) * 32 for i in range(10)]
    asked: list[int] = []

    def digests(members: range) -> list[bytes]:
        with DigestMemory(tmp_path / "digests.sqlite") as memory:
            return [
                memory.of(str(image), lambda i=i: asked.append(i) or wanted[i], member=f"{i}.png")
                for i in [*members, *members]  # Twice in one list, computed once.
            ]

    assert digests(range(5)) == 2 * wanted[:5]
    assert digests(range(10)) == 2 * wanted
    assert asked == list(range(10))


def test_digests_that_cannot_be_kept_are_computed(tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").write_text("not a database, but long enough to look at" * 30)
    (tmp_path / "a.png").write_bytes(b"one")
    with DigestMemory(tmp_path / "digests.sqlite") as memory:
        assert memory.of(str(tmp_path / "a.png"), lambda: b"x" * 32) == b"x" * 32


def test_a_known_folder_is_listed_without_being_read(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.digests.SETTLED", 0.0)
    options = ExtractionOptions(backbone="bundled", layers="fc7.relu")
    extract(load_images(image_folder), options)
    asked: list[str] = []
    read = FileSource._digest
    monkeypatch.setattr(
        FileSource, "_digest", lambda *which: asked.append(which[0].names[which[1]]) or read(*which)
    )
    again = extract(load_images(image_folder), options)
    assert (asked, again.n_extracted) == ([], 0)
    changed = image_folder / "red" / "03.png"
    draw_image(999).save(changed)
    assert extract(load_images(image_folder), options).n_extracted == 1
    assert asked == [str(changed)] * 2  # When it is listed, and once it has been decoded.


@given(st.integers(0, 300), st.integers(1, 7), st.integers(1, 40), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_shares_are_a_partition(n: int, world_size: int, segment: int, n_copies: int) -> None:
    digests = np.repeat(_digests(range(n)) if n else np.empty((0, 32), np.uint8), n_copies, axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.extraction.distributed.SEGMENT_ROWS", segment)
        shards = [Shard(rank=rank, world_size=world_size).of(digests) for rank in range(world_size)]
    taken = np.concatenate(shards)
    assert len(taken) == n
    assert len({digests[place].tobytes() for place in taken}) == n
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= -(-n // (segment * world_size))  # one a block


def test_who_starts_the_processes_says_which_share() -> None:
    assert find_shard(None, None, {}) == Shard(rank=0, world_size=1)
    assert find_shard(2, 3, {"RANK": "0", "WORLD_SIZE": "9"}) == Shard(rank=2, world_size=3)
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}
    assert find_shard(None, None, slurm) == Shard(rank=3, world_size=4)
    array = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_ARRAY_TASK_ID": "7",
             "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "3"}  # fmt: skip
    assert find_shard(None, None, array) == Shard(rank=2, world_size=3)
    stepped = {"SLURM_ARRAY_TASK_ID": "15", "SLURM_ARRAY_TASK_MIN": "5",
               "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_STEP": "10"}  # fmt: skip
    assert find_shard(None, None, stepped) == Shard(rank=1, world_size=3)
    for rank, world_size in ((3, 3), (-1, 2), (0, 0), (None, 2), (1, None)):
        with pytest.raises(ValueError, match="rank="):
            find_shard(rank, world_size, {})
