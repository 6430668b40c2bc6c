"""A Dask cluster of two worker processes: the same scores, and codes that only workers read."""

from __future__ import annotations

import csv
import functools
import json
import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, Popen

import cloudpickle
import numpy as np
import pytest
from distributed import Client, WorkerPlugin
from distributed.comm import CommClosedError
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits

from codes import load_images
from pipelines import compare
from pipelines.cluster import connection
from pipelines.cluster.connection import ClusterError, connected
from pipelines.cluster.tasks import run_tasks
from pipelines.cluster.worker import Tasks, run_here
from pipelines.comparison.evaluate import _Evaluations, in_pieces
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import make_splits
from pipelines.extraction.extract import Extraction, extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.progress import Silent
from pipelines.studies.stored_comparison import compare_stored
from tests.conftest import ROOT, Run
from tests.test_bucket import SECRET, server, url

__all__ = ["server", "url"]

SMALL = ("--cv", "2", "--Cs", "1e-3,1e-1", "--repeats", "2", "--controls", "majority,shuffled")
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET}


@dataclass
class Processes:
    """A scheduler and its workers, each a process of its own."""

    folder: Path
    environment: dict[str, str]
    started: list[Popen[str]] = field(default_factory=list)
    address: str = ""

    def start_scheduler(self) -> None:
        file = self.folder / "scheduler.json"
        self._start("scheduler", "--scheduler-file", str(file), "--no-show")
        while not (file.exists() and file.read_text()):
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]

    def start_worker(self, **environment: str) -> Popen[str]:
        arguments = (self.address, "--nthreads", "1", "--no-nanny", "--memory-limit", "0")
        return self._start("worker", *arguments, **environment)

    def wait_for(self, n_workers: int) -> None:
        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=60)

    def _start(self, what: str, *arguments: str, **environment: str) -> Popen[str]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments]
        command += ["--host", "127.0.0.1", "--port" if what == "scheduler" else "--worker-port"]
        process = Popen(
            [*command, "0", "--no-dashboard"],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | self.environment | environment,
            stdout=DEVNULL,
            stderr=DEVNULL,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """A scheduler, still without workers."""
    yield from _processes(tmp_path, {})


@pytest.fixture(scope="module")
def cluster(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Two workers of one thread each, with credentials of their own."""
    environment = {
        "AWS_ENDPOINT_URL": server, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", **KEYS
    }  # fmt: skip
    for found in _processes(tmp_path_factory.mktemp("cluster"), environment):
        for _ in range(2):
            found.start_worker()
        found.wait_for(2)
        yield found


def _processes(folder: Path, environment: dict[str, str]) -> Iterator[Processes]:
    found = Processes(folder, environment)
    found.start_scheduler()
    try:
        yield found
    finally:
        for process in reversed(found.started):
            process.kill()
            process.wait()


@pytest.fixture
def given(tmp_path: Path) -> str:
    """Three layers of codes in a file, named relative to the test's folder."""
    X, y = load_digits(return_X_y=True)
    X = X[:300].astype(np.float32)
    wide = (X @ np.random.default_rng(0).normal(size=(64, 80))).clip(0).astype(np.float32)
    np.savez(tmp_path / "given.npz", y=y[:300].astype(str), few=X[:, :20], all=X, wide=wide)
    return "npz:given.npz"


class Log(WorkerPlugin):
    """Writes down which tasks a worker begins."""

    name = "log"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def transition(self, key: str, start: str, finish: str, **more: object) -> None:
        if finish == "executing":
            with (self.folder / str(os.getpid())).open("a") as file:
                file.write(f"{key}\n")


def _log_of(folder: Path) -> list[tuple[int, str]]:
    return [(int(f.name), key) for f in folder.iterdir() for key in f.read_text().splitlines()]


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_scores_are_those_of_processes_here(
    place: str, cluster: Processes, url: str, image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    # Processes that an earlier test left have the address of its server in their environment.
    get_reusable_executor().shutdown(wait=True)
    store = "store" if place == "folder" else url
    arguments = ("compare", image_folder, "--backbone", "bundled", *SMALL, "--store", store,
                 "--layers", "conv5.relu,fc7.relu")  # fmt: skip
    here = run_cli(*arguments, "--jobs", "2", "--out", "here")
    assert here.returncode == 0, here.stderr
    there = run_cli(*arguments, "--scheduler", cluster.address, "--out", "there")
    assert there.returncode == 0, there.stderr
    assert "on 2 workers" in there.stderr
    scores = [(tmp_path / out / "scores.csv").read_bytes() for out in ("here", "there")]
    assert scores[0] == scores[1]
    reports = [
        json.loads((tmp_path / out / "report.json").read_text()) for out in ("here", "there")
    ]
    assert reports[0]["controls"] == reports[1]["controls"]
    found = [report["environment"]["cluster"] for report in reports]
    assert found == [None, {"scheduler": "dask", "n_workers": 2}]


def test_codes_in_a_file_are_read_by_the_workers(
    cluster: Processes, given: str, tmp_path: Path, run_cli: Run
) -> None:
    for where, out in (("--jobs", "here"), ("--scheduler", "there")):
        number = "2" if where == "--jobs" else cluster.address
        done = run_cli("compare", given, *SMALL, where, number, "--out", out)
        assert done.returncode == 0, done.stderr
    scores = [(tmp_path / out / "scores.csv").read_bytes() for out in ("here", "there")]
    assert scores[0] == scores[1]
    with (tmp_path / "there" / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 4


def test_a_worker_that_is_killed_costs_only_its_own_task(
    processes: Processes, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    workers = [processes.start_worker() for _ in range(2)]
    processes.wait_for(2)
    (folder := tmp_path / "log").mkdir()
    with Client(processes.address, set_as_default=False) as client:
        client.register_plugin(Log(folder))
    protocol = Protocol(cv=3, repeats=3, Cs=(1e-4, 1e-3, 1e-2, 1e-1))
    victim = workers[0]

    class Killing(Silent):
        def step(self, name: str, total: int) -> object:  # type: ignore[override]
            return _kill_after(victim, 3)

    study = compare(
        given, protocol=protocol, controls="none", scheduler=processes.address, progress=Killing()
    )
    assert victim.wait() == -signal.SIGKILL
    here = compare(given, protocol=protocol, controls="none")
    assert study.comparison.folds == here.comparison.folds
    began = Counter(key for _, key in _log_of(folder))
    assert len(began) == 3 * 5
    # The one that was running, and perhaps one whose result was on its way.
    again = {key for key, n in began.items() if n > 1}
    assert len(again) <= 2
    assert again <= {key for pid, key in _log_of(folder)[:] if pid == victim.pid}


class _kill_after:  # noqa: N801
    """A step that kills a process when some of it is done."""

    def __init__(self, process: Popen[str], n: int) -> None:
        self._process, self._left = process, n

    def __enter__(self) -> Callable[..., None]:
        return self._advance

    def __exit__(self, *error: object) -> None:
        pass

    def _advance(self, n: int, /, note: str = "") -> None:
        self._left -= 1
        if self._left == 0:
            self._process.kill()


def _note(folder: Path, place: int) -> tuple[int, int]:
    """Write down that a place is begun; one of them kills its worker, once."""
    with (folder / str(place)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if place == 3 and not (folder / "killed").exists():
        (folder / "killed").touch()
        begun = [n for n in range(10) if n != place and (folder / str(n)).exists()]
        done = [n for n in begun if str(os.getpid()) in (folder / str(n)).read_text()]
        while not all((folder / f"received-{n}").exists() for n in done):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return place, os.getpid()


def test_tasks_that_are_done_are_not_run_again(processes: Processes, tmp_path: Path) -> None:
    for _ in range(2):
        processes.start_worker()
    processes.wait_for(2)
    (folder := tmp_path / "log").mkdir()
    tasks = functools.partial(functools.partial, _note, folder)
    pids = {}
    with connected(processes.address) as cluster:
        for place, pid in run_tasks(tasks, range(10), cluster=cluster):
            (folder / f"received-{place}").touch()
            pids[place] = pid
    begun = {n: len((folder / str(n)).read_text().split()) for n in range(10)}
    assert begun == {n: 2 if n == 3 else 1 for n in range(10)}
    assert len(pids) == 10
    # The one that is left, of one thread, does it all: joblib would do it here.
    with connected(processes.address) as cluster:
        assert cluster is not None
        assert cluster.n_workers == 1
        left = {pid for _, pid in run_tasks(tasks, range(4, 7), cluster=cluster)}
    assert left < set(pids.values())
    assert os.getpid() not in left


def test_a_scheduler_that_is_lost_is_an_error(
    processes: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    processes.start_worker()
    processes.wait_for(1)
    tasks = functools.partial(functools.partial, time.sleep)
    with connected(processes.address) as cluster:
        results = run_tasks(tasks, [0.0, *[1.0] * 20], cluster=cluster)
        next(results)
        processes.started[0].kill()
        with pytest.raises(ClusterError, match="connection to the scheduler was lost"):
            list(results)
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_interrupted_is_cancelled(cluster: Processes, tmp_path: Path) -> None:
    tasks = functools.partial(functools.partial, time.sleep)
    with pytest.raises(KeyboardInterrupt), connected(cluster.address) as found:  # noqa: PT012
        for _ in run_tasks(tasks, [0.0, *[0.5] * 50], cluster=found):
            raise KeyboardInterrupt
    with Client(cluster.address, set_as_default=False) as client:
        deadline = time.monotonic() + 10
        while left := client.run_on_scheduler(_count):
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def _count(dask_scheduler: object) -> list[str]:
    mine = [name for name in dask_scheduler.worker_plugins if "cnn-codes" in name]  # type: ignore[attr-defined]
    return [*map(str, dask_scheduler.tasks), *mine]  # type: ignore[attr-defined]


def _extracted(image_folder: Path, store: str | None = None) -> Extraction:
    options = ExtractionOptions(backbone="bundled", layers="conv1.relu,fc7.relu", store=store)
    return extract(load_images(str(image_folder)), options)


def test_a_task_is_small_and_holds_no_codes_nor_secrets(url: str, image_folder: Path) -> None:
    extraction = _extracted(image_folder, url)
    samples = Samples(y=extraction.images.labels)
    splits, _ = make_splits(samples, Protocol(cv=2, repeats=1))
    tasks = _Evaluations(
        codes=extraction.readers, y=samples.y, pieces=in_pieces(splits), protocol=Protocol()
    )
    # For each worker, once: digests, labels and splits, however wide codes are.
    once = cloudpickle.dumps(Tasks("name", tasks))
    n_bytes = sum(extraction.view(layer)[:].nbytes for layer in extraction.readers)
    assert len(once) < min(n_bytes / 10, 20_000)
    each = pickle.dumps((run_here, "cnn-codes-" + "0" * 32, (("fc7.relu", "svm"), 3)))
    assert len(each) < 300
    for value in (*KEYS.values(), *KEYS):
        assert value.encode() not in once


def test_a_worker_that_lacks_the_store_is_named(
    cluster: Processes, image_folder: Path, tmp_path: Path
) -> None:
    extraction = _extracted(image_folder)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    with (
        connected(cluster.address) as found,
        pytest.raises(ClusterError, match=r"The worker tcp://127.*on a disk that all workers"),
    ):
        compare_stored(
            extraction, [], protocol=Protocol(), n_splits=1, n_jobs=1, cluster=found,
            progress=Silent(),
        )  # fmt: skip


FAKE = """
import importlib.metadata as metadata, sys
own = metadata.version
metadata.version = lambda name: "0.1.2" if name == "scikit-learn" else own(name)
"""
LACKING = """
import sys
sys.modules["pipelines"] = None
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [(FAKE, "has scikit-learn 0.1.2, and"), (LACKING, "cannot load cnn-codes")],
)
def test_a_worker_with_another_version_is_named(
    code: str, expected: str, processes: Processes, given: str, tmp_path: Path, run_cli: Run
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    processes.start_worker(PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
    processes.wait_for(1)
    done = run_cli("compare", given, *SMALL, "--scheduler", processes.address)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "The worker tcp://127.0.0.1:" in done.stderr
    assert len(done.stderr.splitlines()) < 4


def test_a_worker_that_joins_later_is_checked(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAKE)
    first = processes.start_worker()
    processes.wait_for(1)
    tasks = functools.partial(functools.partial, time.sleep)
    with connected(processes.address) as cluster:
        results = run_tasks(tasks, [0.0, *[0.2] * 200], cluster=cluster)
        next(results)
        processes.start_worker(PYTHONPATH=f"{tmp_path / 'site'}:{ROOT}")
        processes.wait_for(2)
        first.kill()
        with pytest.raises(ClusterError, match=r"has scikit-learn 0\.1\.2"):
            list(results)


def test_a_connection_that_closes_when_tasks_are_released_hides_nothing(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.start_worker()
    processes.wait_for(1)
    tried = []
    with connected(processes.address) as cluster:
        assert cluster is not None
        release = cluster.client.unregister_worker_plugin

        def closing(name: str) -> None:
            tried.append(name)
            release(name)
            raise CommClosedError("Stream is closed")

        monkeypatch.setattr(cluster.client, "unregister_worker_plugin", closing)
        found = run_tasks(functools.partial(functools.partial, abs), [-1, -2], cluster=cluster)
        assert sorted(found) == [1, 2]
        with pytest.raises(TypeError, match="bad operand"):
            list(run_tasks(functools.partial(functools.partial, abs), ["a"], cluster=cluster))
    assert len(tried) == 2


def test_the_last_worker_may_end(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 5)
    only = processes.start_worker()
    processes.wait_for(1)
    tasks = functools.partial(functools.partial, time.sleep)
    with connected(f"{processes.address}/") as cluster:
        results = run_tasks(tasks, [0.0, *[0.2] * 500], cluster=cluster)
        next(results)
        only.kill()
        with pytest.raises(ClusterError, match="no worker any more"):
            list(results)


def test_a_cluster_without_workers_is_refused(
    processes: Processes, given: str, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.PATIENCE == 10
    monkeypatch.setattr(connection, "PATIENCE", 1)
    done = run_cli("compare", given, *SMALL, "--scheduler", processes.address)
    assert done.returncode == 1
    assert f"dask worker {processes.address}" in done.stderr


def test_a_scheduler_that_does_not_answer_is_one_sentence(
    given: str, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 1)
    begun = time.monotonic()
    done = run_cli("compare", given, *SMALL, "--scheduler", "tcp://127.0.0.1:9")
    assert time.monotonic() - begun < 8
    assert done.returncode == 1
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1:8786",
        "http://10.0.0.1:8786",
        "tcp://host",
        "tcp://me:hush@host:8786",
        "tcp://host:99999",
    ],
)
def test_what_is_no_address_is_refused(address: str, given: str, run_cli: Run) -> None:
    done = run_cli("compare", given, "--scheduler", address)
    assert done.returncode == 1
    assert "tcp://HOST:PORT" in done.stderr
    assert "hush" not in done.stderr


def test_without_the_extra_its_name_is_given(
    given: str, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = run_cli("compare", given, "--scheduler", "tcp://127.0.0.1:9")
    assert done.returncode == 1
    assert "pip install 'cnn-codes[dask]'" in done.stderr


@pytest.mark.parametrize("command", [("compare",), ("fit", "--out", "x.skops")])
def test_processes_here_and_a_cluster_contradict_each_other(
    command: tuple[str, ...], image_folder: Path, run_cli: Run
) -> None:
    done = run_cli(*command, image_folder, "--backbone", "bundled", "--jobs", "2", "--scheduler",
                   "tcp://127.0.0.1:9")  # fmt: skip
    assert done.returncode == 2
    assert "--jobs" in done.stderr
    with pytest.raises(ValueError, match="n_jobs=2"):
        compare(image_folder, backbone="bundled", n_jobs=2, scheduler="tcp://127.0.0.1:9")


def test_what_was_fitted_is_the_same(
    cluster: Processes, image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    arguments = ("fit", image_folder, "--backbone", "bundled", *SMALL[:6], "--layers", "fc7.relu")
    for where, number in (("--jobs", "2"), ("--scheduler", cluster.address)):
        done = run_cli(*arguments, where, number, "--out", f"fit{where}.skops")
        assert done.returncode == 0, done.stderr
    predicted = [
        run_cli("predict", f"fit{where}.skops", image_folder).stdout
        for where in ("--jobs", "--scheduler")
    ]
    assert predicted[0] == predicted[1]
    assert len(predicted[0].splitlines()) == 37


def test_trainings_run_on_the_workers_and_are_kept(
    cluster: Processes, image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    words = ("compare", image_folder, "--backbone", "bundled", "--layers", "fc7.relu", "--cv", 2,
             "--Cs", "1e-3,1e-1", "--controls", "none", "--finetune", "--from", "fc6",
             "--epochs", 2, "--views-cached", 1)  # fmt: skip
    here = run_cli(*words, "--jobs", "1", "--store", "store-here", "--out", "here")
    assert here.returncode == 0, here.stderr
    # Relative: a worker is in another folder.
    to_cluster = (*words, "--scheduler", cluster.address, "--store", "store-there", "--out")
    there = run_cli(*to_cluster, "there")
    assert there.returncode == 0, there.stderr
    scores = [(tmp_path / out / "scores.csv").read_bytes() for out in ("here", "there")]
    assert scores[0] == scores[1]
    kept = [
        {file.name: file.stat().st_mtime_ns for file in (tmp_path / store / "trials").iterdir()}
        for store in ("store-here", "store-there")
    ]
    assert kept[0].keys() == kept[1].keys()
    written = {name: (tmp_path / "store-there" / "trials" / name).stat().st_ino for name in kept[1]}
    again = run_cli(*to_cluster, "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "scores.csv").read_bytes() == scores[0]
    trials = (tmp_path / "store-there" / "trials").iterdir()
    assert written == {file.name: file.stat().st_ino for file in trials}
