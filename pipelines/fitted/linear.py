"""A depth, fitted on every image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import ESTIMATORS, training_rows
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.scoring import scorer
from pipelines.comparison.splits import inner_splits
from pipelines.diagnostics.fit_notes import fit_notes, scores_of
from pipelines.extraction.extract import Extraction
from pipelines.fitted.pipeline import DIGEST_LENGTH, FittedPipeline
from pipelines.provenance import versions


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
