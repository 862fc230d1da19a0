"""What an evaluation was made with, so that it can be repeated."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from transferkit.backends import Backend
from transferkit.images import Skipped
from transferkit.models import Model
from transferkit.support.version import __version__
from transferkit.weights.files import digest

__all__ = ["Provenance", "describe_classifier"]

_PACKAGES = ("numpy", "scipy", "scikit-learn", "pillow")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What an evaluation was made with.

    Attributes
    ----------
    network
        The name of the network.
    weights_digest
        The SHA-256 of the names and values of its weights; None for a model object of a
        framework.
    preprocessing
        How images are resized, cropped and normalized.
    backend
        The name of the backend that computed the predictions.
    parameters
        The constructor parameters of the classifier that are not the defaults, as text.
    seed
        Its random state, as text.
    C
        The inverse regularization strength that was used; None for a pretrained classifier.
    num_images
        The number of images it was fitted to; None if unknown.
    license
        SPDX identifier of the license of published weights; None if unknown.
    versions
        The name of each package, and of Python, to its version.
    skipped
        What the fit left out, and why; empty if unknown.
    """

    network: str
    weights_digest: str | None
    preprocessing: Mapping[str, Any]
    backend: str
    parameters: str
    seed: str
    C: float | None
    num_images: int | None
    license: str | None
    versions: Mapping[str, str]
    skipped: tuple[Skipped, ...] = ()


def describe_classifier(
    model: Model,
    *,
    backend: Backend,
    parameters: str,
    seed: object,
    C: float | None,
    num_images: int | None,
    skipped: list[Skipped],
) -> Provenance:
    """Return the provenance of the evaluations of a fitted classifier.

    Parameters
    ----------
    model
        Its model.
    backend
        That runs it.
    parameters, seed, C, num_images, skipped
        As for `Provenance`.
    """
    versions = {"transferkit": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in _PACKAGES}
    versions[backend.name] = backend.version()
    return Provenance(
        network=model.network.name,
        weights_digest=None if model.wrapped is not None else digest(model.weights, {}),
        preprocessing=model.preprocessing.to_dict(),
        backend=backend.name,
        parameters=parameters,
        seed=str(seed),
        C=C,
        num_images=num_images,
        license=model.license,
        versions=versions,
        skipped=tuple(skipped),
    )
