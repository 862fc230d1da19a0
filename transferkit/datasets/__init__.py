"""Data sets: images with labels, from folders, tables and file names."""

from transferkit.datasets.file_names import from_names
from transferkit.datasets.folders import from_folder
from transferkit.datasets.labelled_images import LabelledImages
from transferkit.datasets.tables import from_csv

__all__ = ["LabelledImages", "from_csv", "from_folder", "from_names"]
