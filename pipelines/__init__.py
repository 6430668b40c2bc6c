"""Codes → scores: cross-validated linear classifiers on every depth, and a report."""

# `pipelines.extraction.extract.extract` is not among these: it imports torch, which takes seconds.
from pipelines.comparison.compare import compare_layers
from pipelines.comparison.protocol import Protocol
from pipelines.comparison.results import Comparison
from pipelines.extraction.options import ExtractionOptions
from pipelines.linear.estimators import LinearSVCCV, LogisticCV

__all__ = [
    "Comparison",
    "ExtractionOptions",
    "LinearSVCCV",
    "LogisticCV",
    "Protocol",
    "compare_layers",
]
