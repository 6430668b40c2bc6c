"""Codes ↔ disk: a Zarr store that never computes a code twice and never returns a wrong one."""

from cache.errors import DamagedCodesError, StoreError
from cache.key import CodesKey, ExtractionKey
from cache.store import CodeStore
from cache.view import CodesView

__all__ = ["CodeStore", "CodesKey", "CodesView", "DamagedCodesError", "ExtractionKey", "StoreError"]
