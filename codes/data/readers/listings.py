"""Listings: what zip and tar archives hold, and where each file lies in them."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile
import zipfile
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

MAX_LINK = 4096
"""Bytes of a path that a link in a zip archive leads to."""

MAX_PADDING = 2**16
"""Zeros behind a tar archive; more are a file that was made in full length and never filled."""

ZIP_END = 2**16 + 22 + 76
"""Bytes at the end of a zip archive that tell how many files it holds: at most as many."""

RAW, REFUSED = -1, -2
"""Methods of compression beside those of zip: a tar archive's, and that of what is not read."""


class Listing:
    """What an archive holds: its files' names, as they are unpacked, and where each lies.

    Attributes
    ----------
    rows_of : dict of str to int
        Name → row of `rows`.
    repeated : list of str
    reasons : list of str
        Why files are refused.
    state : tuple of int
        Of the archive when it was listed.

    Raises
    ------
    Exception
        What Python's readers raise where the archive is damaged (`archives.DAMAGED`), as also
        where its list ends before the archive does.
    """

    def __init__(self, file: IO[bytes], *, is_zip: bool) -> None:
        self.rows_of: dict[str, int] = {}
        self.repeated: list[str] = []
        self.reasons: list[str] = []
        self.state = state_of(file)
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
            below = starting_with(f"{target}/", names)
            for name in below:
                self.rows_of[link + name.removeprefix(target)] = self.rows_of[name]
            if below:
                names = sorted(self.rows_of)  # A link may lead into the folder of another.
            else:
                why = f"it is a link to {target!r}, which is not in the archive"
                self._refuse(link, why)


class _TarMember(tarfile.TarInfo):
    """A file of a tar archive, whose times GNU tar may have written where others begin its name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _TarMember:
        member = super().frombuf(buf, encoding, errors)
        if buf[257:265] == b"ustar  \0":
            began = buf[345:500].partition(b"\0")[0].decode(encoding, errors)
            member.name = member.name.removeprefix(f"{began}/")
        return member


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


def starting_with(start: str, names: Sequence[str]) -> Sequence[str]:
    """Cut out of sorted names those that start alike."""
    first = bisect_left(names, start)
    return names[first : bisect_left(names, True, first, key=lambda n: not n.startswith(start))]


def _plain(name: str) -> str:
    """Take out of a name what leads out of the archive, as unpacking does: ``/`` and ``..``."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def state_of(file: IO[bytes]) -> tuple[int, int]:
    """Tell by what a file is noticed to have changed: its size, and when it was written."""
    now = os.fstat(file.fileno())
    return now.st_size, now.st_mtime_ns
