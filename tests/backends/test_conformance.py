"""Every backend that was asked for, held to what a plugin is held to."""

from transferkit.testing.conformance import BackendConformance


class TestConformance(BackendConformance):
    """The fixture ``backend`` is in conftest.py, once for each backend."""
