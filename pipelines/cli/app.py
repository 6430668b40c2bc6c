"""The command line: ``cnn-codes``."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from pipelines.cli.checks import (
    check_folder,
    check_jobs,
    convert,
    of_each_backbone,
)
from pipelines.cli.fit import fit, predict
from pipelines.cli.output import ClosedOutputError, results, results_only
from pipelines.cli.parameters import (
    COMPARED_BY,
    OF_EACH,
    TRAINED_BY,
    ComparedBy,
    Dataset,
    DropLeaks,
    Jobs,
    OfEach,
    Options,
    TrainedBy,
    like_field,
)
from pipelines.cli.similarity import similarity
from pipelines.cli.store import cache
from pipelines.cli.terminal import stdout, table, terminal
from pipelines.cli.wrong_commands import explain
from pipelines.comparison.protocol import Protocol
from pipelines.controls.kinds import DEFAULT_CONTROLS
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.options import FinetuneOptions

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
        0, 1 for a failure, 2 for a wrong command; as shells have it, 141 where standard output was
        closed by the program that reads it.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed
    typed = [word for word in typed if word != "--debug"]
    errors = Console(emoji=False, stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        with results_only(), _ended_as_interrupted():
            app(
                typed,
                console=Console(emoji=False, file=results()),  # Of --help and --version.
                exit_on_error=False,
                print_error=False,
                result_action="return_none",
            )
    except ClosedOutputError:
        return 128 + 13  # SIGPIPE, which ends other programs then.
    except CycloptsError as error:
        errors.print(f"cnn-codes: {explain(error, app)}")
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
    """Treat SIGTERM, which ends a job in a queue, like Ctrl-C: codes that are there are kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command
def demo(
    *,
    out: Path = Path("cnn-codes-demo"),
    store: Annotated[str | Path | None, like_field("store")] = None,
    jobs: Jobs = -1,
) -> None:
    """Compare every depth of the bundled backbone on scikit-learn's digits; needs no network.

    Parameters
    ----------
    out
        Folder of the report.
    """
    options = ExtractionOptions(backbone="bundled", layers="all", store=store)
    protocol = Protocol(cv=3, train_sizes=(5, 10, 20, "all"))
    controls = ("majority", "pixels", "random")  # Those that take no time.
    _report("sklearn:digits", options, protocol, out, jobs, controls)


@app.command
def layers(
    *,
    backbone: Annotated[str, like_field("backbone")],
    weights: str | None = None,
    image_size: Annotated[int | None, like_field("image_size")] = None,
    dense: Annotated[bool, like_field("dense")] = False,
    pool: Annotated[str, like_field("pool")] = "grid",
) -> None:
    """List where the codes of a backbone can be read, and what --layers default takes, and why.

    Why: "stage end", the last activation of a resolution; "between", as its neighbours are more
    than 0.15 apart in depth; "pooled", the network's own pooled features or what its head reads;
    "head", an activation after the last convolution; "last map", its average beside its grid.

    Parameters
    ----------
    weights
        A torchvision weights name, a .pth or .safetensors state dict or checkpoint (FILE::PLACE
        where it holds several networks), or "none". Layers do not depend on them, so that none are
        loaded unless asked for.
    """
    from codes import load_backbone
    from codes.graph.taps import choose_taps, taps_of
    from pipelines.extraction.extract import say_weights

    if weights is None and ":" not in backbone:
        weights = "none"
    network = load_backbone(backbone, weights=weights, image_size=image_size, dense=dense)
    say_weights(network, weights, terminal())
    listing = table("layer", "kind", "depth", "shape", "pooling", "n_features", "default", "why")
    default = {tap.name: tap for tap in choose_taps(network.graph, network.layers, pool=pool)}
    for layer in network.layers:
        own = {tap.name: tap for tap in taps_of(layer, pool)}
        own |= {name: tap for name, tap in default.items() if tap.layer is layer}
        for name, tap in own.items():
            why = layer.why
            if why and name not in default:
                why = f"codes of {layer.average_of}"
            elif name.endswith(":avg") and pool == "grid":
                why = "last map"
            listing.add_row(
                name,
                layer.kind,
                f"{layer.depth:.2f}",
                "×".join(map(str, layer.shape)),
                tap.pool,
                str(tap.n_features),
                "yes" if name in default else "",
                why,
            )
    stdout().print(listing)


