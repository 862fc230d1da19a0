"""An estimate of the memory that a step of training needs, before the first one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.preparation import Preparation
from transferkit.errors import ParameterError
from transferkit.models import Model
from transferkit.support.memory import available_memory
from transferkit.training.step import images_at_once

__all__ = ["check_memory", "estimate_memory"]

_BYTES = 4
# A step keeps the outputs of all layers, and computes their gradients one by one.
_COPIES_OF_OUTPUTS = 1.5
# The batch of the step, and two that are read ahead.
_BATCHES = 3


def estimate_memory(
    preparation: Preparation,
    shapes: Mapping[str, tuple[int, ...]],
    batch_size: int,
    images_at_once: int,
    num_slots: int,
    *,
    has_average: bool,
) -> int:
    """Return the number of bytes that a step needs, roughly.

    Parameters
    ----------
    preparation
        The part of the model that is trained.
    shapes
        The shape of each layer of the model for one image, and of its input as ``"pixels"``.
    batch_size
        The number of images in a batch.
    images_at_once
        The number of images whose gradient is computed at once.
    num_slots
        The number of slots of the optimizer.
    has_average
        Whether there is a moving average of the parameters.
    """
    names = {node.name for node in preparation.network.nodes}
    outputs = sum(math.prod(shape) for name, shape in shapes.items() if name in names)
    inputs = math.prod(shapes[preparation.cut or "pixels"])
    trained = sum(
        preparation.parameters[name].size for name in preparation.groups.learning_rate_factors
    )
    fixed = sum(array.size for array in preparation.parameters.values()) - trained
    # The parameters, the slots and the average, before and after the update; the gradient, by
    # parameter and as a vector; the factors of learning rate and decay; two products in the update.
    copies = 2 * (1 + num_slots + int(has_average)) + 6
    numbers = (
        _COPIES_OF_OUTPUTS * outputs * images_at_once
        + _BATCHES * batch_size * inputs
        + copies * trained
        + fixed
    )
    return int(numbers * _BYTES)


def check_memory(
    model: Model,
    preparation: Preparation,
    backend: Backend,
    *,
    batch_size: int,
    num_slots: int,
    has_average: bool,
    needs_whole_batch: bool,
) -> None:
    """Check that a step fits into the memory of the CPU, where this can be estimated.

    Raises
    ------
    ParameterError
        If it does not.
    """
    available = available_memory()
    if available is None or backend.device != backend.devices()[0]:
        return
    side = model.image_size
    shapes = {**model.layers(), "pixels": (side, side, 3)}
    part = images_at_once(backend, shapes[preparation.cut or "pixels"])
    at_once = batch_size if part is None or needs_whole_batch else min(part, batch_size)
    needed = estimate_memory(
        preparation, shapes, batch_size, at_once, num_slots, has_average=has_average
    )
    if needed > available:
        raise ParameterError(
            f"a step with batch_size={batch_size} needs about {needed / 1e9:.1f} GB, but "
            f"{available / 1e9:.1f} GB of memory are available; reduce batch_size, train fewer "
            "layers, or choose a smaller network"
        )
