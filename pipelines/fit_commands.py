"""The commands ``cnn-codes fit`` and ``predict``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipelines.arguments import check_file, parse_classifiers, parse_grid
from pipelines.draws import Protocol
from pipelines.options import Options
from pipelines.output import results
from pipelines.progress import stdout, terminal
from pipelines.scorings import SCORINGS


def fit(
    dataset: str,
    /,
    options: Options,
    *,
    out: Path,
    classifier: str = "logistic",
    Cs: Annotated[str, Parameter(name=["--Cs", "--cs"])] = "1e-6:1e2:9",
    cv: int = 5,
    repeats: int | None = None,
    scoring: str | None = None,
    group_duplicates: Annotated[bool, Parameter(negative="--no-group-duplicates")] = True,
    jobs: int = -1,
) -> None:
    """Choose a depth as compare does, fit it on all images, and save it for predict.

    Parameters
    ----------
    dataset
        As for compare. A test split measures what can be expected; then it trains too.
    out
        The file, such as cells.skops.
    classifier
        "logistic" (gives probabilities), "svm" or "both".
    Cs, cv, repeats, scoring, group_duplicates, jobs
        As for compare.
    """
    from pipelines.fitted import fit, save

    check_file(out)
    protocol = Protocol(
        classifiers=parse_classifiers(classifier),
        Cs=parse_grid(Cs),
        cv=cv,
        repeats=repeats,
        scoring=scoring,
        group_duplicates=group_duplicates,
        random_state=options.random_state,
    )
    fitted = fit(dataset, options, protocol, n_jobs=jobs, narrator=terminal())
    save(fitted, out)
    card = fitted.card
    score, low, high = card["expected"]
    stdout().print(
        f"{card['layer']}, {card['classifier']}, C={card['C']:.2g}, fitted on {card['n_images']} "
        f"images of {len(card['classes'])} classes. Expect {SCORINGS[card['scoring']].title} "
        f"{score:.3f} (95 % interval {low:.3f} to {high:.3f}).",
        soft_wrap=True,
    )
    if card["cheapest"] != card["layer"]:
        stdout().print(
            f"{card['cheapest']} cannot be told from it and is cheaper to compute; to fit that, "
            f"add --layers {card['cheapest']}.",
            soft_wrap=True,
        )
    for note in card["notes"]:
        terminal().say(f"Warning: {note}")
    stdout().print(str(out), soft_wrap=True)


def predict(
    file: Path,
    /,
    *images: Path,
    weights: str | None = None,
    out: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    store: str | Path | None = None,
    skip_unreadable: bool = False,
) -> None:
    """Predict the classes of images with what fit saved: a CSV of path, label, score.

    The score is the label's probability (logistic) or decision value (svm); a column for each
    class follows.

    Parameters
    ----------
    file
        What `cnn-codes fit --out` wrote.
    images
        Image files, or folders of them.
    weights
        Where the backbone's weights are now. Default: where they were. Others are refused.
    out
        The CSV file. Default: the standard output.
    device, batch_size, workers, store, skip_unreadable
        As for extract.
    """
    from codes.datasets import list_images
    from pipelines.fitted import load, write_predictions

    if not images:
        raise ValueError("No images were given. Name image files, or folders or archives of them.")
    if out is not None:
        check_file(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    fitted = load(file)
    options = replace(
        fitted.options,
        weights=fitted.options.weights if weights is None else weights,
        device=device,
        batch_size=batch_size,
        workers=workers,
        store=store,
        skip_unreadable=skip_unreadable,
    )
    found = list_images(images, page=options.page)
    extraction, labels, scores = fitted.predict(found, options, narrator=terminal())
    for name, why in extraction.skipped.items():
        terminal().say(f"Skipped {name}: {why}")
    with (
        nullcontext(results())
        if out is None
        else out.open("w", newline="", encoding="utf-8") as target
    ):
        write_predictions(target, extraction, labels, scores, fitted.card["classes"])
