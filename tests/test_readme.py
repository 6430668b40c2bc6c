"""What the README shows, run as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder.rename(image_folder.with_name("my-images"))
    monkeypatch.chdir(image_folder.parent)
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        exec(example, names)
    study = names["study"]
    assert study.best.layer in capsys.readouterr().out
    np.testing.assert_array_equal(names["view"], study.extraction.codes("conv5.relu"))
    columns = study.cv_results_
    chosen = (columns["layer"] == study.best.layer) & (columns["train_size"] == "all")
    assert columns["score"][chosen].size == study.protocol.cv * 5
    assert names["model"].card["layer"] in (study.best.layer, study.best.recommended)
    assert names["X"].shape == (36, names["classifier"].n_features_in_)
    assert names["classifier"].score(names["X"], names["images"].labels) > 0.9


def test_the_commands_are_commands(run_cli: Callable[..., Any]) -> None:
    # Each is asked for help only: its words must be known, its files need not exist.
    typed = README.replace("\\\n", " ")
    commands = {
        tuple(shlex.split(command)[1 : 3 if "-codes cache" in command else 2])
        for command in re.findall(
            r"cnn-codes (?:demo|layers|extract|export|compare|report|fit|predict|similarity"
            r"|cache \w+)\b.*",
            typed,
        )
    }
    options = set(re.findall(r"(?<=\s|`)--[a-zA-Z][a-zA-Z-]+", typed)) - {"--help", "--debug"}
    known = ""
    for command in sorted(commands):
        done = run_cli(*command, "--help")
        assert done.returncode == 0, done.stderr
        known += done.stdout
    assert {option for option in options if option not in known} == {
        "--gpus", "--cpus-per-task", "--nproc-per-node",
    }  # fmt: skip


def test_the_files_it_links_to_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
