"""`IdealImages`: the result of a run, its history, and measures of the images' quality."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.errors import OutputError, ParameterError, shorten_path
from transferkit.images.conversion import to_float32, to_uint8
from transferkit.optimization.visualization.transforms import Jitter, Rotate, Scale, TransformChain
from transferkit.support.atomic_write import write_atomically
from transferkit.support.drawing import labeled_grid
from transferkit.support.numerics import softmax
from transferkit.support.validation import check_positive

__all__ = ["IdealImages", "image_grid"]

Floats: TypeAlias = npt.NDArray[np.float32]

# The random transforms by which robustness is measured. The maximum translation is a fraction of
# the side: 8 pixels of 224.
_NUM_VIEWS = 32
_VIEW_SEED = 0
_MAX_TRANSLATION = 1 / 28
_MAX_SCALE = 1.1
_MAX_DEGREES = 10.0
_GAP = 2
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, eq=False)
class IdealImages:
    """Optimized images, one for each objective.

    Attributes
    ----------
    images
        (n, h, w, 3) RGB, float32 in [0, 1].
    history
        (steps, n) float32: the loss of each image before each step, which is the sum of the
        regularizers minus the objective. The steps of all octaves are concatenated.
    labels
        The objective of each image as text.
    targets
        The index of each image's class among the logits; None if its objective is not a class.
    interrupted
        Whether the run was interrupted; `history` then has the steps so far.
    seconds
        The duration of the run.
    frames
        (frames, n, h, w, 3) uint8: intermediate images, the last of which are the result; empty
        if no frames were requested.
    """

    images: Floats
    history: Floats
    labels: tuple[str, ...]
    targets: tuple[int | None, ...]
    interrupted: bool
    seconds: float
    frames: npt.NDArray[np.uint8]
    _program: Program | None

    @cached_property
    def probability(self) -> Floats:
        """(n,) the network's probability of each image's class, in [0, 1]; NaN without a class.

        Computed from the image in 8 bits, as `save` writes it to a PNG.
        """
        return self._probability(self._quantized())

    @cached_property
    def robustness(self) -> Floats:
        """(n,) the mean probability of each image's class over 32 randomly transformed views.

        Views are translated by up to 1/28 of the side, scaled by 1 / 1.1 to 1.1 and rotated by
        up to 10 degrees, the same at every call; NaN without a class.
        """
        if all(target is None for target in self.targets):
            return self._probability(self.images)
        _, height, width, _ = self.images.shape
        jitter = Jitter(max(1, round(_MAX_TRANSLATION * min(height, width))))
        transforms = TransformChain(
            [jitter, Scale(1 / _MAX_SCALE, _MAX_SCALE), Rotate(_MAX_DEGREES)]
        )
        backend = self._network_program().backend
        apply = transforms.bind(backend.table, height, width)
        transform = backend.compile(lambda images, matrix: apply(images, [matrix]))
        generator = np.random.default_rng(_VIEW_SEED)
        quantized = self._quantized()
        probabilities = []
        for _ in range(_NUM_VIEWS):
            (matrix,) = transforms.sample(generator)
            view = transform(quantized, matrix.astype(np.float32))
            probabilities.append(self._probability(view))
        return np.asarray(np.mean(probabilities, axis=0), np.float32)

    @cached_property
    def total_variation(self) -> Floats:
        """(n,) the mean absolute difference between neighboring pixels, in [0, 1].

        Both directions and all channels are averaged.
        """
        down, right = (np.abs(np.diff(self.images, axis=axis)) for axis in (1, 2))
        total = down.sum(axis=(1, 2, 3)) + right.sum(axis=(1, 2, 3))
        return np.asarray(total / (down[0].size + right[0].size), np.float32)

    def to_pil(self) -> list[Image.Image]:
        """Return the images as PIL images of mode RGB."""
        return [Image.fromarray(image) for image in to_uint8(self.images)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one image to a file, or several as a grid with their labels.

        Parameters
        ----------
        path
            Ends in ``.png``, ``.jpg``, ``.jpeg`` or ``.webp``. An existing file is replaced only
            after the new one is complete.

        Raises
        ------
        OutputError
            If the file cannot be written, or has another suffix.
        """
        path = Path(path)
        if path.suffix.lower() not in _FORMATS:
            expected = ", ".join(_FORMATS)
            raise OutputError(f"{shorten_path(path)}: unknown suffix; expected one of {expected}")
        with write_atomically(path) as file:
            self._as_one_image().save(file, _FORMATS[path.suffix.lower()], quality=95)

    def animation(self, path: str | os.PathLike[str], *, seconds: float = 4.0) -> None:
        """Write the frames as an animated GIF.

        Parameters
        ----------
        path
            Ends in ``.gif``.
        seconds
            The duration, greater than 0; the last frame is shown for another second.

        Raises
        ------
        OutputError
            If the file cannot be written, or has another suffix.
        ParameterError
            If no frames were recorded, or ``seconds`` is out of range.
        """
        path = Path(path)
        if path.suffix.lower() != ".gif":
            raise OutputError(f"{shorten_path(path)}: unknown suffix; expected .gif")
        if not len(self.frames):
            raise ParameterError("no frames were recorded; pass frames=24 to visualize")
        check_positive("seconds", seconds)
        images = [Image.fromarray(image_grid(frame)) for frame in self.frames]
        milliseconds = round(1000 * seconds / len(images))
        durations = [milliseconds] * (len(images) - 1) + [milliseconds + 1000]
        with write_atomically(path) as file:
            images[0].save(
                file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
            )

    def __getstate__(self) -> dict[str, Any]:
        # A program cannot be pickled, so what is computed with it is pickled instead.
        measures = {"probability": self.probability, "robustness": self.robustness}
        return {**self.__dict__, **measures, "_program": None}

    def _quantized(self) -> Floats:
        """Return the images rounded to 8 bits."""
        return to_float32(to_uint8(self.images))

    def _network_program(self) -> Program:
        if self._program is None:
            raise RuntimeError("unpickled images have their measures, but no network")
        return self._program

    def _probability(self, images: Floats) -> Floats:
        """Return the probability of each image's class, (n,); NaN without a class."""
        probabilities = np.full(len(images), np.nan, np.float32)
        rows = [row for row, target in enumerate(self.targets) if target is not None]
        if rows:
            of_classes = softmax(self._network_program().run(images[rows], ["logits"])["logits"])
            probabilities[rows] = [
                of_classes[index, self.targets[row]] for index, row in enumerate(rows)
            ]
        return probabilities

    def _as_one_image(self) -> Image.Image:
        tiles = list(to_uint8(self.images))
        if len(tiles) == 1:
            return Image.fromarray(tiles[0])
        return labeled_grid(tiles, self.labels, side=max(tiles[0].shape))

    def _repr_png_(self) -> Any:
        return self._as_one_image()._repr_png_()

    def __repr__(self) -> str:
        number, height, width, _ = self.images.shape
        state = ", interrupted" if self.interrupted else ""
        return (
            f"IdealImages({number} of {height} x {width}: {'; '.join(self.labels[:4])}"
            f"{'; ...' if number > 4 else ''}; {len(self.history)} steps in "
            f"{self.seconds:.1f} s{state})"
        )


def image_grid(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Arrange images (n, h, w, 3) in a grid, about as many rows as columns, on white."""
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
