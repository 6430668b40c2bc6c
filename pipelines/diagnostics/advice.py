"""Advice: the transfer-learning table of the CS231n notes, with this dataset's place in it.

https://cs231n.github.io/transfer-learning/ asks two things: is the dataset small or large, is it
similar to what the network was trained on or not. Both are measured here. The depth that is advised
is the recommended one, wherever it is spoken of: see `pipelines.comparison.decision`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import (
    CLASSIFIER_NAMES,
    FINETUNE,
    SCRATCH,
    WHOLE,
    finetuned_name,
)
from pipelines.comparison.results import Best
from pipelines.controls.findings import does_as_well
from pipelines.controls.run import ControlScore
from pipelines.diagnostics.border import BORDER

if TYPE_CHECKING:  # Loads torch, which takes seconds.
    from pipelines.diagnostics.similarity import Similarity

LARGE = 5000
"""Training images from which a dataset counts as large in the notes' table, which gives no number:
linear classifiers on codes kept up with fine-tuning below it in most of Kornblith, Shlens and Le,
*Do better ImageNet models transfer better?* (CVPR 2019)."""
NEAR_TOP = 0.75

GUESSING = "no-better-than-guessing"
NO_NETWORK = "no-network-needed"
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
        ``"linear-top"``, ``"linear-earlier"``, ``"fine-tune-from"``, ``"fine-tune-all"``,
        ``"no-network-needed"`` or ``"no-better-than-guessing"``.
    text : str
        In a sentence or two.
    evidence : tuple of str
        What it rests on.
    large : bool
    similar : bool or None
        This dataset's place in the table; None where its similarity has no border, or is too close
        to it.
    """

    case: str
    text: str
    evidence: tuple[str, ...]
    large: bool
    similar: bool | None


def advise(
    comparison: Comparison,
    similarity: Similarity,
    controls: Sequence[ControlScore] = (),
    *,
    diverged: bool = False,
) -> Advice:
    """Place a dataset in the table.

    Parameters
    ----------
    comparison : Comparison
        The images that trained at its best size are those that are counted.
    similarity : Similarity
        Where it is on no side of the border, the recommended depth decides between the cases.
    controls : sequence of ControlScore, optional
        What does as well as the network comes first; raw pixels replace a depth where they score
        as much.
    diverged : bool, default=False
        Whether fine-tuning was tried, and diverged with every setting.
    """
    best = comparison.best
    take, _ = best.taken
    depths = {row.layer: row.depth for row in comparison.layers}
    n_train = max(row.n_train for row in comparison.folds if row.train_size == best.train_size)
    large = n_train >= LARGE
    similar, found = _similar(similarity)
    measured = any(row.classifier == FINETUNE for row in comparison.layers)
    kind = "" if measured else f" ({'large' if large else 'small'}; large: {LARGE:,} or more)"
    evidence = [
        f"{n_train:,} training images{kind}",
        found,
        *_curve(comparison, n_train / len(comparison.classes)),
    ]
    # Where it is not known, what was measured decides: a depth near the top or an earlier one.
    case, notes = CASES[large, depths[take] >= NEAR_TOP if similar is None else similar]
    against = [f"{it.finding[0].upper()}{it.finding[1:]}." for it in controls if it.finding]
    if best.recommended is None:
        case, text = GUESSING, _guessing(best, explain=not against)
    elif measured:
        case, text = _measured(comparison, depths)
    else:
        text = _text(case, notes, best.recommended, depths, known=similar is not None)
        text += (
            " Fine-tuning was tried, and diverged with every setting: see the notes."
            if diverged
            else " Fine-tuning was not measured: add --finetune to the command."
        )
    if any(
        it.name == "pixels" and it.finding and does_as_well(it.expected, best) for it in controls
    ):
        kinds = [best.classifier, *(row.classifier for row in comparison.layers)]
        linear = next(kind for kind in kinds if kind != FINETUNE)
        case, instead = NO_NETWORK, f"Train {CLASSIFIER_NAMES[linear]} on raw pixels."
        text = f"{instead} If a network is wanted all the same, {text[0].lower()}{text[1:]}"
    text = " ".join([*against, text])
    return Advice(case=case, text=text, evidence=tuple(evidence), large=large, similar=similar)


def _similar(similarity: Similarity) -> tuple[bool | None, str]:
    """Decide whether a dataset counts as similar, where that is known, and say by what."""
    if similarity.value is None:
        return None, "similarity was not measured"
    found = f"similarity {similarity.value:.2f}"
    if similarity.similar is None:
        where = f"{similarity.side} {BORDER}" if similarity.side else "which has no border here"
        return None, f"{found}, {where}"
    kind = "similar" if similarity.similar else "dissimilar"
    return similarity.similar, f"{found} ({kind}: {BORDER} is the border)"


