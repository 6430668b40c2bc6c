"""Findings: what a control that does as well as the network says against it."""

from __future__ import annotations

from codes.wording import counted
from pipelines.comparison.protocol import CLASSIFIER_NAMES
from pipelines.comparison.results import Best

UNNEEDED = {
    "pixels": ("no network is needed", "a network is needed", "on raw pixels"),
    "random": (
        "the network's training is not needed, or these weights are not trained ones",
        "the network's training is needed",
        "on the chosen depth with random weights",
    ),
}
"""Control → what it says where it does as well, what it leaves open, and what it is."""


def does_as_well(score: float, best: Best) -> bool:
    """Tell whether a control scores as much as the network, or more."""
    return score >= best.expected[0]


def find_unneeded(
    name: str, score: float, best: Best, *, worse: bool, n_groups: int | None = None
) -> str:
    """Say what a control that does as well as the network says against this.

    Parameters
    ----------
    name : str
        Of `UNNEEDED`.
    score : float
        Of the control, which is shown to be better than guessing; without copies of training
        images, as that of `best` is.
    best : Best
    worse : bool
        Whether the control is worse than `best` beyond chance, by paired differences over the
        tested images.
    n_groups : int, optional
        Of tested images, over which these differences are taken instead.

    Returns
    -------
    finding : str
        Empty where the network is shown to be better.
    """
    if worse and not does_as_well(score, best):
        return ""
    sure, unsure, what = UNNEEDED[name]
    said = (
        f"{CLASSIFIER_NAMES[best.classifier]} {what} scores {score:.3f}, and on the network's "
        f"codes {best.expected[0]:.3f}"
    )
    if does_as_well(score, best):
        return f"{sure}: {said}"
    few = "" if n_groups is None else f" over {counted(n_groups, 'group')} of tested images"
    return f"nothing shows that {unsure}: {said}, which cannot be distinguished{few}"
