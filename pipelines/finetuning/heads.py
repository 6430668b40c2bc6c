"""Heads: the classifier that training begins with, fitted on the network's last codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from pipelines.cluster.tasks import run_tasks
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.linear.estimators import LogisticCV
from pipelines.training.trials import Head

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

LastCodes = NDArray[Any] | Callable[[], NDArray[Any]]
"""The network's last codes, or a function that reads them."""


def fit_heads(
    codes: LastCodes,
    samples: Samples,
    subsets: Sequence[NDArray[np.intp]],
    protocol: Protocol,
    *,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
) -> list[Head]:
    """Fit the logistic regression that each training begins with.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_features), or function returning one
    samples : Samples
    subsets : sequence of ndarray of intp
        Training images of each.
    protocol : Protocol
    n_jobs : int, default=1
    cluster : Cluster, optional

    Returns
    -------
    heads : list of Head
    """
    tasks = _Probes(codes=codes, numbers=samples.numbers, subsets=subsets, protocol=protocol)
    places = range(len(subsets))
    heads = dict(run_tasks(tasks, places, n_jobs=n_jobs, cluster=cluster))
    return [heads[place] for place in places]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probes:
    """The tasks of `fit_heads`, by the subsets' numbers."""

    codes: LastCodes
    numbers: NDArray[np.intp]
    subsets: Sequence[NDArray[np.intp]]
    protocol: Protocol

    def __call__(self, place: int) -> Callable[[], tuple[int, Head]]:
        train = self.subsets[place]
        return partial(_probe, place, self.codes, train, self.numbers[train], self.protocol)


def _probe(
    place: int,
    codes: LastCodes,
    train: NDArray[np.intp],
    numbers: NDArray[np.intp],
    protocol: Protocol,
) -> tuple[int, Head]:
    X = read_codes(codes)[train]
    n = int(np.unique(numbers, return_counts=True)[1].min())
    model = LogisticCV(
        Cs=np.array(protocol.grid),
        cv=max(2, min(protocol.cv, n)),
        # Probabilities that mean something: what is trained on has a loss that can fall.
        scoring="neg_log_loss",
        random_state=protocol.random_state,
        search=protocol.Cs_search,
    )
    with warnings.catch_warnings():
        # Training goes on from here: it need not be the optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, numbers)
    weight, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(weight) == 1:  # Of two classes: a sigmoid is a softmax with zero for the first.
        weight, bias = np.vstack([0 * weight, weight]), np.append(0.0, bias)
    return place, Head(weight=weight, bias=bias)


def start_head(head: Head, codes: NDArray[Any], random: bool, seed: int) -> Head:
    """Give the classifier to start with: the fitted one, or small random weights."""
    if not random:
        return head
    rng = np.random.default_rng(seed)
    norm = float(np.sqrt((codes.astype(np.float64) ** 2).sum(1).mean()))
    weight = rng.normal(size=head.weight.shape) * 0.05 / max(norm, 1e-12)
    return Head(weight=weight, bias=np.zeros_like(head.bias))


def read_codes(codes: LastCodes) -> NDArray[Any]:
    """Read the network's last codes, where they are not in memory."""
    return codes() if callable(codes) else np.asarray(codes)
