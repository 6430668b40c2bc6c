"""Archives: zip and tar files, whose images are read where they lie, without unpacking."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from codes.data.names import hidden_part
from codes.data.readers.folders import Tree, count_hidden
from codes.data.readers.listings import RAW, REFUSED, Listing, starting_with, state_of
from codes.data.sources import EncodedSource, ReadByAll, printable
from codes.decoding.decode import (
    ArchiveChangedError,
    UnreadableImageError,
    is_image,
    open_file,
)

ARCHIVES = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
COMPRESSION = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""What files begin with that gzip, bzip2, xz and zstd wrote, whatever they are called."""

DAMAGED = (
    *(OSError, EOFError, zipfile.BadZipFile, tarfile.TarError),
    *(ValueError, OverflowError, NotImplementedError),
)
"""What Python's readers raise at archives: at names, numbers and versions that cannot be, too."""

MAX_MEMBER = 2**30
"""Bytes of a file in an archive; what claims to be larger is taken for a decompression bomb."""

_CHANGED = "its archive was changed or removed while the dataset was read; run it again"

ZIP_HEADER = 30
"""Bytes before the name of a file in a zip archive, whose length is in the last four."""


class ArchiveTree(Tree):
    """A zip archive, or a tar archive that is not compressed: any file of it is read at once.

    Folders that all files have in common are left out: what a folder was packed with.

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
        self.name = str(archive)
        with archive.open("rb") as file:
            start = file.read(6)
            if self.name.lower().endswith(COMPRESSED) or start.startswith(COMPRESSION):
                raise ValueError(
                    f"{self.name!r} is compressed as a whole, so that no image of it can be read "
                    f"without all before it. Allowed: {', '.join(ARCHIVES)}. Decompress it "
                    "(gunzip, unxz, …) to a .tar, or repack it as a .zip."
                )
            file.seek(0)
            try:
                is_zip = archive.suffix.lower() == ".zip" or start.startswith(b"PK\3\4")
                self._listing = Listing(file, is_zip=is_zip)
            except DAMAGED as error:
                raise ValueError(
                    f"{self.name!r} cannot be read as an archive: {error}. Fetch or pack it again."
                ) from error
        names = self._listing.rows_of
        if not names:
            raise ValueError(f"{self.name!r} holds no file.")
        # A folder that was hidden when it was packed is the dataset nevertheless.
        self._top = _common_folder([name for name in names if not hidden_part(name)] or names)
        self._hidden = count_hidden(name.removeprefix(self._top) for name in names)
        self._places = sorted(self._seen(names))
        self.repeated = list(self._seen(self._listing.repeated))

    def _seen(self, names: Iterable[str]) -> Iterator[str]:
        places = (name[len(self._top) :] for name in names if name.startswith(self._top))
        return (place for place in places if not hidden_part(place))

    def children(self, at: str) -> Iterator[tuple[str, bool]]:
        """Give what is right in a place, and whether it is a folder."""
        depth = len(PurePosixPath(at).parts) + 1
        for file in self.below(at):
            parts = PurePosixPath(file).parts
            yield "/".join(parts[:depth]), len(parts) > depth

    def below(self, at: str = "") -> list[str]:
        """List all files below a place."""
        return list(starting_with(f"{at}/" if at else "", self._places))

    def hidden(self) -> Counter[str]:
        """Count what is ignored."""
        return self._hidden

    def read(self, files: Sequence[str]) -> list[bytes]:
        """Read the content of these files."""
        source = self.source(files, None)
        return [source.read(index) for index in range(len(files))]

    def source(self, files: Sequence[str], page: int | None) -> ArchiveSource:
        """Return the images in these files."""
        return ArchiveSource(
            self.name, self._listing, [self._top + file for file in files], page=page
        )


def is_archive(path: Path) -> bool:
    """Tell by its ending whether a file is taken for an archive."""
    return path.is_file() and path.name.lower().endswith((*ARCHIVES, *COMPRESSED))


def _common_folder(names: Iterable[str]) -> str:
    """Give the folders above all class folders, with a slash at the end; or nothing."""
    folders = {PurePosixPath(name).parts[:-2] for name in names if is_image(name)}
    common = ""
    for steps in zip(*folders, strict=False):
        if len(set(steps)) > 1:
            break
        common += f"{steps[0]}/"
    return common


class ArchiveSource(ReadByAll, EncodedSource):
    """Images in an archive; known as if they were unpacked.

    Of each image no more is kept than its name and where it lies: lists of a million images are
    sent to every process that decodes.
    """

    def __init__(
        self, archive: str, listing: Listing, members: Sequence[str], *, page: int | None = None
    ) -> None:
        self._archive = archive
        self._folder = printable(f"{archive}/")
        super().__init__([self._folder + printable(member) for member in members], page=page)
        self._rows = listing.rows([listing.rows_of[member] for member in members])
        self._reasons, self._state = listing.reasons, listing.state

    def remembered_as(self, index: int) -> tuple[str, str]:
        """Name the archive, and the file in it."""
        return self._archive, self.names[index].removeprefix(self._folder)

    def opened(self, index: int) -> BinaryIO:
        """Open a file in the archive."""
        return io.BytesIO(self.read(index))

    def read(self, index: int) -> bytes:
        """Read a file in the archive, or raise `codes.decoding.decode.UnreadableImageError`."""
        start, packed, size, crc, method = self._rows[index].tolist()
        if method == REFUSED:
            raise UnreadableImageError(self._reasons[start])
        if size > MAX_MEMBER:
            raise UnreadableImageError(f"refused as a decompression bomb ({size} bytes)")
        try:
            with open_file(self._archive) as file:
                if state_of(file) != self._state:
                    raise ArchiveChangedError(_CHANGED)
                file.seek(start)
                if method == RAW:
                    return _all_of(file, size)
                return _unpacked(file, packed, size, crc, method)
        except UnreadableImageError:
            raise
        except FileNotFoundError as error:
            raise ArchiveChangedError(_CHANGED) from error
        except Exception as error:  # BadZipFile, NotImplementedError, zlib.error, OSError, …
            raise UnreadableImageError(f"it cannot be taken from its archive: {error}") from error


def _all_of(file: IO[bytes], size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise EOFError("the archive ends within it")
    return content


def _unpacked(file: IO[bytes], packed: int, size: int, crc: int, method: int) -> bytes:
    """Decompress, and check, the file of a zip archive whose header is next."""
    header = _all_of(file, ZIP_HEADER)
    if not header.startswith(b"PK\3\4"):
        raise zipfile.BadZipFile("its header is damaged")
    file.seek(sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28)), os.SEEK_CUR)
    info = zipfile.ZipInfo("this file")  # As it is called in what zipfile says of damage.
    info.compress_size, info.file_size, info.CRC, info.compress_type = packed, size, crc, method
    with zipfile.ZipExtFile(file, "r", info) as opened:
        return opened.read()
