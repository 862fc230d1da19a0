"""The command line, a thin layer over the classes: one module per command."""

from transferkit.cli.app import app, main

__all__ = ["app", "main"]
