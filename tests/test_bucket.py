"""A store in an object store: moto's server stands for Amazon's."""

from __future__ import annotations

import pickle
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import numpy as np
import obstore
import pytest
from obstore.store import from_url

from cache import CodeStore, DamagedCodesError, StoreError
from cache.digests import DigestMemory
from cache.storage.opening import open_storage
from cache.upkeep import list_parts, prune
from cache.verify import repair, verify
from tests.test_store import CONV, FC7, KEY, _codes, _digests, _write

SECRET = "wJalrXUtnFEMI-not-a-real-secret"


_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), sep=":", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server in a process of its own: as a thread, it would wait for what waits for it."""
    command = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(
        command, stdin=PIPE, stdout=PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://{process.stdout.readline().strip()}"
        process.communicate("")


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    bucket = tmp_path.name.replace("_", "-").lower()[-40:].strip("-")
    request = urllib.request.Request(f"{server}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{bucket}/some/prefix"


def test_codes_are_read_back_bit_for_bit_and_resumed(url: str) -> None:
    store = CodeStore(url)
    with pytest.raises(KeyboardInterrupt):
        _interrupted(store)
    [gap] = store.missing(KEY, [FC7, CONV], _digests(range(1500)))
    assert gap.images.tolist() == list(range(1100, 1500))
    _write(store, gap.images, {FC7: 40, CONV: 300})
    there = pickle.loads(pickle.dumps(store))
    order = np.random.default_rng(0).permutation(1500)[:700]
    np.testing.assert_array_equal(there.codes(KEY, FC7, _digests(order)), _codes(order, 40))
    conv = there.codes(KEY, CONV, _digests(order))
    np.testing.assert_array_equal(conv, _codes(order, 300).astype(np.float16))
    assert there.missing(KEY, [FC7, CONV], _digests(range(1500))) == []


def _interrupted(store: CodeStore) -> None:
    with store.write(KEY, {FC7: 40, CONV: 300}, _digests(range(1500))) as part:
        part.write({FC7: _codes(range(1100), 40), CONV: _codes(range(1100), 300)}, {})
        raise KeyboardInterrupt


def test_a_marker_is_created_once(url: str) -> None:
    storage = open_storage(url)
    storage.create("group/zarr.json", b"first")
    with pytest.raises(FileExistsError):
        storage.create("group/zarr.json", b"second")
    assert storage.read("group/zarr.json") == b"first"
    assert storage.read("group/nothing") is None


def test_damage_is_found_and_repaired(url: str) -> None:
    store = CodeStore(url)
    _write(store, range(1200), {FC7: 40})
    objects = from_url(url)
    [chunk] = [f.path for f in store.storage.files(KEY.folder()) if f.path.endswith("c.1.0")]
    whole = bytes(obstore.get(objects, chunk).bytes())
    obstore.put(objects, chunk, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedCodesError, match="rows 1024 to 1199"):
        store.codes(KEY, FC7, _digests(range(1200)))
    faults = list(verify(store.storage))
    assert [fault.rows for fault in faults] == [(1024, 1199)]
    repair(store.storage, faults)
    assert list(verify(store.storage)) == []
    [gap] = store.missing(KEY, [FC7], _digests(range(1200)))
    assert gap.images.tolist() == list(range(1024, 1200))


def test_list_and_prune(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CodeStore(url)
    _write(store, range(100), {FC7: 4})
    [holding] = list_parts(store.storage)
    assert holding.n_images == 100
    assert prune(store.storage, [holding], older_than=0) == ([], [holding])
    monkeypatch.setattr("cache.storage.s3.IN_USE", -1.0)
    assert prune(store.storage, [holding], older_than=0) == ([holding], [])
    assert list_parts(store.storage) == []


def test_an_extraction_resumes_and_its_secrets_stay_where_they_are(
    url: str,
    image_folder: Path,
    tmp_path: Path,
    run_cli: Callable[..., CompletedProcess[str]],
) -> None:
    arguments = [image_folder, "--backbone", "bundled", "--layers", "fc7.relu", "--store", url]
    first = run_cli("extract", *arguments)
    assert first.returncode == 0, first.stderr
    assert f"36 images extracted, 0 found in {url}" in first.stdout
    out = tmp_path / "out"
    compared = run_cli("compare", *arguments, "--cv", "2", "--Cs", "1e-2,1", "--repeats", "1",
                       "--jobs", "2", "--out", out)  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "0 images extracted, 36 found" in compared.stdout
    assert run_cli("cache", "verify", "--store", url).returncode == 0
    listed = run_cli("cache", "list", "--store", url)
    assert listed.returncode == 0, listed.stderr
    assert f"{url}: " in listed.stderr
    assert len(list_parts(open_storage(url))) == 4  # Two of controls, one of evidence.
    told = [first.stdout, first.stderr, compared.stdout, compared.stderr]
    files = [path.read_text(errors="replace") for path in out.iterdir()]
    kept = [
        (open_storage(url).read(file.path) or b"").decode(errors="replace")
        for file in open_storage(url).files("")
    ]
    for text in [*told, *files, *kept]:
        assert SECRET not in text
        assert "AKIDEXAMPLE" not in text


def test_what_cannot_be_reached_is_one_message(
    url: str,
    server: str,
    image_folder: Path,
    run_cli: Callable[..., CompletedProcess[str]],
) -> None:
    arguments = ["extract", image_folder, "--backbone", "bundled", "--store"]
    done = run_cli(*arguments, "s3://there-is-no-such-bucket/x")
    assert done.returncode == 1
    assert "there-is-no-such-bucket" in done.stderr
    assert "AWS_REGION" in done.stderr
    assert SECRET not in done.stderr
    assert "Traceback" not in done.stderr
    done = run_cli(*arguments, "s3://user:password@bucket/x")
    assert done.returncode == 1
    assert "password" not in done.stderr
    assert "environment" in done.stderr
    done = run_cli(*arguments, "gs://bucket/x")
    assert done.returncode == 1
    assert "s3://" in done.stderr


def test_without_the_extra_its_name_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "cache.storage.s3", raising=False)
    with pytest.raises(StoreError, match=r"pip install 'cnn-codes\[s3\]'"):
        CodeStore("s3://bucket/prefix")


def test_a_writer_that_is_refused_says_so(url: str) -> None:
    store = CodeStore(url)
    part = store.write(KEY, {FC7: 4}, _digests(range(3)))
    gone = CodeStore(url.replace(url.split("/")[2], "no-such-bucket")).storage
    part._storage = gone
    with pytest.raises(StoreError, match="does not answer"), part:
        part.write({FC7: _codes(range(3), 4)}, {})


def test_without_a_home_folder_nothing_is_remembered(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> Path:
        raise StoreError("no home")

    monkeypatch.setattr("cache.storage.s3.user_folder", unknown)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(b"pixels")
    for digest in (b"first", b"second"):
        with DigestMemory(open_storage(url).digests) as memory:
            assert memory.of("image.png", lambda found=digest: found) == digest
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]
