"""Trees: folders of images, seen alike on the disk and packed in an archive."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from codes.data.names import hidden_part, is_hidden
from codes.data.sources import FileSource, ImageSource, printable
from codes.decoding.decode import is_image


class Tree(ABC):
    """Folders of files. Places in it are relative paths with slashes; ``""`` is its root.

    Folders and files that are hidden, or a system's own, below its root are ignored.
    `repeated` are the names that it has several files of: the last counts.
    """

    name: str
    repeated: Sequence[str] = ()

    def folders(self, at: str = "") -> list[str]:
        """List the folders right in a place, sorted."""
        return sorted({place for place, is_folder in self.children(at) if is_folder})

    def files(self, at: str = "") -> list[str]:
        """List the files right in a place, sorted."""
        return sorted({place for place, is_folder in self.children(at) if not is_folder})

    @abstractmethod
    def children(self, at: str) -> Iterator[tuple[str, bool]]:
        """Give what is right in a place, and whether it is a folder."""

    @abstractmethod
    def below(self, at: str = "") -> list[str]:
        """List all files below a place, of linked folders too, sorted."""

    @abstractmethod
    def hidden(self) -> Counter[str]:
        """Count what is ignored: folders by name, and images."""

    @abstractmethod
    def source(self, files: Sequence[str], page: int | None) -> ImageSource:
        """Return the images in these files."""


def count_hidden(places: Iterable[str]) -> Counter[str]:
    """Count the hidden folders among places, by name, and the images that are hidden themselves.

    Examples
    --------
    >>> count_hidden(["a/0.png", "a/._0.png", "a/@eaDir/0.png", "a/@eaDir/1.png", "@eaDir/"])
    Counter({'hidden folder @eaDir': 2, 'hidden file': 1})
    """
    parts = {hidden_part(place) for place in places}
    folders = sorted(part[:-1] for part in parts if part.endswith("/"))
    found = Counter(f"hidden folder {printable(PurePath(folder).name)}" for folder in folders)
    return found + Counter({"hidden file": sum(map(is_image, parts))})


class FolderTree(Tree):
    """A folder on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def below(self, at: str = "") -> list[str]:
        """List all files below a place."""
        return sorted(self._walk(at))

    def hidden(self) -> Counter[str]:
        """Count what is ignored."""
        return count_hidden(self._walk("", hidden=True))

    def _walk(self, at: str, *, hidden: bool = False) -> Iterator[str]:
        """Find all files below a place, and, if wanted, what is hidden, but not what is in it."""
        pending: list[tuple[str, frozenset[str]]] = [(at, frozenset())]
        while pending:
            folder, above = pending.pop()
            within = above | {os.path.realpath(self._root / folder)}
            if within == above:  # A link to a folder that it lies in, whose images are listed.
                continue
            for place, is_folder in self.children(folder, hidden=hidden):
                # Broken links and pipes are kept, to be reported with what cannot be read.
                if not is_folder:
                    yield place
                elif hidden and is_hidden(PurePath(place).name):
                    yield f"{place}/"
                else:
                    pending.append((place, within))

    def children(self, at: str, *, hidden: bool = False) -> Iterator[tuple[str, bool]]:
        """Give what is right in a place, and whether it is a folder."""
        with os.scandir(self._root / at) as children:
            for child in children:
                if hidden or not is_hidden(child.name):
                    yield f"{at}/{child.name}" if at else child.name, child.is_dir()

    def source(self, files: Sequence[str], page: int | None) -> FileSource:
        """Return the images in these files."""
        return FileSource([self._root / file for file in files], page=page)
