"""The extractor: an image list and a backbone become batches of codes, every layer in one pass."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset, get_worker_info

from codes.backbones import Backbone
from codes.decoding import UnreadableImageError
from codes.devices import find_device, no_tf32, only_deterministic
from codes.graph import TracedGraph
from codes.images import ImageList, ImageSource
from codes.layers import Layer, select_layers
from codes.pooling import pool_codes, pooled_width, resolve_pooling
from codes.preprocessing import Preprocessing

EXTRACTOR_VERSION = 2
"""Raised whenever the same input would give other codes; part of every key."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WorkerDiedError(OSError):
    """A process that decodes images died."""


class NonFiniteCodesError(ValueError):
    """A layer answered an image with NaN or infinity."""


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A layer, and how its codes are pooled.

    Attributes
    ----------
    layer : Layer
    pool : str
        Resolved: ``"grid:K"``, ``"avg"``, ``"max"`` or ``"flatten"``.
    n_features : int
        Width of a row of codes.
    """

    layer: Layer
    pool: str
    n_features: int


@dataclass(frozen=True, kw_only=True, eq=False)
class CodesBatch:
    """The codes of some consecutive images.

    Attributes
    ----------
    start : int
        Place of the first image in the list.
    codes : dict of str to ndarray of shape (n, n_features), float32
        By layer name. The row of an unreadable image is NaN; no other value is.
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
        As for `codes.layers.select_layers`.
    pool : str, default="grid"
        As for `codes.pooling.resolve_pooling`.
    activation : {"post", "pre"}, default="post"
        Which side of the layer's non-linearity to read; ``"pre"`` is a control.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        What the network computes in. Codes come back as float32. TF32 is never used.
    device : str, default="cpu"
        A torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    deterministic : bool, default=False
        Use only algorithms that give the same codes each time on the same machine.

    Attributes
    ----------
    taps : list of Tap
        What is read, in forward order.
    most : int or None
        Images that fit into the device's memory together, once more did not.

    Raises
    ------
    ValueError
        If a layer, pooling, activation side, precision or device is not to be had.

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
        deterministic: bool = False,
    ) -> None:
        if activation not in ("post", "pre"):
            raise ValueError(f"activation={activation!r} is unknown. Allowed: post, pre.")
        if precision not in PRECISIONS:
            raise ValueError(
                f"precision={precision!r} is unknown. Allowed: {', '.join(PRECISIONS)}."
            )
        self.device = find_device(device)
        self.deterministic = deterministic
        self.most: int | None = None
        self.precision = precision
        self.preprocessing = backbone.preprocessing
        self.taps = [
            Tap(layer=layer, pool=resolved, n_features=pooled_width(resolved, layer.shape))
            for layer in select_layers(backbone.graph, backbone.layers, layers)
            for resolved in [resolve_pooling(pool, layer.shape)]
        ]
        network = _cut(backbone.graph, self.taps, activation).to(self.device)
        self._network = network.to(memory_format=torch.channels_last)

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Read the codes of a batch.

        Parameters
        ----------
        pixels : Tensor of shape (n, 3, crop_size, crop_size), uint8

        Returns
        -------
        codes : dict of str to Tensor of shape (n, n_features), float32
            By layer name, on the extractor's device.
        """
        with torch.inference_mode(), no_tf32(), only_deterministic(self.deterministic):
            images = self.preprocessing.normalize(pixels.to(self.device, non_blocking=True))
            dtype = PRECISIONS[self.precision]
            with torch.autocast(self.device.type, dtype, enabled=self.precision != "float32"):
                codes: dict[str, Tensor] = self._network(images)
        return codes

    def extract(
        self, images: ImageList, *, batch_size: int = 32, workers: int = 0
    ) -> Iterator[CodesBatch]:
        """Read the codes of a list of images, batch by batch.

        Parameters
        ----------
        images : ImageList
        batch_size : int, default=32
        workers : int, default=0
            Processes that decode images; with 0, this one does.

        Yields
        ------
        batch : CodesBatch
            In the order of the list.

        Raises
        ------
        NonFiniteCodesError
            If a code is NaN or infinite: it names the layer and the image.
        WorkerDiedError
            If a process that decodes images dies: it names the image.
        MemoryError
            If one image alone does not fit into the device's memory. With more, a batch that does
            not fit is halved, and all after it.
        ValueError
            If the batch size or the number of workers is out of range.
        """
        if batch_size < 1 or workers < 0:
            raise ValueError(
                f"batch_size={batch_size} and workers={workers}: allowed are 1 or more, 0 or more."
            )
        decoded = _Decoded(images.source, len(images), self.preprocessing, max(1, workers))
        loader = DataLoader(
            decoded,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
        )
        # A GPU computes the next batch while the codes of the last are copied.
        ahead = 0 if self.device.type == "cpu" else 1
        pending: deque[tuple[int, list[str | None], dict[str, Tensor]]] = deque()
        start = 0
        for pixels, why in _naming_lost_images(loader, decoded, images.source.names):
            pending.append((start, why, self._run(pixels) if len(pixels) else {}))
            start += len(why)
            if len(pending) > ahead:
                yield self._batch(*pending.popleft(), images.source.names)
        for batch in pending:
            yield self._batch(*batch, images.source.names)

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        """Read a batch, in halves from where the device's memory ends."""
        parts: list[dict[str, Tensor]] = []
        done = 0
        while done < len(pixels):
            taken = pixels[done : done + (self.most or len(pixels))]
            try:
                parts.append(self(taken))
                done += len(taken)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if len(taken) == 1:
                    raise MemoryError(
                        f"One image alone does not fit into the memory of {self.device}. Use "
                        "another --device, a smaller --image-size or --precision bfloat16."
                    ) from error
                self.most = len(taken) // 2
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
        return parts[0] if len(parts) == 1 else {
            layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]
        }  # fmt: skip

    def _batch(
        self, start: int, why: list[str | None], found: dict[str, Tensor], names: Sequence[str]
    ) -> CodesBatch:
        readable = [place for place in range(len(why)) if why[place] is None]
        return CodesBatch(
            start=start,
            codes=self._rows(found, readable, len(why), names, start),
            unreadable={start + i: reason for i, reason in enumerate(why) if reason},
        )

    def _rows(
        self,
        found: dict[str, Tensor],
        readable: list[int],
        n: int,
        names: Sequence[str],
        start: int,
    ) -> dict[str, NDArray[np.float32]]:
        rows = {
            tap.layer.name: np.full((n, tap.n_features), np.nan, np.float32) for tap in self.taps
        }
        for layer, codes in found.items():
            finite = codes.isfinite().all(1)
            if not finite.all():
                place = readable[int((~finite).nonzero()[0])]
                advice = "Check the weights"
                if self.precision != "float32":
                    advice += ", or use --precision float32"
                raise NonFiniteCodesError(
                    f"Layer {layer!r} answered {names[start + place]!r} with NaN or infinity "
                    f"(precision {self.precision}). Nothing of this batch was kept. {advice}."
                )
            rows[layer][readable] = codes.cpu().numpy()
        return rows


