"""The fitted pipeline: the chosen depth's classifier, and all it takes to predict with it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import skops.io
from numpy.typing import NDArray

from cache.key import canonical_json
from codes import ImageList
from codes.wording import counted
from pipelines.comparison.compare import Comparison
from pipelines.comparison.duplicates import find_leaks, leaks_sentence
from pipelines.comparison.evaluate import ESTIMATORS, average_views, decision_values, training_rows
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import Best, LayerScore
from pipelines.comparison.scoring import scorer
from pipelines.comparison.splits import inner_splits
from pipelines.diagnostics.grid_edges import Edge, edge_sentence, uniform_sentence
from pipelines.extraction.extract import Extraction, backbone_of, extract
from pipelines.extraction.normalization import check_normalization
from pipelines.extraction.options import ExtractionOptions
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.progress import Progress
from pipelines.provenance import versions

FORMAT = 2
"""Of the file. The first did not have the images; it is read as if there were none."""
DIGEST_LENGTH = 8
"""Bytes of an image's digest that are kept."""
_TRUSTED = [f"{kind.__module__}.{kind.__qualname__}" for kind in ESTIMATORS.values()]
_FREE = ("device", "batch_size", "workers", "store", "skip_unreadable")
"""Options that the codes do not depend on: each prediction has its own."""


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
        """Tell which images the classifier was trained on.

        Parameters
        ----------
        digests : ndarray of shape (n_samples, 32), uint8
            As of `pipelines.extraction.extract.Extraction`.

        Returns
        -------
        trained : ndarray of shape (n_samples,), bool
        """
        return np.isin(_numbers(digests), _numbers(self.digests))

    def predict(
        self, images: ImageList, options: ExtractionOptions, *, progress: Progress | None = None
    ) -> tuple[Extraction, NDArray[np.str_], NDArray[np.float64]]:
        """Predict the class of each image.

        Parameters
        ----------
        images : ImageList
            Their labels are not looked at.
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

    Returns
    -------
    fitted : FittedPipeline
    """
    best = comparison.best
    images = extraction.images
    layer, kind = best.taken
    rng = np.random.default_rng(protocol.random_state)
    splits = inner_splits(images.labels, comparison.verdict.samples.groups, protocol.cv, rng)
    X, y, splits = training_rows(extraction.codes(layer), images.labels, splits)
    classifier = ESTIMATORS[kind](
        Cs=np.array(protocol.grid),
        cv=splits,
        scoring=scorer(comparison.scoring, comparison.classes),
        random_state=protocol.random_state,
    ).fit(X, y)
    # The folds are no part of what is kept.
    classifier.cv, classifier.scoring = protocol.cv, comparison.scoring
    classifier.Cs = list(protocol.grid)
    backbone, found = extraction.backbone, _found(comparison, layer, kind)
    return FittedPipeline(
        classifier=classifier,
        options=replace(extraction.options_of(layer, extraction.options), store=None),
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
            "expected": list(found.expected),
            "notes": _notes(extraction, comparison, classifier),
            "versions": versions(),
        },
        digests=extraction.digests[:, :DIGEST_LENGTH].copy(),
    )


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Read the first bytes of digests as numbers, which are compared at once."""
    return np.ascontiguousarray(digests[:, :DIGEST_LENGTH]).view(np.uint64).ravel()


def _found(comparison: Comparison, layer: str, classifier: str) -> Best | LayerScore:
    """Find the scores of the fitted depth; of the chosen one, those of each split's own choice."""
    best = comparison.best
    if (layer, classifier) == (best.layer, best.classifier):
        return best
    [row] = [
        row
        for row in comparison.layers
        if (row.layer, row.classifier, row.train_size) == (layer, classifier, best.train_size)
    ]
    return row


