"""A copy of a module tree in evaluation mode that shares its parameters with the original."""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from types import CellType, FunctionType, MethodType, NoneType
from typing import Any

import torch
from torch import nn

__all__ = ["copy_for_evaluation", "original_module"]

# Of the depth of containers in attributes, such as a dict of lists of modules.
_MAX_DEPTH = 4
_DICTS = (dict, OrderedDict, defaultdict, Counter)
_CONTAINERS = (*_DICTS, list, set, deque)
_OFTEN_EMPTY = (dict, OrderedDict, set)
# Attributes of every module that are copied in a way of their own.
_SEPARATE = frozenset({"_buffers", "_compiled_call_impl", "_modules", "_parameters"})
_FUNCTIONS = (MethodType, FunctionType, functools.partial)
_CONSTANTS = (bool, int, float, str, NoneType)


def copy_for_evaluation(
    model: nn.Module, values: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()
) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode.

    The copy can be run, and its hooks and attributes changed, while the original is used or
    trained in another thread.

    Parameters
    ----------
    model
        The module to copy.
    values
        Pairs of a parameter or buffer of ``model`` and the tensor that the copy has instead of it,
        wherever modules, attributes, hooks, bound methods, closures and partial functions refer
        to it.

    Returns
    -------
    torch.nn.Module
        New module objects of the same classes, with the same parameters, except those in
        ``values`` and that those made in inference mode are copied if gradients are enabled, and
        with copies of the buffers and of the dicts, lists, sets and deques in attributes. Compiled
        modules are replaced by the modules that they were compiled from; TorchScript modules are
        not copied. References to modules of the tree in attributes, hooks, bound methods, closures
        and partial functions refer to the copies, and so do references in these to a dict, list,
        set or deque that is also in an attribute.
    """
    # The copies of modules, containers and inference tensors, and the values, by the id of the
    # original.
    copies: dict[int, Any] = {id(tensor): value for tensor, value in values}
    buffers: dict[int, Any] = dict(copies)
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
    # Replaced last, when the containers that closures share with attributes have been copied.
    functions: list[tuple[nn.Module, str, Any]] = []
    for original, duplicate in pairs:
        is_plain = type(original).__module__.startswith("torch.nn.")
        attributes = dict(vars(original))
        # Most attributes are recognized by their type, since this runs for every batch.
        for name, value in attributes.items():
            kind = type(value)
            if name in _SEPARATE:
                continue
            if kind in _OFTEN_EMPTY and not value:
                attributes[name] = copies.setdefault(id(value), kind())
            elif kind in _FUNCTIONS or name.endswith("_hooks"):
                functions.append((duplicate, name, value))
            elif kind in _CONTAINERS or not (is_plain or kind in _CONSTANTS):
                attributes[name] = _replaced(value, copies, _MAX_DEPTH)
        attributes["training"] = False
        attributes["_modules"] = {
            name: copies.get(id(module), module) for name, module in original._modules.items()
        }
        attributes["_parameters"] = {
            name: None if parameter is None else _usable(parameter, copies)
            for name, parameter in original._parameters.items()
        }
        attributes["_buffers"] = {
            name: None
            if buffer is None
            else buffers.setdefault(id(buffer), buffer.detach().clone())
            for name, buffer in original._buffers.items()
        }
        # The module itself runs, not its compiled call.
        attributes.pop("_compiled_call_impl", None)
        vars(duplicate).update(attributes)
    for duplicate, name, value in functions:
        vars(duplicate)[name] = _replaced(value, copies, _MAX_DEPTH)
    return copies[id(model)]


def original_module(module: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` compiled; another module is returned as it is."""
    while "_orig_mod" in module._modules:
        module = module._modules["_orig_mod"]
    return module


def _replaced(  # noqa: PLR0911
    value: Any, copies: dict[int, Any], depth: int
) -> Any:
    """Return ``value`` with containers copied and references to modules replaced.

    It is returned itself if it refers to neither.
    """
    if isinstance(value, nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, torch.Tensor):
        return _usable(value, copies)
    if depth == 0:
        return value

    def inner(item: Any) -> Any:
        return _replaced(item, copies, depth - 1)

    kind = type(value)
    if kind in _CONTAINERS:
        return _copied_container(value, copies, depth)
    if kind is tuple:
        replaced = [inner(item) for item in value]
        if any(new is not old for new, old in zip(replaced, value, strict=True)):
            return tuple(replaced)
    elif kind is MethodType:
        owner = inner(value.__self__)
        if owner is not value.__self__:
            return MethodType(value.__func__, owner)
    elif kind is functools.partial:
        return functools.partial(inner(value.func), *inner(value.args), **inner(value.keywords))
    elif kind is FunctionType and value.__closure__:
        return _with_closure(value, copies)
    return value


def _usable(tensor: torch.Tensor, copies: dict[int, Any]) -> torch.Tensor:
    """Return the tensor to use, a copy if it is part of no graph because of inference mode."""
    if id(tensor) in copies:
        value: torch.Tensor = copies[id(tensor)]
        return value
    if not (torch.is_grad_enabled() and tensor.is_inference()):
        return tensor
    duplicate = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        duplicate = nn.Parameter(duplicate, False)
    copies[id(tensor)] = duplicate
    return duplicate


def _copied_container(value: Any, copies: dict[int, Any], depth: int) -> Any:
    """Return the copy of a dict, list, set or deque, which is made at the first call."""
    if id(value) in copies:
        return copies[id(value)]
    duplicate = copies[id(value)] = value.copy()
    # The items are read from the duplicate, since another thread may change the original.
    if isinstance(value, set):
        items = list(duplicate)
        duplicate.clear()
        duplicate.update(_replaced(item, copies, depth - 1) for item in items)
    else:
        entries = duplicate.items() if isinstance(value, dict) else enumerate(duplicate)
        for key, item in list(entries):
            duplicate[key] = _replaced(item, copies, depth - 1)
    return duplicate


def _with_closure(function: FunctionType, copies: dict[int, Any]) -> FunctionType:
    """Return a function with its closure replaced; itself if that refers to no copies."""
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


def _cell(cell: CellType, copies: dict[int, Any]) -> CellType:
    try:
        content = cell.cell_contents
    except ValueError:  # an empty cell
        return cell
    # Only modules, their methods, and containers and tensors that are copied: a closure may refer
    # to itself.
    if isinstance(content, (nn.Module, MethodType)) or id(content) in copies:
        replaced = _replaced(content, copies, 1)
        if replaced is not content:
            return CellType(replaced)
    return cell
