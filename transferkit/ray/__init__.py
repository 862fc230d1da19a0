"""Extraction of features on the machines of a Ray cluster, or in several processes of one machine.

The work is divided by Ray Data; Ray itself is imported when a function is called.
"""

from transferkit.ray.extraction import extract

__all__ = ["extract"]
