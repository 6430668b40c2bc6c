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
from pipelines.draws import Protocol, inner_splits
from pipelines.evaluation import ESTIMATORS, average_views, decision_values, training_rows
from pipelines.experiment import compare_depths
from pipelines.extraction import Extraction, backbone_of, extract
from pipelines.leaks import find_leaks, leaks_sentence
from pipelines.linear import LinearSVCCV, LogisticCV
from pipelines.normalization import check_normalization
from pipelines.options import ExtractionOptions
from pipelines.progress import Narrator, Silent
from pipelines.provenance import versions
from pipelines.results import Comparison
from pipelines.scorings import scorer

FORMAT = 1
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
    """

    classifier: LinearSVCCV | LogisticCV
    options: ExtractionOptions
    weights_digest: str
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    card: dict[str, Any]

    def predict(
        self, images: ImageList, options: ExtractionOptions, *, narrator: Narrator | None = None
    ) -> tuple[Extraction, NDArray[np.str_], NDArray[np.float64]]:
        """Predict the class of each image.

        Parameters
        ----------
        images : ImageList
            Their labels are not looked at.
        options : ExtractionOptions
            `options` with another device, batch size, store, place of the weights.
        narrator : Narrator, optional

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
        extraction = extract(images, options, backbone=backbone, narrator=narrator)
        [tap] = extraction.taps
        X = average_views(extraction.codes(tap.name))
        labels = np.asarray(self.classifier.predict(X))
        if isinstance(self.classifier, LogisticCV):
            return extraction, labels, np.asarray(self.classifier.predict_proba(X), np.float64)
        return extraction, labels, decision_values(self.classifier, X)


def fit(
    dataset: str,
    options: ExtractionOptions,
    protocol: Protocol,
    *,
    n_jobs: int = 1,
    narrator: Narrator | None = None,
) -> FittedPipeline:
    """Choose as `pipelines.experiment.compare` does, and fit the chosen depth on every image.

    Parameters
    ----------
    dataset : str
        As for `codes.load_images`.
    options : ExtractionOptions
        With one layer there is nothing to choose; what can be expected is measured all the same.
    protocol : Protocol
    n_jobs : int, default=1
    narrator : Narrator, optional

    Returns
    -------
    fitted : FittedPipeline

    Raises
    ------
    ValueError
        As `pipelines.experiment.compare`.
    """
    done = compare_depths(dataset, options, protocol, n_jobs=n_jobs, narrator=narrator or Silent())
    extraction, best = done.extraction, done.comparison.best
    images = extraction.images
    rng = np.random.default_rng(protocol.random_state)
    splits = inner_splits(images.labels, done.groups, protocol.cv, rng)
    X, y, splits = training_rows(extraction.codes(best.layer), images.labels, splits)
    classifier = ESTIMATORS[best.classifier](
        Cs=np.array(protocol.Cs),
        cv=splits,
        scoring=scorer(done.comparison.scoring, done.comparison.classes),
        random_state=protocol.random_state,
    ).fit(X, y)
    # The folds are no part of what is kept.
    classifier.cv, classifier.scoring = protocol.cv, done.comparison.scoring
    classifier.Cs = list(protocol.Cs)
    backbone = extraction.backbone
    return FittedPipeline(
        classifier=classifier,
        options=replace(extraction.options_of(best.layer, extraction.options), store=None),
        weights_digest=backbone.weights_digest,
        architecture=backbone.architecture,
        preprocessing=backbone.preprocessing.fields(),
        card={
            "dataset": images.name,
            "n_images": len(images),
            "classes": [str(name) for name in classifier.classes_],
            "layer": best.layer,
            "cheapest": best.recommended,
            "tied": list(best.tied),
            "classifier": best.classifier,
            "C": float(classifier.C_),
            "weights": backbone.weights,
            "scoring": done.comparison.scoring,
            "expected": [best.score, best.ci_low, best.ci_high],
            "notes": _notes(extraction, done.comparison),
            "versions": versions(),
        },
    )


def _notes(extraction: Extraction, comparison: Comparison) -> list[str]:
    """Say what may make the expected score wrong."""
    images, best = extraction.images, comparison.best
    leaks = find_leaks(extraction.digests, images.source.names, images.labels, images.test)
    notes = []
    if leaks:
        n_test = 0 if images.test is None else int(images.test.sum())
        told = leaks_sentence([asdict(leak) for leak in leaks], n_test)
        notes.append(f"{told} (copies, byte by byte). The expected score may be too good.")
    chosen = (best.layer, best.classifier, best.train_size)
    rows = {(row.layer, row.classifier, row.train_size): row for row in comparison.layers}
    edge = rows[chosen].C_at_edge
    if edge:
        notes.append(f"the best C is at the {edge} edge of the grid. A wider --Cs may do better.")
    check = check_normalization(
        images, extraction.digests, extraction.backbone, device=extraction.device
    )
    if check is not None and check.level == "warn":
        notes.append(check.text)
    return notes


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
    refused = f"{str(file)!r} is no pipeline of this version of cnn-codes"
    again = "Make one with `cnn-codes fit --out`."
    try:
        strange = sorted(set(skops.io.get_untrusted_types(file=file)) - set(_TRUSTED))
        if strange:
            raise ValueError(f"it holds {', '.join(strange)}, which is not read")
        kept = skops.io.load(file, trusted=_TRUSTED)
        if kept.pop("format") != FORMAT:
            raise ValueError("its format is another")
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
