"""A store in an object store such as Amazon S3; credentials come from the environment alone."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url
from zarr.storage import ObjectStore

from cache.errors import StoreError
from cache.storage.base import DIGESTS, RESULTS, USE, File, Storage, user_folder

# An object store does not know its readers: what was used within this time is in use.
IN_USE = 24 * 3600.0


class S3Storage(Storage):
    """A prefix of a bucket.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        if re.fullmatch(r"s3://[^/@?#]+(/[^@?#]*)?", url) is None:
            # A password in it would stand in every log and report.
            raise StoreError(
                "The store's URL is not, or holds more than, a bucket and a prefix. Allowed: "
                "s3://bucket/prefix; credentials go into the environment (AWS_ACCESS_KEY_ID, …)."
            )
        for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"):
            endpoint = os.environ.get(variable, "")
            if endpoint and re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", endpoint) is None:
                raise StoreError(
                    f"{variable} is not a valid address. Allowed: http://host:port or "
                    "https://host, without a user or a password."
                )
        self.busy = (
            "was used within the last 24 hours, and an object store cannot tell whether it still "
            "is; wait until nobody has for as long."
        )
        self.n_threads = 16
        self.results = None
        try:
            folder = user_folder()
            self.digests, self.results = folder / DIGESTS, folder / RESULTS
        except StoreError:
            self.digests = Path(os.devnull, DIGESTS)  # Nothing is remembered.
        self._objects = self._open("")

    def _open(self, path: str) -> Any:
        try:
            return from_url(f"{self.name}/{path}".rstrip("/"))
        except (BaseError, ValueError) as error:
            raise StoreError(f"The store {self.name!r} cannot be opened: {_first(error)}") from None

    def exists(self) -> bool:
        """Tell whether anything was ever stored; an error where the bucket cannot be reached."""
        return bool(self.folders(""))

    def zarr(self, path: str) -> ObjectStore[Any]:
        """Give Zarr the objects at ``path``."""
        return ObjectStore(self._open(path))

    def folders(self, path: str) -> list[str]:
        """List the names of the folders in a folder, sorted."""
        with self.asking():
            found = obstore.list_with_delimiter(self._objects, path or None)
        return sorted(prefix.rsplit("/", 1)[-1] for prefix in found["common_prefixes"])

    def files(self, path: str) -> Iterator[File]:
        """List all files below a folder."""
        with self.asking():
            for batch in obstore.list(self._objects, path or None):
                for item in batch:
                    modified = item["last_modified"].timestamp()
                    yield File(path=item["path"], size=item["size"], modified=modified)

    def read(self, path: str) -> bytes | None:
        """Read a file."""
        with self.asking():
            try:
                return bytes(obstore.get(self._objects, path).bytes())
            except FileNotFoundError:
                return None

    def read_into(self, path: str, buffer: bytearray) -> int | None:
        """Read a file into memory that is there already."""
        data = self.read(path)
        if data is None:
            return None
        n_bytes = min(len(data), len(buffer))
        buffer[:n_bytes] = data[:n_bytes]
        return n_bytes

    def create(self, path: str, data: bytes) -> None:
        """Write a file, all of it or nothing."""
        with self.asking():
            try:
                obstore.put(self._objects, path, data, mode="create")
            except AlreadyExistsError as error:
                raise FileExistsError(path) from error

    def touch(self, path: str) -> None:
        """Note the time, unless the store is only to be read."""
        with suppress(BaseError, OSError):
            obstore.put(self._objects, path, b"")

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        with self.asking():
            obstore.put(self._objects, path, data)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with everything in it."""
        below = [file.path for file in self.files(path)]
        with self.asking(), suppress(FileNotFoundError):
            obstore.delete(self._objects, below or path)

    @contextmanager
    def lock_exclusive(self, group: str, *, mine: bool = False) -> Iterator[bool]:
        """Tell whether nothing was used or written lately: there are no locks."""
        folders = (group, f"{USE}/{group}")
        newest = max((file.modified for at in folders for file in self.files(at)), default=0.0)
        yield newest < time.time() - IN_USE

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Turn the client's errors into ours; what they say of the exchange is left out."""
        try:
            yield
        except FileExistsError:
            raise
        except (BaseError, OSError) as error:
            raise StoreError(
                f"The store {self.name!r} does not answer: {_first(error)} Is the bucket there, "
                "and do the environment's credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
                "AWS_REGION, AWS_ENDPOINT_URL) open it?"
            ) from None


def _first(error: Exception) -> str:
    """Give the first line: the rest is the whole exchange, which can hold credentials."""
    line = str(error).strip().splitlines()[0].split("<?xml")[0]
    return re.sub(r"//[^/@\s]*@", "//", line)[:300]
