"""Fine-tuning, compared: candidates trained and tested on the splits that the depths share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from codes.graph.starts import Start
from pipelines.comparison.answers import read_values
from pipelines.comparison.compare import Comparison, decide
from pipelines.comparison.evaluate import Fit
from pipelines.comparison.protocol import FINETUNE, Protocol
from pipelines.comparison.results import ComparedLayer
from pipelines.comparison.samples import Samples
from pipelines.comparison.splits import Fold, Split
from pipelines.extraction.extract import Extraction
from pipelines.finetuning.heads import LastCodes, fit_heads, read_codes, start_head
from pipelines.finetuning.prepare import last_codes, prepare
from pipelines.finetuning.search import Chosen, Score, images_searched, search, seed_of, validating
from pipelines.progress import Progress
from pipelines.training.kept import Outcome
from pipelines.training.options import FinetuneOptions
from pipelines.training.processes import ALONE, Processes
from pipelines.training.run import DivergedError, Setting
from pipelines.training.trials import Candidate, Head, Trainer, Trial

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

N_MEMORIZED, EPOCHS_MEMORIZED = 20, 60
"""Images that a network must be able to learn by heart, and in how many passes
(https://cs231n.github.io/neural-networks-3/#sanitycheck)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finetuned:
    """What fine-tuning from a start gave.

    Attributes
    ----------
    name : str
        The first module that is trained, "input" or "scratch".
    start : Start
    fits : list of Fit
        One for each split.
    chosen : list of Chosen
        What was found by each search, in the order of the splits (see `searched_in`).
    outcomes : list of Outcome
        Of each split, the first seed's.
    memorized_loss : float
        Of a few centres after a short training on nothing else, from a classifier of zeros: near 0
        unless something is wrong.
    """

    name: str
    start: Start
    fits: list[Fit]
    chosen: list[Chosen]
    outcomes: list[Outcome]
    memorized_loss: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Finetuning:
    """What fine-tuning gave, and what it takes to train another.

    Attributes
    ----------
    trainer : Trainer
    codes : function returning an ndarray of shape (n_samples, n_features)
        What the classifier reads of the network as it is.
    found : tuple of Finetuned
    linear : Comparison
        Of the linear classifiers alone.
    """

    trainer: Trainer
    codes: LastCodes
    found: tuple[Finetuned, ...]
    linear: Comparison


def compare_finetuned(
    comparison: Comparison,
    extraction: Extraction,
    options: FinetuneOptions,
    *,
    protocol: Protocol,
    multiply_adds: float,
    processes: Processes = ALONE,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    progress: Progress,
) -> tuple[Comparison, Finetuning]:
    """Train the network too, on the splits of a comparison, and choose among everything.

    Parameters
    ----------
    comparison : Comparison
        Of the linear classifiers.
    extraction : Extraction
    options : FinetuneOptions
    protocol : Protocol
    multiply_adds : float
        Of the whole network: what it costs to predict with it, once it is trained.
    processes : Processes, default=ALONE
    n_jobs : int, default=1
    cluster : Cluster, optional
        As for `pipelines.compare_layers`.
    progress : Progress

    Returns
    -------
    comparison : Comparison
        Of the linear classifiers and of what was trained.
    finetuning : Finetuning
    """
    scored = comparison.scored
    trained = np.zeros(len(scored.samples.y), bool)
    for split in scored.splits:
        trained[split.train] = True
    trainer = prepare(
        extraction, scored.samples.numbers, options,
        trained=trained, processes=processes, cluster=cluster, progress=progress,
    )  # fmt: skip
    codes = last_codes(extraction, progress)
    found, notes = finetune(
        trainer, codes, scored.samples, scored.splits,
        protocol=protocol, scoring=scored.scoring, n_jobs=n_jobs, cluster=cluster,
        progress=progress,
    )  # fmt: skip
    described = {
        (one.name, FINETUNE): ComparedLayer(
            layer=one.name, depth=one.start.depth, multiply_adds=multiply_adds
        )
        for one in found
    }
    scored = replace(
        scored,
        fits=scored.fits | {(one.name, FINETUNE): one.fits for one in found},
        layers={**scored.layers, **described},
    )
    everything = decide(scored, max_loss=protocol.max_loss, notes=(*comparison.notes, *notes))
    return everything, Finetuning(
        trainer=trainer, codes=codes, found=tuple(found), linear=comparison
    )


def finetune(
    trainer: Trainer,
    codes: LastCodes,
    samples: Samples,
    splits: Sequence[Split],
    *,
    protocol: Protocol,
    scoring: str,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    progress: Progress,
) -> tuple[list[Finetuned], list[str]]:
    """Train every candidate on every split, with settings chosen among its training images.

    Where the test images are the same in several splits, settings are chosen in the first of each
    training size, and taken in the others.

    Parameters
    ----------
    trainer : Trainer
    codes : ndarray of shape (n_samples, n_features), or function returning one
        What the classifier reads of the network as it is.
    samples : Samples
    splits : sequence of Split
    protocol : Protocol
    scoring : str
    n_jobs : int, default=1
        Processes that fit the classifiers to start from.
    cluster : Cluster, optional
    progress : Progress

    Returns
    -------
    finetuned : list of Finetuned
    notes : list of str
        Which candidates are left out, as every setting diverged.
    """
    score = Score(scoring=scoring, n_classes=len(samples.classes))
    searches = searched_in(splits, same_test=samples.test is not None)
    folds = {i: validating(splits[i].inner, len(splits[i].train)) for i in dict.fromkeys(searches)}
    subsets = [split.train for split in splits]
    subsets += [splits[i].train[train] for i, of in folds.items() for train, _ in of]
    heads = fit_heads(codes, samples, subsets, protocol, n_jobs=n_jobs, cluster=cluster)
    X = read_codes(codes)
    own, rest = heads[: len(splits)], iter(heads[len(splits) :])
    of_folds = {i: [next(rest) for _ in of] for i, of in folds.items()}

    def one(name: str, candidate: Candidate) -> Finetuned:
        seed = seed_of(name, protocol.random_state)
        random = candidate.options.head == "random"
        total = _passes(trainer, name, splits, folds)
        with progress.step(f"Fine-tuning from {name}, images", total) as advance:
            chosen = {
                i: search(
                    trainer, name, splits[i].train, folds[i],
                    [start_head(head, X, random, seed) for head in of_folds[i]], score,
                    seed=seed, advance=advance,
                )
                for i in folds
            }  # fmt: skip
            trials = [
                Trial(
                    candidate=name, train=split.train, test=split.test,
                    head=start_head(own[i], X, random, seed + again),
                    setting=chosen[searches[i]].best.setting, seed=seed + again,
                )
                for i, split in enumerate(splits)
                for again in range(candidate.options.seeds)
            ]  # fmt: skip
            outcomes = trainer.run(trials, advance)
            for trial, outcome in zip(trials, outcomes, strict=True):
                outcome.curve.require_finite(name, trial.setting)
            [memorized] = trainer.run([_to_memorize(trials[-1])], advance)
        n = candidate.options.seeds
        groups = [outcomes[i * n : (i + 1) * n] for i in range(len(splits))]
        sampled = [trial.sampled for trial in trials[::n]]
        fits = [
            _fit(split, of, sampled[i], samples, score, chosen[searches[i]], X.shape[1])
            for i, (split, of) in enumerate(zip(splits, groups, strict=True))
        ]
        return Finetuned(
            name=name,
            start=candidate.start,
            fits=fits,
            chosen=list(chosen.values()),
            outcomes=[of[0] for of in groups],
            memorized_loss=memorized.train_loss,
        )

    found: list[Finetuned] = []
    notes: list[str] = []
    for name, candidate in trainer.candidates.items():
        try:
            found.append(one(name, candidate))
        except DivergedError as error:  # The others, and the linear classifiers, stay.
            notes.append(str(error).rstrip("."))
    return found, notes


def _to_memorize(trial: Trial) -> Trial:
    """Train on a few images alone, as the lecture does before anything else."""
    few = np.random.default_rng(trial.seed).permutation(trial.train)[:N_MEMORIZED]
    head = Head(weight=0 * trial.head.weight, bias=0 * trial.head.bias)
    setting = Setting(lr=trial.setting.lr, weight_decay=0.0, epochs=EPOCHS_MEMORIZED)
    return replace(trial, train=few, test=few, head=head, setting=setting, centers=True)


def searched_in(splits: Sequence[Split], *, same_test: bool) -> list[int]:
    """Give the split in which each one's setting is chosen.

    Parameters
    ----------
    splits : sequence of Split
    same_test : bool
        Whether all test on the same images.

    Returns
    -------
    numbers : list of int
        Of splits, one for each of them.
    """
    if not same_test:
        return list(range(len(splits)))
    first: dict[Any, int] = {}
    return [first.setdefault(split.train_size, i) for i, split in enumerate(splits)]


def _passes(
    trainer: Trainer, name: str, splits: Sequence[Split], folds: dict[int, Sequence[Fold]]
) -> int:
    """Count the images that are trained on, each as often as it is."""
    options = trainer.candidates[name].options
    n = sum(len(s.train) * options.most_epochs(len(s.train)) for s in splits) * options.seeds
    for i, of in folds.items():
        n += images_searched(options, trainer.numbers[splits[i].train], of)
    return n + N_MEMORIZED * EPOCHS_MEMORIZED


def _fit(
    split: Split,
    outcomes: Sequence[Outcome],
    sampled: NDArray[np.intp],
    samples: Samples,
    score: Score,
    chosen: Chosen,
    n_features: int,
) -> Fit:
    """Average the probabilities of several seeds."""
    log_proba = np.logaddexp.reduce([one.log_proba for one in outcomes]) - np.log(len(outcomes))
    truth = samples.numbers[split.test]
    return Fit(
        n_features=n_features,
        C=float("nan"),
        C_at_edge=None,
        converged=True,
        cv_scores=np.array([chosen.best.score]),
        cv_score=chosen.best.score,
        train_score=score(outcomes[0].train_log_proba, samples.numbers[sampled]),
        predicted=log_proba.argmax(1),
        answers=read_values(log_proba, truth, score.scoring),
    )
