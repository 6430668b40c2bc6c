"""Stability in words: which source of chance a score owes most of its error to, and what helps.

``report`` is what ``report.json`` holds, and ``row`` one of its ``layers``.
"""

from __future__ import annotations

from typing import Any

from codes.wording import counted

SOURCES = {
    "draw": "which training images are drawn",
    "folds": "how the folds that choose C are cut",
    "splits": "how the folds are cut, outer and inner",
    "test": "which test images there are",
    "draw x test": "how each draw happens to do on these test images",
    "folds x test": "how each cut of the folds happens to do on these test images",
    "splits x test": "how each repeat happens to do on these images",
}
MORE = {
    "draw": "as many draws of training images",
    "folds": "as many cuts of the folds",
    "splits": "as many repeats",
    "test": "as many test images",
}
FINE = 0.005
"""Standard errors below that are written with a digit more."""


def stability_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """Gather what the page shows of how stable the chosen depth's score is; None where not asked.

    Of linear classifiers: where fine-tuning is chosen, the best one of these.
    """
    rows = [row for row in report["layers"] if row.get("stability") is not None]
    best = report["best"]
    of_best = [row for row in rows if row["train_size"] == best["train_size"]]
    if not of_best:
        return None
    chosen = (best["layer"], best["classifier"])
    row = max(of_best, key=lambda r: ((r["layer"], r["classifier"]) == chosen, r["cv_score"]))
    shown = [r for r in rows if (r["layer"], r["classifier"]) == (row["layer"], row["classifier"])]
    parts = [_parts(one) for one in shown]
    stable = [one["stability"] for one in shown]
    digits = max(_digits(one["standard_error"]) for one in stable)
    errors = {"Standard error of the score": [one["standard_error"] for one in stable]} | {
        f"With twice {_more(report, name)}": [one["with_twice"].get(name) for one in stable]
        for name in MORE
        if any(name in one["with_twice"] for one in stable)
    }
    return {
        "layer": row["layer"],
        "sentence": stability_sentence(report, row),
        "line": stability_line(report, row),
        "sizes": [_short_size(one) for one in shown],
        "sources": [
            (_capital(_source(report, name)), [_deviation(of.get(name), digits) for of in parts])
            for name in SOURCES
            if any(name in of for of in parts)
        ],
        "errors": [
            (title, ["–" if value is None else f"{value:.{digits}f}" for value in values])
            for title, values in errors.items()
        ],
        "below_zero": any(part["variance"] < 0 for of in parts for part in of.values()),
        "notes": _notes(report, shown),
    }


