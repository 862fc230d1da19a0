"""Which backends there are, found through entry points, and which one to use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from transferkit.backends.base import API_VERSION, INFERENCE, Backend
from transferkit.errors import (
    BackendNotInstalledError,
    ParameterError,
    PluginError,
    TransferkitError,
    UnknownNameError,
    UnsupportedError,
)

__all__ = [
    "ENTRY_POINT_GROUP",
    "ENVIRONMENT_VARIABLE",
    "BackendInfo",
    "backend_names",
    "backend_of",
    "describe_backend",
    "get_backend",
]

ENTRY_POINT_GROUP = "transferkit.backends"
"""The group in which a distribution names its backends."""

ENVIRONMENT_VARIABLE = "TRANSFERKIT_BACKEND"
"""The backend to use where the program does not say."""

# The order in which a backend is chosen where neither the program nor the environment says;
# backends of other distributions follow in alphabetical order.
_PREFERENCE = ("onnxruntime", "torch", "tensorflow")
_REMEDIES = {
    "torch": 'pip install "transferkit[torch]"',
    "tensorflow": 'pip install "transferkit[tensorflow]"',
}

# Whose models a framework's are, by the package of one of their classes. Where Keras computes with
# PyTorch its models are modules of both, and the backend has to say that it cannot run them.
_FRAMEWORKS = (("keras", "tensorflow"), ("torch.nn", "torch"))


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What is known of a backend.

    Attributes
    ----------
    name
        What it is called.
    distribution
        The installed distribution that registers it.
    version
        Of its framework; None if that is not installed.
    capabilities
        What it can do: ``"inference"``, ``"gradients"``.
    devices
        What it can compute on here.
    problem
        Why it cannot be used, with the remedy; None if it can.
    """

    name: str
    distribution: str
    version: str | None
    capabilities: tuple[str, ...]
    devices: tuple[str, ...]
    problem: str | None


def backend_names() -> list[str]:
    """The names of all registered backends, in the order of preference.

    Only metadata is read: no framework is imported, so a backend that is named here may
    still lack its framework.

    Examples
    --------
    >>> from transferkit.backends import backend_names
    >>> backend_names()[:3]
    ['onnxruntime', 'torch', 'tensorflow']
    """
    return list(_entry_points())


def describe_backend(name: str) -> BackendInfo:
    """What one backend can do here; its framework is imported to find out.

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered.

    Examples
    --------
    >>> from transferkit.backends import describe_backend
    >>> describe_backend("onnxruntime").capabilities
    ('inference',)
    """
    distribution = _distribution(_entry_point(name))
    try:
        backend = _load(name)
        return BackendInfo(
            name,
            distribution,
            backend.version(),
            tuple(sorted(backend.capabilities, reverse=True)),
            backend.devices(),
            None,
        )
    except TransferkitError as error:
        problem = str(error)
    except Exception as error:
        # A plugin may fail in any way; the others are still to be listed.
        problem = f"backend {name!r} of {distribution} fails: {error!r}"
    return BackendInfo(name, distribution, None, (), (), problem)


def get_backend(
    backend: str | Backend | None = None, *, needs: str = INFERENCE, device: str | None = None
) -> Backend:
    """The backend to use.

    Parameters
    ----------
    backend
        A name, or a backend, which is given back. None means the environment variable
        ``TRANSFERKIT_BACKEND`` if it is set, and else the first in the order of preference
        that is installed and can do what is needed: onnxruntime, torch, tensorflow, and
        then those of other distributions by name.
    needs
        ``"inference"`` or ``"gradients"``.
    device
        One of the backend's devices; None means the processor.

    Raises
    ------
    UnknownNameError
        If no backend of that name is registered, or it has no such device.
    BackendNotInstalledError
        If its framework is not installed; the message names the command that installs it.
    PluginError
        If the plugin is broken or made for another version of the interface.
    ParameterError
        If a backend is given together with another device than its own.
    UnsupportedError
        If it cannot do what is needed, or none can.

    Examples
    --------
    >>> from transferkit.backends import get_backend
    >>> get_backend("onnxruntime").name
    'onnxruntime'
    """
    if isinstance(backend, Backend):
        _check_capability(type(backend), needs)
        if device not in (None, backend.device):
            raise ParameterError(
                f"device is {device!r}, but the backend that was given computes on "
                f"{backend.device!r}"
            )
        return backend
    name = backend or os.environ.get(ENVIRONMENT_VARIABLE) or None
    if name is not None:
        chosen = _load(name)
        _check_capability(chosen, needs)
        return chosen(device)
    for candidate in _entry_points():
        try:
            chosen = _load(candidate)
        except (BackendNotInstalledError, PluginError):
            continue
        if needs in chosen.capabilities:
            return chosen(device)
    raise UnsupportedError(f"no installed backend can do {needs}; {_REMEDIES['torch']} adds one")


def backend_of(model: object) -> str:
    """The name of the backend that runs a model which is an object of a framework.

    No framework is imported to find out.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` or a ``keras.Model``.

    Raises
    ------
    TypeError
        If it is neither.

    Examples
    --------
    >>> from transferkit.backends import backend_of
    >>> backend_of("mobilenet_v2")
    Traceback (most recent call last):
        ...
    TypeError: a str is no model; expected a torch.nn.Module or a keras.Model
    """
    packages = [f"{kind.__module__}." for kind in type(model).__mro__]
    for package, backend in _FRAMEWORKS:
        if any(name.startswith(f"{package}.") for name in packages):
            return backend
    raise TypeError(
        f"a {type(model).__name__} is no model; expected a torch.nn.Module or a keras.Model"
    )


def _check_capability(backend: type[Backend], needs: str) -> None:
    if needs not in backend.capabilities:
        raise UnsupportedError(
            f"backend {backend.name!r} can do {', '.join(sorted(backend.capabilities))}, not "
            f"{needs}; 'torch' and 'tensorflow' can: {_REMEDIES['torch']}, or "
            f"{_REMEDIES['tensorflow']}"
        )


def _entry_points() -> Mapping[str, metadata.EntryPoint]:
    found = {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    first = [name for name in _PREFERENCE if name in found]
    return {name: found[name] for name in [*first, *sorted(found.keys() - set(first))]}


def _entry_point(name: str) -> metadata.EntryPoint:
    points = _entry_points()
    if name not in points:
        raise UnknownNameError("backend", name, points)
    return points[name]


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _load(name: str) -> type[Backend]:
    """The class that an entry point names, checked; imports the framework."""
    point = _entry_point(name)
    try:
        backend = point.load()
    except TransferkitError:
        raise
    except ImportError as error:
        remedy = _REMEDIES.get(name, f"pip install --upgrade {_distribution(point)}")
        raise BackendNotInstalledError(
            f"backend {name!r} cannot be imported here ({error}); {remedy}"
        ) from error
    except Exception as error:
        raise PluginError(
            f"backend {name!r} of {_distribution(point)} fails to load: {error!r}"
        ) from error
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise PluginError(
            f"backend {name!r} of {_distribution(point)}: {point.value} is no subclass of "
            "transferkit.backends.Backend"
        )
    version = getattr(backend, "api_version", None)
    if version != API_VERSION:
        side = (
            f"transferkit, which speaks version {API_VERSION}"
            if isinstance(version, int) and version > API_VERSION
            else f"{_distribution(point)}: this transferkit needs version {API_VERSION}"
        )
        raise PluginError(
            f"backend {name!r} speaks version {version} of the plugin interface; update {side}"
        )
    return backend
