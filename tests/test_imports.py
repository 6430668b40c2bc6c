"""The arrows between the packages go one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
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


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _room(name: str) -> str | None:
    """Give the package that a module of ours lies in; a module beside the rooms is one itself."""
    parts = name.split(".")
    if parts[0] not in FORBIDDEN:
        return None
    while len(parts) > 1 and not (ROOT / Path(*parts)).with_suffix(".py").exists():
        if (ROOT / Path(*parts)).is_dir():
            return ".".join(parts)
        parts.pop()
    return ".".join(parts[:-1] if len(parts) > 2 else parts)


def _arrows() -> dict[str, set[str]]:
    """Which rooms a room imports."""
    arrows: dict[str, set[str]] = {}
    for file in (file for package in FORBIDDEN for file in _modules(package)):
        if file.parent.parent == ROOT and file.name == "__init__.py":
            continue  # What a package offers is taken from everywhere in it.
        room = _room(".".join(file.relative_to(ROOT).with_suffix("").parts))
        others = {_room(name) for name in _imported(file)} - {None, room}
        arrows.setdefault(str(room), set()).update(map(str, others))
    return arrows


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_only_what_they_may(package: str) -> None:
    files = _modules(package)
    assert files
    for file in files:
        for name in _imported(file):
            parts = name.split(".")
            prefixes = {".".join(parts[: i + 1]) for i in range(len(parts))}
            assert not prefixes & FORBIDDEN[package], f"{file.name} imports {name}"


def test_arrows_between_rooms_go_one_way() -> None:
    arrows = _arrows()
    assert "codes.data.readers" in arrows
    # Raises CycleError, which names the rooms of a circle.
    order = list(TopologicalSorter(arrows).static_order())
    assert order.index("pipelines.linear") < order.index("pipelines.comparison")


def test_a_room_says_what_it_holds_and_has_a_dozen_files() -> None:
    for package in FORBIDDEN:
        for init in (ROOT / package).rglob("__init__.py"):
            assert "→" in init.read_text() or "↔" in init.read_text(), init
            assert len(list(init.parent.glob("*.py"))) <= 14, init.parent


@pytest.mark.parametrize(
    "module",
    [
        "pipelines.comparison.compare",
        "pipelines.studies.compare",
        "pipelines.cli.app",
        "pipelines.report.report",
    ],
)
def test_what_needs_no_network_loads_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = [
        line for name in ("dask", "huggingface", "parquet", "s3", "timm") for line in extras[name]
    ]
    declared = [*project["dependencies"], *optional]
    names = {re.split(r"[<>=\[]", line)[0].lower() for line in declared}
    provided = packages_distributions()
    for package in FORBIDDEN:
        for file in _modules(package):
            for name in {name.partition(".")[0] for name in _imported(file)}:
                if name in sys.stdlib_module_names or name in FORBIDDEN:
                    continue
                found = {one.lower() for one in provided.get(name, [name])}
                assert found & names, f"{file.name} imports {name}"
