"""Data sets: images with labels, from folders, tables and file names."""

from transferkit.datasets.folders import from_folder
from transferkit.datasets.labelled_images import LabelledImages

__all__ = ["LabelledImages", "from_folder"]
