"""Backends: what runs a network. Only their registry and their interface are imported here."""

from transferkit.backends.base import Backend, Table, WrappedModel
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
    "Program",
    "Table",
    "WrappedModel",
    "backend_names",
    "backend_of",
    "describe_backend",
    "get_backend",
]
