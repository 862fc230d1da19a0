"""Backends, which run networks. Importing this package imports no framework."""

from transferkit.backends.base import Backend, Table, WrappedModel
from transferkit.backends.calibration import Calibration
from transferkit.backends.program import Program
from transferkit.backends.registry import (
    BackendInfo,
    backend_names,
    backend_of,
    describe_backend,
    get_backend,
)

__all__ = [
    "Backend",
    "BackendInfo",
    "Calibration",
    "Program",
    "Table",
    "WrappedModel",
    "backend_names",
    "backend_of",
    "describe_backend",
    "get_backend",
]
