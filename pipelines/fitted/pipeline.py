"""The fitted pipeline: the chosen depth's classifier, and all it takes to predict with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from cache.key import canonical_json
from codes import ImageList
from codes.preprocessing import Preprocessing
from pipelines.comparison.answers import decision_values
from pipelines.comparison.compare import Comparison
from pipelines.comparison.protocol import FINETUNE
from pipelines.diagnostics.fit_notes import scores_of
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.options import ExtractionOptions
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.progress import Progress
from pipelines.provenance import versions
from pipelines.reading.rows import average_views
from pipelines.reading.scratch import opened

SUFFIX = ".safetensors"
"""How the name of a fine-tuned network ends: by it, --weights knows what it reads."""
METADATA = "cnn-codes"
"""Where a file of weights says what else belongs to them."""
DIGEST_LENGTH = 8
"""Bytes of an image's digest that are kept."""


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
        with opened(extraction.readers[tap.name]) as codes:
            X = average_views(codes)
            labels = np.asarray(self.classifier.predict(X))
            if isinstance(self.classifier, LogisticCV):
                scores = np.asarray(self.classifier.predict_proba(X), np.float64)
            else:
                scores = decision_values(self.classifier, X)
        return extraction, labels, scores


def describe(
    extraction: Extraction, comparison: Comparison, layer: str, classifier: str
) -> dict[str, Any]:
    """Gather what every fitted pipeline's card says.

    Parameters
    ----------
    extraction : Extraction
    comparison : Comparison
    layer, classifier : str
        The row of the comparison that is fitted.

    Returns
    -------
    card : dict
    """
    best, images = comparison.best, extraction.images
    return {
        "dataset": images.name,
        "n_images": len(images),
        "layer": layer,
        "chosen": best.layer,
        "tied": list(best.tied),
        "classifier": classifier,
        "weights": extraction.backbone.weights,
        "scoring": comparison.scoring,
        "expected": list(scores_of(comparison, layer, classifier).expected),
        "versions": versions(),
    }


def kept_digests(extraction: Extraction) -> NDArray[np.uint8]:
    """Give what a fitted pipeline remembers of the images that it, and its network, saw."""
    own = extraction.digests[:, :DIGEST_LENGTH].copy()
    before = digests_of_weights(extraction.options.weights)
    return np.concatenate([own, before[~np.isin(_numbers(before), _numbers(own))]])


def trained_on(weights: str | None, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which images weights were fine-tuned on, if they are a file that ``fit`` wrote.

    Parameters
    ----------
    weights : str or None
        As in `ExtractionOptions`.
    digests : ndarray of shape (n_images, 32), uint8

    Returns
    -------
    known : ndarray of shape (n_images,), bool
    """
    return np.isin(_numbers(digests), _numbers(digests_of_weights(weights)))


def digests_of_weights(weights: str | None) -> NDArray[np.uint8]:
    """Read what a file of weights remembers of images: ``(n_images, 8)``; of others, none."""
    file = Path(weights or "")
    if file.suffix != SUFFIX or not file.is_file():
        return read_digests("")
    with safe_open(file, "pt") as opened:
        metadata = (opened.metadata() or {}).get(METADATA, '{"digests": ""}')
    return read_digests(json.loads(metadata)["digests"])


def read_digests(kept: str) -> NDArray[np.uint8]:
    """Read digests as a file of weights holds them: ``(n_images, 8)``."""
    return np.frombuffer(bytes.fromhex(kept), np.uint8).reshape(-1, DIGEST_LENGTH)


def _preprocessing(fields: dict[str, Any]) -> Preprocessing:
    known: dict[str, Any] = {"decode": "full"}  # As files were before there was another.
    known |= {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Preprocessing(**known)


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Read the first bytes of digests as numbers, which are compared at once."""
    return np.ascontiguousarray(digests[:, :DIGEST_LENGTH]).view(np.uint64).ravel()
