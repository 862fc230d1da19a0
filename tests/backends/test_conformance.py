"""The conformance tests of plugins, run on each backend to be tested."""

from transferkit.testing.conformance import BackendConformance


class TestConformance(BackendConformance):
    """The tests use the fixture ``backend`` of conftest.py, which has one value per backend."""
