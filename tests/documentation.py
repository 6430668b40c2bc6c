"""The pages of the documentation: their code blocks, and the commands in them made quick."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
QUICK = {
    "compare": {"--controls": "none", "--cv": "2", "--Cs": "1e-3,1e-2", "--repeats": "1"},
    "fit": {"--cv": "2", "--Cs": "1e-3,1e-2", "--repeats": "1"},
}
"""Command → options that make it quick, where it does not have them."""
TRAINED = {"--epochs": "1", "--views-cached": "1"}
"""The same where a network is trained too."""
SMALL = {"--image-size": "64"}
"""The same for torchvision's networks, which are drawn: their weights would be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of code.

    Attributes
    ----------
    language : str
        Empty where none is named.
    title : str
        As readers see it; one that begins with "Needs" says why the block is not run here.
    text : str
    """

    language: str
    title: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        return not self.title.startswith("Needs")


def blocks(page: Path) -> Iterator[Block]:
    """Find the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    fences = r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```$'
    for language, title, body in re.findall(fences, text, flags=re.DOTALL | re.MULTILINE):
        yield Block(language=language, title=title, text=body)


def commands(block: Block) -> Iterator[str]:
    """Find the commands of a block, one a line or joined by ``&&``."""
    for line in block.text.replace("\\\n", " ").splitlines():
        yield from (part.strip() for part in line.split(" && ") if part.strip())


def quick(words: Sequence[str]) -> list[str]:
    """Make a command of cnn-codes one that takes seconds, and downloads nothing.

    Examples
    --------
    >>> " ".join(quick(["extract", "x", "--backbone", "resnet18"]))
    'extract x --backbone resnet18 --weights none --image-size 64'
    """
    command, *rest = words
    wanted = dict(QUICK.get(command, {}))
    if "--finetune" in rest or (command == "fit" and "--from" in rest):
        wanted |= TRAINED
    networks = [after for word, after in pairwise(rest) if word == "--backbone"]
    known = command == "layers" or "--weights" in rest
    downloaded = [name for name in networks if name != "bundled" and "my_nets" not in name]
    if downloaded and not any(name.startswith("timm:") for name in downloaded):
        wanted |= SMALL
    added = [word for option, value in wanted.items() if option not in rest
             for word in (option, value)]  # fmt: skip
    if downloaded and not known:
        added = ["--weights", "none"] * len(networks) + added
    return [command, *rest, *added]


def words_of(command: str) -> tuple[list[str], str | None]:
    """Split a command, and find the file that its output goes to."""
    words = shlex.split(command, comments=True)
    if ">" in words:
        place = words.index(">")
        return words[:place], words[place + 1]
    return words, None
