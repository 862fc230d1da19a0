"""Backends that compute in float64, in which they agree after many steps."""

from __future__ import annotations

import copy
import importlib

from transferkit.backends import Backend


def in_float64(backend: Backend) -> Backend:
    """Return a copy of the backend that computes in float64."""
    framework = importlib.import_module(backend.name)
    double = copy.copy(backend)
    double.table = copy.copy(backend.table)
    double.table.dtype = framework.float64
    return double
