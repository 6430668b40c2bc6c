"""Notes on a fitted pipeline: what makes its expected score doubtful, and what may do better."""

from __future__ import annotations

from dataclasses import asdict

from codes.wording import counted
from pipelines.comparison.compare import Comparison
from pipelines.comparison.duplicates import find_leaks, leaks_sentence
from pipelines.comparison.results import Best, LayerScore
from pipelines.diagnostics.grid_edges import Edge, edge_sentence, uniform_sentence
from pipelines.diagnostics.intensity_by_class import check_intensity
from pipelines.extraction.extract import Extraction
from pipelines.extraction.normalization import check_normalization
from pipelines.linear.estimators import LinearSVCCV, LogisticCV
from pipelines.reading.rows import average_views
from pipelines.reading.scratch import opened


def scores_of(comparison: Comparison, layer: str, classifier: str) -> Best | LayerScore:
    """Find the scores of a fitted depth; of the chosen one, those of each split's own choice."""
    best = comparison.best
    chosen = (layer, classifier) == (best.layer, best.classifier)
    return best if chosen else _row(comparison, layer, classifier)


def _row(comparison: Comparison, layer: str, classifier: str) -> LayerScore:
    """Find the scores of a depth at the largest training size."""
    wanted = (layer, classifier, comparison.best.train_size)
    [row] = [r for r in comparison.layers if (r.layer, r.classifier, r.train_size) == wanted]
    return row


def fit_notes(
    extraction: Extraction, comparison: Comparison, classifier: LinearSVCCV | LogisticCV | None
) -> list[str]:
    """Say what makes the expected score doubtful, and what may do better.

    The classifier is fitted on the codes of the depth to take, with the comparison's grid; None
    where the network is fine-tuned.
    """
    images, best = extraction.images, comparison.best
    leaks = find_leaks(extraction.digests, images.source.names, images.labels, images.test)
    notes = []
    if leaks:
        n_test = 0 if images.test is None else int(images.test.sum())
        said = f"{leaks_sentence([asdict(leak) for leak in leaks], n_test)} (byte by byte)."
        if best.n_without_leaks is not None:
            with_them = scores_of(comparison, *best.taken).score
            said += (
                " The expected score is that of the "
                f"{counted(best.n_without_leaks, 'other test image')}; on all it is "
                f"{with_them:.3f}."
            )
        notes.append(f"{said} --drop-leaks leaves them out.")
    if best.recommended is None:
        notes.append(
            "nothing here is shown to be better than guessing (always predicting the commonest "
            f"class scores {best.guess:.3f}): no depth is recommended. Do not rely on this "
            "pipeline."
        )
    if best.unexplained is not None:
        notes.append(
            f"training and test images differ: {best.layer} scores {best.cv_score:.3f} in "
            f"cross-validation, and the test images score {best.unexplained}, "
            f"{best.expected[0]:.3f}. Find out why before you rely on this pipeline."
        )
    if classifier is not None:
        notes += _grid_notes(extraction, comparison, classifier)
    check = check_normalization(
        images, extraction.digests, extraction.backbone, device=extraction.device
    )
    if check is not None and check.level == "warn":
        notes.append(check.text)
    in_use = extraction.backbone.preprocessing.intensity
    intensity = check_intensity(images, extraction.digests, in_use)
    if intensity is not None and intensity.text:
        notes.append(intensity.text)
    return [*notes, *(f"{note}." for note in comparison.notes)]


def _grid_notes(
    extraction: Extraction, comparison: Comparison, classifier: LinearSVCCV | LogisticCV
) -> list[str]:
    """Say where a wider grid of C may do better, and a larger C give probabilities that mean more.

    The classifier's C is that of all images; the comparison's, that of most splits.
    """
    best, Cs = comparison.best, classifier.Cs_.tolist()
    layer, kind = best.taken
    row = _row(comparison, layer, kind)
    name = f"{layer} ({kind})"
    edges = []
    if classifier.C_at_edge_:
        edges = [Edge(name=name, C=classifier.C_, side=classifier.C_at_edge_)]
    elif row.C_at_edge:
        edges = [Edge(name=f"{name}, in the comparison,", C=row.C, side=row.C_at_edge)]
    said = [edge_sentence(edges, Cs)]
    if isinstance(classifier, LogisticCV) and comparison.scoring != "neg_log_loss":
        with opened(extraction.readers[layer]) as codes:
            probabilities = classifier.predict_proba(average_views(codes))
        said.append(uniform_sentence(name, probabilities, classifier.C_, Cs))
    return [sentence for sentence in said if sentence]
