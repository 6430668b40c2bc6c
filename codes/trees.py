"""Trees: folders of images, on the disk or packed in a zip or tar archive, seen alike."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from PIL import Image

from codes.decoding import UnreadableImageError, decode_bytes, is_image
from codes.images import DigestMemory, FileSource, ImageSource, no_digest, of_page, printable

ARCHIVES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
COMPRESSION = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""What files begin with that gzip, bzip2, xz and zstd wrote, whatever they are called."""

DAMAGED = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError)
MAX_MEMBER = 2**30
"""Bytes of a file in an archive; what claims to be larger is taken for a decompression bomb."""

MAX_PADDING = 2**16
"""Zeros behind a tar archive; more are a file that was made in full length and never filled."""


class Tree(Protocol):
    """Folders of files. Places in it are relative paths with slashes; ``""`` is its root."""

    name: str

    def folders(self, at: str = "") -> list[str]:
        """List the folders right in a place, sorted, without hidden ones."""

    def files(self, at: str = "") -> list[str]:
        """List the files right in a place, sorted, without hidden ones."""

    def below(self, at: str = "") -> list[str]:
        """List all files below a place, sorted, without hidden ones."""

    def source(self, files: Sequence[str], page: int | None) -> ImageSource:
        """Return the images in these files."""


