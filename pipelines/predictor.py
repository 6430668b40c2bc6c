"""The fitted pipeline: the chosen depth's classifier, and all it takes to predict with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import is_zipfile

import numpy as np
import skops.io
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cache.key import canonical_json
from codes import Backbone, ImageList
from codes.graph.heads import head_input
from codes.graph.suffix import Suffix
from codes.preprocessing import Preprocessing
from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import ESTIMATORS, average_views, decision_values, training_rows
from pipelines.comparison.protocol import FINETUNE, SCRATCH, WHOLE, Protocol
from pipelines.comparison.scoring import scorer
from pipelines.comparison.splits import inner_splits
from pipelines.diagnostics.fit_notes import fit_notes, scores_of
from pipelines.drafts import replacing
from pipelines.extraction.extract import Extraction, backbone_of, extract, extractor_of
from pipelines.extraction.options import FREE, ExtractionOptions
from pipelines.finetuning.finetune import Finetuning, center_of, prepare
from pipelines.finetuning.handover import train_on_all, whole_state
from pipelines.finetuning.trials import Trainer
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.progress import Progress
from pipelines.provenance import versions

METADATA = "cnn-codes"
"""Where a file of weights says what else belongs to them."""
FORMAT = 2
"""Of the file. The first did not have the images; it is read as if there were none."""
N_COMPARED, MOST_APART = 8, 0.02
"""Images that a fine-tuned network is asked again when it is loaded, and how much probabilities may
differ: maps are stored as float16."""
DIGEST_LENGTH = 8
"""Bytes of an image's digest that are kept."""
_TRUSTED = [f"{kind.__module__}.{kind.__qualname__}" for kind in ESTIMATORS.values()]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPipeline:
    """A fitted classifier, and how the codes that it takes are made.

    Attributes
    ----------
    classifier : LinearSVCCV or LogisticCV
        Fitted on every image of the dataset.
    options : ExtractionOptions
        Backbone, the one layer, pooling, activation side, image size, precision.
    weights_digest : str
        SHA-256 of the weights.
    architecture, preprocessing : dict
        As in the key of the codes.
    card : dict
        What a reader wants to know: dataset, classes, expected score, versions.
    digests : ndarray of shape (n_images, 8), uint8
        The first bytes of the digest of each image that it was trained on.
    state : dict of str to Tensor, or None
        The weights of the network, where it was fine-tuned.
    """

    classifier: LinearSVCCV | LogisticCV
    options: ExtractionOptions
    weights_digest: str
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    card: dict[str, Any]
    digests: NDArray[np.uint8] = field(repr=False)
    state: dict[str, Tensor] | None = field(default=None, repr=False)

    def trained_on(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Tell by their digests which images the classifier was trained on: ``(n_samples,)``."""
        return np.isin(_numbers(digests), _numbers(self.digests))

    def predict(
        self, images: ImageList, options: ExtractionOptions, *, progress: Progress | None = None
    ) -> tuple[Extraction, NDArray[np.str_], NDArray[np.float64]]:
        """Predict the class of each image.

        Parameters
        ----------
        images : ImageList
            Their labels are ignored.
        options : ExtractionOptions
            `options` with another device, batch size, store, place of the weights.
        progress : Progress, optional

        Returns
        -------
        extraction : Extraction
            Without images that were skipped.
        labels : ndarray of shape (n_images,), str
        scores : ndarray of shape (n_images, n_classes)
            Probabilities of a logistic regression, decision values of an SVM.

        Raises
        ------
        ValueError
            If the backbone is not the one that the classifier was fitted on.
        """
        backbone = backbone_of(options)
        if self.card["classifier"] == FINETUNE:  # Of a file of weights, nothing else is known.
            backbone = replace(backbone, preprocessing=_preprocessing(self.preprocessing))
        if backbone.weights_digest != self.weights_digest:
            raise ValueError(
                f"The weights {backbone.weights!r} have the SHA-256 "
                f"{backbone.weights_digest[:16]}…; this pipeline was fitted on codes of "
                f"{self.card['weights']!r}, {self.weights_digest[:16]}…. Give the same with "
                "--weights."
            )
        found = {
            "architecture": backbone.architecture, "preprocessing": backbone.preprocessing.fields()
        }  # fmt: skip
        for name, value in found.items():
            if canonical_json(value) != canonical_json(getattr(self, name)):
                raise ValueError(
                    f"The {name} of {options.backbone!r} is {value}; this pipeline was fitted with "
                    f"{getattr(self, name)}. Use the versions that it was made with: "
                    f"{self.card['versions']}."
                )
        extraction = extract(images, options, backbone=backbone, progress=progress)
        [tap] = extraction.taps
        X = average_views(extraction.codes(tap.name))
        labels = np.asarray(self.classifier.predict(X))
        if isinstance(self.classifier, LogisticCV):
            return extraction, labels, np.asarray(self.classifier.predict_proba(X), np.float64)
        return extraction, labels, decision_values(self.classifier, X)


def fit(extraction: Extraction, comparison: Comparison, protocol: Protocol) -> FittedPipeline:
    """Fit the recommended depth of a comparison, or else the chosen one, on every image.

    Parameters
    ----------
    extraction : Extraction
    comparison : Comparison
        Of its layers.
    protocol : Protocol
        Of the comparison.
    """
    best = comparison.best
    images = extraction.images
    layer, kind = best.taken
    rng = np.random.default_rng(protocol.random_state)
    splits = inner_splits(images.labels, comparison.scored.samples.groups, protocol.cv, rng)
    X, y, splits = training_rows(extraction.codes(layer), images.labels, splits)
    classifier = ESTIMATORS[kind](
        Cs=np.array(protocol.grid),
        cv=splits,
        scoring=scorer(comparison.scoring, comparison.classes),
        random_state=protocol.random_state,
    ).fit(X, y)
    # The folds are not kept.
    classifier.cv, classifier.scoring = protocol.cv, comparison.scoring
    classifier.Cs = list(protocol.grid)
    backbone = extraction.backbone
    return FittedPipeline(
        classifier=classifier,
        options=replace(extraction.options_of(layer), store=None),
        weights_digest=backbone.weights_digest,
        architecture=backbone.architecture,
        preprocessing=backbone.preprocessing.fields(),
        card={
            "dataset": images.name,
            "n_images": len(images),
            "classes": [str(name) for name in classifier.classes_],
            "layer": layer,
            "chosen": best.layer,
            "tied": list(best.tied),
            "classifier": kind,
            "C": float(classifier.C_),
            "weights": backbone.weights,
            "scoring": comparison.scoring,
            "expected": list(scores_of(comparison, layer, kind).expected),
            "notes": fit_notes(extraction, comparison, classifier),
            "versions": versions(),
        },
        digests=extraction.digests[:, :DIGEST_LENGTH].copy(),
    )


def fit_finetuned(
    extraction: Extraction,
    comparison: Comparison,
    protocol: Protocol,
    finetuning: Finetuning,
    start: str,
    *,
    n_jobs: int,
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
    n_jobs : int
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
    trainer = prepare(extraction, samples.numbers, options, folder=None, progress=progress)
    trained = train_on_all(
        trainer, start, finetuning.codes, samples,
        protocol=protocol, scoring=comparison.scoring, n_jobs=n_jobs, progress=progress,
    )  # fmt: skip
    state = whole_state(trainer, start, trained.network)
    graph = extraction.backbone.graph
    reading = replace(
        extraction.options, layers=graph.names[head_input(graph)], pool="avg", activation="post",
        dtype="float32", store=None, views="center", each_view=False,
    )  # fmt: skip
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
        classifier = _softmax(weight, bias, comparison.classes)
        _require_same(trained.network, classifier, trainer, start, extraction, backbone, reading)
    setting = trained.chosen.best.setting
    images = extraction.images
    return FittedPipeline(
        classifier=classifier,
        options=reading,
        weights_digest=backbone.weights_digest,
        architecture=backbone.architecture,
        preprocessing=backbone.preprocessing.fields(),
        card={
            "dataset": images.name,
            "n_images": len(images),
            "classes": list(comparison.classes),
            "layer": start,
            "chosen": comparison.best.layer,
            "tied": list(comparison.best.tied),
            "classifier": FINETUNE,
            "setting": asdict(setting),
            "temperature": trained.temperature,
            "weights": extraction.backbone.weights,
            "scoring": comparison.scoring,
            "expected": list(scores_of(comparison, start, FINETUNE).expected),
            "notes": fit_notes(extraction, comparison, None),
            "versions": versions(),
        },
        digests=extraction.digests[:, :DIGEST_LENGTH].copy(),
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


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    known: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Preprocessing(**known)


def _softmax(
    weight: NDArray[np.float64], bias: NDArray[np.float64], classes: Sequence[str]
) -> LogisticCV:
    """Make a classifier of weights that are known."""
    classifier = LogisticCV()
    classifier.classes_, classifier.n_features_in_ = np.array(classes), weight.shape[1]
    classifier.coef_, classifier.intercept_ = weight, bias
    return classifier


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Read the first bytes of digests as numbers, which are compared at once."""
    return np.ascontiguousarray(digests[:, :DIGEST_LENGTH]).view(np.uint64).ravel()


def save(fitted: FittedPipeline, file: Path) -> None:
    """Write a fitted pipeline: reading it back runs no code of the file's.

    With skops; a fine-tuned network as safetensors, with what else belongs to it as JSON in the
    metadata, so that its weights can be named where those of a backbone are.

    Parameters
    ----------
    fitted : FittedPipeline
    file : Path
        Replaced at once.
    """
    kept = {f.name: getattr(fitted, f.name) for f in fields(fitted) if f.name != "state"}
    kept["options"] = {k: v for k, v in asdict(fitted.options).items() if k not in FREE}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        if fitted.state is None:
            draft.write_bytes(skops.io.dumps({"format": FORMAT, **kept}))
            return
        head = fitted.classifier
        kept["classifier"] = {"coef": head.coef_.tolist(), "intercept": head.intercept_.tolist()}
        kept["digests"] = fitted.digests.tobytes().hex()
        metadata = json.dumps({"format": FORMAT, **kept}, allow_nan=False)
        save_file(fitted.state, draft, {METADATA: metadata})


def _load_finetuned(file: Path) -> FittedPipeline:
    """Read a fine-tuned network; its weights are read when it predicts."""
    with safe_open(file, "pt") as opened:
        metadata = (opened.metadata() or {}).get(METADATA)
    if metadata is None:
        raise ValueError("it holds weights, and nothing of what they are for")
    kept = json.loads(metadata)
    if kept.pop("format") != FORMAT:
        raise ValueError(f"its format is another than {FORMAT}")
    head = kept["classifier"]
    weight, bias = np.array(head["coef"]), np.array(head["intercept"])
    kept["classifier"] = _softmax(weight, bias, kept["card"]["classes"])
    kept["options"] = ExtractionOptions(**(kept["options"] | {"weights": str(file)}))
    digests = np.frombuffer(bytes.fromhex(kept["digests"]), np.uint8)
    kept["digests"] = digests.reshape(-1, DIGEST_LENGTH)
    return FittedPipeline(**kept)


def load(file: Path) -> FittedPipeline:
    """Read what `save` wrote.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it is not a fitted pipeline, or would run code that is not ours.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(file)!r} does not exist. Give a file that `cnn-codes fit --out` wrote."
        )
    refused = f"{str(file)!r} is not a fitted pipeline of this version of cnn-codes"
    again = "Make one with `cnn-codes fit --out`."
    try:
        if not is_zipfile(file):
            return _load_finetuned(file)
        strange = sorted(set(skops.io.get_untrusted_types(file=file)) - set(_TRUSTED))
        if strange:
            raise ValueError(f"it holds {', '.join(strange)}, which is not read")
        kept = skops.io.load(file, trusted=_TRUSTED)
        found = kept.pop("format")
        if found not in (1, FORMAT):
            raise ValueError(f"its format is {found}; 1 and {FORMAT} are read")
        if found == 1:
            kept["digests"] = np.empty((0, DIGEST_LENGTH), np.uint8)
        kept["options"] = ExtractionOptions(**kept["options"])
        return FittedPipeline(**kept)
    except Exception as error:  # Whatever the file is made to raise.
        raise ValueError(f"{refused}: {error}. {again}") from error
