"""Images: listing folders, reading, preprocessing, and batches.

All backends use the same code, based on Pillow and NumPy, so that every framework gets the same
pixels: (n, h, w, 3), RGB, float32 in [0, 1].
"""

from transferkit.images.folders import list_images, list_labeled_images
from transferkit.images.named import NamedImage
from transferkit.images.preprocessing import Preprocessing
from transferkit.images.published_preprocessing import (
    from_timm,
    from_torchvision,
    from_transformers,
)
from transferkit.images.reading import MAX_PIXELS, ImageLike, ImageTypeError, read_image
from transferkit.images.skipped import Skipped
from transferkit.images.stream import Batch, Images, count_images, stream_batches

__all__ = [
    "MAX_PIXELS",
    "Batch",
    "ImageLike",
    "ImageTypeError",
    "Images",
    "NamedImage",
    "Preprocessing",
    "Skipped",
    "count_images",
    "from_timm",
    "from_torchvision",
    "from_transformers",
    "list_images",
    "list_labeled_images",
    "read_image",
    "stream_batches",
]
