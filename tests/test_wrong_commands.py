"""A wrong command is answered with what is allowed, and with the command that takes an option."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from pipelines.cli.app import app, main
from pipelines.extraction.options import ExtractionOptions

FIT = "fit d --backbone bundled --out m.skops"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (f"{FIT} --controls none", "`fit` makes no controls"),
        (f"{FIT} --train-sizes=5", "`fit` trains on all images"),
        ("predict m.skops d --layers all", "`compare`, `fit`, `extract` and `export` do"),
        ("extract d --backbone bundled --cv 3", "`compare` and `fit` do"),
        ("demo --backbone alexnet", "`layers`"),
        ("cache list --max-size 1GB", "`cache prune` does"),
        ("compare d --backbone bundled --lay x", "Did you mean --layers"),
        ("layers", "`layers` needs --backbone"),
        ("compare d", "`compare` needs --backbone"),
        ("export d --backbone bundled", "`export` needs --out"),
        ("layers bundled", "Did you mean --backbone bundled"),
        ("layers --bakbone bundled", "--backbone, not --bakbone"),
        ("fit d --controls none", "`fit` does not take --controls; `compare` does"),
        ("compare d --backbone", "--backbone needs a value"),
        ("predict m.skops", "`predict` needs IMAGES"),
        ("similarity --backbone bundled", "`similarity` needs IMAGES"),
        ("report", "`report` needs FOLDERS"),
        ("predict", "what `cnn-codes fit --out` wrote"),
        ("compare d e --backbone bundled", "'e'"),
        ("compar d", "Did you mean compare"),
        ("--backbone bundled compare d", "belongs behind"),
        ("cache lst", "Did you mean list? Commands: list, verify, prune"),
        ("cache --store s list", "belongs behind"),
    ],
)
def test_a_wrong_command_says_what_is_right(
    typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    found = capsys.readouterr()
    assert said in found.err
    assert found.out == ""
    [advised] = re.findall("Try `(.*)`", found.err)
    assert main(advised.split()[1:]) == 0


@pytest.mark.parametrize(
    ("command", "usage"),
    [("predict", "FILE IMAGES..."), ("similarity", "IMAGES..."), ("report", "FOLDERS...")],
)
def test_the_usage_names_what_is_given(
    command: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    first = capsys.readouterr().out.partition("\n")[0]
    assert first.startswith(f"Usage: cnn-codes {command} ")
    assert first.rstrip().endswith(f"[OPTIONS] {usage}")


@pytest.mark.parametrize(
    ("command", "some"),
    [
        ("demo", "store"),
        ("layers", "backbone weights image_size dense pool"),
        ("predict", "weights device batch_size workers store skip_unreadable"),
        ("similarity", "backbone weights image_size normalize intensity page device store "
         "skip_unreadable random_state"),
    ],
)  # fmt: skip
def test_a_command_that_takes_some_of_the_shared_options_takes_no_others(
    command: str, some: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out.partition("─ Parameters ─")[2]
    options = set(re.findall(r"^│ (?:\* |  )? *(--[\w-]+)", shown, re.MULTILINE))
    shared = {f"--{field.name.replace('_', '-')}" for field in fields(ExtractionOptions)}
    assert options & shared == {f"--{name.replace('_', '-')}" for name in some.split()}


@pytest.mark.parametrize("option", ["--controls", "--views", "--older-than", "--rank", "--json"])
def test_the_commands_named_are_those_whose_help_lists_the_option(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = ["demo", "layers", "extract", "export", "compare", "report", "fit", "predict",
                "similarity", "cache list", "cache prune", "cache verify"]  # fmt: skip
    takers = set()
    for command in commands:
        assert main([*command.split(), "--help"]) == 0
        if re.search(rf"{option}\b", capsys.readouterr().out):
            takers.add(command)
    assert takers < set(commands)
    assert main(["report", "folder", option, "1"]) == 2
    found = capsys.readouterr().err
    assert set(re.findall("`([^`]*)`", found.partition(";")[2].partition("Try")[0])) == takers
    assert {name for name in app if not name.startswith("-")} == {c.split()[0] for c in commands}
