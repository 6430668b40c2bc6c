"""Pretrain the bundled backbone on drawn images: ``python -m codes.backbones.pretrain``.

One pass over an endless stream: step ``s`` trains on the drawings with indexes from
``s * batch_size`` to ``(s + 1) * batch_size - 1``, so no drawing is seen twice and the step number
is all there is to resume from. A killed run goes on from its last checkpoint when started again
with the same options.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from codes.backbones.bundled import MEAN, N_CLASSES, STD, BundledNet, fold_norm
from codes.backbones.drawn_images import DrawingOptions, Drawings
from codes.backbones.random_weights import seeded

TEST_START = 2**40
"""First index of the drawings that measure accuracy; no training run gets that far."""


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """What a pretrained network depends on."""

    steps: int = 6000
    batch_size: int = 256
    n_classes: int = N_CLASSES
    learning_rate: float = 0.2
    weight_decay: float = 2e-4
    momentum: float = 0.9
    label_smoothing: float = 0.1
    warm_up: int = 300
    random_state: int = 0
    drawing: DrawingOptions = field(default_factory=DrawingOptions)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "n_classes"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more.")
        if self.steps * self.batch_size > TEST_START:
            raise ValueError(
                f"steps * batch_size is {self.steps * self.batch_size}; allowed: up to "
                f"{TEST_START}, where the test drawings begin."
            )


class _Batches(Dataset[tuple[NDArray[np.uint8], NDArray[np.int64]]]):
    """Item ``s`` is the batch of step ``s``."""

    def __init__(self, drawings: Drawings, *, batch_size: int) -> None:
        self.drawings = drawings
        self.batch_size = batch_size

    def __getitem__(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        first = step * self.batch_size
        return self.drawings.batch(range(first, first + self.batch_size))


def normalise(images: Tensor) -> Tensor:
    """Turn RGB images, shape (n, 64, 64, 3), uint8, into the network's input, channels last."""
    return (images.float() / 255 - torch.tensor(MEAN)).div_(torch.tensor(STD)).permute(0, 3, 1, 2)


