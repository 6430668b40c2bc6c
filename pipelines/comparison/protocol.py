"""The protocol: how depths are compared, as typed on the command line or given in Python."""

# Annotations are evaluated here: the command line reads them from classes derived elsewhere.

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.linear.validation import DEFAULT_GRID, SEARCHES, Search, parse_grid
from pipelines.statistics.scoring import SCORINGS

CLASSIFIER_NAMES = {"svm": "a linear SVM", "logistic": "logistic regression"}
CLASSIFIERS = tuple(CLASSIFIER_NAMES)
FINETUNE = "finetune"
"""What stands in the place of a classifier where the network is trained too."""
WHOLE, SCRATCH = "input", "scratch"
"""Where training starts: at the input, or with random weights."""

TrainSize = int | str

_ALLOWED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "classifier": ((str, Sequence), "a str, or a sequence of them"),
    "Cs": ((str, Sequence, np.ndarray), "a str such as 1e-6:1e2:9, or a sequence of numbers"),
    "Cs_search": (str, "a str"),
    "cv": (numbers.Integral, "an int, 2 or more"),
    "repeats": ((numbers.Integral, type(None)), "an int, 1 or more, or None"),
    "seeds": (numbers.Integral, "an int, 1 or more"),
    "train_sizes": ((str, Sequence), "a str such as 5,20,all, or a sequence of int and all"),
    "max_loss": (numbers.Real, "a number, 0 or more"),
    "group_duplicates": (bool, "True or False"),
    "random_state": (numbers.Integral, "an int, 0 or more"),
}
"""Field → its types, and what is allowed in words."""


