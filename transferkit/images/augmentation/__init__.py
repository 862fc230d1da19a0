"""Random changes of training images, drawn by NumPy so that they are the same on every backend."""

from transferkit.images.augmentation.base import Augmentation, AugmentationStage
from transferkit.images.augmentation.color import (
    Blur,
    Brightness,
    Contrast,
    Grayscale,
    Hue,
    Saturation,
)
from transferkit.images.augmentation.crop import RandomResizedCrop
from transferkit.images.augmentation.erasing import Erasing
from transferkit.images.augmentation.geometry import (
    HorizontalFlip,
    Rotation,
    Translation,
    VerticalFlip,
)
from transferkit.images.augmentation.mixing import CutMix, MixUp
from transferkit.images.augmentation.rand_augment import RandAugment

__all__ = [
    "Augmentation",
    "AugmentationStage",
    "Blur",
    "Brightness",
    "Contrast",
    "CutMix",
    "Erasing",
    "Grayscale",
    "HorizontalFlip",
    "Hue",
    "MixUp",
    "RandAugment",
    "RandomResizedCrop",
    "Rotation",
    "Saturation",
    "Translation",
    "VerticalFlip",
]
