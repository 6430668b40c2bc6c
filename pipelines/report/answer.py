"""The answer: what a report says in words, on the page, in Markdown and in the terminal.

``report`` is what ``report.json`` holds, and ``best`` its entry of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codes.wording import counted
from pipelines.comparison.decision import SAVES, saves
from pipelines.comparison.duplicates import leaks_sentence
from pipelines.comparison.protocol import FINETUNE, finetuned_name
from pipelines.report.subject import depth_words, given_of, layer_noun
from pipelines.statistics.scoring import SCORINGS

WORTH = 0.95
"""Share of the time below which a depth saves some."""
MOST_NAMED = 3
"""Most depths that are cheaper and are named."""


def sentence(report: dict[str, Any]) -> str:
    """Say the answer: which depth to take and why, and what score to expect."""
    best, noun = report["best"], layer_noun(report)
    size = "all training images" if best["train_size"] == "all" else (
        f"{best['train_size']} training images of each class"
    )  # fmt: skip
    against = [control["finding"] for control in report["controls"] if control["finding"]]
    if best["recommended"] is not None:
        found = _recommendation(report)
        of_all = f"{'; '.join(against)}. Of the {noun}s compared, {found}"
        found = of_all if against else found
    else:
        found = (
            f"{'; '.join([*against, f'no {noun} is shown to be better than guessing'])}: none is "
            f"recommended. Always predicting the commonest class scores {best['guess']:.3f}."
        )
    first = f"With {size}, {found}"
    return f"{first} {_expectation(report)}"


def _recommendation(report: dict[str, Any]) -> str:
    """Name the depth to take, and say why it and no other."""
    best = report["best"]
    rows = _rows(report)
    chosen, cheap = _chosen(best), (best["recommended"], best["recommended_classifier"])
    tied = [_named(report, rows[tuple(pair)]) for pair in best["tied_classifiers"]]
    noun, depth = layer_noun(report), depth_words(report, rows[cheap])
    take = f"take the codes of {_named(report, rows[cheap])}{depth}"
    if rows[cheap]["classifier"] == FINETUNE:
        take = f"take {_named(report, rows[cheap])}"
    if len(rows) == 1:
        return f"{take}, the only {noun} compared."
    if not tied:
        why = "it has" if best["better"] else f"every other {noun} is worse, and it has"
        return f"{take}: {why} the best cross-validation score."
    everything = len(tied) == len(rows) - 1
    alike = f"No other {noun} can" if everything else f"It and {_join(tied)} cannot"
    if cheap == chosen:
        pairs = map(tuple, best["tied_classifiers"])
        costs = [rows[pair]["multiply_adds"] for pair in pairs]
        cheaper = [
            name
            for name, cost in zip(tied, costs, strict=True)
            if saves(cost, rows[chosen]["multiply_adds"])
        ]
        end = f"and none of these saves {100 * SAVES:.0f} % of its computation."
        if cheaper:
            which, several = "the cheaper ones", len(cheaper) > 1
            if len(cheaper) <= MOST_NAMED:
                which = f"{_join(cheaper)}, which {'are' if several else 'is'} cheaper,"
            verb = "are not taken: they score" if several else "is not taken: it scores"
            end = (
                f"but {which} {verb} lower by more than one standard error of the difference, or "
                f"by more than {report['protocol']['max_loss']:.3g}."
            )
        found = f"{take}: it has the best cross-validation score. {alike} be distinguished"
        found += " from it" if everything else ""
        return f"{found}." if given_of(report) else f"{found}, {end}"
    first = rows[chosen]
    if first["classifier"] == FINETUNE:
        less = "less" if rows[cheap]["classifier"] == FINETUNE else "nothing"
        than = "than" if less == "less" else "unlike"
        return (
            f"{take}: it scores {expected(rows[cheap])[0]:.3f}, and trains {less} of the network"
            f"{'' if less == 'less' else ','} {than} {_named(report, first)}, which has the best "
            f"validation score and scores {expected(first)[0]:.3f}; they cannot be distinguished."
        )
    return (
        f"{take}: it scores {expected(rows[cheap])[0]:.3f}, and is cheaper to compute than "
        f"{_named(report, first)}{depth_words(report, first)}, which has the best "
        f"cross-validation score and scores {expected(first)[0]:.3f}; they cannot be distinguished."
        f"{_saving(report)}"
    )


def _saving(report: dict[str, Any]) -> str:
    """Say what time the recommended depth saves."""
    cost, best = report["cost"], report["best"]
    if best["layer"] not in cost or best["recommended"] not in cost:
        return ""
    less, more = cost[best["recommended"]], cost[best["layer"]]
    return (
        f" It takes {_seconds(less)} an image in place of {_seconds(more)} "
        f"({100 * (1 - less / more):.0f} % less, without reading the image)."
        if less < WORTH * more
        else " On this machine that saves no time."
    )


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _expectation(report: dict[str, Any]) -> str:
    """Say what score to expect, and why it can differ from the one in the table."""
    best = report["best"]
    own = _rows(report)[_chosen(best)]
    title = SCORINGS[report["protocol"]["scoring"]].title
    value, low, high = expected(best)
    score, images = f"{value:.3f}", "images that had no part in the choice"
    if best["n_without_leaks"] is not None:
        n = best["n_without_leaks"]
        verb = "is not a copy" if n == 1 else "are not copies"
        images = f"the {counted(n, 'test image')} that {verb} of training images"
    own_score = f"{expected(own)[0]:.3f}"
    which = f"The {layer_noun(report)} with the best cross-validation score"
    if any(row["classifier"] == FINETUNE for row in report["layers"]):
        which = f"The {layer_noun(report)}, or start of fine-tuning, with the best validation score"
        if own_score == score:
            named = _named(report, own)
            which = f"{named[0].upper()}{named[1:]}" if own["classifier"] == FINETUNE else named
    text = f"{which} has {title} {score} on {images} (95 % interval {low:.3f} to {high:.3f})"
    if best["n_without_leaks"] is not None:
        n_test = report["dataset"]["splits"]["test"]
        text += f", and {best['score']:.3f} on all {n_test}, copies included"
    if own_score != score:
        each = "draw" if report["protocol"]["evaluation"] == "test split" else "fold"
        text += (
            f"; each {each} makes its own choice, so that this differs from the {own_score} of "
            f"{_named(report, own)} in all {each}s"
        )
    return f"{text}."


def expected(found: dict[str, Any]) -> tuple[float, float, float]:
    """Give the score to expect of new images, and its interval: without copies of training images.

    ``found`` is ``report.json``'s ``best``, or one of its ``layers``.
    """
    suffix = "" if found["score_without_leaks"] is None else "_without_leaks"
    score, low, high = (found[f"{name}{suffix}"] for name in ("score", "ci_low", "ci_high"))
    return score, low, high


def cautions(report: dict[str, Any]) -> list[str]:
    """Say what speaks against relying on the answer."""
    best = report["best"]
    controls = {control["name"]: control for control in report["controls"]}
    sentences = []
    seen = (report["backbone"] or {}).get("n_trained_on", 0)
    if seen:
        sentences.append(
            f"These weights were fine-tuned on {counted(seen, 'image')} of those that are tested "
            "here: their scores say nothing about new images. Test on images that had no part in "
            "fine-tuning."
        )
    if best["unexplained"]:
        sentences.append(_unexplained(best))
    every = controls.get("concatenated")
    if every is not None:
        clean = every["score_without_leaks"]
        score = every["score"] if clean is None else clean
        if score > expected(best)[2]:
            sentences.append(
                f"All {layer_noun(report)}s side by side score {score:.3f}, above the interval of "
                "the one."
            )
    if best["better"]:
        rows = _rows(report)
        names = _join([_named(report, rows[tuple(pair)]) for pair in best["better"]])
        sentences.append(
            f"On the tested images, {names} "
            f"{'is' if len(best['better']) == 1 else 'are'} clearly better than {best['layer']}, "
            "which cross-validation chose: the tested images are unlike the training images, as "
            "from another scanner, place or time. Find out why before you rely on either."
        )
    return sentences


def _unexplained(best: dict[str, Any]) -> str:
    """Say that training and test images differ, and what that may mean."""
    less = best["unexplained"] == "lower"
    why = (
        "They may come from another scanner, site or time, or show another mix of patients; or the "
        "training images hold near copies of each other (of one patient, say) that no group keeps "
        "together."
        if less
        else "They may be easier, or have relatives among the training images (the same patients, "
        "frames of the same film)."
    )
    return (
        f"Training and test images differ: {best['layer']} scores {best['cv_score']:.3f} in "
        f"cross-validation on the training images, which explains test scores from "
        f"{best['explained_low']:.3f} to {best['explained_high']:.3f}, and the test images score "
        f"{'less' if less else 'more'}, {expected(best)[0]:.3f}. {why} Find out why before you "
        "rely on either score."
    )


def roles(best: dict[str, Any], layer: str, classifier: str) -> list[str]:
    """Say what a candidate is: chosen, tied with the chosen one, recommended, or better."""
    candidate = (layer, classifier)
    pairs = {key: [tuple(pair) for pair in best[key]] for key in ("tied_classifiers", "better")}
    words = ["chosen"] * (candidate == _chosen(best))
    words += ["tied"] * (candidate in pairs["tied_classifiers"])
    words += ["better on the tested images"] * (candidate in pairs["better"])
    cheapest = (best["recommended"], best["recommended_classifier"])
    words += ["recommended"] * (candidate == cheapest)
    return words


def _chosen(best: dict[str, Any]) -> tuple[str, str]:
    return best["layer"], best["classifier"]


def _rows(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Find the rows of the largest training size by layer and classifier."""
    size = report["best"]["train_size"]
    return {
        (row["layer"], row["classifier"]): row
        for row in report["layers"]
        if row["train_size"] == size
    }