def learning_rate_at(step: int, *, options: PretrainOptions) -> float:
    """Linear warm-up, then a cosine down to zero; steps count from 0."""
    warm_up = min(options.warm_up, options.steps // 10)
    if step < warm_up:
        return options.learning_rate * (step + 1) / warm_up
    done = (step - warm_up) / max(1, options.steps - warm_up)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class Pretraining:
    """A training run that can be stopped, saved, and taken up again.

    What it learns does not depend on how many processes draw (with 0, this one does).
    """

    def __init__(self, *, options: PretrainOptions, workers: int = 1) -> None:
        self.options = options
        self.workers = workers
        self.step = 0
        self.seconds = 0.0
        self.drawings = Drawings(
            n_classes=options.n_classes, random_state=options.random_state, options=options.drawing
        )
        net = seeded(
            lambda: BundledNet(num_classes=options.n_classes, norm=True), options.random_state
        )
        self.net = net.to(memory_format=torch.channels_last)
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.SGD(
            [
                {"params": decayed, "weight_decay": options.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=options.learning_rate,
            momentum=options.momentum,
            nesterov=True,
        )

    def run(self, *, until: int | None = None) -> Iterator[tuple[float, float]]:
        """Train, up to a step or the end.

        Of each step, yield the loss, and the share of the batch's drawings that were recognised
        before the network learned from them.
        """
        until = self.options.steps if until is None else min(until, self.options.steps)
        loader = DataLoader(
            _Batches(self.drawings, batch_size=self.options.batch_size),
            batch_size=None,
            sampler=range(self.step, until),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            # Forking a process in which torch already runs threads can hang it.
            multiprocessing_context="spawn" if self.workers else None,
            # The loader would otherwise draw its seed from the global random state.
            generator=torch.Generator(),
        )
        self.net.train()
        before = time.perf_counter()
        for images, labels in loader:
            result = self._learn(images, labels)
            self.step += 1
            now = time.perf_counter()
            self.seconds += now - before
            before = now
            yield result

    def _learn(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, options=self.options)
        # On a CPU with AMX, bfloat16 and channels-last are 3.7 times as fast as the default.
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.net(normalise(images))
        loss = nn.functional.cross_entropy(
            scores.float(), labels, label_smoothing=self.options.label_smoothing
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item(), (scores.argmax(1) == labels).float().mean().item()

    def save(self, path: Path) -> None:
        """Write a checkpoint; a kill at any moment leaves the old one or the new one."""
        state = {
            "options": json.dumps(asdict(self.options)),
            "step": self.step,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with _replacing(path) as temporary:
            torch.save(state, temporary)

    def resume(self, path: Path) -> None:
        """Go back to a checkpoint, unless it is of a run with other options."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        options = json.dumps(asdict(self.options))
        if state["options"] != options:
            raise ValueError(
                f"{path} is of a run with {state['options']}, this one has {options}. Start with "
                "the same options, or delete the checkpoint to start anew."
            )
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def new_draw_accuracy(
    net: nn.Module, drawings: Drawings, *, n_samples: int, batch_size: int = 256
) -> float:
    """Share of recognised drawings, from 0 to 1, among those that no training run has seen."""
    correct = 0
    with torch.inference_mode():
        for first in range(0, n_samples, batch_size):
            last = min(first + batch_size, n_samples)
            images, labels = drawings.batch(range(TEST_START + first, TEST_START + last))
            scores = net(normalise(torch.from_numpy(images)))
            correct += int((scores.argmax(1) == torch.from_numpy(labels)).sum())
    return correct / n_samples


def export(training: Pretraining, path: Path, *, n_samples: int = 10_000) -> float:
    """Fold the normalisation, write the weights in float16, and return their accuracy.

    It is that of `new_draw_accuracy`, on `n_samples` drawings.
    """
    net = fold_norm(training.net)
    state = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    accuracy = new_draw_accuracy(net, training.drawings, n_samples=n_samples)
    metadata = {
        "architecture": "codes.backbones.bundled.BundledNet",
        "options": json.dumps(asdict(training.options)),
        "step": str(training.step),
        "images": str(training.step * training.options.batch_size),
        "minutes": f"{training.seconds / 60:.1f}",
        "accuracy": f"{accuracy:.4f}",
        "torch": str(torch.__version__),
        "licence": "BSD-3-Clause",
    }
    with _replacing(path) as temporary:
        # Not save_file, which makes the file readable by its owner only.
        temporary.write_bytes(save(state, metadata=metadata))
    return accuracy


def pretrain(
    *,
    options: Annotated[PretrainOptions, cyclopts.Parameter(name="*")] = PretrainOptions(),
    out: Path = Path("bundled.safetensors"),
    workers: int = 1,
    threads: int = 1,
    checkpoint_every: int = 250,
    test_size: int = 10_000,
) -> None:
    """Train the bundled backbone, or go on with a run that was stopped.

    Parameters
    ----------
    out
        The weights; the checkpoint lies beside them, with the suffix .checkpoint.
    workers
        Processes that draw.
    threads
        Threads that train; more than there are idle cores make it many times slower.
    checkpoint_every
        Steps between two checkpoints.
    test_size
        How many new drawings measure the accuracy.
    """
    torch.set_num_threads(threads)
    training = Pretraining(options=options, workers=workers)
    checkpoint = out.with_suffix(".checkpoint")
    if checkpoint.exists():
        training.resume(checkpoint)
        print(f"resumed at step {training.step} of {options.steps}")
    losses, accuracies = [], []
    for loss, accuracy in training.run():
        losses.append(loss)
        accuracies.append(accuracy)
        if training.step % 50 == 0 or training.step == options.steps:
            print(
                f"step {training.step} of {options.steps}: loss {np.mean(losses):.3f}, "
                f"accuracy {np.mean(accuracies):.3f}, {training.seconds:.0f} s",
                flush=True,
            )
            losses, accuracies = [], []
        if training.step % checkpoint_every == 0:
            training.save(checkpoint)
    training.save(checkpoint)
    accuracy = export(training, out, n_samples=test_size)
    print(f"{out}: accuracy {accuracy:.4f} on {test_size} new drawings")


if __name__ == "__main__":
    cyclopts.run(pretrain)