@app.command
def extract(
    dataset: Dataset, /, options: Options, *, rank: int | None = None, world_size: int | None = None
) -> None:
    """Fill the store with the codes of a dataset; what it holds already is not computed again.

    Parameters
    ----------
    rank
        Which of several processes that fill one store this is, from 0. Default: torchrun's or
        Slurm's.
    world_size
        How many processes fill the store. Default: torchrun's or Slurm's.
    """
    from codes import load_images
    from pipelines.extraction.distributed import find_shard
    from pipelines.extraction.extract import extract

    shard = find_shard(rank, world_size)
    done = extract(
        load_images(dataset, page=options.page), options, shard=shard, progress=terminal()
    )
    who = f"Rank {shard.rank} of {shard.world_size}: " if shard.world_size > 1 else ""
    told = done.counts.sentence(done.store.name, n_skipped=len(done.skipped))
    stdout().print(who + told, soft_wrap=True)


@app.command
def compare(
    dataset: Dataset,
    /,
    options: OfEach = OF_EACH,
    protocol: ComparedBy = COMPARED_BY,
    training: TrainedBy = TRAINED_BY,
    *,
    finetune: bool = False,
    backbone: Annotated[list[str], like_field("backbone")],
    weights: Annotated[list[str], like_field("weights")] = [],  # noqa: B006
    out: Path = Path("cnn-codes-report"),
    drop_leaks: DropLeaks = False,
    controls: str = ",".join(DEFAULT_CONTROLS),
    jobs: Jobs = -1,
) -> None:
    """Compare the depths of a backbone on a dataset, and write a report.

    With --backbone more than once, each has a report in a folder of its own, and one page compares
    them.

    Parameters
    ----------
    finetune
        Train the network as well, from some start on, and compare what that gives.
    out
        Folder of the report.
    controls
        What the chosen depth is compared with, joined by commas: majority, shuffled (labels),
        pixels, random (weights), concatenated (all depths), pre (before the activation); or none.
    """
    protocol = replace(protocol, random_state=options.random_state)
    networks = of_each_backbone(options, backbone, weights)
    trained = training if finetune else None
    if trained is None and training != TRAINED_BY:
        raise ValueError("Options of fine-tuning were given, and --finetune was not. Add it.")
    if len(networks) == 1:
        _report(dataset, networks[0], protocol, out, jobs, controls, drop_leaks, trained)
        return
    from pipelines.report.report import read_standing, render_again

    names = [re.sub(r"[^\w.-]", "_", name) for name in backbone]
    folders = [out / f"{number}-{name}" for number, name in enumerate(names, 1)]
    for network, folder in zip(networks, folders, strict=True):
        stdout().print(f"== {folder.name} ==", soft_wrap=True)
        _report(dataset, network, protocol, folder, jobs, controls, drop_leaks, trained)
    page = render_again(folders, out / "report.html")
    for line in (*read_standing(folders).sentences, f"Side by side: {page}"):
        stdout().print(line, soft_wrap=True)


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
    from pipelines.report.report import render_again

    if not folders:
        raise ValueError("No folder was given. Give one or more that `compare --out` wrote.")
    if out is not None:
        check_folder(out.parent)
        if out.suffix != ".html":
            raise ValueError(f"--out {str(out)!r}: the page is HTML; name it with .html.")
    stdout().print(str(render_again(folders, out)), soft_wrap=True)


def _report(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    out: Path,
    jobs: int,
    controls: str | Sequence[str],
    drop_leaks: bool = False,
    finetune: FinetuneOptions | None = None,
) -> None:
    from pipelines.cli.summary import print_summary
    from pipelines.report.report import make_report, write_report
    from pipelines.study import compare

    check_folder(out)
    check_jobs(jobs)
    study = compare(
        dataset,
        options=options,
        protocol=protocol,
        controls=controls,
        drop_leaks=drop_leaks,
        finetune=finetune,
        trials=out / "trials",
        n_jobs=jobs,
        progress=terminal(),
    )
    command = ["cnn-codes", *sys.argv[1:]]
    found = make_report(study, command=[shlex.quote(word) for word in command])
    write_report(out, found, study)
    print_summary(study, found, out)


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