def finetuned_name(start: str) -> str:
    """Say which network is meant by where its training starts.

    Examples
    --------
    >>> finetuned_name("layer4"), finetuned_name("input")
    ('the network fine-tuned from layer4', 'the whole network fine-tuned')
    """
    known = {WHOLE: "the whole network fine-tuned", SCRATCH: "the network trained from scratch"}
    return known.get(start, f"the network fine-tuned from {start}")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How depths are compared.

    Attributes
    ----------
    classifier : str, or sequence of str
        "svm" (LinearSVC), "logistic" or "both".
    Cs : str, or sequence of float
        Values of C to choose from, increasing: LOW:HIGH:COUNT, spaced evenly on a log scale, or
        joined by commas.
    Cs_search : str
        "path" (from the middle of Cs outwards, until values are clearly worse) or "full" (all of
        Cs); with the scores f1_macro and average_precision it is all of them in any case.
    cv : int
        Folds of every cross-validation, 2 or more.
    repeats : int, optional
        Repeats of the outer cross-validation (default: as many as test some 2,000 images, one to
        five), or, with a test split, draws of each smaller training size (default 5).
    seeds : int
        Repeat what depends on chance so many times: draws of the training images (unless `repeats`
        says how many) and folds that choose C, to say how much of a score is due to which; and the
        training of fine-tuning, whose probabilities are averaged.
    train_sizes : str, or sequence of (int or "all")
        Training images of each class, joined by commas, such as 5,20,all.
    scoring : str, optional
        "accuracy", "balanced_accuracy", "f1_macro", "average_precision", or, with classifier
        logistic, "neg_log_loss". Default: accuracy, or balanced accuracy where the largest class
        has over 1.5 times the images of the smallest.
    max_loss : float
        Most that the recommended depth may score below the chosen one, of whose score it is also
        within one standard error of the difference. With 0, no score is given up.
    group_duplicates : bool
        Keep copies of an image, byte by byte, on the same side of every fold.
    random_state : int
        Seed of every split that is drawn, from 0 to 4294967295.

    Notes
    -----
    `compare_layers` sees codes only: to keep copies together there, give it the groups of
    `pipelines.comparison.duplicates.group_copies`.

    Examples
    --------
    >>> protocol = Protocol(classifier="both", Cs="1e-2:1:3", train_sizes="20,5,all")
    >>> protocol.classifiers, protocol.grid, protocol.sizes
    (('svm', 'logistic'), (0.01, 0.1, 1.0), (5, 20, 'all'))
    """

    classifier: str | Sequence[str] = "svm"
    Cs: str | Sequence[float] = DEFAULT_GRID
    Cs_search: Search = "path"
    cv: int = 5
    repeats: int | None = None
    seeds: int = 1
    train_sizes: str | Sequence[TrainSize] = "all"
    scoring: str | None = None
    max_loss: float = 0.02
    group_duplicates: bool = True
    random_state: int = 0

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Which classifiers are compared."""
        if isinstance(self.classifier, str):
            return CLASSIFIERS if self.classifier == "both" else (self.classifier,)
        return tuple(self.classifier)

    @property
    def grid(self) -> tuple[float, ...]:
        """The values of C."""
        return parse_grid(self.Cs) if isinstance(self.Cs, str) else tuple(self.Cs)

    @property
    def sizes(self) -> tuple[TrainSize, ...]:
        """The training sizes, ascending where they were given as one str."""
        if not isinstance(self.train_sizes, str):
            return tuple(self.train_sizes)
        return _parse_sizes(self.train_sizes)

    def draws(self, default: int) -> int:
        """Say how often the outer folds, or smaller training sets, are drawn.

        `seeds` adds to what is drawn without it, and `repeats` decides.
        """
        return self.repeats or max(self.seeds, default)

    def __post_init__(self) -> None:
        for name, (kinds, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool):
                raise TypeError(
                    f"{name}={value!r} is of type {type(value).__name__}. Allowed: {allowed}."
                )
        unknown = [name for name in self.classifiers if name not in CLASSIFIERS]
        if unknown or not self.classifiers:
            raise ValueError(
                f"classifier={', '.join(unknown) or 'none'} is unknown. Allowed: "
                f"{', '.join(CLASSIFIERS)}, both."
            )
        if self.scoring not in (None, *SCORINGS):
            raise ValueError(
                f"scoring={self.scoring!r} is unknown. Allowed: {', '.join(SCORINGS)}."
            )
        if self.scoring == "neg_log_loss" and self.classifiers != ("logistic",):
            raise ValueError(
                "scoring='neg_log_loss' needs probabilities, which a linear SVM does not give. Use "
                "classifier logistic, or another score."
            )
        if self.Cs_search not in SEARCHES:
            raise ValueError(
                f"Cs_search={self.Cs_search!r} is unknown. Allowed: {', '.join(SEARCHES)}."
            )
        positive = all(0 < C < float("inf") for C in self.grid)
        if not self.grid or not positive or list(self.grid) != sorted(set(self.grid)):
            raise ValueError(
                f"Cs={list(self.grid)}: allowed are positive finite values, each larger than the "
                "last."
            )
        if self.cv < 2 or (self.repeats is not None and self.repeats < 1):
            raise ValueError(
                f"cv={self.cv}, repeats={self.repeats}: allowed are 2 or more folds, 1 or more "
                "repeats."
            )
        if self.seeds < 1:
            raise ValueError(f"seeds={self.seeds}: allowed are 1 or more.")
        if self.random_state < 0:
            raise ValueError(f"random_state={self.random_state}: allowed are 0 or more.")
        if not 0 <= self.max_loss < float("inf"):
            raise ValueError(f"max_loss={self.max_loss}: allowed are 0 or more.")
        wrong = [s for s in self.sizes if s != "all" and (isinstance(s, str) or s < 2)]
        if wrong or not self.sizes:
            raise ValueError(
                f"train_sizes={list(self.sizes)}: allowed are 2 or more images of each class "
                "(C is cross-validated among them), and all."
            )


def _parse_sizes(text: str) -> tuple[TrainSize, ...]:
    parts = [part.strip() for part in text.split(",")]
    try:
        sizes = sorted({int(part) for part in parts if part != "all"})
    except ValueError:
        raise ValueError(
            f"train_sizes={text!r} is not a list of sizes. Allowed: numbers of images of each "
            "class and all, joined by commas, such as 5,20,all."
        ) from None
    return (*sizes, "all") if "all" in parts else tuple(sizes)
