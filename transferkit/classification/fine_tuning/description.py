"""What determines a run, with which its checkpoint is compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection

import numpy as np

from transferkit.backends import Backend
from transferkit.classification.fine_tuning.examples import TrainingImages
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.models import Model

__all__ = ["describe_run", "digest_of_names"]

_SCHEDULE_PARTS = 8


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
    if callable(settings.schedule):
        # The names of two functions may be equal.
        factors = [settings.schedule(part / _SCHEDULE_PARTS) for part in range(_SCHEDULE_PARTS)]
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
    # The default repr of a function has an address.
    return getattr(value, "__qualname__", None) or repr(value)


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
        if isinstance(image, np.ndarray):
            sha256.update(np.ascontiguousarray(image).tobytes())
    sha256.update(data.classes.astype("<i8").tobytes())
    sha256.update(data.weights.astype("<f8").tobytes())
    return f"{len(data.classes)} images, {sha256.hexdigest()[:16]}"
