"""Where images come from: folders, patterns, lists, Parquet and tar files, and URLs.

Memory does not grow with the number of images.
"""

from transferkit.sources.opening import Sources, open_sources

__all__ = ["Sources", "open_sources"]
