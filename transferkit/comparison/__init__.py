"""Comparison of networks on the same photos, by the same cross-validation."""

from transferkit.comparison.evidence import logme
from transferkit.comparison.intervals import paired_interval
from transferkit.comparison.result import Comparison
from transferkit.comparison.run import compare
from transferkit.comparison.table import ComparedNetwork

__all__ = [
    "ComparedNetwork",
    "Comparison",
    "compare",
    "logme",
    "paired_interval",
]
