"""Evidence of familiarity: what a network's own parts say of images, without its training images.

For each image: how much its source classifier recognises, in the image and in the same image with
its Fourier phases scrambled, which keeps colours and texture and leaves nothing to recognise; and
what goes into each batch normalisation, which remembers what went in during training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from codes.backbones import Backbone
from codes.copies import copy_network, move_network
from codes.devices import find_device, no_tf32
from codes.graph import depths
from codes.images import ImageList

OUTPUT = "output"
"""Name of what the source classifier says: energy, energy when scrambled, spread when scrambled."""
EXCHANGES = 2
"""Times that a scrambled image gets its values back."""


class EvidenceReader:
    """Reads the evidence of a backbone.

    Parameters
    ----------
    backbone : Backbone
    device : str, default="cpu"

    Attributes
    ----------
    norms : dict of str to (float, module)
        Each batch normalisation that remembers its training, in forward order: its depth, and the
        module with its ``running_mean`` and ``running_var``.
    widths : dict of str to int
        Values for each image, by name: three of ``"output"``, where the network ends in class
        scores; two for each channel of a batch normalisation.

    References
    ----------
    Liu et al., *Energy-based out-of-distribution detection*, NeurIPS 2020. Oppenheim and Lim, *The
    importance of phase in signals*, Proc. IEEE 1981.

    Examples
    --------
    >>> from codes import load_backbone, load_images
    >>> reader = EvidenceReader(load_backbone("bundled"))
    >>> digits = load_images("sklearn:digits").take(np.arange(2))
    >>> [batch] = reader.read(digits, np.zeros((2, 32), np.uint8))
    >>> {name: values.shape for name, values in batch.items()}
    {'output': (2, 3)}
    """

    def __init__(self, backbone: Backbone, *, device: str = "cpu") -> None:
        traced = backbone.graph
        shares = depths(traced)
        self.norms: dict[str, tuple[float, Any]] = {
            name: (shares[node], traced.module(node))
            for name, node in traced.nodes.items()
            if traced.is_module(node, _BatchNorm)
            and getattr(traced.module(node), "running_mean", None) is not None
            and "missing" not in node.meta
        }
        end = next(n for n in traced.graph.nodes if n.op == "output").args[0]
        shape: tuple[int, ...] = end.meta.get("shape", ()) if isinstance(end, fx.Node) else ()
        whole = isinstance(end, fx.Node) and "missing" not in end.meta
        self.widths = {OUTPUT: 3} if whole and len(shape) == 2 and shape[1] > 1 else {}
        self.widths |= {name: 2 * norm.num_features for name, (_, norm) in self.norms.items()}
        self._preprocessing = backbone.preprocessing
        self._device = find_device(device)
        self._model = move_network(copy_network(traced.root, traced.graph), self._device)
        self._read = {name: self._model.get_submodule(str(traced.nodes[name].target))
                      for name in self.norms}  # fmt: skip

    def read(
        self, images: ImageList, digests: NDArray[np.uint8], *, batch_size: int = 32
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Run images, and the same with their phases scrambled, through the whole network.

        Parameters
        ----------
        images : ImageList
            All of them can be decoded.
        digests : ndarray of shape (n_images, 32), uint8
            An image's own seeds its random phases, so that they are the same in any dataset.
        batch_size : int, default=32

        Yields
        ------
        evidence : dict of str to ndarray of shape (n, width), float32
            ``"output"``: log-sum-exp of the class scores, the same when scrambled, and the
            standard deviation of the scores over the classes when scrambled. By the name of a
            batch normalisation: mean and mean square of each channel of its input.
        """
        for start in range(0, len(images), batch_size):
            numbers = range(start, min(len(images), start + batch_size))
            crops = [self._preprocessing.crop(images.source.open(number)) for number in numbers]
            seeds = [digests[number].tobytes() for number in numbers]
            scrambled = [scramble_phases(*pair) for pair in zip(crops, seeds, strict=True)]
            with self._recorded() as evidence:
                scores = self._run(crops)
            if OUTPUT in self.widths:
                other = self._run(scrambled)
                columns = [scores.logsumexp(1), other.logsumexp(1), other.std(1)]
                evidence[OUTPUT] = torch.stack(columns, 1)
            yield {name: values.cpu().numpy() for name, values in evidence.items()}

    def _run(self, crops: Sequence[Tensor]) -> Tensor:
        with torch.inference_mode(), no_tf32():
            pixels = torch.stack(list(crops)).to(self._device)
            images = self._preprocessing.normalize(pixels)
            scores: Tensor = self._model(images.to(memory_format=torch.channels_last))
            return scores

    @contextmanager
    def _recorded(self) -> Iterator[dict[str, Tensor]]:
        """Note what goes into each batch normalisation meanwhile."""
        found: dict[str, Tensor] = {}

        def note(name: str, values: Tensor) -> None:
            flat = values.float().flatten(2) if values.ndim > 2 else values.float()[:, :, None]
            found[name] = torch.cat([flat.mean(2), flat.square().mean(2)], 1)

        hooks = [
            norm.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
            for name, norm in self._read.items()
        ]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def scramble_phases(pixels: Tensor, seed: bytes) -> Tensor:
    """Give an image random Fourier phases; amplitudes and the values of the pixels stay.

    Random phases alone would put values outside of the range of pixels, and clipping them makes
    another image of what is mostly black or mostly white. So the values are put back by their
    order, then the amplitudes, a few times in turn.

    Parameters
    ----------
    pixels : Tensor of shape (3, height, width), uint8
    seed : bytes

    Returns
    -------
    scrambled : Tensor of shape (3, height, width), uint8
        Each channel has the very values of the original, and nearly its amplitudes.

    References
    ----------
    Schreiber and Schmitz, *Improved surrogate data for nonlinearity tests*, Phys. Rev. Lett. 77,
    1996.

    Examples
    --------
    >>> ramp = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
    >>> scrambled = scramble_phases(ramp, b"1")
    >>> torch.equal(scrambled, ramp), torch.equal(scrambled.flatten().sort()[0], ramp.flatten())
    (False, True)
    """
    image = pixels.numpy()
    values = np.sort(image.reshape(len(image), -1), axis=1)
    original = scipy.fft.rfft2(image.astype(np.float32))
    amplitudes = np.abs(original)
    rng = np.random.default_rng(list(seed))
    noise = rng.standard_normal(image.shape[1:], dtype=np.float32)
    # The same is added to the phases of every channel, so that colours stay together.
    spectrum = original * np.exp(1j * np.angle(scipy.fft.rfft2(noise)))
    for _ in range(EXCHANGES):
        phases = np.exp(1j * np.angle(spectrum))
        wanted = scipy.fft.irfft2(amplitudes * phases, s=image.shape[1:]).reshape(values.shape)
        ordered = np.empty_like(values)
        np.put_along_axis(ordered, wanted.argsort(axis=1, kind="stable"), values, axis=1)
        spectrum = scipy.fft.rfft2(ordered.reshape(image.shape).astype(np.float32))
    return torch.from_numpy(ordered.reshape(image.shape))
