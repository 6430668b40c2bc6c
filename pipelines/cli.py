"""The command line: ``cnn-codes``."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from pipelines.controls import DEFAULT_CONTROLS
from pipelines.draws import Protocol, TrainSize
from pipelines.options import ExtractionOptions
from pipelines.progress import stdout, table, terminal
from pipelines.store_commands import cache

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.experiment import Experiment
    from pipelines.results import Comparison

# Torch takes seconds to import; the commands that need it do so when they run.

app = App(
    name="cnn-codes",
    help="Which depth of a pretrained ConvNet transfers best to your images, and how sure is that?",
    help_epilogue="After a failure, --debug shows where it happened.",
    version=version("cnn-codes"),
    default_parameter=Parameter(negative=()),
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)

app.command(cache)

Options = Annotated[ExtractionOptions, Parameter(name="*")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: what was typed.

    Returns
    -------
    status : int
        0, 1 for a failure, 2 for a wrong command.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    typed = [word for word in typed if word != "--debug"]
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        app(typed, exit_on_error=False, print_error=False, result_action="return_none")
    except CycloptsError as error:
        errors.print(f"cnn-codes: {error} Try `cnn-codes --help`.")
        return 2
    except KeyboardInterrupt:
        errors.print("cnn-codes: interrupted. What was stored stays; run it again to go on.")
        return 1
    except Exception as error:
        if debug:
            raise
        errors.print(f"cnn-codes: {_message(error)}")
        return 1
    return 0


@app.command
def demo(
    *,
    out: Path = Path("cnn-codes-demo"),
    store: str | Path | None = None,
    jobs: int = -1,
) -> None:
    """Compare every depth of the bundled backbone on scikit-learn's digits; needs no network.

    Parameters
    ----------
    out
        Folder of the report.
    store
        Folder of the codes. Default: CNN_CODES_STORE, otherwise the user's cache folder.
    jobs
        Processes that train classifiers; -1 for one on each core.
    """
    options = ExtractionOptions(backbone="bundled", layers="all", store=store)
    protocol = Protocol(cv=3, train_sizes=(5, 10, 20, "all"))
    controls = ("majority", "pixels", "random")  # Those that take no time.
    _compare("sklearn:digits", options, protocol, out, jobs, controls)


@app.command
def layers(
    *,
    backbone: str,
    weights: str | None = None,
    image_size: int | None = None,
    pool: str = "grid",
) -> None:
    """List where the codes of a backbone can be read.

    Parameters
    ----------
    backbone
        A torchvision classifier, "bundled", or package.module:function.
    weights
        As for extract. Layers do not depend on them, so that none are loaded unless asked for.
    image_size
        Side of the network's input, in pixels. Default: its own.
    pool
        "grid" (at most 4096 values a layer), "grid:K", "avg", "max" or "flatten".
    """
    from codes import load_backbone
    from codes.pooling import pooled_width, resolve_pooling

    if weights is None and ":" not in backbone:
        weights = "none"
    network = load_backbone(backbone, weights=weights, image_size=image_size)
    listing = table("layer", "kind", "depth", "shape", "pooling", "n_features", "default")
    for layer in network.layers:
        resolved = resolve_pooling(pool, layer.shape)
        listing.add_row(
            layer.name,
            layer.kind,
            f"{layer.depth:.2f}",
            "×".join(map(str, layer.shape)),
            resolved,
            str(pooled_width(resolved, layer.shape)),
            "yes" if layer.default else "",
        )
    stdout().print(listing)


@app.command
def extract(
    dataset: str, /, options: Options, *, rank: int | None = None, world_size: int | None = None
) -> None:
    """Fill the store with the codes of a dataset; what it holds already is not computed again.

    Parameters
    ----------
    dataset
        A folder of class folders, a folder with train/ and test/ in it, a CSV file with the
        columns path,label (and split,group), or sklearn:digits.
    rank
        Which of several processes that fill one store this is, from 0. Default: torchrun's or
        Slurm's.
    world_size
        How many processes fill the store. Default: torchrun's or Slurm's.
    """
    from codes import load_images
    from pipelines.extraction import extract
    from pipelines.shares import find_share

    share = find_share(rank, world_size)
    done = extract(load_images(dataset), options, share=share, narrator=terminal())
    who = f"Rank {share.rank} of {share.world_size}: " if share.world_size > 1 else ""
    skipped = f", {len(done.skipped)} skipped" if done.skipped else ""
    stdout().print(
        f"{who}{done.n_extracted} images extracted, {done.n_reused} found in {done.store.name}"
        + skipped,
        soft_wrap=True,
    )


@app.command
def compare(
    dataset: str,
    /,
    options: Options,
    *,
    out: Path = Path("cnn-codes-report"),
    classifier: str = "svm",
    Cs: Annotated[str, Parameter(name=["--Cs", "--cs"])] = "1e-6:1e2:9",
    cv: int = 5,
    repeats: int | None = None,
    train_sizes: str = "all",
    scoring: str | None = None,
    group_duplicates: Annotated[bool, Parameter(negative="--no-group-duplicates")] = True,
    controls: str = ",".join(DEFAULT_CONTROLS),
    jobs: int = -1,
) -> None:
    """Compare the depths of a backbone on a dataset, and write a report.

    Parameters
    ----------
    dataset
        A folder of class folders, a folder with train/ and test/ in it, a CSV file with the
        columns path,label (and split,group), or sklearn:digits.
    out
        Folder of the report.
    classifier
        "svm" (LinearSVC), "logistic" or "both".
    Cs
        Values of C to choose from: LOW:HIGH:COUNT, spaced evenly on a log scale, or joined by
        commas.
    cv
        Folds of every cross-validation.
    repeats
        Repeats of the outer cross-validation (default: as many as test some 2,000 images, one to
        five), or, with a test split, draws of each smaller training size (default 5).
    train_sizes
        Training images of each class, joined by commas, such as 5,20,all.
    scoring
        "accuracy", "balanced_accuracy", "f1_macro", "average_precision", or, with classifier
        logistic, "neg_log_loss". Default: accuracy, or balanced accuracy where classes are unequal.
    group_duplicates
        Keep copies of an image, byte by byte, on the same side of every fold.
    controls
        What the chosen depth is compared with, joined by commas: majority, shuffled (labels),
        pixels, random (weights), concatenated (all depths), pre (before the activation); or none.
    jobs
        Processes that train classifiers; -1 for one on each core.
    """
    protocol = Protocol(
        classifiers=("svm", "logistic") if classifier == "both" else (classifier,),
        Cs=_parse_grid(Cs),
        cv=cv,
        repeats=repeats,
        train_sizes=_parse_train_sizes(train_sizes),
        scoring=scoring,
        group_duplicates=group_duplicates,
        random_state=options.random_state,
    )
    _compare(dataset, options, protocol, out, jobs, _parse_controls(controls))


@app.command
def report(*folders: Path, out: Path | None = None) -> None:
    """Render a report's page again from its report.json; of several, one page side by side.

    Parameters
    ----------
    folders
        What `cnn-codes compare --out` wrote.
    out
        The page. Default: report.html in the one folder, or in the current one.
    """
    from pipelines.report import render_again

    if not folders:
        raise ValueError("No folder was given. Give one or more that `compare --out` wrote.")
    stdout().print(str(render_again(folders, out)), soft_wrap=True)


def _compare(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    out: Path,
    jobs: int,
    controls: Sequence[str],
) -> None:
    from pipelines.experiment import compare
    from pipelines.page import leaks_sentence, sentence
    from pipelines.report import make_report, write_report

    _check_folder(out)
    if jobs == 0:
        raise ValueError("--jobs 0: allowed are 1 or more, or -1 for one on each core.")
    done = compare(dataset, options, protocol, controls=controls, n_jobs=jobs, narrator=terminal())
    extraction, comparison = done.extraction, done.comparison
    command = ["cnn-codes", *sys.argv[1:]]
    found = make_report(done, options, protocol, command=[shlex.quote(word) for word in command])
    write_report(out, found, comparison)
    console = stdout()
    console.print(_scores_table(done))
    for note in comparison.notes:
        console.print(f"Note: {note}.", soft_wrap=True)
    if found["leaks"]:
        terminal().say(
            f"Warning: {leaks_sentence(found['leaks'])} (copies, byte by byte). Scores may be too "
            f"good; {out / 'report.html'} lists them."
        )
    if any(control.alarm for control in done.controls):
        terminal().say(
            "Warning: shuffled labels are predicted far better than by chance. Something leaks: do "
            "not trust these scores."
        )
    _warn_of_edges(comparison)
    console.print(
        f"{extraction.n_extracted} images extracted, {extraction.n_reused} found in the store"
        + (f", {len(extraction.skipped)} skipped" if extraction.skipped else ""),
        soft_wrap=True,
    )
    console.print(sentence(found), soft_wrap=True)
    console.print(done.advice.text, soft_wrap=True)
    console.print(f"{out / 'report.html'}, report.md, report.json, scores.csv", soft_wrap=True)


def _check_folder(out: Path) -> None:
    """Refuse now what could not be written when all is computed."""
    there = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(
            f"--out {str(out)!r}: {str(there)!r} is not a folder that can be written to. Choose "
            "another."
        )


def _scores_table(done: Experiment) -> Table:
    extraction, comparison = done.extraction, done.comparison
    sizes = list(dict.fromkeys(row.train_size for row in comparison.layers))
    heads = [f"{size} a class" if size != "all" else "all" for size in sizes]
    scored = table("layer", "depth", "classifier", *heads, "95 % interval", "")
    scores = {(r.layer, r.classifier, r.train_size): r for r in comparison.layers}
    best = comparison.best
    for tap in extraction.taps:
        for classifier in dict.fromkeys(row.classifier for row in comparison.layers):
            rows = [scores[tap.layer.name, classifier, size] for size in sizes]
            last = scores[tap.layer.name, classifier, best.train_size]
            is_best = (tap.layer.name, classifier) == (best.layer, best.classifier)
            words = ["chosen"] * is_best + ["tied"] * (tap.layer.name in best.tied)
            if best.tied and tap.layer.name == best.recommended and words:
                words.append("recommended")
            scored.add_row(
                tap.layer.name,
                f"{tap.layer.depth:.2f}",
                classifier,
                *(f"{row.score:.3f}" for row in rows),
                f"{last.ci_low:.3f} – {last.ci_high:.3f}",
                ", ".join(words),
                style="bold" if is_best else "",
            )
    for control in done.controls:
        scored.add_row(
            control.name,
            "",
            "" if control.name == "majority" else best.classifier,
            *[""] * (len(sizes) - 1),
            f"{control.score:.3f}",
            f"{control.ci_low:.3f} – {control.ci_high:.3f}",
            "control",
            style="dim",
        )
    return scored


def _warn_of_edges(comparison: Comparison) -> None:
    edges = [
        f"{row.layer} ({row.classifier}, {row.train_size}, {row.C_at_edge})"
        for row in comparison.layers
        if row.C_at_edge
    ]
    if edges:
        terminal().say(
            f"Warning: the best C is at the edge of the grid for {', '.join(edges)}. A wider --Cs "
            "may raise these scores."
        )


def _parse_grid(text: str) -> tuple[float, ...]:
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        low, high, count = text.split(":")
        start, stop, n = float(low), float(high), int(count)
        if not (0 < start < stop and n >= 2):
            raise ValueError
        return tuple(start * (stop / start) ** (i / (n - 1)) for i in range(n))
    except ValueError:
        raise ValueError(
            f"--Cs {text!r} is no grid. Allowed: LOW:HIGH:COUNT, such as 1e-6:1e2:9, or values "
            "joined by commas, each positive and larger than the last."
        ) from None


def _parse_train_sizes(text: str) -> tuple[TrainSize, ...]:
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = sorted({int(part) for part in parts if part != "all"})
        return (*numbers, "all") if "all" in parts else tuple(numbers)
    except ValueError:
        raise ValueError(
            f"--train-sizes {text!r} is no list. Allowed: numbers of images of each class and "
            "all, joined by commas, such as 5,20,all."
        ) from None


def _parse_controls(text: str) -> list[str]:
    return [] if text == "none" else [part.strip() for part in text.split(",")]


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = error.strerror == os.strerror(errno.ENOSPC)
        why = "The disk is full." if full else error.strerror
        return f"{why} What was stored stays; run it again to go on."
    known = isinstance(error, (ValueError, OSError, OverflowError)) or type(error).__module__ in (
        "cache.errors",
        "pipelines.extraction",
    )
    return str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
