"""The arrows between the packages go one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FORBIDDEN = {
    "codes": {"cache", "pipelines", "zarr", "sklearn.svm", "sklearn.linear_model"},
    "cache": {"codes", "pipelines", "torch", "torchvision", "sklearn"},
    "pipelines": set(),
}


def _imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package: str) -> None:
    files = list((ROOT / package).glob("*.py"))
    assert files
    for file in files:
        for name in _imported(file):
            parts = name.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert not prefixes & FORBIDDEN[package], f"{file.name} imports {name}"


@pytest.mark.parametrize("module", ["pipelines.comparison.compare", "pipelines.cli.app"])
def test_what_needs_no_network_loads_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["huggingface"], *extras["s3"]]
    names = {re.split(r"[<>=\[]", line)[0].lower() for line in declared}
    provided = packages_distributions()
    for package in FORBIDDEN:
        for file in (ROOT / package).glob("*.py"):
            for name in {name.partition(".")[0] for name in _imported(file)}:
                if name in sys.stdlib_module_names or name in FORBIDDEN:
                    continue
                found = {one.lower() for one in provided.get(name, [name])}
                assert found & names, f"{file.name} imports {name}"
