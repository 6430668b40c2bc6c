"""The command ``cnn-codes --install-completion``: the Tab key completes commands and options."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Literal, get_args

from pipelines.cli.shared_options import check_file
from pipelines.cli.streams.terminal import stdout
from pipelines.drafts import replacing

Shell = Literal["bash", "zsh", "fish"]


def install_completion(shell: Shell | None = None, /, *, out: Path | None = None) -> None:
    """Write the script by which a shell completes commands and options, and say how to load it.

    No other file is changed.

    Parameters
    ----------
    shell
        Default: the one that this is typed in.
    out
        The script, which is replaced where it is there. Default: where the shell looks for it.
    """
    from cyclopts.completion.install import get_default_completion_path

    from pipelines.cli.app import app

    shell = shell or _running_shell()
    script = app.generate_completion(shell=shell)
    if shell == "bash":  # Names of files are completed where the script knows nothing better.
        script = script.replace("\ncomplete -F ", "\ncomplete -o default -F ")
    file = (out or get_default_completion_path(shell, "cnn-codes")).absolute()
    check_file(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_text(script, encoding="utf-8")
    stdout().print(f"{file}\n{_next_step(shell, file, searched=out is None)}")


def _running_shell() -> Shell:
    """Find the shell that a command is typed in.

    Raises
    ------
    ValueError
        If it is not known, or is another than those that are allowed.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        found: str = detect_shell()
    except ShellDetectionError:
        found = os.environ.get("SHELL", "")
    for shell in get_args(Shell):
        if found == shell:
            known: Shell = shell
            return known
    raise ValueError(
        f"The shell {found!r} is not one that can be completed. Allowed: "
        f"{', '.join(get_args(Shell))}. Name one: cnn-codes --install-completion bash."
    )


def _next_step(shell: Shell, file: Path, *, searched: bool) -> str:
    """Say how a script is loaded; ``searched`` is whether it lies where its shell looks for it."""
    quoted = shlex.quote(str(file))
    if shell == "fish":
        return "Open a new shell." if searched else f"Add to config.fish: source {quoted}"
    if shell == "bash":
        loaded = "Open a new shell, if the package bash-completion is installed. Otherwise add"
        return f"{loaded if searched else 'Add'} to ~/.bashrc: source {quoted}"
    folder = shlex.quote(str(file.parent))
    named = "" if file.name.startswith("_") else " (zsh reads scripts whose name begins with _)"
    return (
        f"Add to ~/.zshrc, before compinit is called: fpath=({folder} $fpath){named}. Without any "
        "call of it, add also: autoload -Uz compinit && compinit. Then open a new shell."
    )
