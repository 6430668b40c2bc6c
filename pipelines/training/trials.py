"""Trials: one network trained with one setting, and what it answers.

What a trial depends on is its key, as for codes: one that is finished is never run again, and one
that was interrupted goes on from where it was left.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.key import canonical_json
from codes import Backbone
from codes.graph.starts import Start
from codes.graph.suffix import Suffix
from codes.inference.devices import in_lanes, no_tf32, only_deterministic
from pipelines.progress import Advance, say_nothing
from pipelines.training.kept import CHECKPOINT_SECONDS, KeptTrials, Outcome
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes
from pipelines.training.run import Maps, Run, Setting, train

TRAINING_VERSION = 1
"""Raised whenever the same trial would give another network; part of every key."""
AfterEpoch = Callable[[Run, Callable[[], dict[str, Any]]], None]
"""Called with what is trained, and with what gives all that is needed to go on."""
Elsewhere = Callable[[Sequence["Trial"]], Iterator[tuple[int, Outcome]]]
"""Runs trials on other machines; gives the number and the outcome of each as it is finished."""
OF_OTHERS = ("starts", "scratch", "seeds", "lr", "weight_decay", "epochs", "augment", "fresh",
             "views_cached")  # fmt: skip
"""Options that are a trial's own values, or those of its maps."""
MOST_SAMPLED = 500
"""Training images of which predictions are scored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What a classifier starts as.

    Attributes
    ----------
    weight : ndarray of shape (n_classes, n_features)
    bias : ndarray of shape (n_classes,)
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What is trained on what, and tested on what.

    Attributes
    ----------
    candidate : str
        Of `Trainer.candidates`.
    train, test : ndarray of intp
        Places in the dataset.
    head : Head
    setting : Setting
    seed : int
    centers : bool
        Whether centres are trained on, in the place of random views.
    """

    candidate: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    head: Head
    setting: Setting
    seed: int
    centers: bool = False

    @property
    def n_passes(self) -> int:
        """Images that are trained on, each as often as it is."""
        return len(self.train) * self.setting.epochs

    @property
    def sampled(self) -> NDArray[np.intp]:
        """Some of the training images, of which predictions are scored: places in the dataset."""
        sample = np.random.default_rng(self.seed).permutation(len(self.train))[:MOST_SAMPLED]
        return self.train[np.sort(sample)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A network that is fine-tuned from a start.

    Attributes
    ----------
    backbone : Backbone
    start : Start
    maps : Maps
    options : FinetuneOptions
        Of training; those from scratch differ.
    """

    backbone: Backbone
    start: Start
    maps: Maps
    options: FinetuneOptions


class _Centers:
    """Maps of which every view is the centre."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    @property
    def n_bytes(self) -> int:
        return self._maps.n_bytes

    def fields(self) -> dict[str, Any]:
        return self._maps.fields()

    def read(self, images: NDArray[np.intp], view: int) -> torch.Tensor:
        return self._maps.read(images, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Runs trials beside each other, one on each core or two on a GPU.

    Several processes run them one after another, all of them on each.

    Attributes
    ----------
    candidates : mapping of str to Candidate
    numbers : ndarray of shape (n_samples,), intp
        Of the images' classes.
    digests : ndarray of shape (n_samples, 32), uint8
    device : torch.device
    dtype : torch.dtype
    kept : KeptTrials or None
        Where finished trials are kept.
    deterministic : bool
        Use only algorithms that give the same each time on the same machine.
    processes : Processes
    elsewhere : callable, optional
        Runs trials on other machines: gives the number and the outcome of each as it is finished.
    """

    candidates: Mapping[str, Candidate]
    numbers: NDArray[np.intp]
    digests: NDArray[np.uint8]
    device: torch.device
    dtype: torch.dtype
    kept: KeptTrials | None = None
    deterministic: bool = False
    processes: Processes = ALONE
    elsewhere: Elsewhere | None = None

    def run(self, trials: Sequence[Trial], advance: Advance | None = None) -> list[Outcome]:
        """Run trials, or read what they gave before.

        Parameters
        ----------
        trials : sequence of Trial
        advance : Advance, optional
            Told of each epoch the images that were trained on, and the loss.

        Returns
        -------
        outcomes : list of Outcome
            In their order.
        """
        advance = advance or say_nothing
        if self.elsewhere is not None:
            return self._outcomes_from(self.elsewhere, trials, advance)
        tasks = [partial(self.outcome, trial, advance) for trial in trials]
        with self.exactly():
            # One alone has all cores.
            beside = self.processes.alone and len(trials) > 1
            return list(in_lanes(self.device, tasks)) if beside else [task() for task in tasks]

    def _outcomes_from(
        self, elsewhere: Elsewhere, trials: Sequence[Trial], advance: Advance
    ) -> list[Outcome]:
        """Read what trials gave before; run the others elsewhere, and keep what they give."""
        keys = [self.key(trial) for trial in trials]
        found = [None if self.kept is None else self.kept.outcome(key) for key in keys]
        missing = [number for number, outcome in enumerate(found) if outcome is None]
        for number in set(range(len(trials))) - set(missing):
            advance(trials[number].n_passes)
        for place, outcome in elsewhere([trials[number] for number in missing]):
            number = missing[place]
            found[number] = outcome
            # Where the store is not on a shared disk, the one that trained kept it for itself.
            if self.kept is not None and self.kept.outcome(keys[number]) is None:
                self.kept.keep(keys[number], outcome)
            advance(trials[number].n_passes, f"loss {outcome.train_loss:.3g}")
        return [outcome for outcome in found if outcome is not None]

    def train(self, trial: Trial, advance: Advance | None = None) -> Suffix:
        """Train a network to its last epoch, or read it as it was then.

        Raises
        ------
        DivergedError
            If it diverges.
        """
        with self.exactly():
            _, run = self._trained(trial, advance or say_nothing, finished=True)
        run.curve.require_finite(trial.candidate, trial.setting)
        return run.network

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Compute in the precision that was asked for, and deterministically where that was."""
        with no_tf32(), only_deterministic(self.deterministic):
            yield

    def network(self, trial: Trial) -> Run:
        """Make a trial's network, ready to be trained."""
        candidate = self.candidates[trial.candidate]
        options, backbone = candidate.options, candidate.backbone
        network = Suffix(
            backbone.graph,
            candidate.start,
            len(trial.head.bias),
            backbone.preprocessing,
            batch_norm="train" if options.batch_norm == "train" else "frozen",
            dropout=options.dropout,
        )
        with torch.no_grad():
            network.head.weight.copy_(torch.from_numpy(trial.head.weight))
            network.head.bias.copy_(torch.from_numpy(trial.head.bias))
        return Run(
            network,
            _Centers(candidate.maps) if trial.centers else candidate.maps,
            trial.train,
            self.numbers[trial.train],
            options=options,
            setting=trial.setting,
            seed=(trial.seed,),
            device=self.device,
            dtype=self.dtype,
            processes=self.processes,
        )

    def outcome(self, trial: Trial, advance: Advance = say_nothing) -> Outcome:
        """Run a trial, or read what it gave before."""
        if self.kept is None:
            return self._trained(trial, advance, finished=False)[0]
        key = self.key(trial)
        outcome = self.kept.outcome(key)
        if outcome is not None:
            advance(trial.n_passes)
            return outcome
        outcome, _ = self._trained(trial, advance, finished=False)
        self.kept.keep(key, outcome)
        self.kept.remove_state(key)
        return outcome

    def _trained(self, trial: Trial, advance: Advance, *, finished: bool) -> tuple[Outcome, Run]:
        """Train from where a trial was left; keep how far it is, and, if wanted, its last epoch."""
        key, kept = self.key(trial), self.kept
        state = None if kept is None else kept.state(key)
        self.processes.send((trial, state))
        written, told = time.perf_counter(), 0

        def after_epoch(run: Run, state: Callable[[], dict[str, Any]]) -> None:
            nonlocal written, told
            due = time.perf_counter() - written > CHECKPOINT_SECONDS
            if kept is not None and (due or (run.epoch == trial.setting.epochs and finished)):
                kept.keep_state(key, state())
                written = time.perf_counter()
            advance((run.epoch - told) * len(trial.train), f"loss {run.curve.loss[-1]:.3g}")
            told = run.epoch

        outcome, run = self.train_together(trial, state, after_epoch)
        advance((trial.setting.epochs - told) * len(trial.train))
        return outcome, run

    def train_together(
        self,
        trial: Trial,
        state: dict[str, Any] | None,
        after_epoch: AfterEpoch = lambda run, state: None,
    ) -> tuple[Outcome, Run]:
        """Train, which all processes do; `after_epoch` is called after each."""
        run = self.network(trial)
        sampled = trial.sampled
        if state is None:
            first, before = self._loss(run.log_proba(sampled), sampled), 0.0
        else:
            run.load_state(state["run"])
            first, before = state["first_loss"], state["seconds"]
        begun = time.perf_counter()

        def seconds() -> float:
            return before + time.perf_counter() - begun

        train(
            run,
            trial.setting.epochs,
            lambda: after_epoch(
                run, lambda: {"run": run.state(), "first_loss": first, "seconds": seconds()}
            ),
        )
        took = seconds()
        log_proba, of_train = run.log_proba(trial.test), run.log_proba(sampled)
        if run.curve.diverged:
            log_proba[:] = np.nan
        outcome = Outcome(
            curve=run.curve,
            log_proba=log_proba,
            first_loss=first,
            train_loss=self._loss(of_train, sampled),
            train_log_proba=of_train,
            filters=run.network.filters(),
            seconds=took,
        )
        return outcome, run

    def _loss(self, log_proba: NDArray[np.float64], images: NDArray[np.intp]) -> float:
        return float(-log_proba[np.arange(len(images)), self.numbers[images]].mean())

    def key(self, trial: Trial) -> str:
        """Give the SHA-256 of all that a trial depends on."""
        candidate = self.candidates[trial.candidate]
        options = {
            name: value
            for name, value in asdict(candidate.options).items()
            if name not in OF_OTHERS
        }
        sha = hashlib.sha256(
            canonical_json(
                {
                    "version": TRAINING_VERSION,
                    "start": candidate.start.name,
                    "weights": candidate.backbone.weights_digest,
                    "architecture": candidate.backbone.architecture,
                    "preprocessing": candidate.backbone.preprocessing.fields(),
                    "options": options,
                    "setting": asdict(trial.setting),
                    "seed": trial.seed,
                    "centers": trial.centers,
                    "device": self.device.type,
                    "dtype": str(self.dtype),
                    "maps": candidate.maps.fields(),
                }
            ).encode()
        )
        for images in (trial.train, trial.test):
            sha.update(self.digests[images].tobytes())
            sha.update(self.numbers[images].astype("<i8").tobytes())
        for values in (trial.head.weight, trial.head.bias):
            sha.update(values.astype("<f8").tobytes())
        return sha.hexdigest()
