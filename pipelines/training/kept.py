"""Trials that are kept: what each gave, and how far it came, found by all that it depends on."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.drafts import replacing
from pipelines.training.run import Curve

CHECKPOINT_SECONDS = 30.0
"""Of training, after which a trial that is not done is written to the disk again."""
DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile,
           pickle.UnpicklingError)  # fmt: skip
"""What reading a file raises that is not there, or not whole."""


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
    train_log_proba : ndarray of shape (n_sampled, n_classes)
        Of some training images, `pipelines.training.trials.Trial.sampled`.
    filters : ndarray of shape (n_filters, 3, height, width), float32
        Of the first convolution, where the whole network is trained; otherwise without filters.
    seconds : float
        Of training, however many trials ran beside it.
    """

    curve: Curve
    log_proba: NDArray[np.float64]
    first_loss: float
    train_loss: float
    train_log_proba: NDArray[np.float64]
    filters: NDArray[np.float32]
    seconds: float


class KeptTrials:
    """A folder of finished trials, and of those that were interrupted.

    Parameters
    ----------
    folder : Path
        Made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def outcome(self, key: str) -> Outcome | None:
        """Read what a trial gave; None where it is not finished, or its file is damaged."""
        file = self._file(key, "npz")
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
                outcome = Outcome(
                    curve=Curve(loss=found["loss"].tolist(), diverged=bool(found["diverged"])),
                    log_proba=found["log_proba"],
                    first_loss=float(found["first_loss"]),
                    train_loss=float(found["train_loss"]),
                    train_log_proba=found["train_log_proba"],
                    filters=found["filters"],
                    seconds=float(found["seconds"]),
                )
            file.touch()  # When it was last used.
        except DAMAGED:
            return None
        return outcome

    def keep(self, key: str, outcome: Outcome) -> None:
        """Write what a trial gave."""
        values: dict[str, Any] = {k: v for k, v in vars(outcome).items() if k != "curve"}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file(key, "npz")) as draft, draft.open("wb") as opened:
            np.savez_compressed(opened, **values, **vars(outcome.curve))

    def state(self, key: str) -> dict[str, Any] | None:
        """Read how far a trial came; None where nothing is known of it, or its file is damaged."""
        try:
            state: dict[str, Any] = torch.load(
                self._file(key, "pt"), map_location="cpu", weights_only=True
            )
        except DAMAGED:
            return None
        return state

    def keep_state(self, key: str, state: dict[str, Any]) -> None:
        """Write how far a trial came."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file(key, "pt")) as draft:
            torch.save(state, draft)

    def remove_state(self, key: str) -> None:
        """Forget how far a trial came, as it is finished."""
        self._file(key, "pt").unlink(missing_ok=True)

    def _file(self, key: str, kind: str) -> Path:
        return self.folder / f"{key}.{kind}"
