"""Handing over: a network fine-tuned on every image, with probabilities that mean what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from codes.graph.heads import class_weights
from codes.graph.suffix import Suffix
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import inner_splits
from pipelines.finetuning.calibration import calibrate
from pipelines.finetuning.heads import LastCodes, fit_heads, read_codes, start_head
from pipelines.finetuning.search import Chosen, Score, images_searched, search, seed_of, validating
from pipelines.progress import Progress
from pipelines.training.trials import Trainer, Trial

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedNetwork:
    """A network that was fine-tuned on every image.

    Attributes
    ----------
    network : Suffix
        What comes after the start; its classifier is calibrated.
    chosen : Chosen
        How it was trained.
    temperature : float
        What the classes' scores were divided by: above 1 where the network was too sure of them.
    """

    network: Suffix
    chosen: Chosen
    temperature: float


def train_on_all(
    trainer: Trainer,
    name: str,
    codes: LastCodes,
    samples: Samples,
    *,
    protocol: Protocol,
    scoring: str,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    progress: Progress,
) -> TrainedNetwork:
    """Choose a setting by validation, and train with it on every image.

    Parameters
    ----------
    trainer : Trainer
    name : str
        Of one of its candidates.
    codes : ndarray of shape (n_samples, n_features), or function returning one
        What the classifier reads of the network as it is.
    samples : Samples
    protocol : Protocol
    scoring : str
    n_jobs : int, default=1
    cluster : Cluster, optional
        As for `pipelines.compare_layers`.
    progress : Progress

    Returns
    -------
    trained : TrainedNetwork
    """
    candidate, everything = trainer.candidates[name], np.arange(len(samples.y))
    seed = seed_of(name, protocol.random_state)
    rng = np.random.default_rng(protocol.random_state)
    inner = inner_splits(samples.y, samples.groups, protocol.cv, rng)
    folds = validating(inner, len(everything))
    subsets = [everything, *(fold for fold, _ in folds)]
    own, *of_folds = fit_heads(codes, samples, subsets, protocol, n_jobs=n_jobs, cluster=cluster)
    X = read_codes(codes)
    random = candidate.options.head == "random"
    epochs = candidate.options.most_epochs(len(everything))
    total = len(everything) * epochs
    total += images_searched(candidate.options, samples.numbers, folds)
    with progress.step(f"Fine-tuning from {name}, images", total) as advance:
        chosen = search(
            trainer, name, everything, folds,
            [start_head(head, X, random, seed) for head in of_folds],
            Score(scoring=scoring, n_classes=len(samples.classes)), seed=seed, advance=advance,
        )  # fmt: skip
        trial = Trial(
            candidate=name, train=everything, test=everything[:0], setting=chosen.best.setting,
            head=start_head(own, X, random, seed), seed=seed,
        )  # fmt: skip
        network = trainer.train(trial, advance)
    temperature = calibrate(
        [outcome.log_proba for outcome in chosen.best.outcomes],
        [samples.numbers[everything[validation]] for _, validation in folds],
    )
    for parameter in network.head.parameters():
        parameter.data /= temperature
    return TrainedNetwork(network=network.cpu(), chosen=chosen, temperature=temperature)


def whole_state(trainer: Trainer, name: str, network: Suffix) -> dict[str, Tensor]:
    """Put what was trained into the state dict of the whole network.

    Parameters
    ----------
    trainer : Trainer
    name : str
        Of the candidate.
    network : Suffix

    Returns
    -------
    state : dict of str to Tensor
        That of the backbone's model, with as many classes as there are here.

    Raises
    ------
    ValueError
        If the network keeps its classifier otherwise than as one layer's weights.
    """
    backbone = trainer.candidates[name].backbone
    state = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    trained = network.body.state_dict()
    found = class_weights(backbone.graph)
    weight = network.head.weight.detach()
    fits = found is not None and found[1][0].numel() == weight.shape[1]
    if found is None or not fits or not trained.keys() <= state.keys():
        raise ValueError(
            f"The classifier of {backbone.name} is not one layer on its last codes, so that the "
            "fine-tuned network cannot be written as a state dict of it."
        )
    # Convolutions lie channels last while they are trained; safetensors takes the usual order.
    state |= {key: value.detach().cpu().contiguous().clone() for key, value in trained.items()}
    key, old = found
    state[key] = weight.reshape(len(weight), *old.shape[1:]).contiguous().clone()
    state[f"{key.removesuffix('.weight')}.bias"] = network.head.bias.detach().clone()
    return state
