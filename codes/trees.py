"""Trees: folders of images, seen alike on the disk and packed in an archive."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from codes.images import FileSource, ImageSource


class Tree(Protocol):
    """Folders of files. Places in it are relative paths with slashes; ``""`` is its root.

    `repeated` are the names that it has several files of: the last counts.
    """

    name: str
    repeated: Sequence[str]

    def folders(self, at: str = "") -> list[str]:
        """List the folders right in a place, sorted, without hidden ones."""

    def files(self, at: str = "") -> list[str]:
        """List the files right in a place, sorted, without hidden ones."""

    def below(self, at: str = "") -> list[str]:
        """List all files below a place, of linked folders too, sorted, without hidden ones."""

    def source(self, files: Sequence[str], page: int | None) -> ImageSource:
        """Return the images in these files."""


class FolderTree:
    """A folder on the disk.

    Parameters
    ----------
    root : Path
    """

    repeated: Sequence[str] = ()

    def __init__(self, root: Path) -> None:
        self._root = root
        self.name = str(root)

    def folders(self, at: str = "") -> list[str]:
        """List the folders right in a place."""
        return self._children(at, lambda path: path.is_dir())

    def files(self, at: str = "") -> list[str]:
        """List the files right in a place."""
        return self._children(at, lambda path: not path.is_dir())

    def _children(self, at: str, wanted: Callable[[Path], bool]) -> list[str]:
        children = (path for path in (self._root / at).iterdir() if wanted(path))
        return sorted(self._place(path) for path in children if not path.name.startswith("."))

    def below(self, at: str = "") -> list[str]:
        """List all files below a place."""
        found: list[str] = []
        pending: list[tuple[Path, frozenset[str]]] = [(self._root / at, frozenset())]
        while pending:
            folder, above = pending.pop()
            within = above | {os.path.realpath(folder)}
            if within == above:  # A link to a folder that it lies in, whose images are listed.
                continue
            for path in folder.iterdir():
                # Broken links and pipes are kept, to be reported with what cannot be read.
                if path.is_dir():
                    pending.append((path, within))
                elif not path.name.startswith("."):
                    found.append(self._place(path))
        return sorted(found)

    def _place(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def source(self, files: Sequence[str], page: int | None) -> FileSource:
        """Return the images in these files."""
        return FileSource([self._root / file for file in files], page=page)
