"""The command line: ``cnn-codes``."""

from __future__ import annotations

import errno
import os
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

from pipelines.cli.compare import compare, demo, report
from pipelines.cli.completion import install_completion
from pipelines.cli.fit import fit, predict
from pipelines.cli.shared_options import Dataset, Options, check_file, convert, only
from pipelines.cli.similarity import similarity
from pipelines.cli.store import cache
from pipelines.cli.streams.output import ClosedOutputError, results, results_only
from pipelines.cli.streams.terminal import stdout, table, terminal
from pipelines.cli.wrong_commands import explain
from pipelines.extraction.options import ExtractionOptions

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

for command in (cache, compare, demo, fit, predict, report, similarity):
    app.command(command)
app.command(install_completion, name="--install-completion")


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
        terminal().info(f"cnn-codes: {explain(error, app)}")
        return 2
    except KeyboardInterrupt:
        terminal().info("cnn-codes: interrupted. What was stored stays; run it again to go on.")
        return 1
    except Exception as error:
        if debug:
            raise
        terminal().info(f"cnn-codes: {_message(error)}")
        return 1
    return 0


@contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM, which ends a job in a queue, like Ctrl-C: codes that are there are kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        # One is enough: another would break off what is put away until the process ends.
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    both = signal.SIGINT, signal.SIGTERM
    # One that is ignored, as by nohup, stays so.
    before = {n: signal.getsignal(n) for n in both if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        if all(signal.getsignal(number) is interrupt for number in before):
            for number, handler in before.items():
                signal.signal(number, handler)


@app.command
def layers(
    *,
    options: Annotated[ExtractionOptions, only("backbone", "image_size", "dense", "pool")],
    weights: str | None = None,
) -> None:
    """List where the codes of a backbone can be read, and what --layers default takes, and why.

    Why: "stage end", the last activation of a resolution; "between", as its neighbours are more
    than 0.15 apart in depth; "pooled", the network's own pooled features or what its head reads;
    "head", an activation after the last convolution; "last map", its average beside its grid. Of a
    vision transformer: "quarter", the end of a quarter of its blocks; "class token", the same of
    its class token; "last norm", its last normalisation.

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

    pool = options.pool
    if weights is None and (":" not in options.backbone or options.backbone.startswith("timm:")):
        weights = "none"
    network = load_backbone(
        options.backbone, weights=weights, image_size=options.image_size, dense=options.dense
    )
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
            elif name.endswith(":token") and pool == "grid":
                why = "class token"
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
    stdout().print(listing, soft_wrap=False)


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
    from pipelines.extraction.left_out import say_ignored

    shard = find_shard(rank, world_size)
    images = load_images(dataset, page=options.page)
    say_ignored(images, terminal())
    done = extract(images, options, shard=shard, progress=terminal())
    who = f"Rank {shard.rank} of {shard.world_size}: " if shard.world_size > 1 else ""
    counts = done.counts.sentence(done.store.name, n_skipped=len(done.skipped))
    stdout().print(who + counts)


@app.command
def export(dataset: Dataset, /, options: Options, *, out: Path) -> None:
    """Write the codes of a dataset to a file for other tools; what the store lacks is extracted.

    With paths, labels, splits and groups, in the dataset's order. `cnn-codes compare` reads it
    again, as npz:FILE, parquet:FILE or zarr:FOLDER.

    Parameters
    ----------
    out
        The file, which is replaced where it is there: codes.npz, codes.parquet (codes as float32),
        or a new folder, codes.zarr.
    """
    from codes import load_images
    from pipelines.exchange.export import check_export
    from pipelines.exchange.export import export as write
    from pipelines.extraction.extract import extract
    from pipelines.extraction.left_out import say_ignored

    check_export(out, options)
    check_file(out)
    images = load_images(dataset, page=options.page)
    say_ignored(images, terminal())
    done = extract(images, options, progress=terminal())
    write(done, out, terminal())
    stdout().print(done.counts.sentence(done.store.name, n_skipped=len(done.skipped)))
    stdout().print(str(out))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = error.strerror == os.strerror(errno.ENOSPC)
        why = "The disk is full." if full else error.strerror
        return f"{why} What was stored stays; run it again to go on."
    if isinstance(error, MemoryError):
        return (
            f"Memory ran out{f' ({error})' if str(error) else ''}. Use --jobs 1, fewer images "
            "(--train-sizes), fewer features (--pool avg), or a larger limit; `ulimit -v` counts "
            "what libraries only reserve, `ulimit -d` does not. --debug shows where."
        )
    own = type(error).__module__.startswith(("codes.", "cache.", "pipelines."))
    known = own or isinstance(error, (ValueError, OSError, OverflowError))
    return str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"
