"""Drafts: files and folders that are replaced at once, when all that belongs in them is written."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give the name of a draft, which replaces the file unless an exception is raised.

    A folder may be drafted as well, where none is there yet.
    """
    draft = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        draft.replace(file)
    finally:
        if draft.is_dir():
            shutil.rmtree(draft)
        draft.unlink(missing_ok=True)
