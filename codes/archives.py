"""Archives: zip and tar files, whose images are read where they lie, without unpacking."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import stat
import tarfile
import zipfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from codes.decoding import UnreadableImageError, decode_bytes, is_image, open_file
from codes.images import DigestMemory, no_digest, of_page, printable

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

CHANGED = "its archive was changed or taken away while the dataset was read; run it again"

MAX_LINK = 4096
"""Bytes of a path that a link in a zip archive leads to."""

MAX_PADDING = 2**16
"""Zeros behind a tar archive; more are a file that was made in full length and never filled."""

ZIP_HEADER = 30
"""Bytes before the name of a file in a zip archive, whose length is in the last four."""

ZIP_END = 2**16 + 22 + 76
"""Bytes at the end of a zip archive that tell how many files it holds: at most as many."""

RAW, REFUSED = -1, -2
"""Methods of compression beside those of zip: a tar archive's, and that of what is not read."""


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
                self._listing = _Listing(file, is_zip=is_zip)
            except DAMAGED as error:
                raise ValueError(
                    f"{self.name!r} cannot be read as an archive: {error}. Fetch or pack it again."
                ) from error
        self.repeated: Sequence[str] = [n for n in self._listing.repeated if not _hidden(n)]
        self._members = sorted(name for name in self._listing.rows_of if not _hidden(name))
        if not self._members:
            raise ValueError(f"{self.name!r} holds no file.")
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
        return [name[len(self._top) :] for name in _starting_with(start, self._members)]

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


