"""Codes → scores: cross-validated linear classifiers on every depth, and a report."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.comparison.compare import Comparison, compare_layers
    from pipelines.comparison.protocol import Protocol
    from pipelines.extraction.extract import extract
    from pipelines.extraction.options import ExtractionOptions
    from pipelines.extraction.transformer import CodesTransformer
    from pipelines.finetuning.classifier import FineTuned
    from pipelines.linear.estimators import LinearSVCCV, LogisticCV
    from pipelines.studies.compare import compare
    from pipelines.studies.study import Study
    from pipelines.training.options import FinetuneOptions

_HOMES = {
    "CodesTransformer": "pipelines.extraction.transformer",
    "Comparison": "pipelines.comparison.compare",
    "ExtractionOptions": "pipelines.extraction.options",
    "FineTuned": "pipelines.finetuning.classifier",
    "FinetuneOptions": "pipelines.training.options",
    "LinearSVCCV": "pipelines.linear.estimators",
    "LogisticCV": "pipelines.linear.estimators",
    "Protocol": "pipelines.comparison.protocol",
    "Study": "pipelines.studies.study",
    "compare": "pipelines.studies.compare",
    "compare_layers": "pipelines.comparison.compare",
    "extract": "pipelines.extraction.extract",
}

__all__ = [
    "CodesTransformer",
    "Comparison",
    "ExtractionOptions",
    "FineTuned",
    "FinetuneOptions",
    "LinearSVCCV",
    "LogisticCV",
    "Protocol",
    "Study",
    "compare",
    "compare_layers",
    "extract",
]


def __getattr__(name: str) -> Any:
    # Each is loaded when it is asked for (PEP 562): classifiers need no torch, which takes seconds.
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
