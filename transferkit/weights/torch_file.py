"""State dictionaries that PyTorch wrote, read without PyTorch and without running anything.

A ``.pth`` file is a pickle that describes tensors, and the bytes of their storages. A pickle
is a program, which may call whatever it names. The one here is not run: its operations are
walked through by an interpreter that knows the few of them that state dictionaries are made
of, and that calls nothing. Wherever a pickle names a function or a class, there is only its
name; the names that make tensors are understood, and any other one is refused.
"""

from __future__ import annotations

import io
import math
import os
import pickletools
import re
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError
from transferkit.weights.mapped import ZIP_START, MappedFile, array_at, map_file, stored_member

__all__ = ["is_torch_file", "read_torch"]

# The numbers that a file of PyTorch before 1.6 begins with: "a file of torch", and the version.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_LEGACY_START = b"\x80\x02\x8a\x0a" + _MAGIC_NUMBER.to_bytes(10, "little")
# A state dictionary of a thousand tensors takes some 40,000; each may make an object.
_MOST_OPERATIONS = 200_000
# Under which a checkpoint of a training keeps the weights.
_WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model")
_DATA_PARALLEL_PREFIX = "module."
_REMEDY = "save the weights alone: torch.save(model.state_dict(), path)"

_FLOAT_STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
}
"""Each with its type and the bytes of a number."""