def _notes(
    extraction: Extraction, comparison: Comparison, classifier: LinearSVCCV | LogisticCV
) -> list[str]:
    """Say what may make the expected score wrong, and what may do better."""
    images, best = extraction.images, comparison.best
    leaks = find_leaks(extraction.digests, images.source.names, images.labels, images.test)
    notes = []
    if leaks:
        n_test = 0 if images.test is None else int(images.test.sum())
        told = f"{leaks_sentence([asdict(leak) for leak in leaks], n_test)} (byte by byte)."
        if best.n_without_leaks is not None:
            with_them = _found(comparison, *best.taken).score
            told += (
                " The expected score is that of the "
                f"{counted(best.n_without_leaks, 'other test image')}; on all it is "
                f"{with_them:.3f}."
            )
        notes.append(f"{told} --drop-leaks leaves them out.")
    if best.recommended is None:
        notes.append(
            "nothing here is shown to be better than guessing (the commonest class alone scores "
            f"{best.guess:.3f}): no depth is recommended. Do not rely on this pipeline."
        )
    if best.unexplained is not None:
        notes.append(
            f"training and test images differ: {best.layer} scores {best.cv_score:.3f} in "
            f"cross-validation, and the test images score {best.unexplained}, "
            f"{best.expected[0]:.3f}. Find out why before you rely on this pipeline."
        )
    notes += _grid_notes(extraction, comparison, classifier)
    check = check_normalization(
        images, extraction.digests, extraction.backbone, device=extraction.device
    )
    if check is not None and check.level == "warn":
        notes.append(check.text)
    return [*notes, *(f"{note}." for note in comparison.notes)]


def _grid_notes(
    extraction: Extraction, comparison: Comparison, classifier: LinearSVCCV | LogisticCV
) -> list[str]:
    """Say where a wider grid of C may do better, and a larger C give probabilities that mean more.

    The classifier's C is that of all images; the comparison's, that of most splits.
    """
    best, Cs = comparison.best, classifier.Cs_.tolist()
    layer, kind = best.taken
    [row] = [
        row
        for row in comparison.layers
        if (row.layer, row.classifier, row.train_size) == (layer, kind, best.train_size)
    ]
    name = f"{layer} ({kind})"
    edges = []
    if classifier.C_at_edge_:
        edges = [Edge(name=name, C=classifier.C_, side=classifier.C_at_edge_)]
    elif row.C_at_edge:
        edges = [Edge(name=f"{name}, in the comparison,", C=row.C, side=row.C_at_edge)]
    said = [edge_sentence(edges, Cs)]
    if isinstance(classifier, LogisticCV) and comparison.scoring != "neg_log_loss":
        X = average_views(extraction.codes(layer))
        said.append(uniform_sentence(name, classifier.predict_proba(X), classifier.C_, Cs))
    return [sentence for sentence in said if sentence]


def save(fitted: FittedPipeline, file: Path) -> None:
    """Write a fitted pipeline with skops: reading it back runs no code of the file's.

    Parameters
    ----------
    fitted : FittedPipeline
    file : Path
        Replaced at once.
    """
    kept = {field.name: getattr(fitted, field.name) for field in fields(fitted)}
    kept["options"] = {k: v for k, v in asdict(fitted.options).items() if k not in _FREE}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.partial")
    draft.write_bytes(skops.io.dumps({"format": FORMAT, **kept}))
    draft.replace(file)


def load(file: Path) -> FittedPipeline:
    """Read what `save` wrote.

    Parameters
    ----------
    file : Path

    Returns
    -------
    fitted : FittedPipeline

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is something else, or would run code that is not ours.
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


def write_predictions(
    out: IO[str],
    extraction: Extraction,
    labels: NDArray[np.str_],
    scores: NDArray[np.float64],
    classes: Sequence[str],
) -> None:
    """Write a CSV file with the columns path, label, score, and the score of every class.

    Parameters
    ----------
    out : text file
    extraction : Extraction
    labels : ndarray of shape (n_images,)
    scores : ndarray of shape (n_images, n_classes)
    classes : sequence of str
    """
    writer = csv.writer(out, lineterminator="\n")
    own = ["path", "label", "score"]
    writer.writerow([*own, *(f"class {name}" if name in own else name for name in classes)])
    rows = zip(extraction.images.source.names, labels.tolist(), scores, strict=True)
    for name, label, values in rows:
        score = values[list(classes).index(label)]
        writer.writerow([name, label, f"{score:.6g}", *(f"{value:.6g}" for value in values)])
