"""The conformance tests of the plugin, run by ``tests/backends/test_plugin.py``."""

import pytest

from transferkit.backends import Backend, get_backend
from transferkit.testing.conformance import BackendConformance


class TestNumpyBackend(BackendConformance):
    """The plugin, found by its name like any backend."""

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend to test."""
        return get_backend("numpy")
