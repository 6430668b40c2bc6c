"""Training: a network's weights follow the loss on stored maps, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from codes.graph.suffix import Suffix
from pipelines.training.optimizers import limit_norms, make_optimizer, make_schedule, penalty
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes

DIVERGED = 3.0
"""Times the loss of the first epoch, or of guessing, from which a run is given up. Before the first
step it is less than that: after a linear classifier so little that a few times as much is no sign
of anything, and the first epochs may be far above it."""
LOST = 30.0
"""Times the loss of guessing above which the last epoch may not end."""
GRADIENT_NORM = 5.0
"""Most that the gradient of all weights may have as its norm."""
EVALUATED = 256
"""Values in the largest batch that is only evaluated."""


class Maps(Protocol):
    """Where the values that a start reads come from, such as `pipelines.training.maps`."""

    @property
    def n_bytes(self) -> int:
        """Bytes of all that is stored, before the store compresses it."""

    def fields(self) -> dict[str, Any]:
        """Return what the values depend on, beside the images, the network and the options."""

    def read(self, images: NDArray[np.intp], view: int) -> Tensor:
        """Read the values of some images, shape (n, n_values); view 0 is the centre."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is chosen by validation.

    Attributes
    ----------
    lr : float
        Learning rate of the classifier.
    weight_decay : float
    epochs : int
    """

    lr: float
    weight_decay: float
    epochs: int


class DivergedError(ValueError):
    """A network was given up: its loss was no number, or far above that of guessing."""


@dataclass(kw_only=True)
class Curve:
    """How a run went, with a value for each epoch.

    Attributes
    ----------
    loss : list of float
        Mean over the epoch's batches of random views, penalties aside.
    diverged : bool
        Whether it was given up: the loss was not finite, or above three times the first epoch's and
        that of guessing, or in the end above thirty times that of guessing.
    """

    loss: list[float] = field(default_factory=list)
    diverged: bool = False

    def require_finite(self, candidate: str, setting: Setting) -> None:
        """Raise an error where a run was given up.

        Raises
        ------
        DivergedError
            It names the losses, and the learning rate.
        """
        if self.diverged:
            losses = ", ".join(f"{loss:.3g}" for loss in self.loss)
            raise DivergedError(
                f"Fine-tuning from {candidate} diverged on all training images of a split at the "
                f"learning rate {setting.lr:.2g}, which did not in validation (losses, epoch by "
                f"epoch: {losses}). Give lower ones with --lr LOW:HIGH."
            )


def batches_of(n: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Cut a random order of n images into batches that differ by one image at most.

    No image is left out, and none is alone in a batch.

    Examples
    --------
    >>> [len(batch) for batch in batches_of(129, 64, np.random.default_rng(0))]
    [43, 43, 43]
    """
    order = rng.permutation(n)
    yield from np.array_split(order, max(1, min(math.ceil(n / batch_size), n // 2)))


class Run:
    """A network in training, which can be left after any epoch and gone on with.

    Parameters
    ----------
    network : Suffix
    maps : Maps
    images : ndarray of shape (n_train,), intp
        Places in the dataset.
    labels : ndarray of shape (n_train,), intp
    options : FinetuneOptions
    setting : Setting
    seed : sequence of int
        Of the order of the images and of dropout.
    device : torch.device
    dtype : torch.dtype
        What is computed in; weights stay float32.
    processes : Processes
        Which train it together, each on its part of every batch.
    """

    def __init__(
        self,
        network: Suffix,
        maps: Maps,
        images: NDArray[np.intp],
        labels: NDArray[np.intp],
        *,
        options: FinetuneOptions,
        setting: Setting,
        seed: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        processes: Processes = ALONE,
    ) -> None:
        self.network = network.to(device)
        self._processes, self._trained = processes, processes.shared(self.network, device)
        self._maps, self._images, self._labels = maps, images, torch.from_numpy(labels)
        self._options, self._setting, self._seed = options, setting, seed
        self._device, self._dtype = device, dtype
        n_batches = len(list(batches_of(len(images), options.batch_size, np.random.default_rng())))
        self._optimizer = make_optimizer(
            self.network, options, lr=setting.lr, weight_decay=setting.weight_decay
        )
        self._schedule = make_schedule(self._optimizer, options, n_batches * setting.epochs)
        self.epoch = 0
        self.curve = Curve()

    def step_epoch(self) -> None:
        """Train on every image once, all by the same view."""
        options, network = self._options, self.network
        rng = np.random.default_rng([*self._seed, self.epoch])
        total = 0.0
        network.train()
        network.generator.manual_seed(int(rng.integers(2**63)) + self._processes.rank)
        for batch in batches_of(len(self._images), options.batch_size, rng):
            loss = self._loss(batch)
            share = loss * (self._processes.world_size / len(batch))  # Gradients are averaged.
            self._optimizer.zero_grad(set_to_none=True)
            (share + penalty(network, options.l1)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            self._optimizer.step()
            self._schedule.step()
            limit_norms(network, options.max_norm)
            total += float(loss.detach())
        network.eval()
        self.epoch += 1
        loss_of_epoch = self._processes.sum(total) / len(self._images)
        self.curve.loss.append(loss_of_epoch)
        guessing = math.log(network.head.out_features)
        most = DIVERGED * max(guessing, self.curve.loss[0])
        if self.epoch == self._setting.epochs:
            most = min(most, LOST * guessing)
        if not math.isfinite(loss_of_epoch) or loss_of_epoch > most:
            self.curve.diverged = True

    def _loss(self, batch: NDArray[np.intp]) -> Tensor:
        """Sum the loss over this process's part of a batch."""
        own = self._processes.share(batch)
        weight = float(len(own) > 0)  # Of fewer images than processes, some have none.
        own = own if weight else batch[:1]
        values = self._maps.read(self._images[own], 1 + self.epoch).to(self._device)
        logits, labels = self._logits(values, self._trained), self._labels[own].to(self._device)
        smoothing = self._options.label_smoothing
        return weight * F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")

    def _logits(self, values: Tensor, network: nn.Module) -> Tensor:
        half = self._dtype != torch.float32
        with torch.autocast(self._device.type, self._dtype, enabled=half):
            logits: Tensor = network(values if half else values.float())
        return logits.float()

    def log_proba(self, images: NDArray[np.intp]) -> NDArray[np.float64]:
        """Compute the logarithms of the classes' probabilities on the centres of images.

        Parameters
        ----------
        images : ndarray of shape (n,), intp
            Places in the dataset.

        Returns
        -------
        log_proba : ndarray of shape (n, n_classes), float64
        """
        self.network.eval()
        own = self._processes.share(images)
        parts = [np.empty((0, self.network.head.out_features))]
        with torch.inference_mode():
            for start in range(0, len(own), EVALUATED):
                values = self._maps.read(own[start : start + EVALUATED], 0).to(self._device)
                logits = self._logits(values, self.network)
                parts.append(logits.double().log_softmax(1).cpu().numpy())
        return self._processes.joined(np.concatenate(parts))

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "epoch": self.epoch,
            "curve": vars(self.curve).copy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch, self.curve = state["epoch"], Curve(**state["curve"])


def train(run: Run, epochs: int, after_epoch: Callable[[], None] | None = None) -> Curve:
    """Train until an epoch, or until a run diverges.

    Parameters
    ----------
    run : Run
        Perhaps some epochs old.
    epochs : int
    after_epoch : callable, optional
        Called after each.

    Returns
    -------
    curve : Curve
    """
    while run.epoch < epochs and not run.curve.diverged:
        run.step_epoch()
        if after_epoch is not None:
            after_epoch()
    return run.curve
