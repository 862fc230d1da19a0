"""The backends that the tests are run on."""

from __future__ import annotations

import importlib.util

import pytest

from transferkit.backends import describe_backend
from transferkit.backends.base import GRADIENTS

BUILT_IN = ("onnxruntime", "torch", "tensorflow")
"""The names of backends, which are also the names of the modules of their frameworks."""


def requested_backends(config: pytest.Config) -> list[str]:
    """Return the names of the backends to test."""
    option: str | None = config.getoption("--backends")
    if option is not None:
        return [name.strip() for name in option.split(",") if name.strip()]
    return [name for name in BUILT_IN if importlib.util.find_spec(name) is not None]


def can_differentiate(name: str) -> bool:
    """Return whether a backend has gradients; True if unusable, so that its tests fail."""
    found = describe_backend(name)
    return found.problem is not None or GRADIENTS in found.capabilities
