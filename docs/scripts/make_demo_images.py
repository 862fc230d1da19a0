"""Crop the demo's images from those of scikit-image: ``python docs/scripts/make_demo_images.py``.

Needs Pillow and scikit-image 0.26, which nothing else uses; writes to ``transferkit/demo``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image

from transferkit.demo import CAT, TEST, TRAIN

__all__ = ["main"]

_TEXTURES = ("brick", "grass", "gravel")
# The textures have 512 x 512 pixels: four by four tiles, those of the left half for training and
# those of the right half for testing, so that no test tile shares a pixel with a training tile.
_SIDE = 128
_TILES = 4
_QUALITY = 90


def main() -> None:
    """Write the tiles and the image of a cat."""
    for texture in _TEXTURES:
        image = _read(texture)
        for split, columns in ((TRAIN, range(_TILES // 2)), (TEST, range(_TILES // 2, _TILES))):
            folder = split / texture
            folder.mkdir(parents=True, exist_ok=True)
            corners = [(column, row) for row in range(_TILES) for column in columns]
            for number, (column, row) in enumerate(corners, start=1):
                left, top = column * _SIDE, row * _SIDE
                tile = image.crop((left, top, left + _SIDE, top + _SIDE))
                _write(tile, folder / f"{texture}-{number}.jpg")
    _write(_read("chelsea"), CAT)


def _read(name: str) -> Image.Image:
    with resources.files("skimage.data").joinpath(f"{name}.png").open("rb") as file:
        image = Image.open(file)
        image.load()
        return image


def _write(image: Image.Image, path: Path) -> None:
    image.save(path, quality=_QUALITY, optimize=True)


if __name__ == "__main__":
    main()
