"""Is the verdict honest? Simulated comparisons in which the answer is known.

    python benchmarks/verdict.py

prints, for a test split and for nested cross-validation, also with patients: how often one depth is
called the only best, and how often any is called worse, where all are equally good; how often the
better one is found, by its margin; how often the 95 % interval of the chosen depth's score holds
its expected value; and how often training and test images are said to differ, where they do and
where they do not; how well ``--seeds`` says where the variance of a score comes from. ``--toy``
takes seconds; ``--only differ`` and ``--only stable`` give one of the last two tables alone.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import binomtest, ortho_group

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines import Comparison, Protocol, compare_layers  # noqa: E402
from pipelines.statistics.variance_components import Stability  # noqa: E402

N_CLASSES, N_FEATURES, N_LAYERS = 3, 20, 6
SEPARATION = 1.6
FRESH = 4000
"""Test images that tell what a classifier is worth."""
POOL = 600
"""Training images that small training sets are drawn from."""


def draw_codes(
    rng: np.random.Generator,
    labels: Any,
    kind: str,
    advantage: float,
    patients: Any,
    apart: Any = 1.0,
) -> dict[str, Any]:
    """Codes of layers that are equally good but for the first, which is farther apart.

    Images of a patient are shifted alike, in each layer by its own shift. The classes of an image
    are as far apart as `apart` says, of what they usually are.
    """
    centres = np.eye(N_CLASSES, N_FEATURES)[labels] * SEPARATION * np.reshape(apart, (-1, 1))
    shared = centres + rng.normal(size=(len(labels), N_FEATURES))
    codes = {}
    for layer in range(N_LAYERS):
        own = shared if kind == "rotated" else centres + rng.normal(size=shared.shape)
        if layer == 0:
            own = own + advantage * centres
        if patients is not None:
            own = own + 0.7 * rng.normal(size=(patients.max() + 1, N_FEATURES))[patients]
        turned = own @ ortho_group.rvs(N_FEATURES, random_state=layer)
        codes[f"layer {layer}"] = turned.astype(np.float32)
    return codes


def compare(
    seed: int,
    n_train: int,
    n_test: int,
    kind: str,
    advantage: float,
    n_patients: int = 0,
    apart: float = 1.0,
) -> Comparison:
    """Compare on simulated images; without test images by nested cross-validation.

    The classes of test images are as far apart as `apart` says.
    """
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n) % N_CLASSES for n in (n_train, n_test)])
    patients = np.arange(len(labels)) // N_CLASSES % n_patients if n_patients else None
    test = np.arange(len(labels)) >= n_train if n_test else None
    scale = np.where(np.arange(len(labels)) < n_train, 1.0, apart)
    codes = draw_codes(rng, labels, kind, advantage, patients, scale)
    protocol = Protocol(Cs=(1e-4, 1e-3, 1e-2, 1e-1), cv=5, repeats=1)
    return compare_layers(codes, labels.astype(str), test=test, groups=patients, protocol=protocol)


def simulate(
    n: int,
    n_train: int,
    n_test: int,
    kind: str,
    advantage: float,
    n_patients: int = 0,
    apart: float = 1.0,
) -> list[Comparison]:
    """Compare again and again, on all cores."""
    arguments = n_train, n_test, kind, advantage, n_patients, apart
    return list(Parallel(n_jobs=-1)(delayed(compare)(seed, *arguments) for seed in range(n)))


def share(hits: list[bool]) -> str:
    """Write a share with its 95 % interval."""
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return f"{np.mean(hits):.1%} ({low:.1%} – {high:.1%})"


def margin(n_train: int, advantage: float) -> float:
    """Measure how much more accurate the first layer is than the second, on fresh images."""
    rows = [
        [next(r for r in found.layers if r.layer == f"layer {i}").score for i in (0, 1)]
        for found in simulate(8, n_train, FRESH, "own", advantage)
    ]
    first, second = np.mean(rows, axis=0)
    return float(first - second)


def expected(found: list[Comparison], n_train: int, n_test: int, n: int) -> list[float]:
    """Find what each chosen score should have been."""
    if n_test:  # The same training images and so the same choice, on many more test images.
        return [f.best.score for f in simulate_fresh(n, n_train)]
    return [float(np.mean([f.best.score for f in found]))] * n


def simulate_fresh(n: int, n_train: int) -> list[Comparison]:
    """Compare on the same training images and many fresh test images."""
    return list(Parallel(n_jobs=-1)(delayed(_fresh)(seed, n_train) for seed in range(n)))


def _fresh(seed: int, n_train: int) -> Comparison:
    return compare(seed, n_train, FRESH, "rotated", 0.0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", choices=["differ", "stable"], help="one table alone")
    options = parser.parse_args()
    n, advantages = (4, (0.5,)) if options.toy else (200, (0.1, 0.2, 0.3))
    if options.only is None:
        print_chosen(n, advantages)
    if options.only != "stable":
        print_differing(n)
    if options.only != "differ":
        print_stable(n, toy=options.toy)


def print_differing(n: int) -> None:
    """Print how often training and test images are said to differ."""
    print("| test images | classes apart | mean score | said to score lower | higher |")
    print("|--:|--:|--:|---|---|")
    for n_test in (50, 150, 600):
        for apart in (1.0, 0.8, 0.6):
            found = simulate(n, 150, n_test, "own", 0.0, apart=apart)
            lower, higher = (
                share([f.best.unexplained == way for f in found]) for way in ("lower", "higher")
            )
            mean = np.mean([f.best.score for f in found])
            print(f"| {n_test} | {apart} | {mean:.3f} | {lower} | {higher} |", flush=True)


def scattered(
    seed: int, size: int, n_test: int, n_seeds: int, pool: int = POOL
) -> tuple[float, Stability]:
    """Score one layer, trained on draws of some images a class out of many, and its stability."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(n) % N_CLASSES for n in (pool, n_test)])
    codes = draw_codes(rng, labels, "rotated", 0.0, None)["layer 0"]
    protocol = Protocol(Cs=(1e-4, 1e-2, 1.0), cv=5, train_sizes=(size,), seeds=n_seeds,
                        scoring="accuracy", random_state=seed)  # fmt: skip
    test = np.arange(len(labels)) >= pool
    [row] = compare_layers({"x": codes}, labels.astype(str), test=test, protocol=protocol).layers
    assert row.stability is not None
    return row.score, row.stability


