"""Options of fine-tuning, as typed on the command line or given in Python."""

# Annotations are evaluated here: the command line reads them from classes derived elsewhere.

import math
from collections.abc import Sequence
from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("cosine", "step", "exponential", "inverse", "sqrt", "constant")
LR = {"sgd": "1e-3:3e-2", "adam": "3e-5:1e-3", "adamw": "3e-5:1e-3"}
"""Learning rates that are searched by default; those of Adam scale each gradient themselves."""
WEIGHT_DECAY = "1e-5:1e-3"
MOMENTUM = 0.9
STEPS = 300
"""Of training, by default."""
ALLOWED = {
    "head": ("probe", "random"),
    "batch_norm": ("frozen", "train"),
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """From where on a network is trained, and how.

    Attributes
    ----------
    starts : str, or sequence of str
        First modules that are trained, joined by commas, such as features.9 or layer4; "input" is
        the whole network, "auto" the last stage, the last half and the whole network.
    scratch : bool
        Train the whole network from random weights as well.
    head : str
        What the classifier starts as: "probe", the logistic regression on the network's last codes,
        or "random", small random weights.
    batch_norm : str
        Batch normalisation after the start: "frozen" keeps its statistics, "train" takes those of
        each batch. Before the start it is never changed.
    optimizer : str
        "sgd", "adam" or "adamw".
    momentum : float
        Of SGD, from 0 to below 1.
    nesterov : bool
        Nesterov's momentum.
    lr : str or float, optional
        Learning rate of the classifier: a value, or LOW:HIGH to search. Default: 1e-3:3e-2 for
        "sgd", 3e-5:1e-3 for the others.
    weight_decay : str or float
        A value, or LOW:HIGH to search. Biases and normalisations are not decayed.
    lr_ratio : float
        Learning rate of the pretrained weights over the classifier's.
    schedule : str
        Of the learning rate, after a warm-up: "cosine", "step" (a tenth at a half and at three
        quarters), "exponential" (to a hundredth), "inverse", "sqrt" or "constant".
    warmup : float
        Share of all steps in which the learning rate rises from 0.
    dropout : float
        Of every dropout layer after the start, and before the classifier.
    max_norm : float, optional
        Most that the weights of a neuron may have as their norm.
    l1 : float
        Weight of the sum of the weights' absolute values in the loss.
    label_smoothing : float
        Share of each label that is spread over all classes, from 0 to below 1.
    augment : str
        Of "crop", "flip", "rotate" and "color", joined by commas, or "none".
    epochs : int, optional
        Most passes over the training images; a quarter of them is tried too. Default: as many as
        make 300 steps, 15 to 60.
    batch_size : int
        Images in a step of training.
    seeds : int
        Runs from different seeds, whose probabilities are averaged.
    views_cached : int, optional
        Random views of each image whose maps are stored. Default: as many as a fifth of the free
        disk holds, up to 8.
    fresh : bool
        Store maps of the centres only: every epoch draws new views, and computes their maps.

    Examples
    --------
    >>> FinetuneOptions(lr="1e-3:1e-1").range("lr"), FinetuneOptions(lr=0.01).range("lr")
    ((0.001, 0.1), (0.01, 0.01))
    """

    starts: str | Sequence[str] = "auto"
    scratch: bool = False
    head: str = "probe"
    batch_norm: str = "frozen"
    optimizer: str = "sgd"
    momentum: float = MOMENTUM
    nesterov: bool = True
    lr: str | float | None = None
    weight_decay: str | float = WEIGHT_DECAY
    lr_ratio: float = 0.5
    schedule: str = "cosine"
    warmup: float = 0.1
    dropout: float = 0.0
    max_norm: float | None = None
    l1: float = 0.0
    label_smoothing: float = 0.0
    augment: str = "crop,flip"
    epochs: int | None = None
    batch_size: int = 64
    seeds: int = 1
    views_cached: int | None = None
    fresh: bool = False

    def range(self, name: str) -> tuple[float, float]:
        """Give the lowest and the highest value of a setting that can be searched.

        Parameters
        ----------
        name : {"lr", "weight_decay"}

        Returns
        -------
        low, high : float
            The same where it is one value.
        """
        value = getattr(self, name)
        value = LR[self.optimizer] if value is None else value
        parts = str(value).split(":")
        try:
            numbers = [float(part) for part in parts]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(0 <= n < float("inf") for n in numbers):
            raise ValueError(
                f"{name}={value!r} is not a valid value. Allowed: a number, "
                f"{'above 0' if name == 'lr' else '0 or more'}, or LOW:HIGH, such as 1e-3:1e-1."
            )
        low, high = numbers[0], numbers[-1]
        if len(numbers) == 2 and not 0 < low < high:
            raise ValueError(f"{name}={value!r}: allowed is LOW:HIGH with 0 < LOW < HIGH.")
        return low, high

    def most_epochs(self, n_train: int) -> int:
        """Give the passes over a number of training images.

        Examples
        --------
        >>> [FinetuneOptions().most_epochs(n) for n in (50, 1000, 3409)]
        [60, 20, 15]
        """
        steps = math.ceil(STEPS * self.batch_size / n_train)
        return self.epochs or min(60, max(15, steps))

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is unknown. Allowed: {', '.join(allowed)}."
                )
        self.range("weight_decay")
        if self.range("lr")[0] <= 0:
            raise ValueError(f"lr={self.lr!r}: allowed are values above 0.")
        for name in ("momentum", "dropout", "label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: allowed are 0 to below 1.")
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0. Use --no-nesterov, or momentum.")
        for name in ("lr_ratio", "l1"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}={getattr(self, name)}: allowed are 0 or more.")
        if self.fresh and self.views_cached is not None:
            raise ValueError(
                f"fresh, and views_cached={self.views_cached}: views are stored, or drawn anew in "
                "every epoch. Leave one out."
            )
        if self.augment == "none" and (self.fresh or self.views_cached is not None):
            given = "fresh" if self.fresh else f"views_cached={self.views_cached}"
            raise ValueError(
                f"{given}, and augment='none': without augmentation the centre of an image is its "
                "only view. Leave one out."
            )
        if self.optimizer != "sgd" and self.momentum != MOMENTUM:
            raise ValueError(
                f"momentum={self.momentum}, and optimizer={self.optimizer!r}: momentum is an "
                "option of sgd. Leave one out."
            )
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm={self.max_norm}: allowed are values above 0.")
        for name, least in (("epochs", 1), ("batch_size", 2), ("seeds", 1), ("views_cached", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}: allowed are {least} or more.")
