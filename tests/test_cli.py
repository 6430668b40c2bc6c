"""The command line as people run it: a process, its files, its messages, its exit status."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from cache import CodeStore
from codes import CodeExtractor, load_backbone, load_images
from codes.data.images import digest_images
from pipelines.cli.app import main
from pipelines.comparison.protocol import Protocol
from pipelines.extraction.counts import Counts
from pipelines.extraction.extract import extract
from pipelines.extraction.options import ExtractionOptions
from tests.conftest import ROOT, draw_image

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("--backbone", "bundled", "--cv", "3", "--Cs", "1e-3:1e-1:3", "--repeats", "2")


def _report(folder: Path) -> dict[str, object]:
    report: dict[str, object] = json.loads((folder / "report.json").read_text())
    return report


def _failed(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("cnn-codes: ") for line in done.stderr.splitlines()) == 1
    return done.stderr


def test_compare_writes_what_others_rely_on_and_extracts_once(
    image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    out = tmp_path / "first"
    done = run_cli("compare", image_folder, *QUICK, "--train-sizes", "3,all,99", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "conv5.relu" in done.stdout
    assert "train size 99 was dropped" in done.stdout
    report = _report(out)
    assert report.keys() >= {
        "dataset", "backbone", "protocol", "environment", "best", "layers", "timing",
        "images_extracted", "images_reused", "skipped",
    }  # fmt: skip
    assert report["best"].keys() >= {"layer", "classifier", "score", "ci_low", "ci_high", "tied"}  # type: ignore[attr-defined]
    for row in report["layers"]:  # type: ignore[attr-defined]
        assert row.keys() >= {
            "layer", "depth", "pool", "n_features", "classifier", "train_size", "score", "ci_low",
            "ci_high", "C",
        }  # fmt: skip
        assert 0 <= row["ci_low"] <= row["score"] <= row["ci_high"] <= 1
    assert (report["images_extracted"], report["images_reused"]) == (36, 0)
    with (out / "scores.csv").open() as file:
        assert file.readline().strip() == (
            "layer,depth,pool,n_features,classifier,train_size,repeat,fold,C,score,n_train,n_test,"
            "Cs_not_searched"
        )
        file.seek(0)
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 2 * 3 * 2  # layers, sizes, folds, repeats
    page = (out / "report.html").read_text()
    assert "<svg" in page
    assert "http-equiv" not in page
    assert not re.search(r'(src|href)="(?!data:|#|https://cs231n)', page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert report["best"]["recommended"] in [row["layer"] for row in report["layers"]]  # type: ignore[attr-defined, index]
    assert [c["name"] for c in report["controls"]] == [  # type: ignore[attr-defined]
        "majority", "shuffled", "pixels", "random", "concatenated",
    ]  # fmt: skip
    assert 0 <= report["similarity"]["value"] <= 1  # type: ignore[index]
    # The classes differ in colour, which pixels show as well.
    assert report["advice"]["case"] == "no-network-needed"  # type: ignore[index]
    assert report["best"]["layer"] in (out / "report.md").read_text()  # type: ignore[index]

    # Other labels, another classifier, other sizes, half the images: nothing is extracted.
    shutil.copytree(image_folder, tmp_path / "relabelled")
    (tmp_path / "relabelled" / "red").rename(tmp_path / "relabelled" / "crimson")
    for name in ("00", "01", "02"):
        (tmp_path / "relabelled" / "blue" / f"{name}.png").unlink()
    again = tmp_path / "again"
    done = run_cli(
        "compare", tmp_path / "relabelled", *QUICK, "--classifier", "logistic", "--out", again
    )
    assert done.returncode == 0, done.stderr
    assert (_report(again)["images_extracted"], _report(again)["images_reused"]) == (0, 33)

    # The page can be made again from the JSON alone, and of several side by side.
    (again / "report.html").unlink()
    assert run_cli("report", again).returncode == 0
    assert "crimson" in (again / "report.html").read_text()
    assert run_cli("report", out, again, "--out", tmp_path / "both.html").returncode == 0
    both = (tmp_path / "both.html").read_text()
    assert "2 comparisons side by side" in both
    assert both.count("<section") == 2


@pytest.mark.parametrize("command", ["extract", "similarity", "compare"])
def test_what_a_listing_ignores_is_said_once(
    command: str, image_folder: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (image_folder / "red" / "notes.txt").write_text("of the camera")
    own = ["--layers", "fc7.relu", "--cv", "3", "--Cs", "1", "--jobs", "1"]
    words = own if command == "compare" else []
    done = run_cli(command, image_folder, "--backbone", "bundled", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Ignored: .txt (1)") == 1


def test_one_more_layer_and_one_more_image_cost_only_themselves(image_folder: Path) -> None:
    images = load_images(image_folder)
    first = extract(images, ExtractionOptions(backbone="bundled", layers="fc7.relu"))
    assert (first.n_extracted, first.n_reused) == (36, 0)
    draw_image(12345).save(image_folder / "red" / "new.png")
    both = ExtractionOptions(backbone="bundled", layers="fc6.relu,fc7.relu")
    grown = extract(load_images(image_folder), both)
    parts = [p for p in Path(grown.store.name, grown.key.folder()).iterdir() if p.is_dir()]
    written = {
        part.name: sorted(a.name.split("-")[0] for a in part.iterdir() if a.name[:2] == "fc")
        for part in parts
    }
    assert sorted(map(tuple, written.values())) == [
        ("fc6.relu",), ("fc6.relu", "fc7.relu"), ("fc7.relu",),
    ]  # fmt: skip
    assert extract(load_images(image_folder), both).n_extracted == 0


def test_copies_and_layers_that_were_there_are_counted(
    image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        shutil.copy(image_folder / "red" / "00.png", image_folder / "red" / f"copy{i}.png")
    shutil.copy(image_folder / "blue" / "00.png", image_folder / "blue" / "copy.png")

    def counted(layers: str) -> str:
        command = ["extract", str(image_folder), "--backbone", "bundled", "--layers", layers]
        assert main(command) == 0
        said = capsys.readouterr().out.strip().replace(str(CodeStore().name), "STORE")
        return said.replace("\n", "")

    assert counted("fc7.relu") == "36 images extracted, 6 are copies of others, 0 found in STORE"
    assert counted("fc7.relu") == "0 images extracted, 42 found in STORE"
    assert counted("conv1.relu,fc6.relu,fc7.relu") == (
        "36 images extracted, 6 are copies of others, 1 of 3 layers found in STORE for 42 images"
    )
    draw_image(12345).save(image_folder / "red" / "new.png")
    shutil.copy(image_folder / "red" / "new.png", image_folder / "red" / "newer.png")
    assert counted("conv2.relu,conv1.relu,fc7.relu") == (
        "37 images extracted, 7 are copies of others, 2 of 3 layers found in STORE for 42 images"
    )
    grown = ExtractionOptions(backbone="bundled", layers="conv1.relu,conv2.relu")
    draw_image(54321).save(image_folder / "red" / "newest.png")
    (image_folder / "red" / "none.png").write_bytes(b"none")
    done = extract(load_images(image_folder), replace(grown, skip_unreadable=True))
    assert done.counts == Counts(
        extracted=1, copies=0, reused=44, layers={"conv1.relu": 44, "conv2.relu": 44}
    )
    assert len(done.images) == 45


def test_stored_codes_equal_fresh_ones_bit_for_bit(image_folder: Path) -> None:
    images = load_images(image_folder)
    options = ExtractionOptions(backbone="bundled", layers="all", dtype="float32", device="cpu")
    stored = extract(images, options)
    [fresh] = CodeExtractor(load_backbone("bundled"), "all").extract(images, batch_size=36)
    [same] = CodeExtractor(load_backbone("bundled"), "all").extract(images, batch_size=36)
    again = extract(images, options)
    assert again.n_extracted == 0
    batches = list(CodeExtractor(load_backbone("bundled"), "all").extract(images))
    for layer in fresh.codes:
        codes = again.codes(layer)
        assert codes.dtype == np.float32
        rows = np.concatenate([batch.codes[layer] for batch in batches])
        np.testing.assert_array_equal(codes, rows, err_msg=layer)
        np.testing.assert_array_equal(fresh.codes[layer], same.codes[layer])
    assert stored.n_extracted == 36


def test_unreadable_images_are_all_listed_and_can_be_skipped(
    image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    (image_folder / "red" / "empty.png").write_bytes(b"")
    (image_folder / "blue" / "text.jpg").write_text("hello")
    draw_image(1, size=(300, 300)).save(image_folder / "green" / "cut.jpg")
    whole = (image_folder / "green" / "cut.jpg").read_bytes()
    (image_folder / "green" / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    message = _failed(run_cli("compare", image_folder, *QUICK))
    assert "3 of 39 images cannot be read" in message
    for name in ("empty.png", "text.jpg", "cut.jpg"):
        assert name in message
    out = tmp_path / "skipped"
    done = run_cli("compare", image_folder, *QUICK, "--skip-unreadable", "--out", out)
    assert done.returncode == 0, done.stderr
    report = _report(out)
    assert len(report["skipped"]) == 3  # type: ignore[arg-type]
    assert report["images_extracted"] == 0, "the others were stored by the run that failed"
    assert "cut.jpg" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "absent", *QUICK], "'absent'"),
        (["compare", "images", *QUICK, "--layers", "fc9"], "Nearest: "),
        (["compare", "images", *QUICK, "--device", "cuda:7"], "not available"),
        (["compare", "images", "--backbone", "bundled", "--cv", "13"], "13 images"),
        (["compare", "images", *QUICK, "--train-sizes", "few"], "Allowed: numbers"),
        (["compare", "images", "--backbone", "bundled", "--Cs", "0:1:3"], "is not a grid"),
        (["extract", "images", "--backbone", "alexnett"], "Nearest: alexnet"),
        (["extract", "images", "--backbone", "bundled", "--dtype", "int8"], "float16, float32"),
        (["layers", "--backbone", "alexnet", "--image-size", "20"], "--image-size"),
        (["layers", "--backbone", "bundled", "--image-size", "1000000"], "fit into memory"),
        (["report", "images"], "no report.json"),
        (["compare", "images", *QUICK, "--out", "images/red/00.png"], "00.png"),
        (["compare", "images", "--backbone", "bundled", "--jobs", "0"], "allowed are 1 or more"),
        (["compare", "images", "--backbone", "bundled", "--Cs", "inf"], "positive finite"),
        (["extract", "images", "--backbone", "bundled", "--batch-size", "0"], "1 or more"),
        (["extract", "images", "--backbone", "bundled", "--random-state", "-1"], "0 to 4294967295"),
        (["layers", "--backbone", "os.path:join"], "raised TypeError"),
        (["layers", "--backbone", "absent_module:net"], "cannot be imported"),
    ],
)
def test_failures_are_one_message_and_status_1(
    arguments: list[str], message: str, image_folder: Path, run_cli: Run
) -> None:
    assert message in _failed(run_cli(*arguments))


def test_the_demo_extracts_once(
    tmp_path: Path, run_cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A third of the digits, each training size drawn once: in a tenth of the time.
    whole = load_digits()
    third = Bunch(images=whole.images[::3], target=whole.target[::3])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: third)
    monkeypatch.setattr("pipelines.cli.compare.Protocol", partial(Protocol, repeats=1))
    done = run_cli("demo", "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "%" not in done.stderr, "no progress bar where there is no terminal"
    report = _report(tmp_path / "demo")
    assert (report["images_extracted"], report["images_reused"]) == (599, 0)
    again = run_cli("extract", "sklearn:digits", "--backbone", "bundled", "--layers", "all")
    assert "0 images extracted, 599 found" in again.stdout
    best = report["best"]
    assert best["score"] > 0.98  # type: ignore[index]
    sizes = {row["train_size"] for row in report["layers"]}  # type: ignore[attr-defined]
    assert sizes == {5, 10, 20, "all"}
    at_5 = [row["score"] for row in report["layers"] if row["train_size"] == 5]  # type: ignore[attr-defined]
    assert max(at_5) > 0.92
    for name in ("report.html", "scores.csv"):
        assert str(tmp_path / "demo" / "report.html") in done.stdout
        assert (tmp_path / "demo" / name).stat().st_size > 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["compare"],
        ["compare", "x", "--backbone"],
        ["demo", "--fast"],
        ["extract", "x", "--backbone", "bundled", "--page", "1.5"],
        ["extract", "x", "--backbone", "bundled", "--batch-size", "8.0"],
        ["compare", "x", "--backbone", "bundled", "--cv", "2.5"],
        ["demo", "--jobs", "two"],
    ],
)
def test_wrong_commands_are_status_2(arguments: list[str], run_cli: Run) -> None:
    command = "" if arguments == ["nonsense"] else f"{arguments[0]} "
    assert f"Try `cnn-codes {command}--help`" in _failed(run_cli(*arguments), status=2)


def test_debug_shows_where(run_cli: Run) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        run_cli("--debug", "compare", "absent", *QUICK)


def test_a_report_that_is_none(tmp_path: Path, run_cli: Run) -> None:
    for text in ("{", "{}", "[]"):
        (tmp_path / "report.json").write_text(text)
        assert "is not a report of this version" in _failed(run_cli("report", tmp_path))


def test_weights_that_answer_nan_name_layer_and_image(
    image_folder: Path, tmp_path: Path, run_cli: Run
) -> None:
    state = load_backbone("bundled").model.state_dict()
    state["conv4.conv.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    message = _failed(
        run_cli("extract", image_folder, "--backbone", "bundled", "--weights", tmp_path / "nan.pth",
                "--layers", "all")
    )  # fmt: skip
    assert "'conv4.relu' answered" in message
    assert "00.png" in message


def test_layers_lists_every_tap(run_cli: Run) -> None:
    done = run_cli("layers", "--backbone", "squeezenet1_0")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "features.12.cat" in line).split()
    assert row[1:] == ["cat", "0.94", "512×13×13", "grid:2", "2048", "yes", "stage", "end"]
    assert "features.12.cat:avg" in done.stdout


def test_what_was_stored_is_kept_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(650):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    images = load_images(folder)
    assert len(digest_images(images)) == 1300
    options = ExtractionOptions(
        backbone="squeezenet1_1", weights="none", image_size=64, dtype="float32",
        layers="features.4.cat,features.12.cat",
    )  # fmt: skip
    whole = extract(images, replace(options, store=tmp_path / "undisturbed"))
    # Ctrl-C, and what ends a job in a queue.
    for ended in (signal.SIGINT, signal.SIGTERM):
        store = tmp_path / ended.name
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "extract", str(folder), "--backbone",
             "squeezenet1_1", "--weights", "none", "--image-size", "64", "--dtype", "float32",
             "--layers", str(options.layers), "--store", str(store)],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
            # Tests in a shell's background have SIGINT ignored, and so would this process.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + 100
        while not list(store.glob("*/*/committed/0*/zarr.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        # As a terminal does, to the whole group; and as the impatient and queues do, again.
        for _ in range(40):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, ended)
            time.sleep(0.05)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1, stderr
        assert "What was stored stays" in stderr
        assert "Traceback" not in stderr
        rest = extract(images, replace(options, store=store))
        assert rest.n_extracted + rest.n_reused == 1300
        assert 0 < rest.n_extracted <= 1300 - 1024, "a segment was stored, and not all"
        for layer in whole.arrays:
            a, b = rest.codes(layer), whole.codes(layer)
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max(), err_msg=layer)
