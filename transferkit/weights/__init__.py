"""Published weights: their catalog, download and cache, and reading of all file formats.

To add a source of weights, edit two files: add its rows to the table in
`transferkit.weights.catalogue`, and write a module with the function that maps the names in its
files to those of the networks (``rename`` of `WeightsEntry`). Sources whose files already have
torchvision's names need no such function.
"""

from transferkit.weights.cache import cache_folder, cached_files, clear_cache, find_cached
from transferkit.weights.catalogue import WEIGHTS, PackagedFile, WeightsEntry, find_weights
from transferkit.weights.checksum import Checksum
from transferkit.weights.classes import ImageClass, find_imagenet_classes, imagenet_classes
from transferkit.weights.download import fetch
from transferkit.weights.files import read_safetensors, write_safetensors
from transferkit.weights.loading import load_weights

__all__ = [
    "WEIGHTS",
    "Checksum",
    "ImageClass",
    "PackagedFile",
    "WeightsEntry",
    "cache_folder",
    "cached_files",
    "clear_cache",
    "fetch",
    "find_cached",
    "find_imagenet_classes",
    "find_weights",
    "imagenet_classes",
    "load_weights",
    "read_safetensors",
    "write_safetensors",
]
