"""Networks: several comparisons side by side, which one is better, and which is cheaper.

Networks are compared as depths are within one: by paired differences over the tested images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.comparison.held_out_answers import Answers
from pipelines.report.subject import dataset_name, given_of, subject_name
from pipelines.statistics.paired_tests import PairedTests, paired_tests


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """How several networks compare.

    Attributes
    ----------
    labels : list of str
        A name for each, all different.
    best : int
        The one with the highest score.
    sentences : list of str
        Which is better, and which is cheaper.
    behind : list of (str or None)
        By how much each scores below the best, and the 95 % interval; None where that is not known.
    times : list of str
        For an image, of each; "–" where it is not known.
    features : list of int
        Length of the codes to take.
    similarities : list of str
        To each network's training images; "–" where it was not measured. Where some of the values
        have a border and others have none, these say so.
    """

    labels: list[str]
    best: int
    sentences: list[str]
    behind: list[str | None]
    times: list[str]
    features: list[int]
    similarities: list[str]


def side_by_side(reports: Sequence[dict[str, Any]], answers: Sequence[Answers | None]) -> Standing:
    """Compare the networks of several reports on the same images."""
    labels = label(reports)
    best = int(np.argmax([report["best"]["score"] for report in reports]))
    seconds, cheapest = _cost(reports, labels)
    reason = _incomparable(reports, answers, labels)
    given = [one for one in answers if one is not None]
    behind: list[str | None] = [None] * len(labels)
    if reason is not None or not given:
        remedy = "Run them in one command, with --backbone for each: stored codes are used again."
        if any(map(given_of, reports)):
            remedy = (
                "Put all codes into one file, each as a layer; `cnn-codes export` writes those of "
                "a network."
            )
        better = f"These reports cannot be compared by a paired test: {reason}. {remedy}"
    else:
        tests = paired_tests(
            given[0].held_out,
            [list(one.answers) for one in given],
            np.array([one.scores for one in given]),
            best,
            # Read off the tested images, whichever network it is: all pairs are compared.
            chose=True,
        )
        better = _better(labels, best, tests, len(given[0].held_out.truth))
        behind = [
            None if i == best else _difference(tests, i, "{} ({} to {})")
            for i in range(len(labels))
        ]
    return Standing(
        labels=labels,
        best=best,
        sentences=[better, cheapest],
        behind=behind,
        times=["–" if one is None else _time(one) for one in seconds],
        features=[_features(report) for report in reports],
        similarities=_similarities(reports),
    )


def label(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Name each report by its network, and by as much else as distinguishes it from the others."""
    labels = [subject_name(report) for report in reports]
    for more in (_weights, dataset_name):
        again = [name if labels.count(name) == 1 else None for name in labels]
        added = [more(report) for report in reports]
        if None in again and len(set(added)) > 1:
            labels = [
                one or f"{name} ({what})"
                for one, name, what in zip(again, labels, added, strict=True)
            ]
    if len(set(labels)) < len(labels):
        labels = [f"{number}: {name}" for number, name in enumerate(labels, start=1)]
    return labels


def _weights(report: dict[str, Any]) -> str:
    if report["backbone"] is None:
        return "given codes"
    weights = str(report["backbone"]["weights"]).partition(" (")[0]
    return Path(weights).name if "/" in weights else weights.rpartition("Weights.")[2]


def _incomparable(
    reports: Sequence[dict[str, Any]], answers: Sequence[Answers | None], labels: Sequence[str]
) -> str | None:
    """Say why the answers cannot be compared image by image, if they cannot."""
    first = answers[0]
    for report, given, name in zip(reports, answers, labels, strict=True):
        if given is None:
            return f"the answers of {name} to each image are not beside its report.json"
        if abs(float(given.scores.mean()) - report["best"]["score"]) > 1e-6:
            return f"the answers of {name} are not those of its report.json"
        if first is None or given is first:
            continue
        if given.held_out.scoring != first.held_out.scoring:
            return f"{name} and {labels[0]} are measured by different scores"
        same = given.splits == first.splits and np.array_equal(
            given.held_out.truth, first.held_out.truth
        )
        if not same and (given_of(report) or given_of(reports[0])):
            return (
                f"images of given codes are known by their codes, and those of {name} and "
                f"{labels[0]} are not the same"
            )
        if not same or not _same_groups(given, first):
            return f"{name} and {labels[0]} were trained or tested on different images or folds"
    return None


