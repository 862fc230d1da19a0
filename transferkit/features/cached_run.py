"""A run over images with a cache: some features are found in it, the others added to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.backends import Program
from transferkit.errors import FileFormatError
from transferkit.features.cached_layer import CachedLayer, NewFeatures
from transferkit.images import Batch, ImageLike
from transferkit.images.bit_depth import BitDepth
from transferkit.images.content import load_with_digest
from transferkit.images.reading import read_image_of_call
from transferkit.support.warning import warn

__all__ = ["CachedRun"]

Floats = npt.NDArray[np.float32]
Rows = Mapping[str, Floats]

# What is written at once, and what an interruption loses at most. A process that waits for
# another one waits no longer than for this.
_MAX_IMAGES = 512
_MAX_BYTES = 64 << 20
_MAX_SECONDS = 10.0


class CachedRun:
    """Computes the features that are not in the cache, each once, and adds them to it.

    Parameters
    ----------
    program
        The network on a backend.
    layers
        Layer to its part of the cache.
    takes_turns
        Whether processes with the same cache compute features one at a time, so that none is
        computed twice. Otherwise, images that two of them read at the same time are.
    """

    def __init__(
        self, program: Program, layers: Mapping[str, CachedLayer], *, takes_turns: bool
    ) -> None:
        self._program = program
        self._layers = layers
        self._takes_turns = takes_turns
        self._found: dict[int, Rows] = {}
        self._digests: dict[int, bytes] = {}
        self._new: dict[bytes, tuple[str, Rows]] = {}
        self._new_bytes = 0
        self._started: float | None = None
        self._turns = ExitStack()
        self._is_usable = True

    def __enter__(self) -> Self:
        self._try(*(layer.refresh for layer in self._layers.values()))
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._end_block()
        finally:
            self._turns.close()
            for layer in self._layers.values():
                layer.close()

    def read(
        self, image: ImageLike, source: str, depth: BitDepth, index: int, /
    ) -> Image.Image | npt.NDArray[np.float32] | None:
        """Read an image, as `transferkit.images.ImageReader`; None if it is in the cache."""
        content, upright = load_with_digest(image, source, depth)
        found = self._find(content.sha256)
        if found is None and upright is None:
            upright = read_image_of_call(content.image, source, depth)
        # Not of an image that cannot be read, which is in no batch.
        self._digests[index] = content.sha256
        if found is None:
            return upright
        self._found[index] = found
        return None

    def split(self, batch: Batch) -> list[Batch]:
        """Return the parts of a batch whose outputs have the same shapes.

        Images that are in the cache are in one batch, whatever their sizes are.
        """
        if batch.pixels.size:
            return [batch]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for position, index in enumerate(batch.indices):
            found = self._found[index]
            shapes = tuple(found[layer].shape for layer in self._layers)
            groups.setdefault(shapes, []).append(position)
        return [
            Batch(
                batch.pixels[positions],
                [batch.sources[position] for position in positions],
                [batch.indices[position] for position in positions],
            )
            for positions in groups.values()
        ]

    def outputs(self, batch: Batch) -> dict[str, Floats]:
        """Return the outputs of the layers for a part of a batch that `split` returned."""
        digests = [self._digests.pop(index) for index in batch.indices]
        if batch.pixels.size:
            self._begin_block()
            rows = self._computed(batch, digests)
        else:
            rows = [self._found.pop(index) for index in batch.indices]
        outputs = {layer: np.stack([row[layer] for row in rows]) for layer in self._layers}
        if self._is_block_full():
            self._end_block()
        return outputs

    def _computed(self, batch: Batch, digests: list[bytes]) -> list[Rows]:
        """Return the rows of images with pixels, of which another process may have computed some.

        Images with the same content are computed once.
        """
        known: dict[bytes, Rows] = {}
        missing: dict[bytes, int] = {}
        for position, sha256 in enumerate(digests):
            if sha256 in known or sha256 in missing:
                continue
            found = self._new[sha256][1] if sha256 in self._new else self._find(sha256)
            if found is None:
                missing[sha256] = position
            else:
                known[sha256] = found
        if missing:
            positions = list(missing.values())
            is_all = len(positions) == len(digests)
            pixels = batch.pixels if is_all else batch.pixels[positions]
            outputs = self._program.run(pixels, list(self._layers))
            for row, (sha256, position) in enumerate(missing.items()):
                known[sha256] = {layer: array[row] for layer, array in outputs.items()}
                if self._is_usable:
                    self._new[sha256] = (batch.sources[position], known[sha256])
            self._new_bytes += sum(array.nbytes for array in outputs.values())
        return [known[sha256] for sha256 in digests]

    def _find(self, sha256: bytes) -> Rows | None:
        if not all(sha256 in layer for layer in self._layers.values()):
            return None
        found: dict[str, Floats] = {}
        for name, layer in self._layers.items():
            row = layer.find(sha256)
            if row is None:
                return None
            found[name] = row
        return found

    def _begin_block(self) -> None:
        """Wait for the turn of this run, and learn what others have computed meanwhile."""
        if self._started is not None or not self._is_usable:
            return
        # In the same order in every process.
        layers = sorted(self._layers.values(), key=lambda layer: layer.key)
        for layer in layers if self._takes_turns else ():
            if layer.take_turn():
                self._turns.callback(layer.end_turn)
        self._started = time.monotonic()
        self._try(*(layer.refresh for layer in self._layers.values()))

    def _is_block_full(self) -> bool:
        return self._started is not None and (
            len(self._new) >= _MAX_IMAGES
            or self._new_bytes >= _MAX_BYTES
            or time.monotonic() - self._started >= _MAX_SECONDS
        )

    def _end_block(self) -> None:
        """Write what was computed, and end the turn."""
        new, self._new = self._new, {}
        self._new_bytes, self._started = 0, None
        for name, layer in self._layers.items():
            features = [
                NewFeatures(source, sha256, rows[name])
                for sha256, (source, rows) in new.items()
                if sha256 not in layer
            ]
            if features:
                self._try(partial(layer.add, features))
        self._turns.close()

    def _try(self, *actions: Callable[[], None]) -> None:
        """Use the cache; if that fails, warn, and use it no longer in this run."""
        try:
            for action in actions if self._is_usable else ():
                action()
        except (OSError, FileFormatError) as error:
            self._is_usable = False
            warn(f"the cache of features is not used: {error}")