class FolderTree:
    """A folder on the disk.

    Parameters
    ----------
    root : Path
    """

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
        # Broken links and pipes are kept, to be reported with the images that cannot be read.
        return sorted(
            self._place(path)
            for path in (self._root / at).rglob("*")
            if not path.is_dir() and not path.name.startswith(".")
        )

    def _place(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def source(self, files: Sequence[str], page: int | None) -> FileSource:
        """Return the images in these files."""
        return FileSource([self._root / file for file in files], page=page)


class ArchiveTree:
    """A zip archive, or a tar archive that is not compressed: any file of it is read at once.

    Folders that all files have in common are left out: what a folder was packed with.

    Parameters
    ----------
    archive : Path

    Attributes
    ----------
    repeated : list of str
        Names that it has several files of: the last counts, as where it is unpacked.

    Raises
    ------
    ValueError
        If it is damaged, empty, or compressed as a whole.
    """

    def __init__(self, archive: Path) -> None:
        with archive.open("rb") as file:
            start = file.read(6)
        if archive.name.lower().endswith(COMPRESSED) or start.startswith(COMPRESSION):
            raise ValueError(
                f"{str(archive)!r} is compressed as a whole, so that no image of it can be read "
                f"without all before it. Allowed: {', '.join(ARCHIVES)}. Decompress it (gunzip, "
                "unxz, …) to a .tar, or repack it as a .zip."
            )
        self._archive = archive
        self.name = str(archive)
        try:
            with _Archive(archive) as opened:
                members = [name for name in opened.names if not _hidden(name)]
                self.repeated = [name for name in opened.repeated if not _hidden(name)]
        except DAMAGED as error:
            raise ValueError(
                f"{str(archive)!r} cannot be read as an archive: {error}. Fetch or pack it again."
            ) from error
        if not members:
            raise ValueError(f"{str(archive)!r} holds no file.")
        self._members = sorted(members)
        self._top = _common_folder(self._members)

    def folders(self, at: str = "") -> list[str]:
        """List the folders right in a place."""
        return sorted({"/".join(parts) for parts, is_file in self._steps(at) if not is_file})

    def files(self, at: str = "") -> list[str]:
        """List the files right in a place."""
        return sorted({"/".join(parts) for parts, is_file in self._steps(at) if is_file})

    def _steps(self, at: str) -> Iterator[tuple[tuple[str, ...], bool]]:
        depth = len(PurePosixPath(at).parts)
        for file in self.below(at):
            parts = PurePosixPath(file).parts
            yield parts[: depth + 1], len(parts) == depth + 1

    def below(self, at: str = "") -> list[str]:
        """List all files below a place."""
        start = f"{self._top}{at}/" if at else self._top
        return [name[len(self._top) :] for name in self._members if name.startswith(start)]

    def read(self, files: Sequence[str]) -> list[bytes]:
        """Read the content of these files."""
        with _Archive(self._archive) as opened:
            return [opened.read(self._top + file) for file in files]

    def source(self, files: Sequence[str], page: int | None) -> ArchiveSource:
        """Return the images in these files."""
        return ArchiveSource(self._archive, [self._top + file for file in files], page=page)


def is_archive(path: Path) -> bool:
    """Tell by its ending whether a file is taken for an archive."""
    return path.is_file() and path.name.lower().endswith((*ARCHIVES, *COMPRESSED))


def _hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _plain(name: str) -> str:
    """Take out of a name what leads out of the archive, as unpacking does: ``/`` and ``..``."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _common_folder(names: Sequence[str]) -> str:
    """Give the folders above all class folders, with a slash at the end; or nothing."""
    folders = [PurePosixPath(name).parts[:-2] for name in names if is_image(name)]
    common = ""
    for steps in zip(*folders, strict=False):
        if len(set(steps)) > 1:
            break
        common += f"{steps[0]}/"
    return common


class ArchiveSource:
    """Images in an archive; known by the SHA-256 of the file, as if it were unpacked.

    Parameters
    ----------
    archive : Path
    members : sequence of str
        Their names in it.
    page : int, optional
        As for `codes.images.FileSource`.
    """

    def __init__(self, archive: Path, members: Sequence[str], *, page: int | None = None) -> None:
        self.names = [printable(f"{archive}/{member}") for member in members]
        self._archive, self._members, self._page = archive, list(members), page
        self._opened: _Archive | None = None
        self._process = 0

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of a file in the archive."""
        compute = partial(self._digest, index)
        try:
            if memory is None:
                found = compute()
            else:
                found = memory.of(str(self._archive), compute, member=self._members[index])
            return of_page(found, self._page, lambda: io.BytesIO(self._read(index)))
        except UnreadableImageError:
            return no_digest()

    def _digest(self, index: int) -> bytes:
        return hashlib.sha256(self._read(index)).digest()

    def open(self, index: int) -> Image.Image:
        """Decode a file in the archive to RGB."""
        return decode_bytes(self._read(index), page=self._page)

    def _read(self, index: int) -> bytes:
        # A process that was forked shares the place in the file with its parent.
        if self._opened is None or self._process != os.getpid():
            try:
                self._opened, self._process = _Archive(self._archive), os.getpid()
            except DAMAGED as error:
                raise UnreadableImageError(f"its archive cannot be read: {error}") from error
        return self._opened.read(self._members[index])

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": None}


class _Archive:
    """An archive that is open: the names of its files, and their content."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._members: dict[str, tuple[int, Callable[[], bytes]]] = {}
        self.repeated: list[str] = []
        try:
            if path.suffix.lower() == ".zip":
                packed = zipfile.ZipFile(self._file)
                for file in packed.infolist():
                    name = file.filename
                    if "/" not in name:  # Some of Windows' programs write its slashes.
                        name = name.replace("\\", "/")
                    if not name.endswith("/"):
                        read = partial(packed.read, file)
                        if file.flag_bits & 1:
                            read = partial(_refuse, "it is encrypted: unpack it with its password")
                        self._add(_plain(name), file.file_size, read)
                return
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                self._list(tar)
        except BaseException:
            self._file.close()
            raise

    def _add(self, name: str, size: int, read: Callable[[], bytes]) -> None:
        if name in self._members:
            self.repeated.append(name)
        self._members[name] = size, read

    def _list(self, tar: tarfile.TarFile) -> None:
        links: dict[str, str] = {}
        for member in tar:
            name, target = _plain(member.name), member.linkname
            if member.issym():
                target = posixpath.join("/", posixpath.dirname(name), target)
            if member.issym() or member.islnk():
                links[name] = _plain(target)
            elif member.isreg():
                read = partial(self._cut_out, member.offset_data, member.size)
                if member.issparse():
                    read = partial(_refuse, "it is kept as a sparse file: pack it without -S")
                self._add(name, member.size, read)
        self._require_end(tar.offset)
        self._follow(links)

    def _require_end(self, at: int) -> None:
        """Refuse a tar archive whose list of files ends before the archive does."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(at)
        end = self._file.read(min(MAX_PADDING, size - at))
        if not end:
            raise tarfile.ReadError("the mark of its end is missing, as where it was cut off")
        if end[: tarfile.BLOCKSIZE].strip(b"\0"):
            raise tarfile.ReadError(f"what stands at byte {at:,} names no file")
        if end.strip(b"\0"):
            raise tarfile.ReadError(f"more follows its end at byte {at:,}, as another archive")
        if len(end) < size - at:
            raise tarfile.ReadError(f"from byte {at:,} on it is empty, as of a broken download")

    def _follow(self, links: dict[str, str]) -> None:
        """List the files, and all files of the folders, that links in a tar archive lead to."""
        elsewhere: dict[str, str] = {}
        for link, target in links.items():
            seen = {link}
            while target in links and target not in seen:
                seen.add(target)
                target = links[target]
            if target in self._members:
                self._members[link] = self._members[target]
            else:
                elsewhere[link] = target
        for link, target in elsewhere.items():
            below = [name for name in self._members if name.startswith(f"{target}/")]
            for name in below:
                self._members[link + name.removeprefix(target)] = self._members[name]
            if not below:
                why = f"it is a link to {target!r}, which is not in the archive"
                self._members[link] = 0, partial(_refuse, why)

    @property
    def names(self) -> list[str]:
        """Names of the files, as they are unpacked."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """Read a file; what cannot be read is an unreadable image."""
        size, read = self._members[name]
        if size > MAX_MEMBER:
            raise UnreadableImageError(f"refused as a decompression bomb ({size} bytes)")
        try:
            return read()
        except UnreadableImageError:
            raise
        except Exception as error:  # BadZipFile, RuntimeError (a password), zlib.error, OSError, …
            raise UnreadableImageError(f"it cannot be taken from its archive: {error}") from error

    def _cut_out(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        content = self._file.read(size)
        if len(content) < size:
            raise OSError("the archive ends within it")
        return content

    def __del__(self) -> None:
        # An image source has no end of its own but this.
        self._file.close()

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _refuse(why: str) -> bytes:
    raise UnreadableImageError(why)
