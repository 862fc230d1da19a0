"""The registry of backends, based on entry points, and the choice of the backend to use."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

from transferkit.backends.base import API_VERSION, GRADIENTS, INFERENCE, INT8, TRAINING, Backend
from transferkit.errors import (
    ArgumentTypeError,
    BackendNotInstalledError,
    ParameterError,
    PluginError,
    TransferkitError,
    UnknownNameError,
    UnsupportedError,
    shorten,
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

_LOGGER = logging.getLogger(__name__)

ENTRY_POINT_GROUP = "transferkit.backends"
"""The entry point group in which a distribution registers its backends."""

ENVIRONMENT_VARIABLE = "TRANSFERKIT_BACKEND"
"""The environment variable with the name of the default backend."""

_CAPABILITIES = (INFERENCE, GRADIENTS, TRAINING, INT8)

# The order in which backends are tried if neither the caller nor the environment chooses one.
# Backends of other distributions follow in alphabetical order.
_PREFERENCE = ("onnxruntime", "torch", "tensorflow")
_REMEDIES = {
    "torch": 'pip install "transferkit[torch]"',
    "tensorflow": 'pip install "transferkit[tensorflow]"',
}

# The built-in backends that may own a model object, by the package of one of its base classes, so
# that the others need not be imported. Keras comes first: if Keras uses PyTorch, its models are
# also torch modules, and the TensorFlow backend rejects them with an error that explains this.
_FRAMEWORKS = (("keras", "tensorflow"), ("torch", "torch"))


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """The properties of a registered backend.

    Attributes
    ----------
    name
        The name of the backend.
    distribution
        The installed distribution that registers it.
    version
        The version of its framework; None if the backend cannot be used.
    capabilities
        ``"inference"``, and ``"gradients"``, ``"training"`` and ``"int8"`` if the backend has them;
        empty if it cannot be used.
    devices
        The devices of this machine, as the framework names them; empty if it cannot be used.
    problem
        The reason why the backend cannot be used, with the remedy; None if it can.
    """

    name: str
    distribution: str
    version: str | None
    capabilities: tuple[str, ...]
    devices: tuple[str, ...]
    problem: str | None


def backend_names() -> list[str]:
    """Return the names of all registered backends, in the order of preference.

    Only package metadata is read and no framework is imported, so the framework of a listed
    backend may not be installed.

    Examples
    --------
    >>> from transferkit.backends import backend_names
    >>> backend_names()[:3]
    ['onnxruntime', 'torch', 'tensorflow']
    """
    return list(_entry_points())


def describe_backend(name: str) -> BackendInfo:
    """Return the properties of a backend on this machine; imports its framework.

    Raises
    ------
    UnknownNameError
        If no backend of this name is registered.

    Examples
    --------
    >>> from transferkit.backends import describe_backend
    >>> describe_backend("onnxruntime").capabilities
    ('int8', 'inference')
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
        # A plugin may raise any error; listing the other backends has to work nevertheless.
        problem = f"backend {name!r} of {distribution} failed: {error!r}"
    return BackendInfo(name, distribution, None, (), (), problem)


