"""Out-of-distribution statistics: what a network says of images, without its training images.

For each image: how much its source classifier recognises, in the image and in the same image with
its Fourier phases scrambled, which keeps colours and texture and leaves nothing to recognise; and
what goes into each batch normalisation, which remembers what went in during training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from codes.backbones.backbone import Backbone
from codes.data.images import ImageList
from codes.graph.copying import copy_network, end_graph, move_network
from codes.graph.traced_graph import TracedGraph, batch_norm, depths
from codes.inference.devices import find_device, no_tf32
from codes.preprocessing import Preprocessing

OUTPUT = "output"
"""Name of what the source classifier says: energy, energy when scrambled, spread when scrambled."""
EXCHANGES = 2
"""Times that a scrambled image gets its values back."""
N_IMAGES = 64
"""Images whose moments are compared with the statistics of batch normalisations."""
N_STEADY = 32
"""Images from which what is found so is steady."""
LEAST = 1e-6
"""Share of a variance below which there is none."""


def collected(norm: Any) -> bool:
    """Tell whether a batch normalisation knows what went in during training.

    Not where it keeps no statistics, those that it was made with (means 0, variances 1), or no
    variance in any channel.
    """
    mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or variance is None:
        return False
    changed = bool((mean != 0).any() or (variance != 1).any())
    return changed and bool((variance > LEAST * norm.eps).any())


def find_norms(traced: TracedGraph) -> dict[str, tuple[float, Any]]:
    """Find the batch normalisations that know what went in during training, in forward order.

    Their depth, and the module with its ``running_mean`` and ``running_var``, by name.
    """
    shares = depths(traced)
    norms = {name: (node, batch_norm(traced, node)) for name, node in traced.nodes.items()}
    return {
        name: (shares[node], norm)
        for name, (node, norm) in norms.items()
        if norm is not None and collected(norm) and "missing" not in node.meta
    }


def divergences(norm: Any, moments: NDArray[Any]) -> NDArray[np.float64]:
    """Compute how far the input of a batch normalisation is from what it was in training.

    Kullback and Leibler's divergence of two Gaussians for each channel, that of the moments from
    that of the running statistics: (v / s + (m - u)² / s - 1 - ln(v / s)) / 2, with m, v the mean
    and variance of the moments and u, s the running ones.

    Parameters
    ----------
    norm : nn.Module
        With ``running_mean`` and ``running_var``.
    moments : ndarray of shape (..., 2 * n_channels)
        Mean of each channel, then mean square of each.

    Returns
    -------
    divergences : ndarray of shape (..., n_varied), float64
        From 0, the same Gaussians, up, always finite: a variance below `LEAST` of that in training
        counts as `LEAST` of it. Channels that training left without variance are left out: those
        whose running variance is at most `LEAST` of the norm's ``eps``, which is added to it.

    Examples
    --------
    >>> norm = torch.nn.BatchNorm2d(2)  # As it is made: means 0, variances 1.
    >>> divergences(norm, np.array([0, 2, 1, 5])).round(2)
    array([0., 2.])
    """
    mean0 = norm.running_mean.cpu().double().numpy()
    variance0 = norm.running_var.cpu().double().numpy()
    varied = variance0 > LEAST * norm.eps
    now = np.asarray(moments, np.float64)
    mean, square = now[..., : len(mean0)][..., varied], now[..., len(mean0) :][..., varied]
    mean0, variance0 = mean0[varied], variance0[varied]
    ratio = np.maximum((square - mean**2) / variance0, LEAST)
    found: NDArray[np.float64] = (ratio + (mean - mean0) ** 2 / variance0 - 1 - np.log(ratio)) / 2
    return found


class StatisticsReader:
    """Reads the statistics of a backbone.

    Parameters
    ----------
    backbone : Backbone
    names : sequence of str, optional
        What to read, of `widths`; the network is run no further. Default: all.
    device : str, default="cpu"

    Attributes
    ----------
    norms : dict of str to (float, module)
        As `find_norms` finds them.
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
    >>> reader = StatisticsReader(load_backbone("bundled"))
    >>> digits = load_images("sklearn:digits").take(np.arange(2))
    >>> [batch] = reader.read(digits, np.zeros((2, 32), np.uint8))
    >>> {name: values.shape for name, values in batch.items()}
    {'output': (2, 3)}
    """

    def __init__(
        self, backbone: Backbone, names: Sequence[str] | None = None, *, device: str = "cpu"
    ) -> None:
        traced = backbone.graph
        self.norms = find_norms(traced)
        end = next(n for n in traced.graph.nodes if n.op == "output").args[0]
        shape: tuple[int, ...] = end.meta.get("shape", ()) if isinstance(end, fx.Node) else ()
        whole = isinstance(end, fx.Node) and "missing" not in end.meta
        self.widths = {OUTPUT: 3} if whole and len(shape) == 2 and shape[1] > 1 else {}
        self.widths |= {name: 2 * norm.num_features for name, (_, norm) in self.norms.items()}
        if names is not None:
            self.widths = {name: self.widths[name] for name in names}
        self._preprocessing = backbone.preprocessing
        self._device = find_device(device)
        network = _recording(traced, list(self.widths))
        self._model = move_network(network, self._device)

    def read(
        self, images: ImageList, digests: NDArray[np.uint8], *, batch_size: int = 32
    ) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Run images through the network and, for its output, the same with scrambled phases.

        Parameters
        ----------
        images : ImageList
            All of them can be decoded.
        digests : ndarray of shape (n_images, 32), uint8
            An image's own seeds its random phases, so that they are the same in any dataset.
        batch_size : int, default=32

        Yields
        ------
        statistics : dict of str to ndarray of shape (n, width), float32
            ``"output"``: log-sum-exp of the class scores, the same when scrambled, and the
            standard deviation of the scores over the classes when scrambled. By the name of a
            batch normalisation: mean and mean square of each channel of its input.
        """
        for start in range(0, len(images), batch_size):
            numbers = range(start, min(len(images), start + batch_size))
            steps, source = self._preprocessing, images.source
            crops = [steps.crop(source.open(number, steps.decoding)) for number in numbers]
            statistics = self._run(torch.stack(crops), self._preprocessing)
            if OUTPUT in statistics:
                seeds = [digests[number].tobytes() for number in numbers]
                scrambled = [scramble_phases(*pair) for pair in zip(crops, seeds, strict=True)]
                scores = statistics[OUTPUT]
                other = self._run(torch.stack(scrambled), self._preprocessing)[OUTPUT]
                columns = [scores.logsumexp(1), other.logsumexp(1), other.std(1)]
                statistics[OUTPUT] = torch.stack(columns, 1)
            yield {name: values.cpu().numpy() for name, values in statistics.items()}

    def moments(
        self, crops: Tensor, preprocessing: Preprocessing, *, batch_size: int = 32
    ) -> dict[str, NDArray[np.float64]]:
        """Average the moments at batch normalisations, with a preprocessing that is not its own.

        Parameters
        ----------
        crops : Tensor of shape (n_images, 3, height, width), uint8

        Returns
        -------
        moments : dict of str to ndarray of shape (2 * n_channels,), float64
        """
        starts = range(0, len(crops), batch_size)
        batches = [self._run(crops[at : at + batch_size], preprocessing) for at in starts]
        return {
            name: torch.cat([batch[name] for batch in batches]).cpu().double().mean(0).numpy()
            for name in self.widths
            if name != OUTPUT
        }

    def _run(self, pixels: Tensor, preprocessing: Preprocessing) -> dict[str, Tensor]:
        with torch.inference_mode(), no_tf32():
            images = preprocessing.normalize(pixels.to(self._device))
            found: dict[str, Tensor] = self._model(images)
            return found


