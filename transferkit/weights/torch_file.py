"""Reading of PyTorch's state dictionaries without PyTorch and without executing code.

A ``.pth`` file consists of a pickle that describes tensors, and the bytes of their storages. A
pickle is a program that can call any function. It is not executed here: an interpreter processes
only the few pickle operations that state dictionaries consist of, and calls nothing. It treats
the functions and classes in a pickle as names; it knows the names that create tensors. The objects
that any others would create are kept as names, so that a checkpoint may contain them besides its
state dictionary.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, shorten, shorten_path
from transferkit.weights.files import without_prefixes
from transferkit.weights.mapped import ZIP_START, MappedFile, array_at, map_file, stored_member

__all__ = ["is_torch_file", "read_torch"]

# A file of PyTorch before 1.6 begins with this magic number and version.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_LEGACY_START = b"\x80\x02\x8a\x0a" + _MAGIC_NUMBER.to_bytes(10, "little")
# A state dictionary of 1,000 tensors has about 40,000; each may create an object.
_MAX_OPERATIONS = 200_000
# The keys of the weights in a training checkpoint.
_WEIGHTS_KEYS = ("state_dict", "model_state_dict", "model")
_REMEDY = "save the weights alone: torch.save(model.state_dict(), path)"

_FLOAT_STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
}
"""The name of each storage class to its dtype and the bytes per value."""

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
    """A storage in the file, not read yet."""

    kind: str | None  # the floating-point type; None for integers
    size: int  # bytes per value
    key: str
    length: int  # number of values


class _Tensor(NamedTuple):
    """A tensor, not read yet: a part of a storage."""

    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """The marker on the stack before the arguments of an operation."""


_T = TypeVar("_T")
_MARK = _Mark()
_Store = Callable[[str], memoryview]
"""A function from the key of a storage to its bytes."""


def is_torch_file(start: bytes) -> bool:
    """Return whether a file with these first bytes is a PyTorch file or a zip archive."""
    return start.startswith((ZIP_START, _LEGACY_START))


def read_torch(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Read the weights in a ``.pth`` or ``.pt`` file.

    The file may contain a state dictionary, or a checkpoint with a state dictionary under
    ``state_dict``, ``model_state_dict`` or ``model``. Other objects in a checkpoint are ignored.
    Prefixes that all names have are removed; see
    `transferkit.weights.files.without_prefixes`.

    Parameters
    ----------
    path
        A file that ``torch.save`` wrote, in the format since PyTorch 1.6 or the one before. No
        code in it is executed.

    Returns
    -------
    dict of str to array
        Name to float32 array. Arrays that are float32 in the file are mapped into memory and
        read-only; other floating-point types are converted; integer tensors, such as
        ``num_batches_tracked``, are left out.

    Raises
    ------
    FileFormatError
        If the file does not exist, is damaged or truncated, contains pickled objects, or has
        no state dictionary.
    """
    where = shorten_path(path)
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
        # The errors that the zip module, pickletools and NumPy raise for invalid bytes.
        zipfile.BadZipFile,
        NotImplementedError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        EOFError,
        struct.error,
    ) as error:
        raise FileFormatError(
            f"{where}: not a weights file of PyTorch, damaged or truncated ({error})"
        ) from error


# ----------------------------------------------------------------------------- the two formats


