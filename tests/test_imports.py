"""The arrows between the packages go one way."""

from __future__ import annotations

import ast
import subprocess
import sys
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


def test_classifiers_load_without_torch() -> None:
    code = "import sys, pipelines.comparison.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
