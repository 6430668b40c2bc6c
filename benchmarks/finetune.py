"""What fine-tuning brings beside a linear classifier on the last codes, and what it costs.

    python benchmarks/finetune.py --data ../shared/data/clothing \
      --backbone squeezenet1_0 --weights ../shared/weights/squeezenet1_0-imagenet.pth

prints, for each training size, the score of logistic regression on the network's last codes and of
fine-tuning from each start, with settings chosen by validation among the training images; means
over seeds, each of which draws other training images. ``--only speed`` compares an epoch on stored
maps with the everyday loop (a DataLoader, the whole network, what comes before the start frozen);
``--only memory`` the peak memory of the whole dataset and of a tenth of it. ``--toy`` takes
seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="squeezenet1_0")
    parser.add_argument("--weights")
    parser.add_argument("--starts", nargs="+", default=["features.9", "features.12"])
    parser.add_argument("--sizes", nargs="+", default=["5", "100", "all"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--only", choices=["scores", "speed", "memory", "peak"])
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        options.store = options.store or Path(scratch) / "store"
        if options.toy:
            options.data, options.backbone = _toy_images(Path(scratch)), "bundled"
            options.weights, options.starts = None, ["fc6"]
            options.sizes, options.seeds, options.views = ["all"], [0], 1
            options.epochs = 2
        if options.data is None:
            parser.error("--data is needed: a folder with train/ and test/ in it")
        if options.only in (None, "scores"):
            scores(options)
        if options.only in (None, "speed"):
            speed(options)
        if options.only == "peak":
            peak(options)
        if options.only in (None, "memory"):
            memory(options)


def _toy_images(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 6)):
        for label in range(2):
            place = folder / "data" / split / str(label)
            place.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(90 * label, 90 * label + 160, (48, 60, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return folder / "data"


def _settings(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Give what is read of the images: the network's last codes."""
    from codes import load_backbone
    from codes.graph.heads import head_input

    graph = load_backbone(options.backbone, weights=options.weights or "default").graph
    return {
        "backbone": options.backbone,
        "weights": options.weights,
        "layers": graph.names[head_input(graph)],
        "pool": "avg",
        "random_state": seed,
        "precision": options.precision,
        "device": options.device,
        "store": options.store,
    }


def _study(options: argparse.Namespace, seed: int, size: str, start: str) -> Any:
    from pipelines import compare
    from pipelines.training.options import FinetuneOptions

    return compare(
        options.data,
        **_settings(options, seed),
        classifier="logistic",
        train_sizes=("all" if size == "all" else int(size),),
        repeats=1,
        cv=5,
        controls="none",
        n_jobs=-1,
        finetune=FinetuneOptions(starts=start, views_cached=options.views, epochs=options.epochs),
    )


def _store(options: argparse.Namespace, seed: int) -> float:
    """Store the maps of every start, and return the seconds that it took."""
    from codes import load_images
    from pipelines import ExtractionOptions, extract
    from pipelines.finetuning.prepare import prepare
    from pipelines.progress import Silent
    from pipelines.training.options import FinetuneOptions

    begun = time.perf_counter()
    images = load_images(options.data)
    extraction = extract(images, ExtractionOptions(**_settings(options, seed)))
    finetune = FinetuneOptions(starts=options.starts, views_cached=options.views)
    numbers = np.unique(images.labels, return_inverse=True)[1]
    trained = None if images.test is None else ~images.test
    prepare(extraction, numbers, finetune, trained=trained, progress=Silent())
    return time.perf_counter() - begun


def scores(options: argparse.Namespace) -> None:
    """Print what each candidate scores at each size, and how long a command takes for it."""
    rows: dict[tuple[str, str], list[float]] = {}
    seconds: dict[tuple[str, str], list[float]] = {}
    for seed in options.seeds:
        print(f"seed {seed}: maps stored in {_store(options, seed):.0f} s", flush=True)
        for size in options.sizes:
            for start in options.starts:
                begun = time.perf_counter()
                study = _study(options, seed, size, start)
                took = time.perf_counter() - begun
                [linear, found] = sorted(
                    study.comparison.layers, key=lambda row: row.classifier == "finetune"
                )
                if start == options.starts[0]:
                    rows.setdefault((size, "logistic"), []).append(linear.score)
                rows.setdefault((size, f"from {start}"), []).append(found.score)
                better = max(linear, found, key=lambda row: row.cv_score)
                chosen = f"logistic or {start}, by validation"
                rows.setdefault((size, chosen), []).append(better.score)
                seconds.setdefault((size, f"from {start}"), []).append(took)
                best = study.finetuned[0].chosen[0].best
                print(
                    f"  {size} a class, from {start}: {linear.score:.3f} → {found.score:.3f} in "
                    f"{took:.0f} s; lr {best.setting.lr:.2g}, weight decay "
                    f"{best.setting.weight_decay:.2g}, {best.setting.epochs} epochs, validation "
                    f"{best.score:.3f} ({linear.cv_score:.3f} of logistic)",
                    flush=True,
                )
    print(f"{'a class':>8} {'':<38} {'score':>6} {'gain':>7} {'minutes':>8}   by seed")
    for (size, name), of in rows.items():
        gain = mean(of) - mean(rows[size, "logistic"])
        own = " ".join(f"{score:.3f}" for score in of)
        took = mean(seconds.get((size, name), [0.0])) / 60
        print(f"{size:>8} {name:<38} {mean(of):6.3f} {gain:+7.3f} {took:8.1f}   {own}")


