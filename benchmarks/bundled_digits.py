"""How well five images a class are enough on scikit-learn's digits: pixels, random, bundled.

``python benchmarks/bundled_digits.py`` prints a markdown table: a linear SVM on the 64 raw pixels,
on every depth of the bundled network with random weights, and on every depth with its pretrained
weights. All sides share the same draws of training images.
"""

from __future__ import annotations

import warnings
from math import isqrt
from typing import Annotated

import cyclopts
import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from codes.backbones.bundled import IMAGE_SIZE, MEAN, STD, BundledNet, bundled

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
WIDTH = 4096
CS = np.logspace(-4, 1, 6)

Floats = NDArray[np.float64]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def digits_input(pixels: Floats) -> Tensor:
    """Enlarge digits to the network's input.

    Parameters
    ----------
    pixels : ndarray of shape (n_samples, 8, 8)
        From 0 to 16.

    Returns
    -------
    Tensor of shape (n_samples, 3, 64, 64), float32
    """
    images = torch.from_numpy(np.round(pixels * (255 / 16)) / 255).float()[:, None]
    images = nn.functional.interpolate(
        images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True
    ).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def codes_by_layer(net: BundledNet, images: Tensor) -> dict[str, Floats]:
    """Compute the codes of every depth.

    Parameters
    ----------
    net : BundledNet
        In eval mode.
    images : Tensor of shape (n_samples, 3, 64, 64)

    Returns
    -------
    dict of str to ndarray of shape (n_samples, n_features)
        By layer, in forward order; maps are average-pooled to a grid of at most 4096 values.
    """
    parts: dict[str, list[Tensor]] = {layer: [] for layer in LAYERS}

    def keep(layer: str, output: Tensor) -> None:
        if output.ndim == 4:
            grid = min(output.shape[-1], isqrt(WIDTH // output.shape[1]))
            output = nn.functional.adaptive_avg_pool2d(output, grid)
        parts[layer].append(output.flatten(1).double())

    hooks = [
        net.get_submodule(layer).register_forward_hook(
            lambda _module, _inputs, output, layer=layer: keep(layer, output)
        )
        for layer in LAYERS
    ]
    with torch.inference_mode():
        for batch in torch.split(images, 256):
            net(batch)
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(tensors).numpy() for layer, tensors in parts.items()}


def draw(y: NDArray[np.int64], train_size: int, random_state: int) -> Split:
    """Draw the training images; all others are test images.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    train_size : int
        Training images a class.
    random_state : int

    Returns
    -------
    train, test : ndarray of int
        Indexes.
    """
    rng = np.random.default_rng(random_state)
    train = np.concatenate(
        [
            rng.choice(np.flatnonzero(y == label), train_size, replace=False)
            for label in np.unique(y)
        ]
    )
    return train, np.setdiff1d(np.arange(len(y)), train)


def score(X: Floats, y: NDArray[np.int64], split: Split, random_state: int) -> float:
    """Fit a linear SVM on one draw; scaling and C come from its training images alone.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
    split : (train, test) index arrays
    random_state : int
        Seed of the folds that choose C.

    Returns
    -------
    float
        Accuracy on the test images.
    """
    train, test = split
    folds = min(5, int(np.bincount(y[train]).min()))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(random_state=0, max_iter=5000)),
        {"linearsvc__C": CS},
        cv=StratifiedKFold(folds, shuffle=True, random_state=random_state),
    )
    with warnings.catch_warnings():
        # The largest C on raw pixels may not converge; where that matters it is not chosen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracy: float = search.fit(X[train], y[train]).score(X[test], y[test])
    return accuracy


def main(
    *,
    draws: int = 20,
    train_size: Annotated[int, cyclopts.Parameter(help="Training images a class.")] = 5,
    random_state: int = 0,
    jobs: Annotated[int, cyclopts.Parameter(help="Processes that fit.")] = 1,
    toy: Annotated[
        bool, cyclopts.Parameter(help="Two draws and one layer, to see that it runs.")
    ] = False,
) -> None:
    """Print the table."""
    digits = load_digits()
    X, y = digits.data, digits.target
    seeds = range(random_state, random_state + (2 if toy else draws))
    splits = [draw(y, train_size, seed) for seed in seeds]
    images = digits_input(digits.images)
    sides = {
        "random weights": codes_by_layer(bundled(weights=False), images),
        "drawn images": codes_by_layer(bundled(), images),
    }

    def cell(features: Floats) -> str:
        results = np.array(
            Parallel(n_jobs=jobs)(
                delayed(score)(features, y, split, seed)
                for split, seed in zip(splits, seeds, strict=True)
            )
        )
        return f"{results.mean():.3f} ± {results.std(ddof=1):.3f}"

    print(f"{train_size} images a class, {len(splits)} draws, mean ± standard deviation\n")
    print(f"| layer | n_features | {' | '.join(sides)} |")
    print("|---|--:|" + "--:|" * len(sides))
    print(f"| raw pixels | {X.shape[1]} |" + f" {cell(X)} |" * len(sides), flush=True)
    for layer in LAYERS[-1:] if toy else LAYERS:
        widths = {side[layer].shape[1] for side in sides.values()}
        cells = " | ".join(cell(side[layer]) for side in sides.values())
        print(f"| {layer}.relu | {widths.pop()} | {cells} |", flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
