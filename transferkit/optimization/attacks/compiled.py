"""The compiled functions of attacks, kept for further runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import MethodType
from typing import Any, TypeAlias

from transferkit.support.locks import ForkSafeLock

__all__ = ["CompiledFunctions"]

Function: TypeAlias = Callable[..., Any]

# More than an attack has. Without a limit, each new instance of an attack would add some.
_MAX_FUNCTIONS = 64


class CompiledFunctions:
    """A cache of compiled functions, each of which belongs to an object.

    Objects are compared by identity: two attacks or losses with the same name, or that are equal
    in the sense of ``==``, do not share a function. It can be used from several threads.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._entries: OrderedDict[Hashable, tuple[object, Function]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, owner: object, name: Hashable, make: Callable[[], Function]) -> Function:
        """Return the function of an object with a name; ``make`` is called if there is none yet.

        Parameters
        ----------
        owner
            The object. A method is the same if its object and its function are.
        name
            The name of the function among those of ``owner``.
        make
            Returns the compiled function.
        """
        key = (_identity(owner), name)
        with self._lock:
            if key not in self._entries:
                # With its owner, so that no other object gets the same id.
                self._entries[key] = (owner, make())
                if len(self._entries) > _MAX_FUNCTIONS:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            return self._entries[key][1]


def _identity(owner: object) -> Hashable:
    if isinstance(owner, MethodType):
        # Each access to a method makes a new object.
        return id(owner.__self__), id(owner.__func__)
    return id(owner)
