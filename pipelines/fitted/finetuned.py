"""A network, fine-tuned on every image; what predicts reads its last codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from codes import Backbone
from codes.graph.suffix import Suffix
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import FINETUNE, SCRATCH, WHOLE, Protocol
from pipelines.diagnostics.fit_notes import fit_notes
from pipelines.extraction.extract import Extraction, backbone_of, extractor_of
from pipelines.extraction.options import ExtractionOptions
from pipelines.finetuning.finetune import Finetuning
from pipelines.finetuning.handover import train_on_all, whole_state
from pipelines.finetuning.prepare import center_of, prepare, reading_last_codes
from pipelines.fitted.pipeline import FittedPipeline, describe, kept_digests
from pipelines.linear.estimators import LogisticCV
from pipelines.progress import Progress
from pipelines.training.trials import Trainer

if TYPE_CHECKING:
    from pipelines.cluster.connection import Cluster

N_COMPARED, MOST_APART = 8, 0.02
"""Images that a fine-tuned network is asked again when it is loaded, and how much probabilities may
differ: maps are stored as float16."""


def fit_finetuned(
    extraction: Extraction,
    comparison: Comparison,
    protocol: Protocol,
    finetuning: Finetuning,
    start: str,
    *,
    n_jobs: int = 1,
    cluster: Cluster | None = None,
    progress: Progress,
) -> FittedPipeline:
    """Fine-tune the network on every image.

    What predicts is a linear classifier on the last codes of the network that this gives; it is
    calibrated on validation images.

    Parameters
    ----------
    extraction, comparison, protocol
        As for `fit`.
    finetuning : Finetuning
    start : str
        The first module to train, of those that were compared.
    n_jobs : int, default=1
    cluster : Cluster, optional
        As for `pipelines.compare_layers`.
    progress : Progress
    """
    samples = comparison.scored.samples
    scratch = start == SCRATCH
    options = replace(
        finetuning.trainer.candidates[start].options,
        starts=(WHOLE if scratch else start,),
        scratch=scratch,
    )
    # Images that only tested have no random views yet.
    trainer = prepare(
        extraction, samples.numbers, options,
        processes=finetuning.trainer.processes, cluster=cluster, progress=progress,
    )  # fmt: skip
    trained = train_on_all(
        trainer, start, finetuning.codes, samples,
        protocol=protocol, scoring=comparison.scoring, n_jobs=n_jobs, cluster=cluster,
        progress=progress,
    )  # fmt: skip
    state = whole_state(trainer, start, trained.network)
    reading = replace(reading_last_codes(extraction), dtype="float32", store=None)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "finetuned.safetensors"
        save_file(state, file)
        backbone = backbone_of(replace(reading, weights=str(file)))
        own = center_of(extraction.backbone).preprocessing
        backbone = replace(backbone, preprocessing=own)
        head = trained.network.head
        weight, bias = (value.detach().double().numpy() for value in (head.weight, head.bias))
        if len(weight) == 2:  # Of two classes, one function decides.
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        classifier = softmax(weight, bias, comparison.classes)
        _require_same(trained.network, classifier, trainer, start, extraction, backbone, reading)
    return FittedPipeline(
        classifier=classifier,
        options=reading,
        weights_digest=backbone.weights_digest,
        architecture=backbone.architecture,
        preprocessing=backbone.preprocessing.fields(),
        card={
            **describe(extraction, comparison, start, FINETUNE),
            "classes": list(comparison.classes),
            "setting": asdict(trained.chosen.best.setting),
            "temperature": trained.temperature,
            "notes": fit_notes(extraction, comparison, None),
        },
        digests=kept_digests(extraction),
        state=state,
    )


def _require_same(
    network: Suffix,
    classifier: LogisticCV,
    trainer: Trainer,
    start: str,
    extraction: Extraction,
    backbone: Backbone,
    options: ExtractionOptions,
) -> None:
    """Refuse to hand over a network that, loaded again, predicts otherwise than it was trained."""
    few = np.arange(min(N_COMPARED, len(extraction.images)))
    with torch.inference_mode():
        values = trainer.candidates[start].maps.read(few, 0).float()
        trained = network(values).double().softmax(1).numpy()
    batches = extractor_of(backbone, options).extract(extraction.images.take(few))
    codes = np.concatenate([next(iter(batch.codes.values())) for batch in batches])
    loaded = classifier.predict_proba(codes)
    if not np.abs(loaded - trained).max() < MOST_APART:
        raise ValueError(
            f"{backbone.name}, loaded with the weights that fine-tuning gave, predicts otherwise "
            f"(probabilities differ by {np.abs(loaded - trained).max():.2g}): it depends on more "
            "than its state dict. Give a backbone whose function sets all of it."
        )


def softmax(
    weight: NDArray[np.float64], bias: NDArray[np.float64], classes: Sequence[str]
) -> LogisticCV:
    """Make a logistic regression of weights that are known."""
    classifier = LogisticCV()
    classifier.classes_, classifier.n_features_in_ = np.array(classes), weight.shape[1]
    classifier.coef_, classifier.intercept_ = weight, bias
    return classifier
