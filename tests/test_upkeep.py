"""Looking after a store: every flipped bit is found, what is in use stays, and room is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cache import CodeStore, StoreError
from cache.digests import DigestMemory
from cache.places import open_place
from cache.upkeep import list_parts, parse_age, parse_size, prune
from cache.verify import repair, verify
from tests.conftest import ROOT
from tests.test_store import CONV, FC7, KEY, _codes, _digests, _write


def _faults(root: Path) -> list[str]:
    return [fault.path for fault in verify(open_place(root))]


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
        faults = list(verify(open_place(tmp_path)))
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
    place = open_place(tmp_path)
    [fault] = verify(place)
    assert (fault.array, fault.rows) == (FC7.array(), (0, 1023))
    repair(place, [fault])
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
        place = open_place(tmp_path)
        while faults := list(verify(place)):
            repair(place, faults)
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
        one.parents[0] / "c.999.0",
    ]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_text("mine")
    assert sorted(_faults(tmp_path)) == sorted(str(f.relative_to(tmp_path)) for f in foreign)


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
    assert "1,024" in listed.stdout
    assert run_cli("cache", "verify", "--store", tmp_path / "nowhere").returncode == 1


def test_copies_are_accounted_for(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    _write(store, range(100), {FC7: 4})
    _write(store, range(60, 120), {FC7: 4})
    assert sorted(h.n_copies for h in list_parts(store.place)) == [0, 40]
    assert sum(h.n_images - h.n_copies for h in list_parts(store.place)) == 120


def _age(root: Path, part: str, days: float) -> None:
    then = time.time() - days * 86_400
    os.utime(root / "use" / part, (then, then))


def test_prune_removes_what_was_not_used_for_longest(tmp_path: Path) -> None:
    _fill(tmp_path)
    place = open_place(tmp_path)
    recent, old = sorted(list_parts(place), key=lambda h: -h.n_images)
    _age(tmp_path, old.path, 40)
    _age(tmp_path, recent.path, 3)
    store = CodeStore(tmp_path)
    del store
    code = (
        "import sys; from cache.places import open_place; from cache.upkeep import prune;"
        "removed, busy = prune(open_place(sys.argv[1]), older_than=float(sys.argv[2]),"
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
    reading.place.hold(KEY.folder())
    assert in_another_process(month, None, False) == [[], [old.path]]
    reading.place._held.clear()  # type: ignore[attr-defined]
    del reading
    assert in_another_process(month, None, True) == [[old.path], []]
    assert len(list_parts(place)) == 2
    assert in_another_process(month, None, False) == [[old.path], []]
    assert [h.path for h in list_parts(place)] == [recent.path]
    assert in_another_process(1e9, recent.size, False) == [[], []]
    assert in_another_process(1e9, recent.size - 1, False) == [[recent.path], []]


def test_prune_clears_away_what_a_crash_left(tmp_path: Path) -> None:
    store = CodeStore(tmp_path)
    part = store.write(KEY, {FC7: 4}, _digests(range(5)))  # and never finished
    place = open_place(tmp_path)
    removed, busy = prune(store.place)
    assert (removed, busy) == ([], [])  # It may still be written to.
    store.place._held.clear()  # type: ignore[attr-defined]
    removed, _ = prune(place)
    assert [holding.path for holding in removed] == [part.path]
    assert list_parts(place) == []


def test_a_limit_makes_room_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(tmp_path)
    total = sum(holding.size for holding in list_parts(open_place(tmp_path)))
    monkeypatch.setenv("CNN_CODES_STORE_LIMIT", f"{total + 500}B")
    assert CodeStore(tmp_path).require_limit(400) == []
    removed = CodeStore(tmp_path).require_limit(600)
    assert len(removed) == 1
    with pytest.raises(StoreError, match=r"CNN_CODES_STORE_LIMIT allows .* Raise it"):
        CodeStore(tmp_path).require_limit(10 * total)
    assert len(list_parts(open_place(tmp_path))) == 1  # Nothing is removed in vain.
    store = CodeStore(tmp_path)
    store.missing(KEY, [FC7], _digests([0]))
    with pytest.raises(StoreError, match="in use"):
        store.require_limit(total)


@pytest.mark.parametrize("text", ["", "20", "20 XB", "-3GB", "3d"])
def test_sizes_and_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="--max-size"):
        parse_size(text, "--max-size")
    with pytest.raises(ValueError, match="--older-than"):
        parse_age(text.replace("d", "s"), "--older-than")


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


def test_digests_that_cannot_be_kept_are_computed(tmp_path: Path) -> None:
    (tmp_path / "digests.sqlite").write_text("not a database, but long enough to look at" * 30)
    (tmp_path / "a.png").write_bytes(b"one")
    with DigestMemory(tmp_path / "digests.sqlite") as memory:
        assert memory.of(str(tmp_path / "a.png"), lambda: b"x" * 32) == b"x" * 32
