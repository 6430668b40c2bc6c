"""The fitted pipeline: the chosen depth's classifier, and all it takes to predict with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from numpy.typing import NDArray

from cache.key import canonical_json
from codes import ImageList
from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import ESTIMATORS, average_views, decision_values, training_rows
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.scoring import scorer
from pipelines.comparison.splits import inner_splits
from pipelines.diagnostics.fit_notes import fit_notes, scores_of
from pipelines.drafts import replacing
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.options import FREE, ExtractionOptions
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.progress import Progress
from pipelines.provenance import versions

FORMAT = 2
"""Of the file. The first did not have the images; it is read as if there were none."""
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
    """

    classifier: LinearSVCCV | LogisticCV
    options: ExtractionOptions
    weights_digest: str
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    card: dict[str, Any]
    digests: NDArray[np.uint8]

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


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Read the first bytes of digests as numbers, which are compared at once."""
    return np.ascontiguousarray(digests[:, :DIGEST_LENGTH]).view(np.uint64).ravel()


def save(fitted: FittedPipeline, file: Path) -> None:
    """Write a fitted pipeline with skops: reading it back runs no code of the file's.

    Parameters
    ----------
    fitted : FittedPipeline
    file : Path
        Replaced at once.
    """
    kept = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    kept["options"] = {k: v for k, v in asdict(fitted.options).items() if k not in FREE}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as draft:
        draft.write_bytes(skops.io.dumps({"format": FORMAT, **kept}))


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