def _hidden(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _plain(name: str) -> str:
    """Take out of a name what leads out of the archive, as unpacking does: ``/`` and ``..``."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _common_folder(names: Sequence[str]) -> str:
    """Give the folders above all class folders, with a slash at the end; or nothing."""
    folders = {PurePosixPath(name).parts[:-2] for name in names if is_image(name)}
    common = ""
    for steps in zip(*folders, strict=False):
        if len(set(steps)) > 1:
            break
        common += f"{steps[0]}/"
    return common


def _starting_with(start: str, names: Sequence[str]) -> Sequence[str]:
    """Cut out of sorted names those that start alike."""
    first = bisect_left(names, start)
    return names[first : bisect_left(names, True, first, key=lambda n: not n.startswith(start))]


class ArchiveSource:
    """Images in an archive; known by the SHA-256 of the file, as if it were unpacked.

    Of each image no more is kept than its name and where it lies: lists of a million images are
    sent to every process that decodes.

    Parameters
    ----------
    archive : str
    listing : _Listing
        Of the archive.
    members : sequence of str
        Names in it.
    page : int, optional
        As for `codes.images.FileSource`.
    """

    def __init__(
        self, archive: str, listing: _Listing, members: Sequence[str], *, page: int | None = None
    ) -> None:
        self._archive, self._page = archive, page
        self._folder = printable(f"{archive}/")
        self.names = [self._folder + printable(member) for member in members]
        self._rows = listing.rows([listing.rows_of[member] for member in members])
        self._reasons, self._state = listing.reasons, listing.state

    def digest(self, index: int, memory: DigestMemory | None = None) -> bytes:
        """Return the SHA-256 of a file in the archive."""
        compute = partial(self._digest, index)
        try:
            if memory is None:
                found = compute()
            else:
                member = self.names[index].removeprefix(self._folder)
                found = memory.of(self._archive, compute, member=member)
            return of_page(found, self._page, lambda: io.BytesIO(self.read(index)))
        except (UnreadableImageError, OSError):
            return no_digest()

    def _digest(self, index: int) -> bytes:
        return hashlib.sha256(self.read(index)).digest()

    def open(self, index: int) -> Image.Image:
        """Decode a file in the archive to RGB."""
        return decode_bytes(self.read(index), page=self._page)

    def read(self, index: int) -> bytes:
        """Read a file in the archive, or raise `codes.decoding.UnreadableImageError`."""
        start, packed, size, crc, method = self._rows[index].tolist()
        if method == REFUSED:
            raise UnreadableImageError(self._reasons[start])
        if size > MAX_MEMBER:
            raise UnreadableImageError(f"refused as a decompression bomb ({size} bytes)")
        try:
            with open_file(self._archive) as file:
                if _state(file) != self._state:
                    raise UnreadableImageError(CHANGED)
                file.seek(start)
                if method == RAW:
                    return _all_of(file, size)
                return _unpacked(file, packed, size, crc, method)
        except UnreadableImageError:
            raise
        except FileNotFoundError as error:
            raise UnreadableImageError(CHANGED) from error
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


def _state(file: IO[bytes]) -> tuple[int, int]:
    now = os.fstat(file.fileno())
    return now.st_size, now.st_mtime_ns


class _TarMember(tarfile.TarInfo):
    """A file of a tar archive, whose times GNU tar may have written where others begin its name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarMember:
        member = super().frombuf(buf, encoding, errors)
        if buf[257:265] == b"ustar  \0":
            began = buf[345:500].partition(b"\0")[0].decode(encoding, errors)
            member.name = member.name.removeprefix(f"{began}/")
        return member


class _Listing:
    """What an archive holds: its files' names, as they are unpacked, and where each lies.

    Parameters
    ----------
    file : binary file
    is_zip : bool

    Attributes
    ----------
    rows_of : dict of str to int
        Name → row of `rows`.
    repeated : list of str
    reasons : list of str
        Why files are refused.
    state : tuple of int
        Of the archive when it was listed.
    """

    def __init__(self, file: IO[bytes], *, is_zip: bool) -> None:
        self.rows_of: dict[str, int] = {}
        self.repeated: list[str] = []
        self.reasons: list[str] = []
        self.state = _state(file)
        self._values = array("q")
        if is_zip:
            self._list_zip(file)
        else:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_TarMember) as tar:
                self._list_tar(tar, file)

    def rows(self, which: Sequence[int]) -> NDArray[np.int64]:
        """Tell where some files lie.

        Returns
        -------
        rows : ndarray of shape (n, 5), int64
            First byte, bytes there, bytes once decompressed, CRC-32, method of compression.
        """
        return np.frombuffer(self._values, np.int64).reshape(-1, 5)[which]

    def _add(
        self, name: str, start: int, packed: int, size: int, crc: int = 0, method: int = RAW
    ) -> None:
        if name in self.rows_of:
            self.repeated.append(name)
        self.rows_of[name] = len(self._values) // 5
        self._values.extend((start, packed, size, crc, method))

    def _refuse(self, name: str, why: str) -> None:
        self._add(name, len(self.reasons), 0, 0, method=REFUSED)
        self.reasons.append(why)

    def _list_zip(self, file: IO[bytes]) -> None:
        archive = zipfile.ZipFile(file)
        _require_count(file, len(archive.infolist()))
        links: dict[str, str] = {}
        for info in archive.infolist():
            name = info.filename
            if "/" not in name:  # Some of Windows' programs write its slashes.
                name = name.replace("\\", "/")
            if name.endswith("/"):
                continue
            if info.flag_bits & 1:
                self._refuse(_plain(name), "it is encrypted: unpack it with its password")
            elif stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= MAX_LINK:
                target = archive.read(info).decode()
                links[_plain(name)] = _plain(posixpath.join("/", posixpath.dirname(name), target))
            else:
                sizes = info.compress_size, info.file_size
                self._add(_plain(name), info.header_offset, *sizes, info.CRC, info.compress_type)
        self._follow(links)

    def _list_tar(self, tar: tarfile.TarFile, file: IO[bytes]) -> None:
        links: dict[str, str] = {}
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # A kilobyte for each.
            name, target = _plain(member.name), member.linkname
            if member.issym():
                target = posixpath.join("/", posixpath.dirname(name), target)
            if member.issym() or member.islnk():
                links[name] = _plain(target)
            elif member.issparse():
                self._refuse(name, "it is kept as a sparse file: pack it without -S")
            elif member.isreg():
                self._add(name, member.offset_data, member.size, member.size)
        _require_end(file, tar.offset)
        self._follow(links)

    def _follow(self, links: dict[str, str]) -> None:
        """List the files, and all files of the folders, that links in an archive lead to."""
        elsewhere: dict[str, str] = {}
        for link, target in links.items():
            seen = {link}
            while target in links and target not in seen:
                seen.add(target)
                target = links[target]
            if target in self.rows_of:
                self.rows_of[link] = self.rows_of[target]
            else:
                elsewhere[link] = target
        names = sorted(self.rows_of) if elsewhere else []
        for link, target in elsewhere.items():
            below = _starting_with(f"{target}/", names)
            for name in below:
                self.rows_of[link + name.removeprefix(target)] = self.rows_of[name]
            if below:
                names = sorted(self.rows_of)  # A link may lead into the folder of another.
            else:
                why = f"it is a link to {target!r}, which is not in the archive"
                self._refuse(link, why)


def _require_count(file: IO[bytes], n_listed: int) -> None:
    """Refuse a zip archive that says to hold more, or fewer, than its list has."""
    file.seek(max(file.seek(0, os.SEEK_END) - ZIP_END, 0))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    told, listed = int.from_bytes(end[at + 10 : at + 12], "little"), n_listed % 2**16
    if told == 2**16 - 1 and end[at - 76 : at - 72] == b"PK\6\6":  # A zip64 archive.
        told, listed = int.from_bytes(end[at - 44 : at - 36], "little"), n_listed
    if told != listed:
        raise zipfile.BadZipFile(f"it should hold {told:,} entries, its list has {n_listed:,}")


def _require_end(file: IO[bytes], at: int) -> None:
    """Refuse a tar archive whose list of files ends before the archive does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(at)
    end = file.read(min(MAX_PADDING, size - at))
    if not end:
        raise tarfile.ReadError("the mark of its end is missing, as where it was cut off")
    if end[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise tarfile.ReadError(f"what stands at byte {at:,} names no file")
    if end.strip(b"\0"):
        raise tarfile.ReadError(f"more follows its end at byte {at:,}, as another archive")
    if len(end) < size - at:
        raise tarfile.ReadError(f"from byte {at:,} on it is empty, as of a broken download")
