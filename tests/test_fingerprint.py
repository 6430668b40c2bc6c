"""Fingerprints: a network of one's own has another key exactly where it computes something else."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest
from torch import nn

from codes.backbones import source_code
from codes.backbones.fingerprint import fingerprint
from codes.graph.tracing import trace

NETWORK = '''
import enum
import functools
from dataclasses import dataclass
import numpy as np
import torch
from torch import nn
import own_part

MEAN = (0.5, 0.25)
TABLE = np.arange(3.0)

class Mode(enum.Enum):
    TWICE = 2

@dataclass
class Times:
    by: float = 2.0
    def __call__(self, module, given, answer):
        return answer * self.by + 0.125

class Scaled(nn.Module):
    def forward(self, weight):
        return weight * 3

class Adding:
    mode = Mode.TWICE
    @functools.cached_property
    def more(self):
        return 17
    @property
    def most(self):
        return 19
    def method(self, number, module, given, answer, dtype):
        return (answer + number * self.mode.value).to(dtype)

def halved(x):
    return x / 2

@functools.cache
def cached():
    return 7

def closing(offset):
    def hook(module, given, answer):
        return answer + offset
    return hook

@torch.fx.wrap
def wrapped(x, power=1.5):
    """Say what it does."""
    named = [f"{k!r:>{4}} of {k}" for k in range(3)]
    with torch.no_grad():  # Why.
        x = (lambda z: z - MEAN[0])(halved(x)) * cached() + TABLE[1]
    return own_part.shifted(x) ** power if len(named) == 3 else -x

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)
        nn.utils.parametrize.register_parametrization(self.conv, "weight", Scaled())
        for hook in (
            Times(3.0),
            closing(0.5),
            functools.partial(Adding().method, 11, dtype=torch.float32),
            torch.no_grad()(lambda module, given, answer: answer - 13),
        ):
            self.relu.register_forward_hook(hook)

    def forward(self, images):
        maps = self.conv(images)
        return self.fc(self.relu(wrapped(maps)).mean((2, 3)))
'''
PART = """
SHIFT = [0.1]

def shifted(x):
    return x + SHIFT[0]
"""


class Load(Protocol):
    def __call__(self, old: str = "", new: str = "") -> str: ...


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Make the fingerprint of the network, something in its source replaced by something else."""

    def of(old: str = "", new: str = "") -> str:
        assert old in NETWORK + PART
        for name, text in (("own_part", PART), ("own_network", NETWORK)):
            folder = tmp_path / hashlib.sha256((old + new).encode()).hexdigest()[:8]
            folder.mkdir(exist_ok=True)
            file = folder / f"{name}.py"
            file.write_text(text.replace(old, new) if old else text)
            spec = importlib.util.spec_from_file_location(name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        network: nn.Module = module.Network()
        return fingerprint(trace(network.eval(), 16))

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# Why.", "# Because."),
        ('"""Say what it does."""', '"""Say it otherwise."""\n\n'),
        ("return answer + offset", "return (answer\n            + offset)"),
        ("maps", "features"),  # Tracing looks into it.
        ("images", "pixels"),
        ("MEAN = (0.5, 0.25)", "MEAN = (0.5, 2.5e-1)\nOTHER = 3"),
    ],
)
def test_what_computes_the_same_keeps_its_fingerprint(load: Load, old: str, new: str) -> None:
    assert load(old, new) == load()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.relu(wrapped(maps))", "self.relu(wrapped(maps) * 2)"),
        ("else -x", "else x"),
        (">{4}", ">{5}"),
        ("power=1.5", "power=1.25"),
        ("MEAN[0]", "MEAN[1]"),
        ("MEAN = (0.5, 0.25)", "MEAN = (0.5, 0.75)"),
        ("np.arange(3.0)", "np.arange(3.0)[::-1]"),
        ("return x / 2", "return x / 4"),
        ("return 7", "return 8"),
        ("return x + SHIFT[0]", "return x - SHIFT[0]"),
        ("SHIFT = [0.1]", "SHIFT = [0.2]"),
        ("weight * 3", "weight * 4"),
        ("answer + offset", "answer - offset"),
        ("closing(0.5)", "closing(0.25)"),
        ("Times(3.0)", "Times(4.0)"),
        ("+ 0.125", "+ 0.25"),
        ("method, 11", "method, 12"),
        ("dtype=torch.float32", "dtype=torch.float64"),
        ("number * self.mode.value", "number / self.mode.value"),
        ("TWICE = 2", "TWICE = 3"),
        ("return 17", "return 18"),
        ("return 19", "return 20"),
        ("answer - 13", "answer - 14"),
        ("nn.ReLU()", "nn.ReLU6()"),
    ],
)
def test_what_computes_something_else_has_another_fingerprint(
    load: Load, old: str, new: str
) -> None:
    assert load(old, new) != load()


WRITTEN = '''
def one(x, y=2, *, z=(1, 2)):
    """Words."""
    # A comment.
    named = [f"{k!r:>{x}} and {{}} {k}" for k in range(y) if (n := k)]
    said: str = "a" f"{x=} {x:{y}.{y}f}" "b" f'{named["0"]}' rf"\\d{y}" + f"{x!s:>8}{f'{y}'}"
    match named:
        case [first, *_] if first:
            return first + "ü" + r"\\d", not x, -y, 1e-3, x @ y, x[1:, ...], b"bytes", 1j
        case {"key": value}:
            raise ValueError from None
    try:
        with open(x) as file, open(y):
            async def inner(): return [await each async for each in file]
    except* OSError:
        del x
    return lambda *a, **k: (yield)
'''
DIGEST = "b83aedc00d54b1bd2526da2097d23b79d8eefd21cae274c61528243890a258dc"
"""Of the source of `one`, as Python 3.11, 3.12 and 3.13 write it."""
PROGRAM = """
import hashlib, importlib.util, sys
spec = importlib.util.spec_from_file_location("source_code", sys.argv[1])
source_code = importlib.util.module_from_spec(spec); spec.loader.exec_module(source_code)
spec = importlib.util.spec_from_file_location("written", sys.argv[2])
written = importlib.util.module_from_spec(spec); spec.loader.exec_module(written)
print(hashlib.sha256(source_code.source_of(written.one).encode()).hexdigest())
"""


def _runs(python: str) -> bool:
    found = shutil.which(python)
    return bool(found) and not subprocess.run([found, "-c", ""], capture_output=True).returncode


@pytest.mark.parametrize("python", [sys.executable, *(f"python3.{n}" for n in range(11, 16))])
def test_source_is_the_same_in_each_version_of_python(python: str, tmp_path: Path) -> None:
    if not _runs(python):
        pytest.skip(f"{python} is not installed")
    (tmp_path / "written.py").write_text(WRITTEN, encoding="utf-8")
    command = [python, "-c", PROGRAM, source_code.__file__, str(tmp_path / "written.py")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == DIGEST


def test_bytecode_where_no_source_is_known(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    exec("def made(x): return x + 1", made)
    twins = (lambda x: x + 1), (lambda x: x + 2)
    file = tmp_path / "stale.py"
    file.write_text("def stale(x): return x + 1")
    stale: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec", dont_inherit=True), stale)
    assert source_code.source_of(stale["stale"]).startswith("FunctionDef")
    file.write_text("def stale(x): return x + 2")
    unknown = [made["made"], *twins, stale["stale"]]
    said = [source_code.source_of(function) for function in unknown]
    assert all(each.startswith(f"bytecode of {sys.implementation.cache_tag}") for each in said)
    assert said[1] != said[2]
    assert said == [source_code.source_of(function) for function in unknown]
