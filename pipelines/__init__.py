"""Codes → scores: cross-validated linear classifiers on every depth, and a report."""

# `pipelines.extraction.extract` is not among these: it imports torch, which takes seconds.
from pipelines.comparison import compare_layers
from pipelines.draws import Protocol
from pipelines.linear import LinearSVCCV, LogisticCV
from pipelines.options import ExtractionOptions
from pipelines.results import Comparison

__all__ = [
    "Comparison",
    "ExtractionOptions",
    "LinearSVCCV",
    "LogisticCV",
    "Protocol",
    "compare_layers",
]
