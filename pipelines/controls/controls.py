"""Controls: what is trained in the place of the chosen depth, one class each.

Together they cost no more than the comparison: of a repeated cross-validation they see the first
repeat, which tests every image once; shuffled labels are trained with the C that the true ones
chose; and where few layers were compared, the other controls choose C from a coarser grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import Fit, evaluate_layer
from pipelines.comparison.guessing import guess
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.splits import Split, inner_splits
from pipelines.controls.permutation import above_chance, better_than_chance
from pipelines.extraction.options import ExtractionOptions
from pipelines.linear.mapped import MappedCodes
from pipelines.progress import Progress
from pipelines.reading.labelled import LabelledCodes
from pipelines.reading.memory import TooLargeError, require_memory
from pipelines.reading.readers import Reader, SideBySide
from pipelines.reading.scratch import find_large

if TYPE_CHECKING:  # Loads torch, which takes seconds.
    from codes import Backbone
    from pipelines.extraction.extract import Extraction

Read = Callable[[], NDArray[Any] | MappedCodes]

N_ORDERS = 10
"""Orders of shuffled labels that must all predict better than chance before there is an alarm: of
orders that know nothing, one does in at most half of the cases, and all in one of 1,000."""


class LeftOutError(Exception):
    """A control does not make sense here; the message says why."""


class Control:
    """A control on the codes of the chosen depth.

    Attributes
    ----------
    name : str
    what : str
        What it is, in words; ``{noun}`` stands for what is compared, depths or layers.
    searches : bool
        Whether it searches for C.
    extracts : bool
        Whether it needs the images and the network.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    searches: ClassVar[bool] = True
    extracts: ClassVar[bool] = False

    def cost(self, n_layers: int) -> float:
        """Say how much a search costs, in those of one of `n_layers` layers."""
        return float(self.searches)

    def read(self, codes: LabelledCodes, best: str, progress: Progress) -> Reader:
        """Find how to read its codes; extract those that are not in the store.

        Parameters
        ----------
        codes : LabelledCodes
            Those that were compared.
        best : str
            The chosen tap's name.
        progress : Progress

        Returns
        -------
        reader : Reader
            Of codes of shape (n_samples, n_features).

        Raises
        ------
        LeftOutError
            If it does not make sense here.
        """
        return codes.readers[best]

    def evaluate(
        self, read: Read, comparison: Comparison, splits: Sequence[Split], protocol: Protocol
    ) -> list[Fit]:
        """Train and test it.

        Parameters
        ----------
        read : function
            Reads its codes, or maps them into memory.
        comparison : Comparison
        splits : sequence of Split
            Of the comparison.
        protocol : Protocol
            With the grid of C to search.

        Returns
        -------
        fits : list of Fit
            One for each split.
        """
        y = comparison.scored.samples.y
        return evaluate_layer(read(), y, splits, comparison.best.classifier, protocol)

    def alarms(
        self,
        fits: Sequence[Fit],
        read: Read,
        comparison: Comparison,
        splits: Sequence[Split],
        protocol: Protocol,
    ) -> bool:
        """Tell whether these fits, of `evaluate`, know what they cannot: something leaks."""
        return False


class Majority(Control):
    """Guesses, whatever the images show."""

    name, what = "majority", "the commonest class of the training images"
    searches = False

    def evaluate(
        self, read: Read, comparison: Comparison, splits: Sequence[Split], protocol: Protocol
    ) -> list[Fit]:
        """Guess on each split; no codes are read."""
        scored = comparison.scored
        return [guess(scored.samples, split, scored.scoring) for split in splits]


class Shuffled(Control):
    """Trains on labels in another order, and is tested on the true ones.

    One order proves little: where images form clusters, one that gives most of each cluster the
    label that is its own predicts well, however many images are tested. What leaks does so in every
    order.
    """

    name, what = "shuffled", "the chosen {noun}, training labels shuffled, C as for the true ones"
    searches = False

    def evaluate(
        self, read: Read, comparison: Comparison, splits: Sequence[Split], protocol: Protocol
    ) -> list[Fit]:
        """Train on each split's own labels, shuffled among its training images."""
        return self._train(read(), comparison, splits, protocol, 0)

    def alarms(
        self,
        fits: Sequence[Fit],
        read: Read,
        comparison: Comparison,
        splits: Sequence[Split],
        protocol: Protocol,
    ) -> bool:
        """Tell whether labels are predicted far better than by chance, and so in other orders."""
        samples, tests = comparison.scored.samples, [split.test for split in splits]
        if not better_than_chance(
            samples.numbers,
            tests,
            [fit.predicted for fit in fits],
            groups=samples.groups,
            random_state=comparison.scored.random_state,
        ):
            return False
        X = read()
        return all(
            above_chance(samples.numbers, tests, [fit.predicted for fit in again])
            for again in (
                self._train(X, comparison, splits, protocol, order) for order in range(1, N_ORDERS)
            )
        )

    def _train(
        self,
        X: NDArray[Any] | MappedCodes,
        comparison: Comparison,
        splits: Sequence[Split],
        protocol: Protocol,
        order: int,
    ) -> list[Fit]:
        """Train on labels in the order of this number."""
        best, y = comparison.best, comparison.scored.samples.y
        chosen = {
            (fold.repeat, fold.fold): fold.C
            for fold in comparison.folds
            if (fold.layer, fold.classifier, fold.train_size)
            == (best.layer, best.classifier, best.train_size)
        }
        fits = []
        for number, split in enumerate(splits):
            # Of the first order as if there were no others.
            rng = np.random.default_rng([protocol.random_state, number, *[order] * (order > 0)])
            shuffled = y.copy()
            shuffled[split.train] = _shuffle(y[split.train], rng)
            # A classifier wants folds with every class, also for one C; groups have lost theirs.
            inner = inner_splits(shuffled[split.train], None, 2, rng)
            same = replace(protocol, Cs=(chosen[split.repeat, split.fold],))
            fits += evaluate_layer(
                X, shuffled, [replace(split, inner=inner)], best.classifier, same
            )
        return fits


