"""For authors of backends: a NumPy reference, and the tests that every backend is held to.

The reference needs nothing but NumPy. The tests are in `transferkit.testing.conformance`
and need ``pip install "transferkit[testing]"``.
"""

from transferkit.testing.reference import (
    ReferenceBackend,
    ReferenceTable,
    finite_differences,
    reference_activations,
)

__all__ = ["ReferenceBackend", "ReferenceTable", "finite_differences", "reference_activations"]
