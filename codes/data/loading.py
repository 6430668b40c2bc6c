"""Loading: images decoded and cropped, batch by batch, by other processes where that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from threading import Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from codes.data.images import ImageList
from codes.data.sources import ImageSource, PerThread
from codes.decoding.decode import ArchiveChangedError, ChangedReason, UnreadableImageError
from codes.preprocessing import Preprocessing

Batch = tuple[Tensor, list[str | None]]

CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)
"""What fetching a batch raises where the process that holds it died a moment ago."""


class WorkerDiedError(RuntimeError):
    """A process that decodes images died."""


def load_crops(
    images: ImageList,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int,
    pin_memory: bool,
    digests: NDArray[np.uint8] | None = None,
) -> Iterator[Callable[[], Batch]]:
    """Decode and crop a list of images, batch by batch.

    Parameters
    ----------
    images : ImageList
    preprocessing : Preprocessing
    batch_size : int
        Crops in a batch; views of one image are in one.
    workers : int
        Processes that decode, from now on; with 0, whichever thread calls for a batch does.
    pin_memory : bool
        Whether a GPU copies the batches.
    digests : ndarray of shape (n_images, 32), uint8, optional
        What the images are known by. One that is another by the time it is decoded is unreadable.

    Returns
    -------
    batches : iterator of callable
        Each answers, once, with a batch: pixels of shape (n_readable * n_views, 3, crop_size,
        crop_size), uint8, the views of an image together; and for each image why it cannot be
        decoded, or None.

    Raises
    ------
    WorkerDiedError
        If a process that decodes dies: it names the image.
    """
    decoded = _Decoded(images.source, len(images), preprocessing, max(1, workers), digests)
    n_together = max(1, batch_size // preprocessing.n_views)
    if workers == 0:
        starts = range(0, len(images), n_together)
        return (partial(decoded.batch, start, n_together, pin_memory) for start in starts)
    loader = DataLoader(
        decoded,
        batch_size=n_together,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
    )
    return _named(_begun(loader), decoded)


def _begun(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Begin the processes now, not at the first batch, from a thread of its own.

    For other threads than the main one PyTorch handles no signal: when a process dies, its handler
    raises wherever the main thread happens to be. A thread of a pool will not do: processes that
    it forked want to wait for it in the end, cannot, and fail.
    """
    begun: list[Iterator[Batch]] = []
    failed: list[BaseException] = []

    def begin() -> None:
        try:
            begun.append(iter(loader))
        except BaseException as error:
            failed.append(error)

    beginning = Thread(target=begin)
    beginning.start()
    beginning.join()
    if failed:
        raise failed[0]
    return begun[0]


def _named(batches: Iterator[Batch], decoded: _Decoded) -> Iterator[Callable[[], Batch]]:
    """Tell which image a process died at."""
    try:
        for batch in batches:
            yield partial(_given, batch)
    except (RuntimeError, *CUT_OFF) as error:
        if isinstance(error, RuntimeError) and "worker" not in str(error):
            raise
        why = (str(error) or type(error).__name__).splitlines()[0].removesuffix(".")
        held = ", ".join(repr(decoded.source.names[i]) for i in decoded.in_hand.tolist() if i >= 0)
        raise WorkerDiedError(
            f"A process that decodes images died, at {held or 'its first image'}"
            f"{' (one of them)' if len(decoded.in_hand) > 1 else ''}: "
            f"{why}. What was extracted before is stored. Leave that image "
            "out, use fewer --workers if memory ran out, or --workers 0 to see where it dies."
        ) from error


def _given(batch: Batch) -> Batch:
    return batch


class _Decoded(Dataset[tuple[Tensor | None, str | None]]):
    """Cropped pixels, or the reason why there are none."""

    def __init__(
        self,
        source: ImageSource,
        n: int,
        preprocessing: Preprocessing,
        workers: int,
        digests: NDArray[np.uint8] | None,
    ) -> None:
        self.source, self._n, self._preprocessing = source, n, preprocessing
        self._digests = digests
        self._threads = PerThread(source)
        # What each process decodes now, for the case that it dies of it.
        self.in_hand: Tensor = torch.full((workers,), -1)
        self.in_hand.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self._n

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in vars(self).items() if key != "_threads"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._threads = PerThread(self.source)

    def batch(self, start: int, n_together: int, pin_memory: bool) -> Batch:
        """Decode some consecutive images in this thread."""
        items = [self[i] for i in range(self._n)[start : start + n_together]]
        return _collate(items, pin_memory=pin_memory)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        worker = get_worker_info()
        self.in_hand[0 if worker is None else worker.id] = index
        try:
            digest = b"" if self._digests is None else self._digests[index].tobytes()
            source = self._threads.own
            image = source.open(index, self._preprocessing.decoding)
            pixels = self._preprocessing.crops(image, digest)
            # Read again once decoded: what was changed before that would be stored under its name.
            if self._digests is None or source.holds(index, digest):
                return pixels, None
            return None, "it was changed while the dataset was read; run it again"
        except ArchiveChangedError as error:
            return None, ChangedReason(error)
        except (UnreadableImageError, OSError) as error:
            return None, str(error)


def _collate(items: list[tuple[Tensor | None, str | None]], *, pin_memory: bool = False) -> Batch:
    """Copy the crops of some images into one block of memory, channels last."""
    crops = [pixels.permute(0, 2, 3, 1) for pixels, _ in items if pixels is not None]
    why = [why for _, why in items]
    if not crops:
        return torch.empty(0), why
    n_crops = sum(map(len, crops))
    batch = torch.empty((n_crops, *crops[0].shape[1:]), dtype=torch.uint8, pin_memory=pin_memory)
    torch.cat(crops, out=batch)
    return batch.permute(0, 3, 1, 2), why
