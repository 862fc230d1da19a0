"""A copy of a module tree in evaluation mode that shares its parameters with the original."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from types import CellType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import nn

__all__ = ["copy_for_evaluation", "original_module"]

# Of the depth of containers in attributes, such as a dict of lists of modules.
_MAX_DEPTH = 4
_DICTS = (dict, OrderedDict)
_FUNCTIONS = (MethodType, FunctionType, functools.partial)
_CONSTANTS = (bool, int, float, str, NoneType, torch.Tensor, nn.Parameter)


def copy_for_evaluation(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode.

    The copy can be run, and its hooks and attributes changed, while the original is used or
    trained in another thread.

    Parameters
    ----------
    model
        The module to copy.

    Returns
    -------
    torch.nn.Module
        New module objects of the same classes, with the same parameters and with copies of the
        buffers. Compiled modules are replaced by the modules that they were compiled from;
        TorchScript modules are not copied. References to modules of the tree in attributes,
        hooks, bound methods, closures and partial functions refer to the copies.
    """
    copies: dict[int, nn.Module] = {}
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for module in model.modules():
        original = original_module(module)
        if isinstance(original, torch.jit.ScriptModule):
            copies[id(original)] = original
        elif id(original) not in copies:
            duplicate = object.__new__(type(original))
            copies[id(original)] = duplicate
            pairs.append((original, duplicate))
        copies[id(module)] = copies[id(original)]
    buffers: dict[int, Any] = {}
    for original, duplicate in pairs:
        is_plain = type(original).__module__.startswith("torch.nn.")
        attributes = dict(vars(original))
        # Most attributes are recognized by their type, since this runs for every batch.
        for name, value in attributes.items():
            kind = type(value)
            if kind in _DICTS:
                if not value:
                    attributes[name] = kind()
                elif name == "_parameters":
                    attributes[name] = kind(value)
                elif name == "_modules":
                    attributes[name] = kind(
                        (key, copies.get(id(child), child)) for key, child in value.items()
                    )
                elif name != "_buffers":
                    attributes[name] = _replaced(value, copies, _MAX_DEPTH, always_copy=True)
            elif kind in _FUNCTIONS or not (is_plain or kind in _CONSTANTS):
                attributes[name] = _replaced(value, copies, _MAX_DEPTH)
        attributes["training"] = False
        # The parameters, which are tensors, are shared.
        attributes["_buffers"] = {
            name: None
            if buffer is None
            else buffers.setdefault(id(buffer), buffer.detach().clone())
            for name, buffer in original._buffers.items()
        }
        if attributes.get("_compiled_call_impl") is not None:
            attributes["_compiled_call_impl"] = None
        vars(duplicate).update(attributes)
    return copies[id(model)]


def original_module(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` compiled; another module is returned as it is."""
    while "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]
    return module


def _replaced(  # noqa: PLR0911
    value: Any, copies: Mapping[int, nn.Module], depth: int, *, always_copy: bool = False
) -> Any:
    """Return ``value`` with references to modules replaced; itself if it has none."""
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if depth == 0:
        return value

    def inner(item: Any) -> Any:
        return _replaced(item, copies, depth - 1)

    kind = type(value)
    if kind in _DICTS:
        items = {key: inner(item) for key, item in value.items()}
        if always_copy or any(items[key] is not item for key, item in value.items()):
            return kind(items)
    elif kind in (list, tuple):
        replaced = [inner(item) for item in value]
        if any(new is not old for new, old in zip(replaced, value, strict=True)):
            return kind(replaced)
    elif kind is MethodType:
        owner = inner(value.__self__)
        if owner is not value.__self__:
            return MethodType(value.__func__, owner)
    elif kind is functools.partial:
        function, arguments = inner(value.func), inner(value.args)
        keywords = inner(value.keywords)
        if (function, arguments, keywords) != (value.func, value.args, value.keywords):
            return functools.partial(function, *arguments, **keywords)
    elif kind is FunctionType and value.__closure__:
        return _with_closure(value, copies)
    return value


def _with_closure(function: FunctionType, copies: Mapping[int, nn.Module]) -> FunctionType:
    """Return a function with the modules in its closure replaced; itself if it has none."""
    cells = [_cell(cell, copies) for cell in function.__closure__ or ()]
    if all(new is old for new, old in zip(cells, function.__closure__ or (), strict=True)):
        return function
    duplicate = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells),
    )
    duplicate.__kwdefaults__ = function.__kwdefaults__
    vars(duplicate).update(vars(function))
    return duplicate


def _cell(cell: CellType, copies: Mapping[int, nn.Module]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # an empty cell
        return cell
    # Only modules and their methods: a closure may refer to itself.
    if isinstance(content, (nn.Module, MethodType)):
        replaced = _replaced(content, copies, 1)
        if replaced is not content:
            return CellType(replaced)
    return cell
