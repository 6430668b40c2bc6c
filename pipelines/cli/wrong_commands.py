"""Wrong commands: a message on what is not accepted, and on the command that accepts it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import reduce

from cyclopts import (
    App,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from codes.data.names import CODES_SCHEMES

_COMPARED = {"--controls": "makes no controls", "--train-sizes": "trains on all images"}
"""Options of ``compare`` → why ``fit``, which compares too, does not accept them."""


def explain(error: CycloptsError, app: App) -> str:
    """Say what is wrong with a command, what is allowed, and where to read on."""
    command = " ".join(error.command_chain or ())
    unused = [str(word) for word in error.unused_tokens or ()]
    if isinstance(error, UnknownOptionError):
        message = _unknown(error.token.keyword or error.token.value, command, app)
    elif isinstance(error, MissingArgumentError) and not error.keyword and _codes(error):
        message = (
            f"`{command}` needs images, and {_codes(error)!r} is a file of codes. Of codes, "
            "`compare` makes a report; in Python, LinearSVCCV and LogisticCV fit them."
        )
    elif isinstance(error, MissingArgumentError):
        message = _missing(error, command, unused, app)
    elif isinstance(error, UnusedCliTokensError):
        left = " ".join(unused)
        message = f"`{command}` does not take {left!r}. Names that hold a space need quotes."
    elif isinstance(error, UnknownCommandError):
        message = _no_command(unused, reduce(lambda own, name: own[name], command.split(), app))
    else:
        message = str(error)
    return f"{message} Try `{' '.join(['cnn-codes', *command.split(), '--help'])}`."


def _commands(app: App) -> Iterator[tuple[str, App]]:
    """Find the commands of an app, those of commands too."""
    for name in app:
        if not name.startswith("-"):
            own = app[name]
            if own.default_command is not None:
                yield name, own
            for below, command in _commands(own):
                yield f"{name} {below}", command


def _helps(command: App) -> dict[str, str]:
    """Find what a command takes, by every name, and its help."""
    collection = command.assemble_argument_collection(parse_docstring=True)
    return {name: one.parameter.help or "" for one in collection if one.parse for name in one.names}


def _unknown(option: str, command: str, app: App) -> str:
    """Say that a command does not take an option, and which does, or which it may mean."""
    option = option.partition("=")[0]
    helps = {name: _helps(own) for name, own in _commands(app)}
    others = [f"`{name}`" for name, own in helps.items() if name != command and option in own]
    if others:
        why = ""
        if command == "fit" and option in _COMPARED:
            why = f" `fit` {_COMPARED[option]}."
        if command == "predict" and option in helps["fit"]:
            why = " The file that `fit` wrote holds what it was given."
        *first, last = others
        does = f"{', '.join(first)} and {last} do" if first else f"{last} does"
        return f"`{command}` does not take {option}; {does}.{why}"
    near = get_close_matches(option, helps.get(command, {}), 1, 0.7)
    return f"`{command}` does not take {option}.{f' Did you mean {near[0]}?' if near else ''}"


def _codes(error: CycloptsError) -> str | None:
    """Find a file of codes among the words that were typed."""
    words = error.root_input_tokens or ()
    return next((word for word in words if word.startswith(CODES_SCHEMES)), None)


def _missing(error: MissingArgumentError, command: str, unused: Sequence[str], app: App) -> str:
    """Say what a command needs, or that an option has no value; and what else is wrong."""
    if error.argument is None:
        return str(error)
    name = error.argument.name
    helps = next(_helps(own) for path, own in _commands(app) if path == command)
    what = re.split(r"[.:] |\.$", helps[name], maxsplit=1)[0]
    message = f"{error.keyword} needs a value" if error.keyword else f"`{command}` needs {name}"
    message += f": {what[:1].lower()}{what[1:]}."
    options = [word.partition("=")[0] for word in unused if word.startswith("--")]
    odd = next((option for option in options if option not in helps), None)
    if odd is not None and get_close_matches(odd, [name], 1):
        message += f" Did you mean {name}, not {odd}?"
    elif odd is not None:
        message += f" {_unknown(odd, command, app)}"
    elif len(unused) == 1 and not options and name.startswith("--"):
        message += f" Did you mean {name} {unused[0]}?"
    return message


def _no_command(words: Sequence[str], app: App) -> str:
    """Say that a word is not one of an app's commands, and which these are."""
    names = [name for name in app if not name.startswith("-")]
    word = words[0] if words else ""
    near = get_close_matches(word, names, 1)
    did = f" Did you mean {near[0]}?" if near else ""
    message = f"{word!r} is not a command"
    if word.startswith("-"):
        message = f"{word} stands before the command, and belongs behind it"
    return f"{message}.{did} Commands: {', '.join(names)}."
