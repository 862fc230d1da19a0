"""Pictures: found in folders, read, turned upright, resized, cropped, and put into batches.

One path, Pillow and NumPy, for every backend: what comes out is N x H x W x 3, RGB, float32
in [0, 1], the same numbers whichever framework they go to.
"""

from transferkit.images.folders import list_images, list_labeled_images
from transferkit.images.preprocessing import Preprocessing
from transferkit.images.reading import MAX_PIXELS, ImageLike, ImageTypeError, read_image
from transferkit.images.stream import Batch, Images, Skipped, count_images, stream_batches

__all__ = [
    "MAX_PIXELS",
    "Batch",
    "ImageLike",
    "ImageTypeError",
    "Images",
    "Preprocessing",
    "Skipped",
    "count_images",
    "list_images",
    "list_labeled_images",
    "read_image",
    "stream_batches",
]