class Concatenated(Control):
    """All depths as one, each feature scaled."""

    name, what = "concatenated", "all {noun}s side by side, each feature scaled"

    def cost(self, n_layers: int) -> float:
        """Say how much it costs: 0.2 to 0.5 of all layers were measured."""
        return 0.5 * n_layers

    def read(self, codes: LabelledCodes, best: str, progress: Progress) -> Reader:
        """Read every depth."""
        if len(codes.readers) == 1:
            raise LeftOutError("only one layer was compared")
        reader = SideBySide(list(codes.readers.values()))
        if find_large({self.name: reader}, 1):
            labels = codes.images.labels
            try:
                require_memory("all layers", reader, len(labels), len(np.unique(labels)), 1)
            except TooLargeError as error:
                raise LeftOutError(str(error).rstrip(".")) from error
        return reader


class _Extracted(Control, ABC):
    """A control on other codes of the same images, for which the network is needed."""

    extracts = True

    @abstractmethod
    def options(
        self, of_best: ExtractionOptions, extraction: Extraction
    ) -> tuple[ExtractionOptions, Backbone | None]:
        """Say what is extracted instead, and with which backbone if that is not loaded by name."""

    def read(self, codes: LabelledCodes, best: str, progress: Progress) -> Reader:
        """Extract the codes that the store lacks."""
        from pipelines.extraction.extract import Extraction, extract

        if not isinstance(codes, Extraction):
            raise LeftOutError("the codes were given, and it needs the images and the network")
        options, backbone = self.options(codes.options_of(best), codes)
        found = extract(codes.images, options, backbone=backbone, progress=progress)
        [reader] = found.readers.values()
        return reader


class Pixels(_Extracted):
    """No network at all."""

    name, what = "pixels", "raw pixels, shrunk to 16×16"

    def options(
        self, of_best: ExtractionOptions, extraction: Extraction
    ) -> tuple[ExtractionOptions, Backbone | None]:
        """Take what the network would be shown."""
        from codes.backbones.backbone import pixels_backbone

        options = replace(
            of_best, layers="pixels", activation="post", pool="grid:16", dtype="float32"
        )
        return options, pixels_backbone(extraction.backbone.preprocessing)


class RandomWeights(_Extracted):
    """The same architecture, untrained."""

    name, what = "random", "the chosen {noun}, random weights"

    def options(
        self, of_best: ExtractionOptions, extraction: Extraction
    ) -> tuple[ExtractionOptions, Backbone | None]:
        """Take the same layer."""
        from pipelines.extraction.extract import backbone_of

        if of_best.weights == "none":
            raise LeftOutError("the weights are random already")
        random = replace(of_best, weights="none", dtype="float32")
        if ":" not in of_best.backbone:
            return random, None
        try:
            return random, backbone_of(random)
        except ValueError as error:
            raise LeftOutError(str(error).rstrip(".")) from error


class PreActivation(_Extracted):
    """The other side of the non-linearity."""

    name, what = "pre", "the chosen {noun}, before its activation"

    def options(
        self, of_best: ExtractionOptions, extraction: Extraction
    ) -> tuple[ExtractionOptions, Backbone | None]:
        """Take the same layer's other side."""
        from codes.graph.layers import NO_ACTIVATIONS

        if of_best.activation == "pre":
            raise LeftOutError("the codes are those before the activation already")
        best = next(t.layer for t in extraction.taps if t.layer.name == of_best.layers)
        layers = {layer.name: layer for layer in extraction.backbone.layers}
        source = layers.get(best.average_of, best)
        if source.kind in (*NO_ACTIVATIONS, "node"):
            average = f", nor is {source.name}, which it averages" if source is not best else ""
            raise LeftOutError(f"{best.name} is not an activation{average}")
        return replace(of_best, activation="pre"), extraction.backbone


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Majority(), Shuffled(), Pixels(), RandomWeights(), Concatenated(), PreActivation(),
    )
}  # fmt: skip
"""By name; all but the last are run by default."""
DEFAULT_CONTROLS = tuple(CONTROLS)[:-1]


def parse_controls(names: str | Sequence[str]) -> tuple[str, ...]:
    """Read which controls are meant.

    Parameters
    ----------
    names : str, or sequence of str
        Of `CONTROLS`, joined by commas; or none.

    Raises
    ------
    ValueError
        If one is unknown.

    Examples
    --------
    >>> parse_controls("majority, pixels"), parse_controls("none")
    (('majority', 'pixels'), ())
    """
    if isinstance(names, str):
        names = [] if names == "none" else [name.strip() for name in names.split(",")]
    unknown = [name for name in names if name not in CONTROLS]
    if unknown:
        raise ValueError(
            f"Controls {', '.join(map(str, unknown))} are unknown. Allowed: {', '.join(CONTROLS)}, "
            "or none."
        )
    return tuple(dict.fromkeys(names))


def _shuffle(labels: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.str_]:
    return np.asarray(rng.permutation(labels))