def _guessing(best: Best, *, explain: bool) -> str:
    """Say why no depth is recommended; where no control is better, also what may be wrong."""
    text = (
        "No depth is recommended: none is shown to be better than guessing (always predicting "
        f"the commonest class scores {best.guess:.3f})."
    )
    if not explain:
        return text
    if best.unexplained is not None:
        return text + " Find out first how the test images differ from the training images."
    return text + (
        " More images may show a difference; check that the labels are right, and that the images "
        "show what they name."
    )


def _measured(comparison: Comparison, depths: dict[str, float]) -> tuple[str, str]:
    """Say which of linear classifiers and fine-tuning to take where both were measured."""
    best = comparison.best
    layer, classifier = best.taken
    if classifier == FINETUNE:
        case = CASES[True, layer not in (WHOLE, SCRATCH)][0]
        text = f"Take {finetuned_name(layer)}: `cnn-codes fit … --finetune --from {layer}`."
        if layer == SCRATCH:
            text = f"Take {finetuned_name(layer)}; what it was pretrained on does not help here."
    else:
        case = CASES[False, depths[layer] >= NEAR_TOP][0]
        text = f"Train a linear classifier on the codes of {layer} (depth {depths[layer]:.2f})."
    return case, f"{text} {_when_it_wins(comparison)}"


def _when_it_wins(comparison: Comparison) -> str:
    """Say from which training size on fine-tuning is better than every linear classifier."""
    better, worse = [], []
    for found in comparison.by_size:
        tied = [classifier for _, classifier in found.tied_classifiers]
        if found.classifier == FINETUNE and set(tied) <= {FINETUNE}:
            better.append(found)
        elif found.classifier != FINETUNE and FINETUNE not in tied:
            worse.append(found)
    several = len(comparison.by_size) > 1
    if better:
        sizes = " and ".join(_with(found) for found in better)
        return (
            f"{sizes[0].upper()}{sizes[1:]}, fine-tuning is better than every linear classifier, "
            "beyond chance."
        )
    if worse:
        sizes = " and ".join(_with(found) for found in worse)
        return (
            f"{sizes[0].upper()}{sizes[1:]}, fine-tuning is worse than a linear classifier, beyond "
            "chance."
        )
    if comparison.best.taken[1] == FINETUNE:
        return (
            "What it gains over the linear classifiers may be chance: some cannot be distinguished "
            "from it."
        )
    return (
        f"Fine-tuning was measured, and {'at no size can it' if several else 'it cannot'} be "
        "distinguished from a linear classifier."
    )


def _with(found: Best) -> str:
    if found.train_size == "all":
        return "with all training images"
    return f"with {found.train_size} training images a class"


def _text(case: str, notes: str, take: str, depths: dict[str, float], *, known: bool) -> str:
    """Say what to do with the depth that is recommended, and what the notes say of such data."""
    depth = depths[take]
    text = f"Train a linear classifier on the codes of {take} (depth {depth:.2f})."
    if case.startswith("linear") and known and len(depths) > 1:
        agrees = (depth >= NEAR_TOP) == (case == "linear-top")
        kind = "similar" if case == "linear-top" else "dissimilar"
        verb = "advise the same" if agrees else "would advise otherwise"
        text += f" The CS231n notes {verb} for small and {kind} data: {notes}."
        if not agrees:
            text += " What was measured here takes precedence."
    elif case.startswith("linear") and len(depths) > 1:
        text += (
            f" For few images the CS231n notes advise {CASES[False, True][1]} where they are "
            "similar to what the network was trained on, and from earlier in the network where "
            "not; here that is not known."
        )
    return text


def _curve(comparison: Comparison, n_per_class: float) -> list[str]:
    """Say what more images would bring, and how far training scores are above held-out ones."""
    best = comparison.best
    take = best.taken
    rows = [row for row in comparison.layers if (row.layer, row.classifier) == take]
    last = next(row for row in rows if row.train_size == best.train_size)
    sentences = [
        f"{take[0]} scores {last.train_score:.3f} on its training images and "
        f"{last.expected[0]:.3f} on others"
    ]
    sizes = sorted(
        (n_per_class if row.train_size == "all" else float(row.train_size), row.expected[0])
        for row in rows
    )
    if len(sizes) > 1 and sizes[-1][0] > sizes[-2][0]:
        (few, before), (many, after) = sizes[-2:]
        doublings = max(1e-9, math.log2(many / few))
        sentences.append(
            f"from {few:.0f} to {many:.0f} training images a class the score changes by "
            f"{after - before:+.3f}, {(after - before) / doublings:+.3f} for each doubling"
        )
    return sentences
