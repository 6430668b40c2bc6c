"""The extractor: an image list and a backbone become batches of codes, every layer in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codes.backbones.backbone import Backbone
from codes.data.images import ImageList
from codes.data.loading import Batch, load_crops
from codes.graph.cutting import cut_network
from codes.graph.taps import choose_taps
from codes.inference.devices import find_device, in_lanes, naming_loss, no_tf32, only_deterministic
from codes.inference.equivalence import N_IMAGES, Agreement
from codes.inference.reading import BatchReader

EXTRACTOR_VERSION = 4
"""Raised whenever the same input would give other codes; part of every key."""

CPU_MAP_BYTES = 20 * 2**20
"""Of the largest map of a batch. The GNU C library keeps 64 MiB for a thread, maps that go in and
those that come out; what is beyond is given back to the system and asked for again in every pass,
and new memory takes up to a third of the time."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteCodesError(ValueError):
    """A layer answered an image with NaN or infinity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodesBatch:
    """The codes of some consecutive images.

    Attributes
    ----------
    start : int
        Place of the first image in the list.
    codes : dict of str to ndarray of shape (n, n_features), float32
        By the taps' names; as wide as `codes.graph.cutting.Tap.width`. The row of an unreadable
        image is NaN; no other value is.
    unreadable : dict of int to str
        Place in the list → why the image could not be decoded.
    """

    start: int
    codes: dict[str, NDArray[np.float32]]
    unreadable: dict[int, str]


class CodeExtractor:
    """Reads the codes of several layers of a backbone in one pass.

    The network is run no further than its deepest tap, and each layer is pooled where it arises,
    before anything later in the network can change it in place.

    Parameters
    ----------
    backbone : Backbone
    layers : str or sequence of str, default="default"
        As for `codes.graph.taps.choose_taps`.
    pool : str, default="grid"
        As for `codes.graph.taps.choose_taps`; several, joined by commas, share the pass.
    activation : {"post", "pre"}, default="post"
        Which side of the layer's non-linearity to read; ``"pre"`` is a control.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        What the network computes in. Codes come back as float32. TF32 is never used.
    device : str, default="cpu"
        A torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    each_view : bool, default=False
        Keep the codes of an image's views apart, one after another, instead of their average.
    deterministic : bool, default=False
        Use only algorithms that give the same codes each time on the same machine.
    compile : bool, default=False
        Compile the network with `torch.compile`, at the first batch: some seconds to minutes,
        which long runs win back. Codes differ by rounding.

    Attributes
    ----------
    taps : list of Tap
        What is read, in forward order.

    Raises
    ------
    ValueError
        If a layer, pooling, activation side, precision or device is not available.

    Examples
    --------
    >>> from codes import load_backbone, load_images
    >>> extractor = CodeExtractor(load_backbone("bundled"), layers="fc6.relu,fc7.relu")
    >>> digits = load_images("sklearn:digits").take(np.arange(5))
    >>> [batch] = extractor.extract(digits)
    >>> {layer: codes.shape for layer, codes in batch.codes.items()}
    {'fc6.relu': (5, 512), 'fc7.relu': (5, 512)}
    """

    def __init__(
        self,
        backbone: Backbone,
        layers: str | Sequence[str] = "default",
        *,
        pool: str = "grid",
        activation: str = "post",
        precision: str = "float32",
        device: str = "cpu",
        each_view: bool = False,
        deterministic: bool = False,
        compile: bool = False,
    ) -> None:
        if activation not in ("post", "pre"):
            raise ValueError(f"activation={activation!r} is unknown. Allowed: post, pre.")
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision={precision!r} is unknown. Allowed: {', '.join(PRECISIONS)}."
            )
        self.device = find_device(device)
        self.deterministic = deterministic
        self.compile = compile
        self.precision = precision
        self.preprocessing = backbone.preprocessing
        self._backbone, self._activation = backbone, activation
        self.taps = choose_taps(
            backbone.graph,
            backbone.layers,
            layers,
            pool,
            activation=activation,
            n_views=self.preprocessing.n_views if each_view else 1,
        )
        self._agreement = Agreement(backbone.model, backbone.graph.graph)
        self._cut()

    def _cut(self) -> None:
        self._network = cut_network(self._backbone.graph, self.taps, self._activation)
        self._tuned: BatchReader | None = None

    @property
    def _reader(self) -> BatchReader:
        # Tuned when it is needed: often all codes are in the store.
        if self._tuned is None:
            self._tuned = BatchReader(
                self._network,
                self.preprocessing,
                device=self.device,
                dtype=PRECISIONS[self.precision],
                compile=self.compile,
            )
        return self._tuned

    @property
    def most(self) -> int | None:
        """Crops that fit into the device's memory together, once more did not."""
        return None if self._tuned is None else self._tuned.most

    def only(self, names: Collection[str]) -> CodeExtractor:
        """Return an extractor that reads some of the taps, and runs no further than these.

        Parameters
        ----------
        names : collection of str

        Returns
        -------
        extractor : CodeExtractor
        """
        extractor = copy(self)
        extractor.taps = [tap for tap in self.taps if tap.name in names]
        extractor._cut()
        return extractor

    def in_precision(self, precision: str) -> CodeExtractor:
        """Return an extractor of the same taps that computes in another precision."""
        extractor = copy(self)
        extractor.precision = precision
        extractor._cut()
        return extractor

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Read the codes of a batch.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, crop_size, crop_size), uint8

        Returns
        -------
        codes : dict of str to Tensor of shape (n, n_features), float32
            By the taps' names, on the extractor's device.
        """
        with no_tf32(), only_deterministic(self.deterministic):
            return self._reader.forward(pixels)

    def extract(
        self,
        images: ImageList,
        *,
        batch_size: int | None = None,
        workers: int = 0,
        digests: NDArray[np.uint8] | None = None,
    ) -> Generator[CodesBatch, None, None]:
        """Read the codes of a list of images, batch by batch.

        Between two batches other threads run the network: load other backbones meanwhile if you
        like, but leave `torch.fx.symbolic_trace` alone, which patches modules for all threads.

        Parameters
        ----------
        images : ImageList
        batch_size : int, optional
            Crops that pass the network together, at most: images, times the views of each.
            Default: `default_batch_size`.
        workers : int, default=0
            Processes that decode images; with 0, this one does.
        digests : ndarray of shape (n_images, 32), uint8, optional
            What the images are known by, as `codes.data.images.digest_images` finds it. One that
            was changed since is unreadable.

        Yields
        ------
        batch : CodesBatch
            In the order of the list.

        Raises
        ------
        NonFiniteCodesError
            If a code is NaN or infinite: it names the layer and the image.
        GraphDiffersError
            If the network answers the first batch otherwise than its traced graph.
        DependentCodesError
            If an image has other codes in other company: it names the layer.
        WorkerDiedError
            If a process that decodes images dies: it names the image.
        DeviceLostError
            If the device fails or is gone.
        CompilerError
            If the network is to be compiled and cannot be.
        MemoryError
            If one image alone does not fit into the device's memory. With more, a batch that does
            not fit is halved, and all after it.
        ValueError
            If the batch size or the number of workers is out of range.
        """
        if batch_size is None:
            batch_size = self.default_batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: allowed are 1 or more.")
        if workers < 0:
            raise ValueError(f"workers={workers}: allowed are 0 or more.")
        batches = load_crops(
            images,
            self.preprocessing,
            batch_size=batch_size,
            workers=workers,
            pin_memory=self.device.type == "cuda",
            digests=digests,
        )
        return self._in_order(batches, batch_size, images.source.names)

    @property
    def default_batch_size(self) -> int:
        """Crops that pass together by default: on the CPU, 1 to 64; else 256.

        On the CPU, where each core has a batch of its own, as many as keep the largest map of the
        network within 20 MiB: one image for VGG-16, 4 for SqueezeNet 1.0, 27 for AlexNet.
        """
        if self.device.type != "cpu":
            return 256
        shapes = (node.meta.get("shape", ()) for node in self._backbone.graph.graph.nodes)
        values: int = max(math.prod(shape[1:]) for shape in shapes)
        return min(64, max(1, CPU_MAP_BYTES // (values * PRECISIONS[self.precision].itemsize)))

    def _in_order(
        self, batches: Iterator[Callable[[], Batch]], batch_size: int, names: Sequence[str]
    ) -> Generator[CodesBatch, None, None]:
        """Run batches in several lanes, and yield their codes in the order of the batches."""
        with naming_loss(self.device):
            reader = self._reader
        tasks = (partial(self._run, reader, load, batch_size) for load in batches)
        start = 0
        with (
            no_tf32(),
            only_deterministic(self.deterministic),
            closing(in_lanes(self.device, tasks)) as done,
        ):
            for codes, why in done:
                yield self._batch(start, why, codes, names)
                start += len(why)

    def _run(
        self, reader: BatchReader, load: Callable[[], Batch], batch_size: int
    ) -> tuple[dict[str, NDArray[np.float32]], list[str | None]]:
        """Load a batch, read it on the device, and bring its codes back."""
        pixels, why = load()
        if not len(pixels):
            return {}, why
        if not self._agreement.found:  # Nothing to normalise from the second batch on.
            self._agreement.require(self.preprocessing.normalize(pixels[:N_IMAGES]))
        with naming_loss(self.device):
            return self._brought_back(reader.read(pixels, batch_size)), why

    def _brought_back(self, read: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        """Average over the views; bring the codes of a batch into this process's memory."""
        n_views = self.preprocessing.n_views
        codes: dict[str, NDArray[np.float32]] = {}
        with torch.inference_mode():
            for tap in self.taps:
                rows = read[tap.name]
                if n_views > 1:
                    apart = rows.view(-1, n_views, tap.n_features)
                    rows = apart.flatten(1) if tap.n_views > 1 else apart.mean(1)
                codes[tap.name] = rows.cpu().numpy()
        return codes

    def _batch(
        self,
        start: int,
        why: list[str | None],
        codes: dict[str, NDArray[np.float32]],
        names: Sequence[str],
    ) -> CodesBatch:
        unreadable = {start + i: reason for i, reason in enumerate(why) if reason}
        readable = [i for i, reason in enumerate(why) if reason is None]
        for layer, rows in codes.items():
            # NaN and infinity are the largest or the smallest: no array of answers is made.
            finite = np.isfinite(rows.max(1)) & np.isfinite(rows.min(1))
            if not finite.all():
                image = names[start + readable[int(finite.argmin())]]
                advice = "Check the weights"
                if self.precision != "float32":
                    advice += ", or use --precision float32"
                raise NonFiniteCodesError(
                    f"Layer {layer!r} answered {image!r} with NaN or infinity "
                    f"(precision {self.precision}). Nothing of this batch was kept. {advice}."
                )
        if unreadable:
            spread = {
                tap.name: np.full((len(why), tap.width), np.nan, np.float32) for tap in self.taps
            }
            for layer, rows in codes.items():
                spread[layer][readable] = rows
            codes = spread
        return CodesBatch(start=start, codes=codes, unreadable=unreadable)
