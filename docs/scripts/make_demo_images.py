"""Cut the demo's photos out of scikit-image's: ``python docs/scripts/make_demo_images.py``.

Needs scikit-image 0.26, which is used for nothing else, and Pillow; writes into
``transferkit/demo``.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from PIL import Image

from transferkit.demo import CAT, TEST, TRAIN

__all__ = ["main"]

_TEXTURES = ("brick", "grass", "gravel")
# The textures are 512 pixels square: four by four tiles, those of the left half to train on and
# those of the right half to test on, so that no test tile shares a pixel with a training tile.
_SIDE = 128
_TILES = 4
_QUALITY = 90


def main() -> None:
    """Write the tiles and the cat."""
    for texture in _TEXTURES:
        picture = _read(texture)
        for split, columns in ((TRAIN, range(_TILES // 2)), (TEST, range(_TILES // 2, _TILES))):
            folder = split / texture
            folder.mkdir(parents=True, exist_ok=True)
            corners = [(column, row) for row in range(_TILES) for column in columns]
            for number, (column, row) in enumerate(corners, start=1):
                left, top = column * _SIDE, row * _SIDE
                tile = picture.crop((left, top, left + _SIDE, top + _SIDE))
                _write(tile, folder / f"{texture}-{number}.jpg")
    _write(_read("chelsea"), CAT)


def _read(name: str) -> Image.Image:
    with resources.files("skimage.data").joinpath(f"{name}.png").open("rb") as file:
        picture = Image.open(file)
        picture.load()
        return picture


def _write(picture: Image.Image, path: Path) -> None:
    picture.save(path, quality=_QUALITY, optimize=True)


if __name__ == "__main__":
    main()
