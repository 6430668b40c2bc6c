"""A depth, fitted on every image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.comparison.compare import Comparison
from pipelines.comparison.evaluate import ESTIMATORS
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.splits import inner_splits
from pipelines.diagnostics.fit_notes import fit_notes
from pipelines.extraction.extract import Extraction
from pipelines.fitted.pipeline import FittedPipeline, describe, kept_digests
from pipelines.reading.rows import row_groups, training_rows
from pipelines.reading.scratch import opened
from pipelines.statistics.scoring import scorer


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
    images = extraction.images
    layer, kind = comparison.best.taken
    rng = np.random.default_rng(protocol.random_state)
    groups = comparison.scored.samples.groups
    splits = inner_splits(images.labels, groups, protocol.cv, rng)
    with opened(extraction.readers[layer]) as codes:
        X, y, splits = training_rows(codes, images.labels, splits)
        classifier = ESTIMATORS[kind](
            Cs=np.array(protocol.grid),
            cv=splits,
            scoring=scorer(comparison.scoring, comparison.classes),
            random_state=protocol.random_state,
            search=protocol.Cs_search,
        ).fit(X, y, row_groups(groups, len(images), len(X)))
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
            **describe(extraction, comparison, layer, kind),
            "classes": [str(name) for name in classifier.classes_],
            "C": float(classifier.C_),
            "Cs": list(protocol.grid),
            "Cs_search": protocol.Cs_search,
            "Cs_not_searched": classifier.Cs_[np.isnan(classifier.scores_).all(1)].tolist(),
            "notes": fit_notes(extraction, comparison, classifier),
        },
        digests=kept_digests(extraction),
    )
