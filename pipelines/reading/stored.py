"""Codes in the store, read a layer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import CodesKey, CodeStore, CodesView, ExtractionKey
from pipelines.reading.readers import Block, Reader, cut_rows


class StoredReader(Reader):
    """Reads the codes of a layer out of the store.

    Parameters
    ----------
    store : CodeStore
    key : ExtractionKey
    array : CodesKey
    digests : ndarray of shape (n_samples, 32), uint8
    n_views : int
        Views that are kept apart.
    """

    def __init__(
        self,
        store: CodeStore,
        key: ExtractionKey,
        array: CodesKey,
        digests: NDArray[np.uint8],
        n_views: int,
    ) -> None:
        self._store, self._key, self._array = store, key, array
        self._digests, self._n_views = digests, n_views

    def _view(self) -> CodesView:
        return self._store.view(self._key, self._array, self._digests)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_samples, n_features)``, or ``(n_samples, n_views, n_features)``."""
        n_samples = len(self._digests)
        if self._n_views == 1:
            return n_samples, self._width
        return self._apart(n_samples, self._width)

    @cached_property
    def _width(self) -> int:
        return self._view().shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a value is."""
        return np.dtype(self._array.dtype)

    def __call__(self) -> NDArray[Any]:
        """Read all codes into memory."""
        codes = self._store.codes(self._key, self._array, self._digests)
        return codes.reshape(self._apart(*codes.shape)) if self._n_views > 1 else codes

    def blocks(self) -> Iterator[Block]:
        """Read all codes, some at a time, in the order of the store: each chunk once, or twice."""
        view = self._view()
        order = view.stored_order()
        for rows in cut_rows(len(order), view.shape[1] * view.dtype.itemsize):
            codes = view[order[rows]]
            if self._n_views > 1:
                codes = codes.reshape(self._apart(*codes.shape))
            yield Block(rows=order[rows], codes=codes)

    def _apart(self, n_samples: int, width: int) -> tuple[int, int, int]:
        return n_samples, self._n_views, width // self._n_views
