"""Codes ↔ disk: a Zarr store that never computes a code twice and never returns a wrong one."""

from cache.key import CodesKey, ExtractionKey
from cache.store import CodeStore, DamagedCodesError, StoreError

__all__ = ["CodeStore", "CodesKey", "DamagedCodesError", "ExtractionKey", "StoreError"]
