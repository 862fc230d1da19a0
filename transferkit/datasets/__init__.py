"""Data sets: images with labels, from folders, tables, file names and published archives."""

from transferkit.datasets.cats_dogs import cats_vs_dogs
from transferkit.datasets.file_names import from_names
from transferkit.datasets.folders import from_folder
from transferkit.datasets.labelled_images import LabelledImages
from transferkit.datasets.oxford_pets import oxford_iiit_pet
from transferkit.datasets.tables import from_csv

__all__ = [
    "LabelledImages",
    "cats_vs_dogs",
    "from_csv",
    "from_folder",
    "from_names",
    "oxford_iiit_pet",
]
