"""What is wrong with the photos of a data set: files, duplicates, leaks, labels."""

from transferkit.inspection.findings import KINDS, THRESHOLDS, Finding
from transferkit.inspection.inspection import inspect_images
from transferkit.inspection.leaks import exact_copies
from transferkit.inspection.quarantine import Quarantined, restore
from transferkit.inspection.result import Inspection

__all__ = [
    "KINDS",
    "THRESHOLDS",
    "Finding",
    "Inspection",
    "Quarantined",
    "exact_copies",
    "inspect_images",
    "restore",
]