def speed(options: argparse.Namespace) -> None:
    """Compare an epoch on stored maps with the everyday loop, in turns."""
    import torch
    from PIL import Image
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from codes import load_backbone, load_images
    from codes.graph.heads import head_input
    from codes.graph.starts import choose_starts
    from codes.graph.suffix import Suffix
    from pipelines import ExtractionOptions, extract
    from pipelines.progress import Silent
    from pipelines.training.maps import store_maps
    from pipelines.training.options import FinetuneOptions
    from pipelines.training.run import Run, Setting

    backbone = load_backbone(options.backbone, weights=options.weights or "default")
    images = load_images(options.data)
    rng = np.random.default_rng(0)
    images = images.take(np.sort(rng.permutation(len(images))[: 24 if options.toy else 320]))
    numbers = np.unique(images.labels, return_inverse=True)[1]
    n_classes = int(numbers.max()) + 1
    graph = backbone.graph
    extraction = extract(
        images,
        ExtractionOptions(
            backbone=options.backbone, weights=options.weights, store=options.store,
            layers=graph.names[head_input(graph)], pool="avg", precision=options.precision,
        ),
        backbone=backbone,
    )  # fmt: skip
    dtype = getattr(torch, options.precision)
    everything = np.arange(len(images))

    class Everyday(Dataset[Any]):
        def __init__(self) -> None:
            steps = backbone.preprocessing
            self.transform = transforms.Compose(
                [
                    transforms.Resize(steps.resize_size),
                    transforms.RandomCrop(steps.crop_size, pad_if_needed=True),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    transforms.Normalize(steps.mean, steps.std),
                ]
            )

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            image = Image.open(images.source.names[index]).convert("RGB")
            return self.transform(image), int(numbers[index])

    def everyday(start: Any) -> float:
        own = load_backbone(options.backbone, weights=options.weights or "default")
        [whole] = choose_starts(own.graph, "input")
        network = Suffix(own.graph, whole, n_classes, own.preprocessing)
        trained = set(Suffix(own.graph, start, n_classes, own.preprocessing).body.state_dict())
        for name, parameter in network.body.named_parameters():
            parameter.requires_grad_(name in trained)
        optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad], 1e-3, momentum=0.9, nesterov=True
        )
        loader = DataLoader(Everyday(), batch_size=64, shuffle=True, num_workers=2)
        begun = time.perf_counter()
        for pixels, labels in loader:
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                codes = network.body(pixels.to(memory_format=torch.channels_last))
                loss = F.cross_entropy(network.head(codes).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
        return time.perf_counter() - begun

    def ours(start: Any, maps: Any) -> float:
        from concurrent.futures import ThreadPoolExecutor

        # As trials run: one on each core. Both are counted.
        def one(seed: int) -> None:
            torch.set_num_threads(1)
            run = Run(
                Suffix(graph, start, n_classes, backbone.preprocessing), maps, everything, numbers,
                options=FinetuneOptions(), setting=Setting(lr=1e-3, weight_decay=0.0, epochs=1),
                seed=(seed,), device=torch.device("cpu"), dtype=dtype,
            )  # fmt: skip
            run.step_epoch()

        cores = torch.get_num_threads()
        begun = time.perf_counter()
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(one, range(cores)))
        torch.set_num_threads(cores)
        return (time.perf_counter() - begun) / cores

    print(f"{'start':<16} {'everyday':>9} {'stored':>8} images/s   times as fast")
    for name in options.starts:
        [start] = choose_starts(graph, name)
        maps = store_maps(
            extraction, [start], augment=("crop", "flip"), n_views=1, dtype="float16",
            random_state=0, progress=Silent(),
        )[start.name]  # fmt: skip
        pairs = [(everyday(start), ours(start, maps)) for _ in range(1 if options.toy else 3)]
        theirs, own = (len(images) / median(side) for side in zip(*pairs, strict=True))
        print(f"{name:<16} {theirs:9.0f} {own:8.0f}            {own / theirs:.2f}")


def peak(options: argparse.Namespace) -> None:
    """Fine-tune, and print the peak memory of this process in MB."""
    _study(options, 0, "all", options.starts[0])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(options: argparse.Namespace) -> None:
    """Compare the peak memory of everything with that of a tenth of the training images."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for share in (1, 1 if options.toy else 10):
            folder = Path(scratch) / str(len(found))
            for file in sorted(options.data.rglob("*")):
                own = file.relative_to(options.data)
                if file.suffix not in (".jpg", ".png"):
                    continue
                if own.parts[0] != "test" and hash_of(own) % share:
                    continue
                (folder / own).parent.mkdir(parents=True, exist_ok=True)
                (folder / own).symlink_to(file.resolve())
            command = [
                sys.executable, __file__, "--only", "peak", "--data", str(folder), "--backbone",
                options.backbone, "--store", str(options.store), "--precision", options.precision,
                "--views", "1", "--epochs", "2", "--starts", *options.starts[:1],
            ]  # fmt: skip
            if options.weights:
                command += ["--weights", options.weights]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.append(float(done.stdout.split()[-1]))
    print(f"peak memory, all and a tenth: {found[0]:.0f} and {found[1]:.0f} MB, "
          f"{found[0] / found[1]:.3f}")  # fmt: skip


def hash_of(path: Path) -> int:
    """Give a file a number, the same in every process."""
    import zlib

    return zlib.crc32(str(path).encode())


if __name__ == "__main__":
    main()
