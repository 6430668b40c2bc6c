"""Searching C outwards from the middle of its grid, against searching all of it.

    python benchmarks/search.py --data ../shared

prints the tables of ``benchmarks/README.md``: ten layers of SqueezeNet 1.0 with ImageNet weights on
the clothing photographs and on 370 images a class of CIFAR-10, six training sizes, both
classifiers. Every fit is made both ways, one after the other and in turns first, on one thread; a
time is CPU seconds, the final fit with the chosen C included. ``--layers``, ``--sizes`` and
``--datasets`` take less; ``--toy`` takes seconds and needs no data: it checks that the benchmark
runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.real_codes import default_folder  # noqa: E402
from codes import ImageList, load_images  # noqa: E402
from pipelines import Protocol  # noqa: E402
from pipelines.comparison.evaluate import Fit, evaluate_layer  # noqa: E402
from pipelines.comparison.samples import Samples  # noqa: E402
from pipelines.comparison.splits import Split, make_splits  # noqa: E402
from pipelines.statistics.scoring import default_scoring, image_weights  # noqa: E402

LAYERS = (
    "features.12.cat", "features.7.cat", "classifier.2", "features.4.cat", "features.10.cat",
    "features.1", "features.8.cat", "features.3.cat", "features.9.cat", "features.5.cat",
)  # fmt: skip
SIZES = "5,10,20,50,100,all"
N_CIFAR, N_CIFAR_TESTED = 320, 50
"""Images of each class."""
Codes = Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One fit, made both ways.

    Attributes
    ----------
    classifier : str
    size : int or "all"
    seconds : tuple of float
        Of the full search, and of the other.
    same : bool
        Whether both choose the same C.
    loss : float
        How much lower the test score is, in standard errors of the paired difference.
    looked : int
        Values of C.
    """

    classifier: str
    size: int | str
    seconds: tuple[float, float]
    same: bool
    loss: float
    looked: int


def compare(
    X: Any, y: Any, splits: list[Split], classifier: str, protocol: Protocol
) -> Iterator[Pair]:
    """Make every fit both ways; the sides take turns in going first."""
    truth = np.unique(y, return_inverse=True)[1]
    for number, split in enumerate(splits):
        fits: dict[str, Fit] = {}
        seconds: dict[str, float] = {}
        for how in ("full", "path") if number % 2 else ("path", "full"):
            same = replace(protocol, Cs_search=how)
            start = time.process_time()
            [fits[how]] = evaluate_layer(X, y, [split], classifier, same)
            seconds[how] = time.process_time() - start
        right = [(fits[how].predicted == truth[split.test]) * 1.0 for how in ("full", "path")]
        assert protocol.scoring is not None
        apart = image_weights(protocol.scoring, truth[split.test]) * (right[0] - right[1])
        error = float(np.sqrt(np.square(apart).sum()))
        yield Pair(
            classifier=classifier,
            size=split.train_size,
            seconds=(seconds["full"], seconds["path"]),
            same=fits["full"].C == fits["path"].C,
            loss=float(apart.sum()) / error if error else 0.0,
            looked=len(protocol.grid) - len(fits["path"].not_searched),
        )


def line(name: str, pairs: list[Pair]) -> str:
    """Write one line of a table."""
    full, path = np.sum([pair.seconds for pair in pairs], axis=0)
    losses = [pair.loss for pair in pairs]
    return (
        f"| {name} | {len(pairs)} | {np.mean([pair.looked for pair in pairs]):.1f} | {full:.1f} "
        f"| {path:.1f} | **{path / full:.2f}** | {np.mean([pair.same for pair in pairs]):.1%} "
        f"| {max(losses):.1f} | {sum(loss > 1 for loss in losses)} |"
    )


def real_codes(images: ImageList, data: Path, store: Path, layers: list[str]) -> Codes:
    """Extract the codes that the store lacks, and give a function that reads those of a layer."""
    from pipelines.extraction.extract import extract
    from pipelines.extraction.options import ExtractionOptions

    options = ExtractionOptions(
        backbone="squeezenet1_0", weights=str(data / "weights/squeezenet1_0-imagenet.pth"),
        layers=",".join(layers), store=store,
    )  # fmt: skip
    return extract(images, options).codes


def cifar(data: Path) -> ImageList:
    """Take the first images of each class, the last of them to test on."""
    images = load_images(data / "data/cifar10/train.zip")
    n = N_CIFAR + N_CIFAR_TESTED
    classes = np.unique(images.labels)
    taken = np.concatenate([np.flatnonzero(images.labels == name)[:n] for name in classes])
    splits = np.tile(np.repeat(["train", "test"], [N_CIFAR, N_CIFAR_TESTED]), len(classes))
    return replace(images.take(taken), splits=splits)


def toy() -> tuple[Any, Any, Codes]:
    """Make small codes of noise: labels, which images test, and how to read a layer."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    codes = {
        layer: rng.normal(size=(240, 30)) + s * np.eye(3, 30)[y] for s, layer in enumerate(LAYERS)
    }
    return y.astype(str), np.arange(240) >= 180, codes.__getitem__


def main(arguments: Iterable[str] | None = None) -> None:
    """Print a table for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--store", type=Path, help="where codes are kept")
    parser.add_argument("--datasets", nargs="*", default=["clothing", "cifar10"])
    parser.add_argument("--layers", type=int, default=len(LAYERS), help="how many")
    parser.add_argument("--sizes", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5, help="draws of each smaller size")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(None if arguments is None else list(arguments))
    store = options.store or default_folder(options.toy) / "store"
    layers = list(LAYERS[: 2 if options.toy else options.layers])
    for name in ["toy"] if options.toy else options.datasets:
        if options.toy:
            y, test, codes = toy()
        else:
            source = options.data / "data/clothing"
            images = load_images(source) if name == "clothing" else cifar(options.data)
            codes = real_codes(images, options.data, store, layers)
            y, test = images.labels, images.test
        protocol = Protocol(
            classifier="both", scoring=default_scoring(y),
            repeats=1 if options.toy else options.repeats,
            train_sizes="5,20" if options.toy else options.sizes,
        )  # fmt: skip
        splits, _ = make_splits(Samples(y=y, test=test), protocol)
        print_table(name, layers, codes, y, splits, protocol)


def print_table(
    dataset: str, layers: list[str], codes: Codes, y: Any, splits: list[Split], protocol: Protocol
) -> None:
    """Compare on every layer, and print a line for each classifier and size."""
    print(
        f"\n{dataset}, {len(layers)} layers, {protocol.scoring}\n\n"
        "| fits | number | values of C | full, s | path, s | ratio | same C "
        "| largest loss, standard errors | losses above one |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    pairs: list[Pair] = []
    with threadpool_limits(1):
        for layer in layers:
            X = codes(layer)
            for classifier in protocol.classifiers:
                of_layer = list(compare(X, y, splits, classifier, protocol))
                print(line(f"{layer}, {classifier}", of_layer), file=sys.stderr, flush=True)
                pairs += of_layer
    for classifier in protocol.classifiers:
        for size in dict.fromkeys(pair.size for pair in pairs):
            some = [p for p in pairs if (p.classifier, p.size) == (classifier, size)]
            print(line(f"{classifier}, {size} a class", some))
    print(line("all", pairs), flush=True)


if __name__ == "__main__":
    main()
