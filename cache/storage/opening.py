"""Opening: the name of a store becomes its storage."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cache.errors import StoreError
from cache.storage.base import Storage
from cache.storage.local import LocalStorage


def open_storage(root: str | Path) -> Storage:
    """Find out what a store's name stands for.

    Parameters
    ----------
    root : str or Path
        A folder, or the URL of an object store such as ``s3://bucket/prefix``.

    Raises
    ------
    StoreError
        If it is a file, a URL of no known kind, in the folder of an unknown user, or an object
        store without its extra installed.
    """
    text = os.fspath(root)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) and not text.startswith("s3://"):
        kind = text.split(":")[0]  # What follows can hold a password.
        raise StoreError(
            f"The store is of an unknown kind, {kind}:…; allowed are a folder, or "
            "s3://bucket/prefix as a str."
        )
    if not text.strip():
        raise StoreError("The store's name is empty. Allowed: a folder, or s3://bucket/prefix.")
    if "://" in text:
        try:
            from cache.storage.s3 import S3Storage  # obstore is optional
        except ModuleNotFoundError as error:
            raise StoreError(
                f"The store {text!r} needs the package {error.name!r}. Install it: "
                "pip install 'cnn-codes[s3]'."
            ) from error
        return S3Storage(text)
    try:
        folder = Path(text).expanduser()
    except RuntimeError as error:
        raise StoreError(
            f"The store {text!r} lies in a home folder that is not known: {error} Name a folder "
            "without ~ with --store or CNN_CODES_STORE."
        ) from error
    return LocalStorage(folder)