def _same_groups(one: Answers, other: Answers) -> bool:
    own, theirs = one.held_out.groups, other.held_out.groups
    if own is None or theirs is None:
        return own is theirs
    return bool(np.array_equal(own, theirs))


def _difference(tests: PairedTests, i: int, words: str = "{} (95 % interval {} to {})") -> str:
    """Write a difference and its interval."""
    loss, margin = float(tests.loss[i]), float(tests.margin[i])
    if not np.isfinite(margin):
        return f"{loss:.3f} (every image answered alike)"
    numbers = [f"{value:.3f}".replace("-", "−") for value in (loss, loss - margin, loss + margin)]
    return words.format(*numbers)


def _better(labels: Sequence[str], best: int, tests: PairedTests, n_tested: int) -> str:
    """Say which networks the one with the highest score is better than."""
    others = [i for i in range(len(labels)) if i != best]
    worse = [f"{labels[i]} by {_difference(tests, i)}" for i in others if tests.worse[i]]
    tied = [
        f"{labels[i]}, which scores lower by {_difference(tests, i)}"
        for i in others
        if not tests.worse[i]
    ]
    found = [f"is better than {' and '.join(worse)}"] * bool(worse)
    found += [f"cannot be distinguished from {' and '.join(tied)}"] * bool(tied)
    return (
        f"{labels[best]} {', and '.join(found)}: paired differences over the same {n_tested} "
        "tested images, at 5 % for all pairs of networks together."
    )


def _cost(
    reports: Sequence[dict[str, Any]], labels: Sequence[str]
) -> tuple[list[float | None], str]:
    """Find what an image costs with each network, and say which one is cheaper."""
    devices = {report["environment"]["device"] for report in reports}
    seconds: list[float | None] = [None] * len(reports)
    what = ""
    if len(devices) == 1:
        for measure, words in ((_of_network, ""), (_of_extraction, ", reading included")):
            found = [measure(report) for report in reports]
            if None not in found:
                seconds, what = found, words
                break
    known = [one for one in seconds if one is not None]
    if not known:
        widths = [_features(report) for report in reports]
        least = int(np.argmin(widths))
        shortest = f"shortest with {labels[least]} ({widths[least]} values)"
        if len(set(widths)) == 1:
            shortest = f"of {widths[0]} values with each"
        return seconds, (
            "Which is cheaper to compute is not known: not all were timed, or not on one device. "
            f"The codes to take are {shortest}."
        )
    least = int(np.argmin(known))
    others = [f"{_time(s)} with {labels[i]}" for i, s in enumerate(known) if i != least]
    return seconds, (
        f"{labels[least]} is the cheapest to compute: {_time(known[least])} an image on "
        f"{devices.pop()}{what}, in place of {' and '.join(others)}."
    )


def _recommended(report: dict[str, Any]) -> tuple[str, str]:
    """Give the layer and classifier to take; where none is recommended, the chosen one."""
    best = report["best"]
    if best["recommended"] is None:
        return best["layer"], best["classifier"]
    return best["recommended"], best["recommended_classifier"]


def _features(report: dict[str, Any]) -> int:
    rows = {(row["layer"], row["classifier"]): row["n_features"] for row in report["layers"]}
    return int(rows[_recommended(report)])


def _similarities(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Write each similarity, and which have no border where others have one."""
    found = [report.get("similarity") or {"value": None} for report in reports]
    bordered = {bool(one["side"]) for one in found if one["value"] is not None}
    return [
        "–"
        if one["value"] is None
        else f"{one['value']:.2f}" + " (no border)" * (len(bordered) > 1 and not one["side"])
        for one in found
    ]


def _of_network(report: dict[str, Any]) -> float | None:
    """Give the seconds of the network for an image, up to the depth to take."""
    seconds: float | None = report.get("cost", {}).get(_recommended(report)[0])
    return seconds


def _of_extraction(report: dict[str, Any]) -> float | None:
    """Give the seconds that an image took to extract, all layers together."""
    n = report["images_extracted"]
    return report["timing"]["extract"] / n if n else None


def _time(seconds: float) -> str:
    """Write a duration to two digits."""
    unit, value = ("s", seconds) if seconds >= 1 else ("ms", 1000 * seconds)
    return f"{float(f'{value:.2g}'):g} {unit}"
