"""Calibration of a network for 8-bit integers: on images, or as that of a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt

from transferkit.backends import Calibration, Program
from transferkit.backends.activation_ranges import calibrate
from transferkit.backends.base import INT8
from transferkit.errors import FileFormatError, ParameterError, shorten, shorten_path
from transferkit.images import Images, count_images, stream_batches
from transferkit.models import Model
from transferkit.store.manifest import Manifest
from transferkit.support.progress import show_progress
from transferkit.support.warning import warn

__all__ = ["CALIBRATION", "MAX_CALIBRATION_IMAGES", "calibrate_on_images", "stored_calibration"]

CALIBRATION = "calibration"
"""The entry of the description of a store with the calibration of its extractor."""

MAX_CALIBRATION_IMAGES = 128
"""The number of images on which activations are calibrated, if there are more."""

_MIN_IMAGES = 10
# Always the same, so that the ranges do not depend on a parameter that sets the speed.
_BATCH_SIZE = 4


def calibrate_on_images(
    program: Program,
    model: Model,
    images: Images,
    *,
    on_error: str = "raise",
    progress: bool | None = None,
) -> Calibration:
    """Measure the ranges of the activations of a network on images.

    Parameters
    ----------
    program, model
        The network in float32.
    images
        All of them are used.
    on_error
        ``"raise"``, or ``"skip"`` to leave out images that cannot be read.
    progress
        Whether to show a progress bar; None: on a terminal or in a notebook.

    Raises
    ------
    ImageError
        If an image cannot be read and ``on_error`` is ``"raise"``.
    DatasetError
        If there are no images, or none can be read.
    NotFiniteError
        If an activation is NaN or infinite.
    UnsupportedError
        If the network has no layers to quantize.

    Warns
    -----
    UserWarning
        If there are fewer than 10 images.
    """
    batches = stream_batches(
        images,
        model.preprocessing,
        batch_size=_BATCH_SIZE,
        on_error=on_error,
        group_sizes=True,
    )

    def pixels() -> Iterator[npt.NDArray[np.float32]]:
        with show_progress("Calibrating", count_images(images), shown=progress) as advance:
            for batch in batches:
                yield batch.pixels
                advance(len(batch.sources))

    with closing(batches):
        calibration = calibrate(program.backend, model.network, model.weights, pixels())
    if calibration.num_images < _MIN_IMAGES:
        number = calibration.num_images
        warn(
            f"the activations are calibrated on {number} image{'s' * (number > 1)}; with at least "
            f"{_MIN_IMAGES}, of all kinds that occur, features are more accurate"
        )
    return calibration


def stored_calibration(manifest: Manifest, folder: str | os.PathLike[str]) -> Calibration:
    """Return the calibration with which the features of a store were computed.

    Parameters
    ----------
    manifest
        What the features were computed with.
    folder
        The folder of the store, for messages.

    Raises
    ------
    ParameterError
        If they were computed in float32.
    FileFormatError
        If the manifest of the store is damaged.
    """
    where = shorten_path(folder)
    data = manifest.description.get(CALIBRATION)
    if data is None:
        precision = manifest.description.get("precision")
        raise ParameterError(
            f"{where}: the features of this store have no calibration, because their precision is "
            f"{shorten(precision)}; expected those of an extractor with precision={INT8!r}"
        )
    try:
        return Calibration.from_dict(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(
            f"{where}: the calibration in the manifest is damaged ({shorten(error)})"
        ) from error
