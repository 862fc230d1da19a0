"""The built-in attack methods, one module each.

Each module of this package defines one subclass of `transferkit.optimization.attacks.base.Attack`;
`attack_methods` finds it. Adding a method takes one new file.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from transferkit.errors import UnknownNameError
from transferkit.optimization.attacks.base import Attack

__all__ = ["attack_methods", "find_attack_class"]


@functools.cache
def attack_methods() -> Mapping[str, type[Attack]]:
    """Return the attack classes of this package by `Attack.name`, in alphabetical order.

    Examples
    --------
    >>> from transferkit.optimization.attacks import attack_methods
    >>> list(attack_methods())
    ['apgd', 'carlini-wagner', 'deepfool', 'fgsm', 'fmn', 'mi-fgsm', 'pgd']
    """
    classes: dict[str, type[Attack]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _, attack_class in inspect.getmembers(module, inspect.isclass):
            # A class that a module imports, to derive from it, belongs to another module.
            if issubclass(attack_class, Attack) and attack_class.__module__ == module.__name__:
                classes[attack_class.name] = attack_class
    return MappingProxyType(dict(sorted(classes.items())))


def find_attack_class(method: str) -> type[Attack]:
    """Return the attack class with a name.

    Parameters
    ----------
    method
        A key of `attack_methods`.

    Raises
    ------
    UnknownNameError
        If no method has that name.

    Examples
    --------
    >>> from transferkit.optimization.attacks import find_attack_class
    >>> find_attack_class("pgd").default_steps
    40
    """
    methods = attack_methods()
    if not isinstance(method, str) or method not in methods:
        raise UnknownNameError("method", method, methods)
    return methods[method]