class _Decoded(Dataset[tuple[Tensor | None, str | None]]):
    """Cropped pixels, or the reason why there are none."""

    def __init__(
        self, source: ImageSource, n: int, preprocessing: Preprocessing, workers: int
    ) -> None:
        self._source, self._n, self._preprocessing = source, n, preprocessing
        # What each process decodes now, for the case that it dies of it.
        self.in_hand: Tensor = torch.full((workers,), -1)
        self.in_hand.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        worker = get_worker_info()
        self.in_hand[0 if worker is None else worker.id] = index
        try:
            return self._preprocessing.crop(self._source.open(index)), None
        except (UnreadableImageError, OSError) as error:
            return None, str(error)


def _naming_lost_images(
    loader: Iterable[tuple[Tensor, list[str | None]]], decoded: _Decoded, names: Sequence[str]
) -> Iterator[tuple[Tensor, list[str | None]]]:
    """Go through the batches; where a process that decodes dies, tell which images it had."""
    try:
        yield from loader
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        held = ", ".join(repr(names[i]) for i in decoded.in_hand.tolist() if i >= 0)
        raise WorkerDiedError(
            f"A process that decodes images died, at {held or 'its first image'}"
            f"{' (one of them)' if len(decoded.in_hand) > 1 else ''}: "
            f"{str(error).splitlines()[0]} What was extracted before is stored. Leave that image "
            "out, use fewer --workers if memory ran out, or --workers 0 to see where it dies."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words


def _collate(
    items: list[tuple[Tensor | None, str | None]],
) -> tuple[Tensor, list[str | None]]:
    # Stacked as they lie in memory, channels last.
    pixels = [pixels.permute(1, 2, 0) for pixels, _ in items if pixels is not None]
    batch = torch.stack(pixels).permute(0, 3, 1, 2) if pixels else torch.empty(0)
    return batch, [why for _, why in items]


def _cut(traced: TracedGraph, taps: Sequence[Tap], activation: str) -> fx.GraphModule:
    """Copy the graph up to its deepest tap, each tap pooled right after it arises.

    Pooling right there also reads the pre-activation side before an in-place ReLU overwrites it,
    and keeps no map longer than the network itself does.
    """
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(traced.graph, copies)
    outputs: dict[str, fx.Node] = {}
    for tap in taps:
        node = traced.nodes[tap.layer.name]
        sources = [node] if activation == "post" else _before_activation(traced, node)
        pooled = [_pool_after(graph, copies[source], tap) for source in sources]
        outputs[tap.layer.name] = pooled[0]
        if len(pooled) > 1:
            with graph.inserting_after(max(pooled)):
                outputs[tap.layer.name] = graph.call_function(torch.cat, (pooled, 1))
    deepest = max(outputs.values())
    for node in reversed(list(graph.nodes)):
        if node > deepest:
            graph.erase_node(node)
    graph.output(outputs)
    return _fold_norms(fx.GraphModule(traced.root, graph))


def _fold_norms(network: fx.GraphModule) -> fx.GraphModule:
    """Fold each batch normalisation into the convolution right before it: a fifth of the time.

    The backbone's own modules stay as they are.
    """
    used = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    for node in list(network.graph.nodes):
        norm = _called(network, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        [before, *_] = node.all_input_nodes
        conv = _called(network, before)
        alone = len(before.users) == used[node.target] == used[before.target] == 1
        if isinstance(conv, nn.Conv2d) and alone:
            network.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            network.graph.erase_node(node)
    network.recompile()
    return network


def _called(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _pool_after(graph: fx.Graph, node: fx.Node, tap: Tap) -> fx.Node:
    with graph.inserting_after(node):
        return graph.call_function(pool_codes, (node, tap.pool, tap.layer.layout))


def _before_activation(traced: TracedGraph, node: fx.Node) -> list[fx.Node]:
    """Return what an activation, or each activation in a concatenation, is applied to."""
    if traced.is_concatenation(node):
        return [source for i in node.all_input_nodes for source in _before_activation(traced, i)]
    if not traced.is_activation(node):
        raise ValueError(
            f"{traced.names[node]!r} is no activation, so that it has no side before one. Leave it "
            "out with --layers, or read --activation post."
        )
    return [node.all_input_nodes[0]]
