"""Completion in shells: the scripts are valid, complete, and are written where it is said."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Run, run_here

SHELLS = ("bash", "zsh", "fish")
FIRST = {"bash": "source", "zsh": "fpath=(", "fish": "source"}


def _files(folder: Path) -> set[Path]:
    return {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def scripts(tmp_path: Path, run_cli: Run) -> dict[str, Path]:
    """Write a script for every shell."""
    files = {shell: tmp_path / shell / "_cnn-codes" for shell in SHELLS}
    for shell, file in files.items():
        done = run_cli("--install-completion", shell, "--out", file)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{file}\n")
        assert FIRST[shell] in done.stdout
    assert _files(tmp_path) == {file.relative_to(tmp_path) for file in files.values()}
    return files


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_valid(shell: str, scripts: dict[str, Path]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n", scripts[shell]], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cnn-codes comp", {"compare"}),
        ("cnn-codes ex", {"extract", "export"}),
        ("cnn-codes cache p", {"prune"}),
        ("cnn-codes compare my-images --backb", {"--backbone"}),
        ("cnn-codes fit my-images --skip", {"--skip-unreadable"}),
        ("cnn-codes predict my-im", {"my-images"}),
        ("cnn-codes compare my-images --from", {"--from"}),
        ("cnn-codes demo --from", set()),
        ("cnn-codes cache list --no", set()),
    ],
)
def test_bash_completes(
    typed: str, completed: set[str], scripts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "my-images").mkdir()
    words = typed.split()
    asked = (
        f"source {scripts['bash']}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
        "$(complete -p cnn-codes | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); "
        "printf '%s\\n' ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert set(done.stdout.split()) == completed


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_files_where_nothing_else_is_known(scripts: dict[str, Path]) -> None:
    asked = f"source {scripts['bash']}; complete -p cnn-codes"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
    assert done.stdout.startswith("complete -o default -F ")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("cnn-codes comp", {"compare"}),
        ("cnn-codes compare my-images --backb", {"--backbone"}),
        ("cnn-codes compare my-im", {"my-images/"}),
    ],
)
def test_fish_completes(
    typed: str, completed: set[str], scripts: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "my-images").mkdir()
    asked = f"source {scripts['fish']}; complete -C '{typed}'"
    done = subprocess.run(["fish", "-c", asked], cwd=tmp_path, capture_output=True, text=True)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == completed


@pytest.mark.parametrize(
    ("shell", "place"),
    [
        ("bash", ".local/share/bash-completion/completions/cnn-codes"),
        ("zsh", ".zsh/completions/_cyclopts_cnn-codes"),
        ("fish", ".config/fish/completions/cnn-codes.fish"),
    ],
)
def test_the_running_shell_is_found_and_one_file_is_written(
    shell: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BASH_VERSION", "ZSH_VERSION", "FISH_VERSION", "ZSH", "ZSH_CUSTOM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cyclopts.completion.detect.os.getppid", lambda: 0)
    done = run_here(tmp_path, "--install-completion", HOME=str(tmp_path), SHELL=f"/bin/{shell}")
    assert done.returncode == 0, done.stderr
    assert _files(tmp_path) == {Path(place)}
    assert str(tmp_path / place) in done.stdout


def test_other_shells_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASH_VERSION", "ZSH_VERSION", "FISH_VERSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("cyclopts.completion.detect.os.getppid", lambda: 0)
    for shell in ("/bin/tcsh", "", "/usr/bin/pwsh"):
        done = run_here(tmp_path, "--install-completion", HOME=str(tmp_path), SHELL=shell)
        assert done.returncode == 1
        assert "Allowed: bash, zsh, fish" in done.stderr
        assert done.stderr.count("cnn-codes: ") == 1
    done = run_here(tmp_path, "--install-completion", "tcsh")
    assert done.returncode == 2
    assert '"bash", "zsh", "fish"' in done.stderr
    done = run_here(tmp_path, "--install-completion", "bash", "--out", "/proc/nowhere/x")
    assert done.returncode == 1
    assert "--out" in done.stderr
    assert _files(tmp_path) == set()
