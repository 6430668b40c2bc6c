"""The answer: what a report says in words, on the page, in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.scorings import SCORINGS


def sentence(report: dict[str, Any]) -> str:
    """Say the answer in two or three sentences.

    Parameters
    ----------
    report : dict

    Returns
    -------
    sentence : str
    """
    best = report["best"]
    rows = [row for row in report["layers"] if row["train_size"] == best["train_size"]]
    named = {(row["layer"], row["classifier"]): _named(report, row) for row in rows}
    chosen = (best["layer"], best["classifier"])
    cheap = (best["recommended"], best["recommended_classifier"])
    tied = [named[tuple(pair)] for pair in best["tied_classifiers"]]
    size = "all training images" if best["train_size"] == "all" else (
        f"{best['train_size']} training images of each class"
    )  # fmt: skip
    own = next(row for row in rows if (row["layer"], row["classifier"]) == chosen)
    first = f"With {size}, take the codes of {named[chosen]} (depth {own['depth']:.2f}): "
    if len(rows) == 1:
        first += "it is the only depth compared."
    elif not tied and not best["better"]:
        first += "every other depth is worse."
    elif not tied:
        first += "it has the best cross-validation score."
    else:
        first = (
            f"With {size}, the codes of {named[chosen]} (depth {own['depth']:.2f}) have the best "
            "cross-validation score, but "
            + ("no other depth can" if len(tied) == len(rows) - 1 else "they cannot")
            + " be told from "
            + ("them" if len(tied) == len(rows) - 1 else _join(tied, "or"))
            + ". "
        )
        if cheap == chosen:
            first += f"Take {named[chosen]}: it is also the cheapest of these to compute."
        else:
            row = next(row for row in rows if (row["layer"], row["classifier"]) == cheap)
            first += (
                f"Take {named[cheap]} (depth {row['depth']:.2f}, its own score "
                f"{row['score']:.3f}): it is the cheapest of these to compute; where that does "
                f"not matter, {named[chosen]} is the better guess."
            )
    title = SCORINGS[report["protocol"]["scoring"]].title
    return (
        f"{first} A depth chosen like {named[chosen]} has {title} {best['score']:.3f} on images "
        f"that had no part in the choice (95 % interval {best['ci_low']:.3f} to "
        f"{best['ci_high']:.3f})."
    )


def cautions(report: dict[str, Any]) -> list[str]:
    """Say what speaks against taking any depth, or this one.

    Parameters
    ----------
    report : dict

    Returns
    -------
    cautions : list of str
    """
    best = report["best"]
    controls = {control["name"]: control for control in report["controls"]}
    said = []
    guess = controls.get("majority")
    if guess is not None and best["ci_low"] <= guess["score"]:
        said.append(
            "Nothing here is shown to be better than guessing: the commonest class alone scores "
            f"{guess['score']:.3f}. Do not rely on any of these depths."
        )
    plain = controls.get("pixels")
    if plain is not None and plain["score"] >= best["score"]:
        said.append(f"Raw pixels score {plain['score']:.3f}, no less than the network's codes do.")
    every = controls.get("concatenated")
    if every is not None and every["score"] > best["ci_high"]:
        said.append(
            f"All depths side by side score {every['score']:.3f}, above the interval of the one."
        )
    if best["better"]:
        rows = {(row["layer"], row["classifier"]): row for row in report["layers"]}
        names = _join([_named(report, rows[tuple(pair)]) for pair in best["better"]], "and")
        said.append(
            f"On the images that test, {names} "
            f"{'is' if len(best['better']) == 1 else 'are'} clearly better than {best['layer']}, "
            "which cross-validation chose: the images that test are unlike those that chose, as "
            "from another scanner, place or time. Find out why before you rely on either."
        )
    return said


def roles(best: dict[str, Any], layer: str, classifier: str) -> list[str]:
    """Say what a candidate is: chosen, tied with the chosen one, recommended, or better.

    Parameters
    ----------
    best : dict
        ``report.json``'s ``best``.
    layer, classifier : str

    Returns
    -------
    roles : list of str
    """
    candidate = (layer, classifier)
    pairs = {key: [tuple(pair) for pair in best[key]] for key in ("tied_classifiers", "better")}
    said = ["chosen"] * (candidate == (best["layer"], best["classifier"]))
    said += ["tied"] * (candidate in pairs["tied_classifiers"])
    said += ["better on the tested images"] * (candidate in pairs["better"])
    if said and pairs["tied_classifiers"]:
        cheapest = (best["recommended"], best["recommended_classifier"])
        said += ["recommended"] * (candidate == cheapest)
    return said


def _named(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Name a candidate, with its classifier where several were compared."""
    several = len(report["protocol"]["classifiers"]) > 1
    return f"{row['layer']} with {row['classifier']}" if several else str(row["layer"])


def size_sentence(report: dict[str, Any]) -> str:
    """Say at which training sizes another depth is best, beyond chance.

    Parameters
    ----------
    report : dict

    Returns
    -------
    sentence : str
    """
    best = report["best"]
    other = [
        f"with {found['train_size']} training images a class {found['layer']} is better"
        for found in report["by_size"]
        if best["layer"] not in (found["layer"], *found["tied"])
    ]
    if len(report["by_size"]) == 1:
        return ""
    if not other:
        return f"At no size is another depth better than {best['layer']}, as far as can be told."
    return f"The best depth changes with the number of images: {_join(other, 'and')}."


def _join(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
