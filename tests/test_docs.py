"""The documentation: it builds, its links lead somewhere, and it names what there is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cache
import codes
import pipelines
from tests.documentation import PAGES, ROOT, blocks, commands

TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values()).replace("\\\n", " ")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages as CI does: a warning is an error."""
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    # As the program: under `python -m`, cyclopts takes that for the name of every command.
    program = "import sys; from mkdocs.__main__ import cli; sys.argv[0] = 'mkdocs'; cli()"
    options = ["build", "--strict", "--quiet", "--site-dir", str(out)]
    words = [sys.executable, "-c", program, *options]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.glob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text)
        assert loads
        assert [load for load in loads if re.search(r"""=["']?(?:https?:)?//""", load)] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text())


def test_every_command_and_option_is_on_its_page(site: Path, run_cli: Callable[..., Any]) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "commands.html").read_text(encoding="utf-8"))
    names = run_cli("--help").stdout
    for command in re.findall(r"^│ (\w+)\s", names, flags=re.MULTILINE):
        assert f"cnn-codes {command}" in page
        own = run_cli(command, "--help").stdout
        for option in re.findall(r"(?<=\s)--[A-Za-z][\w-]+", own):
            assert option in page
    assert "mkdocs" not in page, "usage lines name the program"


STUDIES = ("network", "given")
"""What `compare` returns is one of these."""


def test_every_public_name_is_on_its_page(site: Path) -> None:
    page = (site / "python-reference.html").read_text(encoding="utf-8")
    named = set(re.findall(r'<h3 id="([\w.]+)"', page))
    public = {f"{package.__name__}.{name}" for package in (cache, codes, pipelines)
              for name in package.__all__}  # fmt: skip
    returned = {f"pipelines.studies.{kind}_study.{kind.title()}Study" for kind in STUDIES}
    assert named == public | returned


def test_the_search_index_has_every_page(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {f"{page.stem}.html" for page in PAGES[1:]} <= found


def test_the_commands_are_commands(run_cli: Callable[..., Any]) -> None:
    # Those in sentences too. Each is asked for help only: its words must be known.
    named = {
        tuple(shlex.split(command)[1 : 3 if "-codes cache" in command else 2])
        for command in re.findall(
            r"cnn-codes (?:demo|layers|extract|export|compare|report|fit|predict|similarity"
            r"|cache \w+)\b",
            ALL,
        )
    }
    options = set(re.findall(r"(?<=\s|`)--[a-zA-Z][a-zA-Z-]+", ALL)) - {"--help", "--debug"}
    known = run_cli("--help").stdout
    for command in sorted(named):
        done = run_cli(*command, "--help")
        assert done.returncode == 0, done.stderr
        known += done.stdout
    assert {option for option in options if option not in known} == {
        "--gpus", "--cpus-per-task", "--nproc-per-node",
        "--nthreads", "--nworkers", "--memory-limit",
    }  # fmt: skip


def test_the_extras_are_extras() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"'\.\[(\w+)\]'", ALL))
    assert {"docs", "huggingface", "parquet", "s3", "test", "timm"} <= named <= set(known)


def test_the_files_that_the_readme_links_to_exist() -> None:
    # Those of the other pages are checked when they are built.
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", TEXTS["README.md"])
    assert links
    for file, anchor in links:
        assert (ROOT / file).is_file(), file
        if anchor:
            text = (ROOT / file).read_text(encoding="utf-8")
            heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            assert anchor in [re.sub(r"\W+", "-", head.lower()) for head in heads]


def test_nothing_stands_in_two_places() -> None:
    found: dict[str, str] = {}
    for name, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for sentence in re.split(r"(?<=[.:])\s+|\n\n|\|", prose):
            plain = " ".join(sentence.split())
            if len(plain) > 60:
                assert plain not in found, (name, found[plain], plain)
                found[plain] = name


def test_commands_stand_in_blocks_that_are_run() -> None:
    for name, text in TEXTS.items():
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
        indented = re.findall(
            r"^ {4,}(?:cnn-codes|pip|python|torchrun|srun|\$) .*", prose, re.MULTILINE
        )
        assert indented == [], f"{name}: a fenced block of bash is run, an indented one is not"


def test_what_is_not_run_is_marked() -> None:
    marked = [
        (page.name, command.split()[0] if block.language == "bash" else block.title)
        for page in PAGES
        for block in blocks(page)
        if not block.runs
        for command in (commands(block) if block.language == "bash" else [block.title])
    ]
    assert marked == [
        ("README.md", "pip"),
        ("README.md", "mkdocs"),
        ("clusters.md", "dask"),
        ("clusters.md", "dask"),
        ("clusters.md", "cnn-codes"),
        ("clusters.md", "Needs a cluster"),
        ("clusters.md", "Needs Slurm"),
        ("finetune.md", "torchrun"),
        ("first-report.md", "cnn-codes"),
        ("first-report.md", "cnn-codes"),
        ("large-datasets.md", "cnn-codes"),
        ("store.md", "cnn-codes"),
    ]
