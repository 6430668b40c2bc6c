"""Advice: the transfer-learning table of the CS231n notes, with this dataset's place in it.

https://cs231n.github.io/transfer-learning/ asks two things: is the dataset small or large, is it
similar to what the network was trained on or not. Both are measured here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.results import Comparison, LayerScore
from pipelines.similarity import Similarity

LARGE = 5000
"""Training images from which fine-tuning is worth its trouble. The notes give no number; below,
linear classifiers on codes kept up with fine-tuning in most of Kornblith, Shlens and Le, *Do better
ImageNet models transfer better?* (CVPR 2019)."""
SIMILAR = 0.5
NEAR_TOP = 0.75

CASES = {
    (False, True): ("linear-top", "a linear classifier on codes near the top"),
    (False, False): ("linear-earlier", "a linear classifier on codes from earlier in the network"),
    (True, True): ("fine-tune-from", "fine-tuning the layers from some depth on"),
    (True, False): ("fine-tune-all", "fine-tuning the whole network, starting from these weights"),
}
"""(large, similar) → the case and what the notes advise."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to do next.

    Attributes
    ----------
    case : str
        ``"linear-top"``, ``"linear-earlier"``, ``"fine-tune-from"`` or ``"fine-tune-all"``.
    text : str
        In a sentence or two.
    evidence : tuple of str
        What it rests on.
    large, similar : bool
        This dataset's place in the table.
    """

    case: str
    text: str
    evidence: tuple[str, ...]
    large: bool
    similar: bool


def advise(
    comparison: Comparison,
    similarity: Similarity,
    depths: dict[str, float],
    n_train: int,
    n_per_class: float,
) -> Advice:
    """Place a dataset in the table.

    Parameters
    ----------
    comparison : Comparison
    similarity : Similarity
        Where it was not measured, an early best depth counts as dissimilar.
    depths : dict of str to float
        Layer → depth, in forward order.
    n_train : int
        Training images.
    n_per_class : float
        Of them, on average, in a class.

    Returns
    -------
    advice : Advice
    """
    best = comparison.best
    top = list(depths)[-1]
    large = n_train >= LARGE
    measured = similarity.value
    similar = depths[best.layer] >= NEAR_TOP if measured is None else measured >= SIMILAR
    case, notes = CASES[large, similar]
    evidence = [f"{n_train:,} training images ({'large' if large else 'small'}: from {LARGE:,} on)"]
    if measured is None:
        evidence.append(
            "similarity was not measured; the best depth stands "
            + ("near the top" if similar else "far from the top")
        )
    else:
        kind = "similar" if similar else "dissimilar"
        evidence.append(f"similarity {measured:.2f} ({kind}: {SIMILAR} is the border)")
    evidence += _curve(comparison, n_per_class)
    earliest = best.recommended
    if case == "fine-tune-from":
        after = f"after {earliest} (depth {depths[earliest]:.2f})"
        text = f"Fine-tune what comes {after}; no deeper codes were found to be better here."
    elif case == "fine-tune-all":
        text = f"Fine-tune the whole network; until then, a linear classifier on {best.layer}."
    else:
        text = f"Train a linear classifier on the codes of {best.layer}; do not fine-tune."
    near_top = max(depths[layer] for layer in (best.layer, *best.tied)) >= NEAR_TOP
    agrees = near_top if case == "linear-top" else earliest != top
    if not large and len(depths) > 1:
        text += (
            " That is what the CS231n notes advise for"
            if agrees
            else " The CS231n notes would advise otherwise for"
        )
        text += f" small and {'similar' if similar else 'dissimilar'} data: {notes}."
        if not agrees:
            text += " What was measured here goes before."
    return Advice(case=case, text=text, evidence=tuple(evidence), large=large, similar=similar)


def _curve(comparison: Comparison, n_per_class: float) -> list[str]:
    """Say what more images would bring, and how far training scores are above held-out ones."""
    best = comparison.best
    rows = [
        row
        for row in comparison.layers
        if (row.layer, row.classifier) == (best.layer, best.classifier)
    ]
    last = next(row for row in rows if row.train_size == best.train_size)
    said = [
        f"{best.layer} scores {last.train_score:.3f} on its training images and "
        f"{last.score:.3f} on others"
    ]
    sizes = [(_images(row, n_per_class), row.score) for row in rows]
    sizes.sort()
    if len(sizes) > 1 and sizes[-1][0] > sizes[-2][0]:
        said.append(_slope(sizes))
    return said


def _slope(sizes: Sequence[tuple[float, float]]) -> str:
    (few, before), (many, after) = sizes[-2:]
    doublings = max(1e-9, math.log2(many / few))
    return (
        f"from {few:.0f} to {many:.0f} training images a class the score changes by "
        f"{after - before:+.3f}, {(after - before) / doublings:+.3f} for each doubling"
    )


def _images(row: LayerScore, n_per_class: float) -> float:
    return n_per_class if row.train_size == "all" else float(row.train_size)