_INTEGER_SIZES = {
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_TENSOR_FUNCTIONS = ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2")
_PARAMETER_FUNCTIONS = (
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
)
_PARAMETER = "torch.nn.parameter Parameter"
_ORDERED_DICT = "collections OrderedDict"
_KNOWN_NAMES = frozenset({*_TENSOR_FUNCTIONS, *_PARAMETER_FUNCTIONS, _PARAMETER, _ORDERED_DICT})
_STORAGE = re.compile(r"torch(?:\.cuda)? (\w+Storage)")


class _Storage(NamedTuple):
    """A run of numbers in the file, not read yet."""

    kind: str | None  # of the floating-point types; None for integers
    size: int  # bytes for each number
    key: str
    length: int  # numbers


class _Tensor(NamedTuple):
    """A tensor, not read yet: some of the numbers of a storage."""

    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Where the arguments of an operation begin on the stack."""


_T = TypeVar("_T")
_MARK = _Mark()
_Store = Callable[[str], memoryview]
"""From a storage's key to its bytes."""


def is_torch_file(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is one of PyTorch, or a zip archive."""
    return start.startswith((ZIP_START, _LEGACY_START))


def read_torch(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.float32]]:
    """The weights in a ``.pth`` or ``.pt`` file.

    Read are a state dictionary, a checkpoint that has one under ``state_dict``,
    ``model_state_dict`` or ``model``, and both with the prefix ``module.`` that
    ``DataParallel`` puts before names.

    Parameters
    ----------
    path
        A file that ``torch.save`` wrote, in the format of PyTorch 1.6 or the one before.
        Nothing in it is ever run.

    Returns
    -------
    dict of str to array
        Name to float32 array. Numbers that are float32 in the file stay there, mapped into
        memory, and are read-only; those of another floating-point type are converted; tensors
        of integers, such as ``num_batches_tracked``, are left out.

    Raises
    ------
    FileFormatError
        If there is no such file, it is damaged or cut short, holds pickled objects, or no
        state dictionary.
    """
    where = os.fspath(path)
    data = map_file(path)
    try:
        if bytes(data[:4]) == ZIP_START:
            content, storage = _open_zip(where, data)
        else:
            content, storage = _open_legacy(where, data)
        return _read_tensors(where, content, storage, len(data))
    except FileFormatError:
        raise
    except (
        # What the zip module, pickletools and arrays raise of bytes that make no sense.
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
    ) as error:
        raise FileFormatError(
            f"{where}: no weights file of PyTorch, damaged or cut short ({error})"
        ) from error


# ----------------------------------------------------------------------------- the two formats


def _open_zip(where: str, data: memoryview) -> tuple[Any, _Store]:
    """A file of PyTorch 1.6 or later: a zip archive of ``data.pkl`` and a file each storage."""
    members: dict[str, zipfile.ZipInfo] = {}
    with zipfile.ZipFile(io.BufferedReader(MappedFile(data))) as archive:
        for entry in archive.infolist():
            if entry.filename in members:
                raise ValueError(f"{entry.filename!r} is there twice")
            members[entry.filename] = entry
    pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in members):
        kind = "a TorchScript program" if pickles else "a zip archive without data.pkl"
        raise FileFormatError(f"{where}: is {kind}, no weights file of PyTorch; {_REMEDY}")
    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and bytes(stored_member(data, order)[:16]) != b"little":
        raise FileFormatError(f"{where}: was written on a big-endian machine, which is not read")
    reader = io.BufferedReader(MappedFile(stored_member(data, members[pickles[0]])))
    content, _ = _interpret(where, reader)
    return content, lambda key: stored_member(data, members[f"{folder}data/{key}"])


def _open_legacy(where: str, data: memoryview) -> tuple[Any, _Store]:
    """A file of PyTorch before 1.6: five pickles, then the storages one after the other."""
    reader = io.BufferedReader(MappedFile(data))
    if _interpret(where, reader)[0] != _MAGIC_NUMBER:
        raise FileFormatError(f"{where}: is no weights file of PyTorch")
    version, _ = _interpret(where, reader)
    system, _ = _interpret(where, reader)
    if version != _PROTOCOL_VERSION or _checked(system, dict).get("little_endian") is not True:
        raise FileFormatError(
            f"{where}: is of another format of PyTorch than {_PROTOCOL_VERSION}, or was written on "
            "a big-endian machine"
        )
    content, storages = _interpret(where, reader)
    keys, _ = _interpret(where, reader)
    found: dict[str, memoryview] = {}
    position = reader.tell()
    for key in keys:
        length = int.from_bytes(data[position : position + 8], "little")
        end = position + 8 + length * storages[key].size
        if end > len(data):
            raise ValueError(f"storage {key!r} ends after the file")
        found[key] = data[position + 8 : end]
        position = end
    return content, found.__getitem__


# ------------------------------------------------------------------------------- the tensors


def _read_tensors(
    where: str, content: Any, storage_bytes: _Store, file_size: int
) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of the state dictionary that ``content`` is or has."""
    state = content
    if isinstance(content, dict):
        inner = (content[key] for key in _WEIGHTS_KEYS if isinstance(content.get(key), dict))
        state = next(inner, content)
    if not isinstance(state, dict):
        raise FileFormatError(f"{where}: holds no state dictionary; {_REMEDY}")
    tensors: dict[str, _Tensor] = {}
    for name, value in state.items():
        tensor = value.tensor if isinstance(value, _Parameter) else value
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            known = " or ".join(map(repr, _WEIGHTS_KEYS))
            raise FileFormatError(
                f"{where}: holds no state dictionary, in which each name has a tensor: "
                f"{_shown(name)} has none. A checkpoint must have it under {known}. Or {_REMEDY}"
            )
        tensors[name] = tensor
    if tensors and all(name.startswith(_DATA_PARALLEL_PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(_DATA_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()
        }
    # A stride of 0 makes an array of any size of a few bytes, and a storage may be used many
    # times; copied, they would be as large as they look.
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > file_size:
        raise FileFormatError(f"{where}: its tensors are larger together than the file")
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for name, (storage, start, shape, strides) in tensors.items():
        if storage.kind is None:
            continue
        data = storage_bytes(storage.key)
        size = storage.length * storage.size
        if not 0 <= size <= len(data):
            raise ValueError(f"the storage of {name!r} has {len(data)} bytes, not {size}")
        arrays[name] = array_at(data[:size], storage.kind, shape, start * storage.size, strides)
    return arrays


# -------------------------------------------------------------------------------- the pickle


class _Name(NamedTuple):
    """The name of a function or class that a pickle refers to: a name and nothing else."""

    text: str


class _Parameter:
    """What ``torch.nn.Parameter`` keeps: a tensor, which early PyTorch put in last."""

    def __init__(self, tensor: _Tensor | None = None) -> None:
        self.tensor = tensor


class _Refused(Exception):  # noqa: N818 - it is caught at once
    """An object in the pickle that state dictionaries do not hold; the argument names it."""


def _interpret(where: str, file: BinaryIO | io.BufferedReader) -> tuple[Any, dict[str, _Storage]]:
    """What the pickle at the file's position describes, and the storages it refers to."""
    try:
        return _Interpreter().run(file)
    except _Refused as refused:
        raise FileFormatError(
            f"{where}: holds a pickled object ({refused}), which could run any code, so it is not "
            f"read; {_REMEDY}"
        ) from None


class _Interpreter:
    """Walks through a pickle's operations, and calls nothing that the pickle names."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self, file: BinaryIO | io.BufferedReader) -> tuple[Any, dict[str, _Storage]]:
        """The object that the pickle describes."""
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if count > _MOST_OPERATIONS:
                raise ValueError(f"a pickle of more than {_MOST_OPERATIONS} operations")
            name = operation.name
            if name == "STOP":
                return self.stack.pop(), self.storages
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _OPERATIONS:
                _OPERATIONS[name](self, argument)
            elif name not in {"PROTO", "FRAME"}:
                raise _Refused(f"operation {name}")
        raise ValueError("a pickle without an end")  # genops raises it before

    # ---- containers ------------------------------------------------------------------

    def items_after_mark(self) -> list[Any]:
        """What is on the stack above the last mark; the mark is taken off too."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise ValueError("a pickle without a mark")
        items = self.stack[position + 1 :]
        del self.stack[position:]
        return items

    def tuple_of(self, number: int) -> None:
        items = tuple(self.stack[-number:])
        del self.stack[-number:]
        self.stack.append(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing a tuple of tuples of tuples, each twice, may take for ever.
            if not isinstance(key, str | int):
                raise ValueError("a key that is neither text nor a number")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError("items for what is no list")
        target.extend(items)

    # ---- names, and what is made with them ----------------------------------------------

    def name(self, text: str) -> None:
        if text not in _KNOWN_NAMES and not _STORAGE.fullmatch(text):
            raise _Refused(text.replace(" ", "."))
        self.stack.append(_Name(text))

    def name_from_stack(self) -> None:
        module, qualified = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(module, str) or not isinstance(qualified, str):
            raise ValueError("a name that is no text")
        self.name(f"{module} {qualified}")

    def make(self) -> None:
        """What a function of `_KNOWN_NAMES` would make; it is not called."""
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of what is no function")
        if function.text in _TENSOR_FUNCTIONS:
            self.stack.append(_tensor(*arguments[:4]))
        elif function.text in _PARAMETER_FUNCTIONS:
            self.stack.append(_Parameter(_checked(arguments[0], _Tensor)))
        elif function.text == _PARAMETER:
            self.stack.append(_Parameter(*(_checked(given, _Tensor) for given in arguments[:1])))
        elif function.text == _ORDERED_DICT:
            made: dict[Any, Any] = {}
            self.stack.append(made)
            for pair in _checked(arguments[0], list) if arguments else ():
                self.set_items(list(pair))
        else:
            raise _Refused(function.text.replace(" ", "."))

    def set_state(self) -> None:
        """What early PyTorch kept of a parameter; the attributes of a dictionary are let go."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Parameter):
            if len(state) == 4:
                target.tensor = _tensor(*state)
            elif len(state) == 5:
                target.tensor = _checked(state[0], _Tensor)
        elif not isinstance(target, dict):
            raise ValueError("a state for what has none")

    def storage(self) -> None:
        """The storage that a tuple refers to."""
        tag, kind, key, _, length, *rest = _checked(self.stack.pop(), tuple)
        found = _STORAGE.fullmatch(_checked(kind, _Name).text)
        if tag != "storage" or found is None or any(view is not None for view in rest):
            raise ValueError("a reference to what is no storage")
        if found[1] in _FLOAT_STORAGES:
            storage_kind, size = _FLOAT_STORAGES[found[1]]
        elif found[1] in _INTEGER_SIZES:
            storage_kind, size = None, _INTEGER_SIZES[found[1]]
        else:
            raise _Refused(f"torch.{found[1]}")
        storage = _Storage(storage_kind, size, _checked(key, str), _checked(length, int))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {storage.key!r} is described in two ways")
        self.stack.append(storage)


def _tensor(storage: Any, start: Any, shape: Any, strides: Any) -> _Tensor:
    """A tensor of what should be a storage, a number and two tuples of numbers."""
    shape = tuple(_checked(length, int) for length in _checked(shape, tuple))
    strides = tuple(_checked(step, int) for step in _checked(strides, tuple))
    return _Tensor(_checked(storage, _Storage), _checked(start, int), shape, strides)


def _checked(value: Any, kind: type[_T]) -> _T:
    """The value, if it is of this type."""
    if not isinstance(value, kind):
        raise ValueError(f"{_shown(value)} where a {kind.__name__.strip('_').lower()} belongs")
    return value


def _shown(value: Any) -> str:
    """A short text for a value, which may be as large as the file."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE"}
    | {"SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
)
"""Operations that give their argument."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
"""Operations that always give the same."""

_OPERATIONS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "TUPLE": lambda self, _: self.stack.append(tuple(self.items_after_mark())),
    "TUPLE1": lambda self, _: self.tuple_of(1),
    "TUPLE2": lambda self, _: self.tuple_of(2),
    "TUPLE3": lambda self, _: self.tuple_of(3),
    "APPEND": lambda self, _: self.append([self.stack.pop()]),
    "APPENDS": lambda self, _: self.append(self.items_after_mark()),
    "SETITEM": lambda self, _: self.set_items([*reversed((self.stack.pop(), self.stack.pop()))]),
    "SETITEMS": lambda self, _: self.set_items(self.items_after_mark()),
    "GLOBAL": _Interpreter.name,
    "STACK_GLOBAL": lambda self, _: self.name_from_stack(),
    "REDUCE": lambda self, _: self.make(),
    "NEWOBJ": lambda self, _: self.make(),
    "BUILD": lambda self, _: self.set_state(),
    "BINPERSID": lambda self, _: self.storage(),
    "BINPUT": lambda self, key: self.memo.__setitem__(key, self.stack[-1]),
    "LONG_BINPUT": lambda self, key: self.memo.__setitem__(key, self.stack[-1]),
    "MEMOIZE": lambda self, _: self.memo.__setitem__(len(self.memo), self.stack[-1]),
    "BINGET": lambda self, key: self.stack.append(self.memo[key]),
    "LONG_BINGET": lambda self, key: self.stack.append(self.memo[key]),
}
"""Operations on what is there already. Any other is refused."""
