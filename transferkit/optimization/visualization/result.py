"""`IdealImages`: what a run made, how it went, and how good it is."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.errors import OutputError, ParameterError
from transferkit.optimization.visualization.transforms import Jitter, Rotate, Scale, TransformChain
from transferkit.support.atomic_write import write_atomically
from transferkit.support.drawing import labeled_grid

__all__ = ["IdealImages", "image_grid", "to_bytes"]

Floats = npt.NDArray[np.float32]

_NUMBER_OF_VIEWS = 32
_SEED_OF_VIEWS = 0
# A shift by a 28th of the picture: 8 pixels of 224.
_SHIFT = 1 / 28
_LARGEST_SCALE = 1.1
_DEGREES = 10.0
_GAP = 2
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, eq=False)
class IdealImages:
    """Pictures that were optimised, one for each objective.

    Attributes
    ----------
    images
        (n, h, w, 3) RGB, float32 in [0, 1].
    history
        (steps, n) float32: the loss of each picture before each step, what was minimised: the
        regularisers less the objective. The octaves' steps follow each other.
    labels
        What each picture was optimised for.
    targets
        The index among the logits of the class that each was to show; None where it was for
        something else.
    interrupted
        Whether the run was stopped before it was done; `history` has the steps that were.
    seconds
        How long it took.
    frames
        (frames, n, h, w, 3) uint8: the pictures on their way, the last one as they are; none
        where none were asked for.
    """

    images: Floats
    history: Floats
    labels: tuple[str, ...]
    targets: tuple[int | None, ...]
    interrupted: bool
    seconds: float
    frames: npt.NDArray[np.uint8]
    _program: Program

    @cached_property
    def probability(self) -> Floats:
        """(n,) how likely the network finds the class in each picture, in [0, 1]; NaN without.

        Judged on the picture in eight bits, as `save` writes it to a PNG.
        """
        return self._probability(self._rounded())

    @cached_property
    def robustness(self) -> Floats:
        """(n,) the mean of the class's probability over 32 views of each picture.

        Each is shifted by up to a 28th of its side, scaled by 1 / 1.1 to 1.1 and turned by up
        to 10 degrees, the same at every call; NaN where a picture is not for a class.
        """
        if all(target is None for target in self.targets):
            return self._probability(self.images)
        _, height, width, _ = self.images.shape
        jitter = Jitter(max(1, round(_SHIFT * min(height, width))))
        chain = TransformChain(
            [jitter, Scale(1 / _LARGEST_SCALE, _LARGEST_SCALE), Rotate(_DEGREES)]
        )
        backend = self._program.backend
        change = chain.bind(backend.table, height, width)
        look = backend.compile(lambda images, drawn: change(images, [drawn]))
        generator = np.random.default_rng(_SEED_OF_VIEWS)
        rounded = self._rounded()
        views = [
            self._probability(look(rounded, chain.draw(generator)[0].astype(np.float32)))
            for _ in range(_NUMBER_OF_VIEWS)
        ]
        return np.asarray(np.mean(views, axis=0), np.float32)

    @cached_property
    def total_variation(self) -> Floats:
        """(n,) the mean absolute difference of neighbouring pixels, in [0, 1].

        Over both directions and all channels.
        """
        down, right = (np.abs(np.diff(self.images, axis=axis)) for axis in (1, 2))
        total = down.sum(axis=(1, 2, 3)) + right.sum(axis=(1, 2, 3))
        return np.asarray(total / (down[0].size + right[0].size), np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the picture to a file, or several as one grid with their labels.

        Parameters
        ----------
        path
            Ends in ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``. What is there is replaced, once
            the new file is whole.

        Raises
        ------
        OutputError
            If it cannot be written, or ends in something else.
        """
        path = Path(path)
        if path.suffix.lower() not in _SUFFIXES:
            raise OutputError(f"{path}: end the name of a picture in {', '.join(_SUFFIXES)}")
        tiles = list(to_bytes(self.images))
        if len(tiles) == 1:
            picture = Image.fromarray(tiles[0])
        else:
            picture = labeled_grid(tiles, self.labels, side=max(tiles[0].shape))
        with write_atomically(path) as file:
            picture.save(file, _SUFFIXES[path.suffix.lower()], quality=95)

    def animation(self, path: str | os.PathLike[str], *, seconds: float = 4.0) -> None:
        """Write how the pictures came about as an animated GIF.

        Parameters
        ----------
        path
            Ends in ``.gif``.
        seconds
            How long it plays, greater than 0; the last frame stays for a second more.

        Raises
        ------
        OutputError
            If it cannot be written, or ends in something else.
        ParameterError
            If no frames were kept.
        """
        path = Path(path)
        if path.suffix.lower() != ".gif":
            raise OutputError(f"{path}: end the name of an animation in .gif")
        if not len(self.frames):
            raise ParameterError("no frames were kept; call visualize with frames=24, say")
        if not 0 < seconds < math.inf:
            raise ParameterError(f"seconds is {seconds!r}; it must be greater than 0")
        pictures = [Image.fromarray(image_grid(frame)) for frame in self.frames]
        each = round(1000 * seconds / len(pictures))
        durations = [each] * (len(pictures) - 1) + [each + 1000]
        with write_atomically(path) as file:
            pictures[0].save(
                file,
                "GIF",
                save_all=True,
                append_images=pictures[1:],
                duration=durations,
                loop=0,
            )

    def _rounded(self) -> Floats:
        return np.asarray(to_bytes(self.images) / np.float32(255), np.float32)

    def _probability(self, images: Floats) -> Floats:
        found = np.full(len(images), np.nan, np.float32)
        rows = [row for row, target in enumerate(self.targets) if target is not None]
        if rows:
            logits = self._program.run(images[rows], ["logits"])["logits"].astype(np.float64)
            likely = np.exp(logits - logits.max(axis=1, keepdims=True))
            likely /= likely.sum(axis=1, keepdims=True)
            found[rows] = [likely[place, self.targets[row]] for place, row in enumerate(rows)]
        return found

    def __repr__(self) -> str:
        number, height, width, _ = self.images.shape
        state = ", interrupted" if self.interrupted else ""
        return (
            f"IdealImages({number} of {height} x {width}: {'; '.join(self.labels[:4])}"
            f"{'; ...' if number > 4 else ''}; {len(self.history)} steps in "
            f"{self.seconds:.1f} s{state})"
        )


def image_grid(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Pictures (n, h, w, 3) side by side in rows, about as many as in a column, on white."""
    number, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    grid = np.full(shape, 255, np.uint8)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        grid[top : top + height, left : left + width] = image
    return grid


def to_bytes(images: Floats) -> npt.NDArray[np.uint8]:
    """Pictures in [0, 1], of any shape, in eight bits."""
    return np.asarray(np.rint(images * 255), np.uint8)