def _recording(traced: TracedGraph, names: Sequence[str]) -> fx.GraphModule:
    """Copy the graph up to the last that is read, moments taken right before each norm."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    end = graph.graph_copy(traced.graph, copies)
    outputs: dict[str, Any] = {}
    for name in names:
        if name == OUTPUT:
            outputs[name] = end
            continue
        norm = copies[traced.nodes[name]]
        with graph.inserting_before(norm):
            outputs[name] = graph.call_function(channel_moments, (norm.all_input_nodes[0],))
    end_graph(graph, outputs)
    return copy_network(traced.root, graph)


def channel_moments(values: Tensor) -> Tensor:
    """Compute the mean and mean square of each channel, shape (n, 2 * n_channels), float32."""
    flat = values.float().flatten(2) if values.ndim > 2 else values.float()[:, :, None]
    return torch.cat([flat.mean(2), flat.square().mean(2)], 1)


def scramble_phases(pixels: Tensor, seed: bytes) -> Tensor:
    """Give an image, shape (3, height, width), uint8, random Fourier phases.

    Random phases alone would put values outside of the range of pixels, and clipping them makes
    another image of what is mostly black or mostly white. So the values are put back by their
    order, then the amplitudes, a few times in turn: each channel has the very values of the
    original, and nearly its amplitudes.

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
