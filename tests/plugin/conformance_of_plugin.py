"""What the plugin's author runs, and ``tests/backends/test_plugin.py``."""

import pytest

from transferkit.backends import Backend, get_backend
from transferkit.testing.conformance import BackendConformance


class TestNumpyBackend(BackendConformance):
    """The plugin by its name, as any user asks for it."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend to test."""
        return get_backend("numpy")
