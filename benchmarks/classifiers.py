"""The cross-validated classifiers against scikit-learn's: seconds of CPU, memory, the same answer.

    python benchmarks/classifiers.py --data ../shared

prints the table of ``benchmarks/README.md``. The codes are real: CIFAR-10 through SqueezeNet 1.0
with ImageNet weights, kept in a temporary folder between runs. Each side of each row is a process
of its own with one BLAS thread; a time is its CPU seconds for ``fit``, the median of three where
one takes less than a minute. ``--toy`` takes seconds and needs no data: it checks that the
benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.real_codes import default_folder, make_codes  # noqa: E402

REPEAT_BELOW = 60.0  # seconds


@dataclass(frozen=True)
class Row:
    """A line of the table: which codes, which classifier, how many folds, what to reach."""

    codes: str
    n: int
    kind: str
    folds: int
    n_folds_run: int
    target: str
    Cs: tuple[float, ...]

    @property
    def name(self) -> str:
        """Name of the row's files."""
        return f"{self.kind}-{self.codes}-{self.n}"


GRID = tuple(np.logspace(-6, 1, 8))
ROWS = [
    Row("maps", 500, "svm", 5, 5, "≥ 150", GRID),
    Row("grid6", 2000, "svm", 5, 1, "≥ 60", GRID),
    Row("average", 1000, "svm", 5, 5, "≥ 10", GRID),
    Row("grid4", 10_000, "svm", 5, 1, "≥ 15", GRID),
    Row("maps", 500, "logistic", 5, 5, "≥ 15", GRID),
    Row("grid6", 2000, "logistic", 5, 1, "≥ 1", GRID),
    Row("average", 1000, "logistic", 5, 5, "≥ 1", GRID),
]
TOY = [
    Row("wide", 60, kind, 3, 3, "-", tuple(np.logspace(-4, 0, 3))) for kind in ("svm", "logistic")
] + [Row("narrow", 200, "svm", 3, 3, "-", tuple(np.logspace(-4, 0, 3)))]


