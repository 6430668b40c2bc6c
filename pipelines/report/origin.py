"""The origin of codes, for a report: the network that made them, or the file that they are in."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipelines.provenance import versions
from pipelines.studies.given_study import GivenStudy
from pipelines.studies.study import Study

if TYPE_CHECKING:  # Loads torch, which takes seconds, and memory that given codes do not need.
    from pipelines.studies.network_study import NetworkStudy


def describe_origin(study: Study) -> dict[str, Any]:
    """Gather the entries of a report that depend on where the codes came from.

    Returns
    -------
    entries : dict
        ``backbone``, ``given``, ``environment``, ``finetune``, ``similarity``,
        ``preprocessing_check``, ``intensity_check``, ``advice``, ``reproducibility``, ``cost``,
        ``images_extracted``, ``images_copies``, ``images_reused``, ``layers_reused`` and
        ``skipped``. Of codes that were given, what needs the network or the images is None, or
        empty; otherwise ``given`` is None.
    """
    network = network_study(study)
    if network is not None:
        return _of_network(network)
    if isinstance(study, GivenStudy):
        return _of_file(study)
    raise TypeError(f"{type(study).__name__} has no origin. Allowed: NetworkStudy, GivenStudy.")


def network_study(study: Study) -> NetworkStudy | None:
    """Give a study of a network as what it is; None of given codes."""
    if isinstance(study, GivenStudy):
        return None
    from pipelines.studies.network_study import NetworkStudy

    return study if isinstance(study, NetworkStudy) else None


def _of_network(study: NetworkStudy) -> dict[str, Any]:
    from pipelines.report.finetuning_records import describe_finetuning

    extraction, backbone = study.extraction, study.extraction.backbone
    options, check = extraction.options, study.preprocessing_check
    intensity = study.intensity_check
    return {
        "backbone": {
            "name": backbone.name,
            "weights": backbone.weights,
            "weights_read": backbone.weights_read,
            "n_trained_on": study.n_trained_on,
            "weights_digest": backbone.weights_digest,
            "architecture": backbone.architecture,
            "preprocessing": backbone.preprocessing.fields(),
            "intensity": backbone.preprocessing.intensity,
            "intensity_found": extraction.range_found,
            "each_view": options.each_view,
            "activation": options.activation,
            "precision": options.precision,
            "dtype": options.dtype,
        },
        "given": None,
        "environment": {
            "versions": versions(),
            "device": extraction.device,
            "cluster": _cluster(study),
        },
        "finetune": describe_finetuning(study.finetuning, study.comparison),
        "similarity": asdict(study.similarity),
        "preprocessing_check": None
        if check is None
        else asdict(check) | {"chosen": extraction.chosen},
        "intensity_check": None if intensity is None else asdict(intensity),
        "advice": asdict(study.advice),
        "reproducibility": asdict(study.reproducibility),
        "cost": study.cost,
        "images_extracted": extraction.n_extracted,
        "images_copies": extraction.counts.copies,
        "images_reused": extraction.n_reused,
        "layers_reused": extraction.counts.layers,
        "skipped": [{"path": path, "reason": why} for path, why in extraction.skipped.items()],
    }


def _of_file(study: GivenStudy) -> dict[str, Any]:
    given = study.given
    return {
        "backbone": None,
        "given": {
            "file": given.images.name,
            "order": given.order,
            "has_depths": given.has_depths,
        },
        "environment": {"versions": versions(), "device": None, "cluster": _cluster(study)},
        "finetune": [],
        "similarity": None,
        "preprocessing_check": None,
        "intensity_check": None,
        "advice": None,
        "reproducibility": None,
        "cost": {},
        "images_extracted": 0,
        "images_copies": 0,
        "images_reused": 0,
        "layers_reused": {},
        "skipped": [],
    }


def _cluster(study: Study) -> dict[str, Any] | None:
    """Say how many workers of a cluster trained classifiers; its address is not for everyone."""
    if study.n_workers is None:
        return None
    return {"scheduler": "dask", "n_workers": study.n_workers}
