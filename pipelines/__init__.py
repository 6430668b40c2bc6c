"""Codes → scores: cross-validated linear classifiers on every depth, and a report."""

from pipelines.comparison import Comparison, compare_layers
from pipelines.draws import Protocol
from pipelines.linear import LinearSVCCV, LogisticCV

__all__ = ["Comparison", "LinearSVCCV", "LogisticCV", "Protocol", "compare_layers"]
