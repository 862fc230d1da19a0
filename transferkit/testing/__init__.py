"""Tools for authors of backends: a NumPy reference and conformance tests.

The reference needs only NumPy. The tests, in `transferkit.testing.conformance`, need
``pip install "transferkit[testing]"``.
"""

from transferkit.testing.reference import (
    FiniteDifferencesBackend,
    ReferenceBackend,
    ReferenceTable,
    finite_differences,
    reference_activations,
)

__all__ = [
    "FiniteDifferencesBackend",
    "ReferenceBackend",
    "ReferenceTable",
    "finite_differences",
    "reference_activations",
]