def _named(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Name a candidate, with its classifier where several were compared."""
    if row["classifier"] == FINETUNE:
        return finetuned_name(row["layer"])
    several = len(report["protocol"]["classifiers"]) > 1
    return f"{row['layer']} with {row['classifier']}" if several else str(row["layer"])


def size_sentence(report: dict[str, Any]) -> str:
    """Say at which training sizes another depth is best, beyond chance."""
    best = report["best"]
    other = [
        f"with {found['train_size']} training images a class {found['layer']} is better"
        for found in report["by_size"]
        if best["layer"] not in (found["layer"], *found["tied"])
    ]
    if len(report["by_size"]) == 1:
        return ""
    if not other:
        noun = layer_noun(report)
        return f"At no size can another {noun} be shown to be better than {best['layer']}."
    return f"The best {layer_noun(report)} changes with the number of images: {_join(other)}."


def leaks_warning(report: dict[str, Any]) -> str:
    """Say how many images have copies where these make scores too good, and which scores.

    Empty where there are none.
    """
    best = report["best"]
    text = leaks_sentence(report["leaks"], (report["dataset"]["splits"] or {}).get("test", 0))
    if not text:
        return ""
    text += " (byte by byte)."
    if best["score_without_leaks"] is not None:
        text += (
            " What is decided and expected rests on the other test images; figures, and scores "
            "that do not say otherwise, are of all."
        )
    return f"{text} --drop-leaks leaves them out."


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
