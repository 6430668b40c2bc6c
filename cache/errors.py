"""What can be wrong with a store."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A store does not hold what was asked of it, or is not a store."""


class DamagedCodesError(StoreError):
    """Stored codes cannot be read back as they were written."""