def get_backend(
    backend: str | Backend | None = None, *, needs: str = INFERENCE, device: str | None = None
) -> Backend:
    """Return a backend.

    Parameters
    ----------
    backend
        A name, or a backend, which is returned. None means the value of the environment variable
        ``TRANSFERKIT_BACKEND`` if it is set. Otherwise, the first installed backend with the
        required capability is used, in this order: onnxruntime, torch, tensorflow, backends of
        other distributions by name.
    needs
        The required capability: ``"inference"``, ``"gradients"``, ``"training"`` or ``"int8"``.
    device
        One of the backend's devices; None is the CPU.

    Raises
    ------
    UnknownNameError
        If no backend of this name is registered, it does not have the device, or there is no such
        capability.
    BackendNotInstalledError
        If its framework is not installed; the message has the command that installs it.
    PluginError
        If the plugin is broken or made for another version of the interface.
    ParameterError
        If a backend is given together with a device other than its own.
    UnsupportedError
        If the backend, or every installed one, lacks the capability.

    Examples
    --------
    >>> from transferkit.backends import get_backend
    >>> get_backend("onnxruntime").name
    'onnxruntime'
    """
    if needs not in _CAPABILITIES:
        raise UnknownNameError("capability", needs, _CAPABILITIES)
    if isinstance(backend, Backend):
        _check_capability(type(backend), needs)
        is_cpu = backend.device == backend.devices()[0]
        if device not in (None, backend.device) and not (device == "cpu" and is_cpu):
            raise ParameterError(
                f"device is {shorten(device)}, but the given backend uses {backend.device!r}; give "
                "one of the two"
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
        except (BackendNotInstalledError, PluginError) as error:
            _LOGGER.debug("backend %s is left out: %s", candidate, error)
            continue
        if needs in chosen.capabilities:
            return chosen(device)
    raise UnsupportedError(
        f"no installed backend supports {needs}; install one: {_REMEDIES['torch']}"
    )


def backend_of(model: object) -> str:
    """Return the name of the backend that runs a model object of a framework.

    The backends decide this, in `Backend.owns`. The built-in ones are asked only about objects of
    their own framework; if none of them owns the object, the other installed backends are
    imported and asked in alphabetical order. Those that cannot be imported are left out.

    Parameters
    ----------
    model
        A ``torch.nn.Module``, a ``keras.Model``, or a model of another installed backend.

    Raises
    ------
    ArgumentTypeError
        If no backend owns it.

    Examples
    --------
    >>> from transferkit import TransferkitError
    >>> from transferkit.backends import backend_of
    >>> try:
    ...     backend_of("mobilenet_v2")
    ... except TransferkitError as error:
    ...     print(error)
    model is a str; expected a torch.nn.Module or a keras.Model
    """
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    for package, name in _FRAMEWORKS:
        if package in packages and _owns(name, model):
            return name
    for name in _entry_points():
        if name not in _PREFERENCE and _owns(name, model):
            return name
    raise ArgumentTypeError(
        f"model is a {type(model).__name__}; expected a torch.nn.Module or a keras.Model"
    )


def _owns(name: str, model: object) -> bool:
    try:
        return _load(name).owns(model)
    except BackendNotInstalledError:
        # An object of a built-in backend's framework: `get_backend` raises an error that says how
        # to install what is missing.
        return name in _PREFERENCE
    except Exception as error:
        # A plugin may raise any error; models of the other backends have to work nevertheless.
        _LOGGER.debug("backend %s was not asked about a model: %r", name, error)
        return False


def _check_capability(backend: type[Backend], needs: str) -> None:
    if needs in backend.capabilities:
        return
    if needs == INT8:
        raise UnsupportedError(
            f"backend {backend.name!r} does not support {needs}; 'onnxruntime' does. Choose it, or "
            "precision='float32'"
        )
    raise UnsupportedError(
        f"backend {backend.name!r} does not support {needs}; 'torch' and 'tensorflow' do: "
        f"{_REMEDIES['torch']} or {_REMEDIES['tensorflow']}"
    )


def _entry_points() -> Mapping[str, metadata.EntryPoint]:
    """Return the entry points of all backends by name, in the order of preference."""
    points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINT_GROUP)}
    preferred = [name for name in _PREFERENCE if name in points]
    return {name: points[name] for name in [*preferred, *sorted(points.keys() - set(preferred))]}


def _entry_point(name: str) -> metadata.EntryPoint:
    points = _entry_points()
    if name not in points:
        raise UnknownNameError("backend", name, points)
    return points[name]


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "unknown"


def _load(name: str) -> type[Backend]:
    """Return the class that an entry point refers to, after checks; imports its framework."""
    point = _entry_point(name)
    try:
        backend = point.load()
    except TransferkitError:
        raise
    except ImportError as error:
        remedy = _REMEDIES.get(name, f"pip install --upgrade {_distribution(point)}")
        raise BackendNotInstalledError(
            f"backend {name!r} cannot be imported ({error}); {remedy}"
        ) from error
    except Exception as error:
        raise PluginError(
            f"backend {name!r} of {_distribution(point)} failed to load: {error!r}"
        ) from error
    if not (isinstance(backend, type) and issubclass(backend, Backend)):
        raise PluginError(
            f"backend {name!r} of {_distribution(point)}: {point.value} is not a subclass of "
            "transferkit.backends.Backend"
        )
    version = getattr(backend, "api_version", None)
    if version != API_VERSION:
        outdated = (
            "transferkit"
            if isinstance(version, int) and version > API_VERSION
            else _distribution(point)
        )
        raise PluginError(
            f"backend {name!r} implements version {version} of the plugin interface; expected "
            f"version {API_VERSION}; update {outdated}"
        )
    return backend
