"""Trials: one network trained with one setting, and what it answers; each is kept when it is done.

A comparison that is interrupted goes on with the trials that it has not finished: what a trial
depends on is its key, as for codes.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.key import canonical_json
from codes import Backbone
from codes.graph.starts import Start
from codes.graph.suffix import Suffix
from codes.inference.devices import in_lanes, no_tf32
from pipelines.drafts import replacing
from pipelines.finetuning.options import FinetuneOptions
from pipelines.finetuning.training import Curve, Maps, Run, Setting, train

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a trial gave.

    Attributes
    ----------
    curve : Curve
    log_proba : ndarray of shape (n_test, n_classes)
        NaN where it diverged.
    first_loss, train_loss : float
        On the centres of training images, before the first step and at the end.
    sampled : ndarray of shape (n_sampled,), intp
        Training images that are looked at, places in the dataset.
    train_log_proba : ndarray of shape (n_sampled, n_classes)
    """

    curve: Curve
    log_proba: NDArray[np.float64]
    first_loss: float
    train_loss: float
    sampled: NDArray[np.intp]
    train_log_proba: NDArray[np.float64]


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
    """Maps whose every view is the centre."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def read(self, images: NDArray[np.intp], view: int) -> torch.Tensor:
        return self._maps.read(images, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Runs trials beside each other, one on each core or two on a GPU.

    Attributes
    ----------
    candidates : mapping of str to Candidate
    numbers : ndarray of shape (n_samples,), intp
        Of the images' classes.
    digests : ndarray of shape (n_samples, 32), uint8
    device : torch.device
    dtype : torch.dtype
    folder : Path or None
        Where finished trials are kept.
    """

    candidates: Mapping[str, Candidate]
    numbers: NDArray[np.intp]
    digests: NDArray[np.uint8]
    device: torch.device
    dtype: torch.dtype
    folder: Path | None = None

    def run(
        self, trials: Sequence[Trial], advance: Callable[[int], None] | None = None
    ) -> list[Outcome]:
        """Run trials, or read what they gave before.

        Parameters
        ----------
        trials : sequence of Trial
        advance : callable, optional
            Called with the images that a trial was trained on, times its epochs, when it is done.

        Returns
        -------
        outcomes : list of Outcome
            In their order.
        """
        outcomes = []
        with no_tf32():
            results = in_lanes(self.device, (partial(self._outcome, trial) for trial in trials))
            for trial, outcome in zip(trials, results, strict=True):
                outcomes.append(outcome)
                if advance is not None:
                    advance(len(trial.train) * trial.setting.epochs)
        return outcomes

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
        )

    def _outcome(self, trial: Trial) -> Outcome:
        file = None
        if self.folder is not None:
            file = self.folder / f"{self._key(trial)}.npz"
            kept = _read(file)
            if kept is not None:
                return kept
        run = self.network(trial)
        sample = np.random.default_rng(trial.seed).permutation(len(trial.train))[:MOST_SAMPLED]
        sampled = trial.train[np.sort(sample)]
        first = self._loss(run.log_proba(sampled), sampled)
        train(run, trial.setting.epochs)
        log_proba, of_train = run.log_proba(trial.test), run.log_proba(sampled)
        if run.curve.diverged:
            log_proba[:] = np.nan
        outcome = Outcome(
            curve=run.curve,
            log_proba=log_proba,
            first_loss=first,
            train_loss=self._loss(of_train, sampled),
            sampled=sampled,
            train_log_proba=of_train,
        )
        if file is not None:
            _write(file, outcome)
        return outcome

    def _loss(self, log_proba: NDArray[np.float64], images: NDArray[np.intp]) -> float:
        return float(-log_proba[np.arange(len(images)), self.numbers[images]].mean())

    def _key(self, trial: Trial) -> str:
        """Give the SHA-256 of all that a trial depends on."""
        candidate = self.candidates[trial.candidate]
        options = {
            name: value
            for name, value in asdict(candidate.options).items()
            if name not in ("starts", "scratch", "seeds", "lr", "weight_decay", "epochs")
        }
        sha = hashlib.sha256(
            canonical_json(
                {
                    "start": candidate.start.name,
                    "weights": candidate.backbone.weights_digest,
                    "architecture": candidate.backbone.architecture,
                    "preprocessing": candidate.backbone.preprocessing.fields(),
                    "options": options,
                    "setting": asdict(trial.setting),
                    "seed": trial.seed,
                    "centers": trial.centers,
                    "dtype": str(self.dtype),
                    "views": getattr(candidate.maps, "n_views", None),
                }
            ).encode()
        )
        for images in (trial.train, trial.test):
            sha.update(self.digests[images].tobytes())
            sha.update(self.numbers[images].astype("<i8").tobytes())
        for values in (trial.head.weight, trial.head.bias):
            sha.update(values.astype("<f8").tobytes())
        return sha.hexdigest()


def _write(file: Path, outcome: Outcome) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        f"curve.{name}": np.array(value) for name, value in vars(outcome.curve).items()
    }
    arrays |= {name: value for name, value in vars(outcome).items() if name != "curve"}
    with replacing(file) as draft, draft.open("wb") as opened:
        np.savez_compressed(opened, **arrays)


def _read(file: Path) -> Outcome | None:
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
            curve = {
                name.removeprefix("curve."): found[name].tolist()
                for name in found.files
                if name.startswith("curve.")
            }
            own = {name: found[name] for name in found.files if not name.startswith("curve.")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None  # It is not there, or damaged: the trial is run again.
    return Outcome(
        curve=Curve(**curve),
        log_proba=own["log_proba"],
        first_loss=float(own["first_loss"]),
        train_loss=float(own["train_loss"]),
        sampled=own["sampled"],
        train_log_proba=own["train_log_proba"],
    )