def _open_zip(where: str, data: memoryview) -> tuple[Any, _Store]:
    """Open a file of PyTorch 1.6 or later: a zip archive of ``data.pkl`` and the storages."""
    members: dict[str, zipfile.ZipInfo] = {}
    with zipfile.ZipFile(MappedFile(data)) as archive:
        for entry in archive.infolist():
            if entry.filename in members:
                raise ValueError(f"{shorten(entry.filename)} occurs twice")
            members[entry.filename] = entry
    pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1 or any(name.endswith("/constants.pkl") for name in members):
        kind = "a TorchScript program" if pickles else "a zip archive without data.pkl"
        raise FileFormatError(f"{where}: not a weights file of PyTorch but {kind}; {_REMEDY}")
    folder = pickles[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    if order is not None and bytes(stored_member(data, order)[:16]) != b"little":
        raise FileFormatError(f"{where}: big-endian files are not supported")
    reader = MappedFile(stored_member(data, members[pickles[0]]))
    content, _ = _interpret(where, reader)
    return content, lambda key: stored_member(data, members[f"{folder}data/{key}"])


def _open_legacy(where: str, data: memoryview) -> tuple[Any, _Store]:
    """Open a file of PyTorch before 1.6: five pickles, followed by the storages."""
    reader = MappedFile(data)
    if _interpret(where, reader)[0] != _MAGIC_NUMBER:
        raise FileFormatError(f"{where}: not a weights file of PyTorch")
    version, _ = _interpret(where, reader)
    system, _ = _interpret(where, reader)
    if version != _PROTOCOL_VERSION or _checked(system, dict).get("little_endian") is not True:
        raise FileFormatError(
            f"{where}: big-endian files and PyTorch formats other than {_PROTOCOL_VERSION} are not "
            "supported"
        )
    content, storages = _interpret(where, reader)
    keys, _ = _interpret(where, reader)
    bytes_by_key: dict[str, memoryview] = {}
    position = reader.tell()
    for key in keys:
        if key not in storages:
            break  # the rest cannot be located; what needs it fails
        length = int.from_bytes(data[position : position + 8], "little")
        end = position + 8 + length * storages[key].size
        if end > len(data):
            raise ValueError(f"storage {shorten(key)} extends beyond the file")
        bytes_by_key[key] = data[position + 8 : end]
        position = end
    return content, bytes_by_key.__getitem__


# ------------------------------------------------------------------------------- the tensors


def _read_tensors(
    where: str, content: Any, storage_bytes: _Store, file_size: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays of the state dictionary in ``content``."""
    state = content
    if isinstance(content, dict):
        inner = (content[key] for key in _WEIGHTS_KEYS if isinstance(content.get(key), dict))
        state = next(inner, content)
    if isinstance(state, _Opaque):
        raise _rejection(where, state.text)
    if not isinstance(state, dict):
        raise FileFormatError(f"{where}: does not contain a state dictionary; {_REMEDY}")
    tensors: dict[str, _Tensor] = {}
    for name, value in state.items():
        for item in (name, value):
            if isinstance(item, _Opaque):
                raise _rejection(where, item.text)
        tensor = value.tensor if isinstance(value, _Parameter) else value
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            known = " or ".join(map(repr, _WEIGHTS_KEYS))
            raise FileFormatError(
                f"{where}: does not contain a state dictionary: the value of {_shown(name)} is not "
                f"a tensor; expected a state dictionary, alone or under {known}; {_REMEDY}"
            )
        tensors[name] = tensor
    tensors = without_prefixes(tensors)
    # With a stride of 0 a few bytes make an array of any size, and a storage can be used many
    # times; copies would have the full size.
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > file_size:
        raise FileFormatError(f"{where}: the tensors are larger than the file")
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for name, (storage, start, shape, strides) in tensors.items():
        if storage.kind is None:
            continue
        data = storage_bytes(storage.key)
        size = storage.length * storage.size
        if not 0 <= size <= len(data):
            raise ValueError(
                f"the storage of {shorten(name)} has {len(data)} bytes; expected {size}"
            )
        arrays[name] = array_at(data[:size], storage.kind, shape, start * storage.size, strides)
    return arrays


# -------------------------------------------------------------------------------- the pickle


class _Name(NamedTuple):
    """The name of a function or class that a pickle refers to."""

    text: str


class _Opaque:
    """An object that is not created, and of which only the name of its type is known."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Parameter:
    """The state of a ``torch.nn.Parameter``: a tensor, which early PyTorch set last."""

    def __init__(self, tensor: _Tensor | None = None) -> None:
        self.tensor = tensor


class _Refused(Exception):  # noqa: N818 - always caught in this module
    """A pickled object that does not belong in a state dictionary; the argument is its name."""


def _interpret(where: str, file: MappedFile) -> tuple[Any, dict[str, _Storage]]:
    """Return the object that the next pickle describes, and the storages it refers to."""
    try:
        return _Interpreter().run(file)
    except _Refused as refused:
        raise _rejection(where, str(refused)) from None


def _rejection(where: str, name: str) -> FileFormatError:
    return FileFormatError(
        f"{where}: contains a pickled object ({name}), which could execute any code, so it is not "
        f"read; {_REMEDY}"
    )


class _Interpreter:
    """An interpreter of a pickle's operations that calls nothing that the pickle names."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self, file: MappedFile) -> tuple[Any, dict[str, _Storage]]:
        """Return the object that the pickle describes."""
        for count, (operation, argument, _) in enumerate(pickletools.genops(cast(BinaryIO, file))):
            if count > _MAX_OPERATIONS:
                raise ValueError(f"a pickle with more than {_MAX_OPERATIONS} operations")
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
        raise ValueError("a pickle without an end")  # genops raises before

    # ---- containers ------------------------------------------------------------------

    def items_after_mark(self) -> list[Any]:
        """Pop and return the items above the last mark; also pop the mark."""
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
        if isinstance(target, _Opaque):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("items for an object that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Hashing deeply nested tuples can take exponential time.
            if not isinstance(key, str | int | float | _Opaque | None):
                raise ValueError("a key that is neither a string nor a number")
            target[key] = value

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Opaque):
            return
        if not isinstance(target, list):
            raise ValueError("items for an object that is not a list")
        target.extend(items)

    # ---- names, and objects created with them -------------------------------------------

    def name(self, text: str) -> None:
        if text not in _KNOWN_NAMES and not _STORAGE.fullmatch(text):
            self.stack.append(_Opaque(text.replace(" ", ".")))
        else:
            self.stack.append(_Name(text))

    def name_from_stack(self) -> None:
        module, qualified = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(module, str) or not isinstance(qualified, str):
            raise ValueError("a name that is not a string")
        self.name(f"{module} {qualified}")

    def make(self) -> None:
        """Push what a function of `_KNOWN_NAMES` would return, without calling it."""
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        if isinstance(function, _Opaque):
            self.stack.append(function)
            return
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of an object that is not a function")
        if function.text in _TENSOR_FUNCTIONS:
            self.stack.append(_tensor(*arguments[:4]))
        elif function.text in _PARAMETER_FUNCTIONS:
            self.stack.append(_Parameter(_checked(arguments[0], _Tensor)))
        elif function.text == _PARAMETER:
            self.stack.append(_Parameter(*(_checked(data, _Tensor) for data in arguments[:1])))
        elif function.text == _ORDERED_DICT:
            self.stack.append({})
            for pair in _checked(arguments[0], list) if arguments else ():
                self.set_items(list(pair))
        else:
            raise _Refused(function.text.replace(" ", "."))

    def set_state(self) -> None:
        """Set the state of a parameter of early PyTorch; ignore attributes of dictionaries."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Opaque):
            return
        if isinstance(target, _Parameter):
            if len(state) == 4:
                target.tensor = _tensor(*state)
            elif len(state) == 5:
                target.tensor = _checked(state[0], _Tensor)
        elif not isinstance(target, dict):
            raise ValueError("a state for an object that has none")

    def storage(self) -> None:
        """Replace the tuple on the stack by the storage that it refers to."""
        reference = _checked(self.stack.pop(), tuple)
        if reference[:1] == ("module",):
            # PyTorch before 1.6 stores the class of a module with its source code.
            self.stack.append(_checked(reference[1], _Opaque))
            return
        tag, kind, key, _, length, *rest = reference
        match = _STORAGE.fullmatch(_checked(kind, _Name).text)
        if tag != "storage" or match is None or any(view is not None for view in rest):
            raise ValueError("a reference to an object that is not a storage")
        if match[1] in _FLOAT_STORAGES:
            storage_kind, size = _FLOAT_STORAGES[match[1]]
        elif match[1] in _INTEGER_SIZES:
            storage_kind, size = None, _INTEGER_SIZES[match[1]]
        else:
            raise _Refused(f"torch.{match[1]}")
        storage = _Storage(storage_kind, size, _checked(key, str), _checked(length, int))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {shorten(storage.key)} has two descriptions")
        self.stack.append(storage)


def _tensor(storage: Any, start: Any, shape: Any, strides: Any) -> _Tensor:
    """Return a tensor after checking the types of its parts."""
    shape = tuple(_checked(length, int) for length in _checked(shape, tuple))
    strides = tuple(_checked(step, int) for step in _checked(strides, tuple))
    return _Tensor(_checked(storage, _Storage), _checked(start, int), shape, strides)


def _checked(value: Any, kind: type[_T]) -> _T:
    """Return the value if it has this type, else raise an error."""
    if not isinstance(value, kind):
        raise ValueError(f"expected a {kind.__name__.strip('_').lower()}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Return a short description of a value, which may be as large as the file."""
    return shorten(value) if isinstance(value, str) else f"a {type(value).__name__}"


_LITERALS = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE"}
    | {"SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
)
"""Operations that push their argument."""

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
"""Operations that push a constant."""

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
"""Operations on the stack and the memo. All others are rejected."""
