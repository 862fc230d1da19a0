"""Settings of fine-tuning as plain data, for the file of a classifier."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.errors import ParameterError, UnsupportedError, shorten
from transferkit.images import augmentation
from transferkit.training import optimizers, schedules

__all__ = ["settings_from_dict", "settings_to_dict"]

_CLASSES: Mapping[str, type] = MappingProxyType(
    {
        name: member
        for module in (augmentation, optimizers, schedules)
        for name in module.__all__
        if dataclasses.is_dataclass(member := getattr(module, name)) and isinstance(member, type)
    }
)
_KIND = "kind"
_PLAIN = (str, int, float, bool, type(None))


def settings_to_dict(settings: FineTuning) -> dict[str, Any]:
    """Return the settings as plain data for JSON, without the folder of the checkpoint.

    Raises
    ------
    UnsupportedError
        If they have a function, images or another object that is not plain data.

    Examples
    --------
    >>> from transferkit import FineTuning
    >>> from transferkit.classification.fine_tuning.serialization import settings_to_dict
    >>> settings_to_dict(FineTuning(epochs=5))["epochs"]
    5
    """
    values = settings.get_params(deep=False)
    values["checkpoint"] = None
    return {name: _encode(name, value) for name, value in values.items()}


def settings_from_dict(data: Mapping[str, Any]) -> FineTuning:
    """Return the settings that `settings_to_dict` returned, checked.

    Raises
    ------
    ParameterError
        If an entry is unknown or invalid.
    """
    known = FineTuning().get_params(deep=False)
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ParameterError(f"fine_tuning has unknown entries: {shorten(unknown)}")
    settings = FineTuning(**{name: _decode(value) for name, value in data.items()})
    settings.check()
    return settings


def _encode(name: str, value: object) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {"mapping": {str(key): _encode(name, entry) for key, entry in value.items()}}
    if name == "validation":
        raise UnsupportedError("validation images cannot be saved")
    if isinstance(value, (list, tuple)):
        return [_encode(name, entry) for entry in value]
    if _CLASSES.get(type(value).__name__) is type(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {
            _KIND: type(value).__name__,
            **{field: _encode(name, entry) for field, entry in fields.items()},
        }
    raise UnsupportedError(f"{name} is {shorten(value)}, which cannot be saved")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_decode, value))
    if not isinstance(value, dict):
        return value
    if "mapping" in value:
        return {key: _decode(entry) for key, entry in value["mapping"].items()}
    fields = {name: _decode(entry) for name, entry in value.items() if name != _KIND}
    return _CLASSES[value[_KIND]](**fields)