def stability_sentence(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Say how sure a score is, what that is owed to most, and what more of each would bring."""
    stability = row["stability"]
    error = stability["standard_error"]
    what = f"The score of {row['layer']} with {_size(row)}, {_value(row):.3f},"
    if stability["largest"] is None:
        return f"{what} is the same in every draw, and every image is answered alike."
    given = ", these training images given" * (
        stability["n_draws"] == 1 and _is_tested_apart(report)
    )
    first = f"{what} has a standard error of {error:.{_digits(error)}f}{given}"
    if len(stability["components"]) == 1:
        only = _source(report, stability["largest"])
        return f"{first}, due to {only}: nothing else was repeated. {_remedies(report, stability)}"
    chance = "" if stability["certain"] else ", which from so few draws is not certain"
    return (
        f"{first}. The largest part of "
        f"its variance, {_share(stability):.0f} %, is due to "
        f"{_source(report, stability['largest'])}{chance}. {_remedies(report, stability)}"
    )


def stability_line(report: dict[str, Any], row: dict[str, Any]) -> str:
    """Say the same in a line, for the terminal."""
    stability = row["stability"]
    error, digits = stability["standard_error"], _digits(stability["standard_error"])
    if stability["largest"] is None:
        return stability_sentence(report, row)
    best = min(stability["with_twice"], key=stability["with_twice"].__getitem__)
    source = _source(report, stability["largest"])
    due = f"{_share(stability):.0f} % of its variance due to {source}"
    if len(stability["components"]) == 1:
        due = f"due to {source}; nothing else was repeated"
    elif not stability["certain"]:
        due += " (from so few draws this is not certain)"
    return (
        f"Standard error of {row['layer']}: {error:.{digits}f}, {due}; most is gained by twice "
        f"{_more(report, best)}: {stability['with_twice'][best]:.{digits}f}."
    )


def _remedies(report: dict[str, Any], stability: dict[str, Any]) -> str:
    """Say what the standard error would be with twice as much of what causes it."""
    error, digits = stability["standard_error"], _digits(stability["standard_error"])
    least = 0.5 * 10**-digits
    after = sorted(stability["with_twice"].items(), key=lambda pair: pair[1])
    helps = [(_more(report, name), value) for name, value in after if error - value >= least]
    rest = [f"twice {_more(report, name)}" for name, value in after if error - value < least]
    words = [
        f"with twice {more} it would {'fall to' if i == 0 else 'be'} {value:.{digits}f}"
        for i, (more, value) in enumerate(helps)
    ]
    if rest:
        words.append(f"{' or '.join(rest)} would change it by less than {10**-digits:.{digits}f}")
    return f"{_capital('; '.join(words))}."


def _notes(report: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Say what is measured, from how much, and what is not."""
    parts = {name: part for row in rows for name, part in _parts(row).items()}
    least = min((part["freedom"] for name, part in parts.items() if name != "test"), default=0)
    rough = f" ({least:.0f} degrees of freedom or more: these are rough)" if least else ""
    notes = []
    if "draw" in parts:
        notes.append(
            f"From {counted(parts['draw']['n'], 'draw')} of training images{rough}. More draws "
            "make the mean over draws surer; more training images change the score itself. Draws "
            "are from the training images at hand: where they take a large share of these, they "
            "are more alike than new images."
        )
    elif "splits" in parts:
        notes.append(
            f"From {counted(parts['splits']['n'], 'repeat')} of the cross-validation{rough}, which "
            "change training images and the folds that choose C together: their shares cannot be "
            "separated. How much another dataset would change the score is not in it; more images "
            "would train, too, and change the score itself."
        )
    elif "folds" in parts:
        notes.append(f"From {counted(parts['folds']['n'], 'cut')} of the folds{rough}.")
    else:
        notes.append("One cross-validation: how much another would change the score is not known.")
    if _is_tested_apart(report) and any(row["train_size"] == "all" for row in rows):
        notes.append(
            "There is one set of all training images: how much another would change the score can "
            "be measured at smaller sizes only."
        )
    notes.append(_intervals_note(report, rows))
    return notes


def _intervals_note(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Say what of this the intervals of the page contain."""
    draws = "draws" if _is_tested_apart(report) else "repeats"
    numbers = [row["stability"]["n_draws"] for row in rows]
    words = "The 95 % intervals of this page rest on the variance over images of a single fit"
    if max(numbers) > 1:
        words += (
            f" and, where there are {draws}, on that of the mean over {draws}, folds included: "
            f"they count what {draws} do on these images in full, and are wider than 1.96 of "
            "these standard errors"
        )
    if min(numbers) == 1:
        words += "; of a single fit they do not hold how its folds are cut"
    return f"{words}."


def _parts(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["source"]: part for part in row["stability"]["components"]}


def _share(stability: dict[str, Any]) -> float:
    """Give the largest source's share of the squared standard error, in percent."""
    of_error = {part["source"]: part["of_error"] for part in stability["components"]}
    return float(100 * of_error[stability["largest"]] / sum(of_error.values()))


def _deviation(part: dict[str, Any] | None, digits: int) -> str:
    """Write a standard deviation, with a mark where its square was estimated below 0."""
    return "–" if part is None else f"{part['sd']:.{digits}f}{'*' * (part['variance'] < 0)}"


def _digits(error: float) -> int:
    return 3 if error >= FINE else 4


def _capital(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}"


def _value(row: dict[str, Any]) -> float:
    clean = row["score_without_leaks"]
    return float(row["score"] if clean is None else clean)


def _size(row: dict[str, Any]) -> str:
    if row["train_size"] == "all":
        return "all training images"
    return f"{row['train_size']} training images of each class"


def _short_size(row: dict[str, Any]) -> str:
    return "all" if row["train_size"] == "all" else f"{row['train_size']} a class"


def _is_tested_apart(report: dict[str, Any]) -> bool:
    return bool(report["protocol"]["evaluation"] == "test split")


def _source(report: dict[str, Any], name: str) -> str:
    if name == "test" and not _is_tested_apart(report):
        return "which images there are"
    return SOURCES[name]


def _more(report: dict[str, Any], name: str) -> str:
    if name == "test" and not _is_tested_apart(report):
        return "as many images"
    return MORE[name]
