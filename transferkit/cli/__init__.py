"""The command line: one module per command, each a thin layer over the public classes."""

from transferkit.cli.app import app, main

__all__ = ["app", "main"]
