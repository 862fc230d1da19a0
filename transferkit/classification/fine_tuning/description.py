"""What determines a run, with which its checkpoint is compared."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from contextlib import suppress

import numpy as np

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.examples import TrainingImages
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.images import read_image
from transferkit.models import Model
from transferkit.training.optimizers import find_optimizer
from transferkit.training.schedules import find_schedule

__all__ = ["describe_run", "digest_of_names"]

_SCHEDULE_PARTS = 8
# In the repr of functions and of objects without one of their own; another one in each process.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def describe_run(
    model: Model,
    backend: Backend,
    train: TrainingImages,
    validation: TrainingImages | None,
    settings: FineTuning,
    seed: int,
) -> dict[str, str]:
    """Return what determines a run, by name, for its checkpoint."""
    parameters = settings.get_params(deep=False)
    parameters.pop("checkpoint")
    parameters.pop("validation")
    described = {name: _describe(value) for name, value in parameters.items()}
    schedule = settings.schedule or find_optimizer(settings.optimizer).schedule
    if callable(schedule):
        # The names of two functions may be equal. The epochs matter for an Exponential only, of
        # which the names tell everything.
        schedule = find_schedule(schedule, epochs=settings.epochs or 1)
        factors = [schedule(part / _SCHEDULE_PARTS) for part in range(_SCHEDULE_PARTS)]
        described["schedule"] += f", with factors {factors}"
    return {
        **described,
        "backend": f"{backend.name} on {backend.device}",
        "network": model.network.name,
        "weights": _digest_of_weights(model),
        "preprocessing": repr(model.preprocessing),
        "training images": _digest_of_images(train),
        "validation images": "none" if validation is None else _digest_of_images(validation),
        "random_state": str(seed),
    }


def _describe(value: object) -> str:
    return _ADDRESS.sub("", repr(value))


def _digest_of_weights(model: Model) -> str:
    sha256 = hashlib.sha256()
    for name, array in model.weights.items():
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    if model.wrapped is not None:
        for name, array in model.wrapped.parameters().items():
            sha256.update(name.encode())
            sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()[:16]


def digest_of_names(names: Collection[str]) -> str:
    """Return the number of some names, and a digest of them."""
    return f"{len(names)}, {hashlib.sha256(repr(sorted(names)).encode()).hexdigest()[:16]}"


def _digest_of_images(data: TrainingImages) -> str:
    sha256 = hashlib.sha256()
    for image, source in zip(data.images, data.sources, strict=True):
        sha256.update(os.fsencode(source))
        if isinstance(image, (str, os.PathLike)):
            # Whether it can be read shows when it is.
            with suppress(OSError):
                sha256.update(str(os.stat(image).st_size).encode())
            continue
        array = image if isinstance(image, np.ndarray) else read_image(image)
        sha256.update(np.ascontiguousarray(array).tobytes())
    sha256.update(data.classes.astype("<i8").tobytes())
    sha256.update(data.weights.astype("<f8").tobytes())
    return f"{len(data.classes)} images, {sha256.hexdigest()[:16]}"