def print_stable(n: int, *, toy: bool) -> None:
    """Print standard errors as they are said and as scores scatter, and what each is due to."""
    print("\n| a class | test images | scores scatter by | said | draw | folds | test | named |")
    print("|--:|--:|--:|--:|--:|--:|--:|---|")
    for size, n_test in ((5, 150), (5, 1500), (40, 150)):
        many = 4 if toy else 150
        known = scattered(0, size, 200 if toy else FRESH, many, 200 if toy else 20 * POOL)[1]
        true = {part.source: part.sd for part in known.components}
        found = list(
            Parallel(n_jobs=-1)(delayed(scattered)(seed, size, n_test, 5) for seed in range(n))
        )
        said = np.sqrt(np.mean([one.standard_error**2 for _, one in found]))
        parts = {
            name: np.mean(
                [p.variance for _, one in found for p in one.components if p.source == name]
            )
            for name in true
        }
        cells = []
        for name in ("draw", "folds", "test"):
            whole = true[name] * (np.sqrt(FRESH / n_test) if name == "test" and not toy else 1)
            cells.append(f"{np.sqrt(max(0.0, parts[name])):.3f} ({whole:.3f})")
        names = [one.largest or "none" for _, one in found]
        named = ", ".join(f"{k} {v / n:.0%}" for k, v in Counter(names).most_common(2))
        scores = np.std([score for score, _ in found], ddof=1)
        print(f"| {size} | {n_test} | {scores:.4f} | {said:.4f} | {' | '.join(cells)} | {named} |")


def print_chosen(n: int, advantages: tuple[float, ...]) -> None:
    """Print what is chosen and tied, and which intervals hold."""
    designs = [("test split", 150, 150), ("nested cross-validation", 150, 0)]
    patients = [("nested, 5 patients", 5), ("nested, 12 patients", 12)]
    kinds = [(*d, kind, 0) for d in designs for kind in ("rotated", "own")]
    kinds += [(name, 150, 0, "own", n_patients) for name, n_patients in patients]
    print(
        "| evaluation | all equal | called the only best | some called worse |\n|---|---|---|---|"
    )
    for name, n_train, n_test, kind, n_patients in kinds:
        found = simulate(n, n_train, n_test, kind, 0.0, n_patients)
        alone = share([not f.best.tied for f in found])
        worse = share([len(f.best.tied) < N_LAYERS - 1 for f in found])
        print(f"| {name} | {kind} | {alone} | {worse} |", flush=True)
    print("\n| evaluation | margin | chosen | and called the only best |\n|---|---|---|---|")
    for advantage in advantages:
        gain = margin(150, advantage)
        for name, n_train, n_test in designs:
            found = simulate(n, n_train, n_test, "own", advantage)
            chosen = [f.best.layer == "layer 0" for f in found]
            alone = [c and not f.best.tied for c, f in zip(chosen, found, strict=True)]
            print(f"| {name} | {gain:.3f} | {share(chosen)} | {share(alone)} |", flush=True)
    print("\n| evaluation | images | intervals that hold the expected score |\n|---|---|---|")
    held_out = [(*d, 0) for d in [*designs, ("nested cross-validation", 400, 0)]]
    held_out += [(name, 150, 0, n_patients) for name, n_patients in patients]
    for name, n_train, n_test, n_patients in held_out:
        kind = "own" if n_patients else "rotated"
        found = simulate(n, n_train, n_test, kind, 0.0, n_patients)
        truths = expected(found, n_train, n_test, n)
        held = [
            f.best.ci_low <= truth <= f.best.ci_high for f, truth in zip(found, truths, strict=True)
        ]
        print(f"| {name} | {n_train} | {share(held)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