def make_fit(row: Row, side: str, splits: list[Any] | None) -> Any:
    """Build the estimator of one side."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    from pipelines.linear.estimators import LinearSVCCV, LogisticCV

    Cs = list(row.Cs)
    if side == "ours":
        kind = LinearSVCCV if row.kind == "svm" else LogisticCV
        return kind(Cs, cv=splits, search="full")  # As much is asked of the other side.
    if row.kind == "svm":
        # scikit-learn's own tolerance, and iterations enough to reach it.
        steps = make_pipeline(StandardScaler(), LinearSVC(max_iter=100_000, random_state=0))
        return GridSearchCV(steps, {"linearsvc__C": Cs}, cv=splits)
    # With its default tolerance its decisions are off by thousandths; this is what 1e-4 takes.
    logistic = LogisticRegressionCV(
        Cs=Cs, cv=splits, max_iter=100_000, tol=1e-6, scoring="accuracy",
        l1_ratios=(0,), use_legacy_attributes=False,
    )  # fmt: skip
    return make_pipeline(StandardScaler(), logistic)


def child(row: Row, side: str, folder: Path, out: Path, n_repeats: int) -> None:
    """Fit one side in this process and write what it took and answered."""
    from sklearn.model_selection import StratifiedKFold

    X = np.load(folder / f"{row.codes}.npy")[: row.n]
    y = np.load(folder / f"{row.codes}-labels.npy")[: row.n]
    folds = StratifiedKFold(row.folds, shuffle=True, random_state=0).split(X, y)
    splits = list(folds)[: row.n_folds_run]
    model = make_fit(row, side, splits)
    if side == "ours":
        # Libraries and BLAS buffers that the first fit of a process loads are no copies of X.
        for shape in ((40, 60), (200, 20)):
            small = np.random.default_rng(0).normal(size=shape)
            make_fit(row, side, None).fit(small, np.arange(len(small)) % 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: list[float] = []
    while len(seconds) < n_repeats and (not seconds or max(seconds) < REPEAT_BELOW):
        start = time.process_time()
        model.fit(X, y)
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "ours":
        C = model.C_
    elif row.kind == "svm":
        C = model.best_params_["linearsvc__C"]
    else:
        C = float(model[-1].C_)
    np.save(out.with_suffix(".npy"), model.decision_function(X))
    answer = {"seconds": float(np.median(seconds)), "times": seconds, "C": float(C)}
    answer["copies"] = (peak - before) * 1024 / X.nbytes
    answer["shape"] = list(X.shape)
    out.write_text(json.dumps(answer))


def run_side(row: Row, side: str, folder: Path, limit: float, n_repeats: int) -> dict[str, Any]:
    """Run one side in a process of its own; only its CPU seconds if it took too long."""
    out = folder / f"{row.name}-{side}.json"
    job = json.dumps({"row": asdict(row), "side": side, "out": str(out), "n_repeats": n_repeats})
    command = [sys.executable, "-W", "ignore", __file__, "--cache", str(folder), "--child", job]
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    try:
        subprocess.run(command, check=True, timeout=limit, env={**os.environ, **threads})
    except subprocess.TimeoutExpired:
        return {"seconds": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before}
    answer: dict[str, Any] = json.loads(out.read_text())
    answer["decisions"] = np.load(out.with_suffix(".npy"))
    return answer


def line(row: Row, ours: dict[str, Any], stock: dict[str, Any]) -> str:
    """Write one line of the table."""
    n, d = ours["shape"]
    against = "GridSearchCV(LinearSVC)" if row.kind == "svm" else "LogisticRegressionCV"
    folds = f"{row.n_folds_run} of {row.folds}"
    head = f"| {n:,} × {d:,} | {against} | {folds} | {row.target} "
    mine = f"| {ours['seconds']:.2f} | {ours['copies']:.2f} "
    if not stock:
        return head + "| not measured " + mine + "| - | - | - | - |"
    ratio = stock["seconds"] / ours["seconds"]
    if "C" not in stock:
        return f"{head}| > {stock['seconds']:.0f} {mine}| **> {ratio:.0f}** | - | - | - |"
    a, b = ours["decisions"], stock["decisions"]
    decide = (lambda v: v.argmax(1)) if a.ndim == 2 else (lambda v: v > 0)
    same_C = "same" if np.isclose(ours["C"], stock["C"]) else f"{ours['C']:g} / {stock['C']:g}"
    equal = np.mean(decide(a) == decide(b))
    apart = np.abs(a - b).max() / np.abs(b).max()
    return (
        f"{head}| {stock['seconds']:.1f} {mine}| **{ratio:.0f}** | {same_C} | {equal:.2%} "
        f"| {apart:.0e} |"
    )


def growth(folder: Path, plot: Path, toy: bool) -> str:
    """Time our side against n and against d, draw both and name the slopes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    wide, tall = ("wide", "wide") if toy else ("maps", "grid6")
    ns = [15, 30, 60] if toy else [125, 250, 500, 1000, 2000]
    ds = [100, 400, 1600] if toy else [1352, 5408, 21_632, 86_528]
    by_n = np.load(folder / f"{tall}.npy", mmap_mode="r")
    by_d = np.load(folder / f"{wide}.npy", mmap_mode="r")
    order = np.random.default_rng(0).permutation(by_d.shape[1])
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
    slopes = []
    for axis, label, sizes in ((axes[0], "images", ns), (axes[1], "features", ds)):
        for kind in ("svm", "logistic"):
            seconds = []
            for size in sizes:
                X = by_n[:size] if label == "images" else by_d[:, np.sort(order[:size])]
                y = np.load(folder / f"{tall if label == 'images' else wide}-labels.npy")[: len(X)]
                seconds.append(min(time_fit(kind, np.array(X), y) for _ in range(2)))
            slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
            fixed = by_n.shape[1] if label == "images" else len(by_d)
            slopes.append(f"{kind}, seconds against {label}: slope {slope:.2f} "
                          f"({seconds[0]:.2f} s at {sizes[0]:,}, {seconds[-1]:.2f} s at "
                          f"{sizes[-1]:,})")  # fmt: skip
            axis.loglog(sizes, seconds, "o-", label=f"{kind}, slope {slope:.2f}")
        axis.set(xlabel=f"{label} (the other: {fixed:,})", title=f"growth with {label}")
        axis.legend()
    axes[0].set_ylabel("CPU seconds, 3 folds, 8 Cs, refit")
    figure.savefig(plot)
    return "\n".join(f"- {text}" for text in slopes)


def time_fit(kind: str, X: Any, y: Any) -> float:
    """CPU seconds of one fit of ours."""
    from pipelines.linear.estimators import LinearSVCCV, LogisticCV

    model = (LinearSVCCV if kind == "svm" else LogisticCV)(
        GRID, cv=3, random_state=0, search="full"
    )  # fmt: skip
    start = time.process_time()
    model.fit(X, y)
    return time.process_time() - start


HEAD = """\
| codes | against | folds | ratio to reach | stock, s | ours, s | ours, copies of X | ratio | C \
| labels equal | largest decision difference |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--cache", type=Path, help="where codes are kept")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one side")
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of rows, from 0")
    parser.add_argument("--side", choices=["ours", "both"], default="both")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--growth", type=Path, help="draw the growth into this SVG file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    folder = options.cache or default_folder(options.toy)
    if options.child:
        job = json.loads(options.child)
        job["row"]["Cs"] = tuple(job["row"]["Cs"])
        child(Row(**job["row"]), job["side"], folder, Path(job["out"]), job["n_repeats"])
        return
    make_codes(folder, options.data, toy=options.toy)
    rows = TOY if options.toy else ROWS
    print(HEAD, flush=True)
    for i in options.rows if options.rows is not None else range(len(rows)):
        n_repeats = 1 if options.toy else 3
        ours = run_side(rows[i], "ours", folder, options.limit, n_repeats)
        stock = {}
        if options.side == "both":
            stock = run_side(rows[i], "stock", folder, options.limit, n_repeats)
        print(line(rows[i], ours, stock), flush=True)
    if options.growth:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            print("\n" + growth(folder, options.growth, options.toy))


if __name__ == "__main__":
    main()
