"""Standard output carries results only, in any encoding, until nobody reads it."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli.app import app, main
from pipelines.cli.streams.output import results, results_only
from tests.conftest import ROOT

TALKATIVE = """
import ctypes, os, subprocess, sys
import torch
from torch import nn
print("at import")
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act = nn.Conv2d(3, 4, 5, 4), nn.ReLU()
    def forward(self, x):
        print("at forward")
        return self.act(self.conv(x)).mean((2, 3))
def net():
    print("at build")
    os.write(1, b"to the descriptor\\n")
    subprocess.run([sys.executable, "-c", "print('in a child')"], check=True)
    ctypes.CDLL(None).printf(b"in C\\n")
    return Net().eval()
"""
SAID = ("at import", "at build", "at forward", "to the descriptor", "in a child", "in C")


def _fit(folder: Path, file: Path, *options: str) -> None:
    assert main(["fit", str(folder), *options, "--cv", "3", "--Cs", "1e-3,1e-2", "--repeats", "1",
                 "--classifier", "svm", "--jobs", "1", "--out", str(file)]) == 0  # fmt: skip


def test_what_a_backbone_prints_is_no_result(
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    monkeypatch.syspath_prepend(tmp_path)
    own = ("--backbone", "talkative:net", "--image-size", "64")
    _fit(image_folder, tmp_path / "m.skops", *own)
    found = capfd.readouterr()
    assert "at import" in found.err
    assert not any(said in found.out for said in SAID)
    assert main(["predict", str(tmp_path / "m.skops"), str(image_folder / "red")]) == 0
    found = capfd.readouterr()
    rows = list(csv.reader(io.StringIO(found.out)))
    assert rows[0][:3] == ["path", "label", "score"]
    assert {row[0] for row in rows[1:]} == {str(p) for p in (image_folder / "red").iterdir()}
    assert [said for said in SAID[1:] if said not in found.err] == []


@pytest.mark.parametrize("capture", ["capsys", "capfd"])
def test_standard_output_is_itself_again(capture: str, request: pytest.FixtureRequest) -> None:
    captured = request.getfixturevalue(capture)
    stream, file = sys.stdout, os.fstat(1)
    for arguments, status in ((["layers", "--backbone", "bundled"], 0), (["layers"], 2)):
        assert main(arguments) == status
        assert sys.stdout is stream
        assert os.path.samestat(os.fstat(1), file)
    print("afterwards")
    found = captured.readouterr()
    assert found.out.startswith("layer ")
    assert found.out.endswith("afterwards\n")
    assert found.err.startswith("cnn-codes: ")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["cache", "--help"], ["fit", "-h"]]
)
def test_help_is_a_result(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    found = capfd.readouterr()
    assert found.out
    assert not found.err


def _standard_output(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


def _bytes(stream: io.TextIOWrapper) -> bytes:
    value: bytes = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return value


def test_no_line_is_lost_in_any_encoding(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, new, out = tmp_path / "m.skops", tmp_path / "new", tmp_path / "out.csv"
    _fit(image_folder, file, "--backbone", "bundled", "--layers", "fc7.relu")
    new.mkdir()
    for name in ("猫.png", "é.png", "z.png"):
        (new / name).write_bytes((image_folder / "red" / "00.png").read_bytes())
    for encoding in ("ascii", "latin-1", "utf-8"):
        stream = _standard_output(monkeypatch, encoding)
        assert main(["predict", str(file), str(new)]) == 0
        paths = [line.split(b",")[0] for line in _bytes(stream).splitlines()[1:]]
        assert paths == [str(p).encode(encoding, "backslashreplace") for p in sorted(new.iterdir())]
    _standard_output(monkeypatch, "ascii")
    assert main(["predict", str(file), str(new), "--out", str(out)]) == 0
    assert "猫.png" in out.read_text(encoding="utf-8")


def test_tables_are_whole_where_letters_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for encoding in ("utf-8", "ascii"):
        stream = _standard_output(monkeypatch, encoding)
        assert main(["layers", "--backbone", "bundled"]) == 0
        assert sys.stdout is stream
        assert not stream.closed
        found[encoding] = _bytes(stream).decode(encoding)
    assert "48×32×32" in found["utf-8"]
    assert r"48\xd732\xd732" in found["ascii"]
    assert found["ascii"].count("\n") == found["utf-8"].count("\n")


def test_an_output_that_nobody_reads_ends_the_command(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.cli", "cache", "list", "--json", "--store", tmp_path],
            stdout=pipe, stderr=subprocess.PIPE, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 128 + 13
    assert done.stderr == b""


def test_a_closed_output_is_no_failure(tmp_path: Path) -> None:
    done = subprocess.run(  # By then descriptor 1 may be that of any file.
        f"exec {sys.executable} -m pipelines.cli cache list --json --store {tmp_path} >&-",
        shell=True, stderr=subprocess.PIPE, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_results_without_a_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with results_only():
        print("aside")
        print("猫", file=results())
    assert stream.getvalue() == "猫\n"


@pytest.mark.parametrize(
    "command", ["demo", "layers", "extract", "compare", "report", "fit", "predict"]
)
def test_every_option_has_help_of_its_own(command: str) -> None:
    arguments = app[command].assemble_argument_collection(parse_docstring=True)
    assert len(arguments) > 1
    for argument in arguments:
        if not argument.children:
            assert argument.parameter.help, argument.name
            assert "As for" not in argument.parameter.help, argument.name
