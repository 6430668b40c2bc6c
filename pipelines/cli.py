"""The command line: ``cnn-codes``."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from pipelines.arguments import (
    check_folder,
    convert,
    count,
    each_backbone,
    parse_classifiers,
    parse_controls,
    parse_grid,
    parse_train_sizes,
)
from pipelines.controls import DEFAULT_CONTROLS
from pipelines.draws import Protocol
from pipelines.fit_commands import fit, predict
from pipelines.options import ExtractionOptions, Options
from pipelines.progress import stdout, table, terminal
from pipelines.similarity_command import similarity
from pipelines.store_commands import cache

# Torch takes seconds to import; the commands that need it do so when they run.

app = App(
    name="cnn-codes",
    help="Which depth of a pretrained ConvNet transfers best to your images, and how sure is that?",
    help_epilogue="After a failure, --debug shows where it happened.",
    version=version("cnn-codes"),
    default_parameter=Parameter(negative=(), converter=convert),
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)

for command in (cache, fit, predict, similarity):
    app.command(command)


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
        with _ended_as_interrupted():
            _run(typed)
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


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Let what ends a job in a queue, SIGTERM, do as Ctrl-C does: codes that are there are kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(words: list[str]) -> None:
    alone = count(words, "--backbone") < 2 or {"--help", "-h"} & set(words)
    if words[:1] != ["compare"] or alone:
        app(words, exit_on_error=False, print_error=False, result_action="return_none")
        return
    from pipelines.report import render_again

    folders = []
    for own, folder in each_backbone(words):
        stdout().print(f"== {folder.name} ==", soft_wrap=True)
        _run(own)
        folders.append(folder)
    page = render_again(folders, folders[0].parent / "report.html")
    stdout().print(f"Side by side: {page}", soft_wrap=True)


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
    dense: bool = False,
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
    dense
        Run the fully-connected layers of AlexNet and VGG as convolutions.
    pool
        "grid" (at most 4096 values a layer), "grid:K", "avg", "max" or "flatten"; several, joined
        by commas.
    """
    from codes import load_backbone
    from codes.pooling import pooled_width, resolve_poolings

    if weights is None and ":" not in backbone:
        weights = "none"
    network = load_backbone(backbone, weights=weights, image_size=image_size, dense=dense)
    listing = table("layer", "kind", "depth", "shape", "pooling", "n_features", "default")
    for layer in network.layers:
        for resolved in resolve_poolings(pool, layer.shape):
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
        A folder of class folders, a folder with train/ and test/ in it, a .zip or .tar of either,
        a CSV file with the columns path,label (and split,group), torchvision:NAME,
        hf:NAME, wds:PATTERN (WebDataset shards), or sklearn:digits.
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
    done = extract(
        load_images(dataset, page=options.page), options, share=share, narrator=terminal()
    )
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
    drop_leaks: bool = False,
    max_loss: float = 0.02,
    controls: str = ",".join(DEFAULT_CONTROLS),
    jobs: int = -1,
) -> None:
    """Compare the depths of a backbone on a dataset, and write a report.

    Parameters
    ----------
    dataset
        A folder of class folders, a folder with train/ and test/ in it, a .zip or .tar of either,
        a CSV file with the columns path,label (and split,group), torchvision:NAME,
        hf:NAME, wds:PATTERN (WebDataset shards), or sklearn:digits.
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
    drop_leaks
        Leave out test images that are copies of training images, and images with two labels.
    max_loss
        Most that the recommended depth may score below the chosen one, of whose score it is also
        within one standard error of the difference. With 0, no score is given up.
    controls
        What the chosen depth is compared with, joined by commas: majority, shuffled (labels),
        pixels, random (weights), concatenated (all depths), pre (before the activation); or none.
    jobs
        Processes that train classifiers; -1 for one on each core.
    """
    protocol = Protocol(
        classifiers=parse_classifiers(classifier),
        Cs=parse_grid(Cs),
        cv=cv,
        repeats=repeats,
        train_sizes=parse_train_sizes(train_sizes),
        scoring=scoring,
        max_loss=max_loss,
        group_duplicates=group_duplicates,
        random_state=options.random_state,
    )
    _compare(dataset, options, protocol, out, jobs, parse_controls(controls), drop_leaks)


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
    if out is not None:
        check_folder(out.parent)
        if out.suffix != ".html":
            raise ValueError(f"--out {str(out)!r}: the page is HTML; name it with .html.")
    stdout().print(str(render_again(folders, out)), soft_wrap=True)


def _compare(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    out: Path,
    jobs: int,
    controls: Sequence[str],
    drop_leaks: bool = False,
) -> None:
    from pipelines.experiment import compare
    from pipelines.report import make_report, write_report
    from pipelines.summary import print_summary

    check_folder(out)
    if jobs == 0:
        raise ValueError("--jobs 0: allowed are 1 or more, or -1 for one on each core.")
    done = compare(
        dataset,
        options,
        protocol,
        controls=controls,
        drop_leaks=drop_leaks,
        n_jobs=jobs,
        narrator=terminal(),
    )
    command = ["cnn-codes", *sys.argv[1:]]
    found = make_report(done, options, protocol, command=[shlex.quote(word) for word in command])
    write_report(out, found, done.comparison)
    print_summary(done, found, out)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = error.strerror == os.strerror(errno.ENOSPC)
        why = "The disk is full." if full else error.strerror
        return f"{why} What was stored stays; run it again to go on."
    own = type(error).__module__.startswith(("codes.", "cache.", "pipelines."))
    known = own or isinstance(error, (ValueError, OSError, OverflowError))
    return str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"


if __name__ == "__main__":
    sys.exit(main())
