"""The errors that transferkit raises deliberately.

Each one is a `TransferkitError` and also the closest built-in error, so that
``except ValueError`` works as expected. A message states the cause first, then what was
given, what was expected, and how to fix it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

__all__ = [
    "AmbiguousNameError",
    "ArgumentTypeError",
    "BackendNotInstalledError",
    "DatasetError",
    "DownloadError",
    "FileFormatError",
    "ImageError",
    "NetworkError",
    "NoGradientError",
    "NotFiniteError",
    "OutputError",
    "ParameterError",
    "PluginError",
    "ShapeError",
    "TransferkitError",
    "UnknownNameError",
    "UnsupportedError",
    "WorkerError",
    "shorten",
    "shorten_path",
]

_MAX_VALUE_LENGTH = 100
_MAX_PATH_LENGTH = 255
_MAX_SUGGESTIONS = 4
_MAX_LISTED = 12


def shorten(value: object) -> str:
    """Return the ``repr`` of a value for an error message, cut to 100 characters.

    Examples
    --------
    >>> from transferkit.errors import shorten
    >>> shorten("mobilenet")
    "'mobilenet'"
    >>> len(shorten("x" * 1000))
    100
    """
    # A string is cut before its repr is made: it may be very long.
    is_long_string = isinstance(value, str | bytes) and len(value) > _MAX_VALUE_LENGTH
    text = repr(value[:_MAX_VALUE_LENGTH]) if is_long_string else repr(value)  # type: ignore[index]
    return text if len(text) <= _MAX_VALUE_LENGTH else text[: _MAX_VALUE_LENGTH - 3] + "..."


def shorten_path(path: object) -> str:
    """Return a path or other source for an error message.

    A path is shown in full, since it is needed to find the file. Only one that is longer than 255
    characters, and therefore hardly a path, is cut to 100 characters.

    Examples
    --------
    >>> from transferkit.errors import shorten_path
    >>> shorten_path("images/cat.jpg")
    'images/cat.jpg'
    >>> len(shorten_path("iVBORw0KGgo" * 1000))
    100
    """
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return text if len(text) <= _MAX_PATH_LENGTH else text[: _MAX_VALUE_LENGTH - 3] + "..."


class TransferkitError(Exception):
    """The base class of all errors of this library.

    Examples
    --------
    >>> from transferkit import TransferkitError, list_images
    >>> try:
    ...     list_images("missing")
    ... except TransferkitError as error:
    ...     print(error)
    missing: no such file or folder
    """


class UnknownNameError(TransferkitError, ValueError):
    """A network, layer, backend, class or weights entry that does not exist.

    Parameters
    ----------
    kind
        What was looked up, as a noun: ``"network"``, ``"layer"``.
    name
        The name that was given.
    known
        The valid names. The message suggests those that contain the given name as a word, or
        else the closest ones; if none is close, it lists the first 12.
    of
        The container that was searched, if any: the network of a layer, the layer of a channel.
    hint
        A further clause for the end of the message.

    Attributes
    ----------
    kind, name
        As given.
    close_matches
        The suggested names.

    Examples
    --------
    >>> from transferkit.errors import UnknownNameError
    >>> print(UnknownNameError("network", "mobilenetv2", ["mobilenet_v2", "vgg16"]))
    unknown network 'mobilenetv2'; did you mean 'mobilenet_v2'?
    >>> print(UnknownNameError("class", "cat", ["crate", "tiger cat", "Egyptian cat"]))
    unknown class 'cat'; did you mean 'tiger cat' or 'Egyptian cat'?
    >>> print(UnknownNameError("layer", "x", ["conv", "logits"], of="mobilenet_v2"))
    mobilenet_v2 has no layer 'x'; available: conv, logits
    """

    def __init__(
        self, kind: str, name: object, known: Iterable[str], *, of: str = "", hint: str = ""
    ) -> None:
        known = list(known)
        given = str(name)[:_MAX_VALUE_LENGTH]
        word = given.casefold()
        close = [other for other in known if word in other.casefold().split()][:_MAX_SUGGESTIONS]
        close = close or difflib.get_close_matches(given, known, n=_MAX_SUGGESTIONS, cutoff=0.6)
        message = f"{of} has no {kind} {shorten(name)}" if of else f"unknown {kind} {shorten(name)}"
        if close:
            message += f"; did you mean {_join(map(repr, close))}?"
        elif known:
            listed = known[:_MAX_LISTED] + ["..."] * (len(known) > _MAX_LISTED)
            message += f"; available: {', '.join(listed)}"
        if hint:
            message += f" ({hint})" if close else f"; {hint}"
        super().__init__(message)
        self.kind = kind
        self.name = name
        self.close_matches = close

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore_unknown_name, (str(self), self.kind, self.name, self.close_matches))


def _restore_unknown_name(
    message: str, kind: str, name: object, close_matches: list[str]
) -> UnknownNameError:
    """Rebuild the error in another process; the known names are not sent along."""
    error = UnknownNameError(kind, name, close_matches)
    error.args = (message,)
    return error


class AmbiguousNameError(TransferkitError, ValueError):
    """A name that refers to several things.

    Parameters
    ----------
    kind
        What was looked up, as a noun: ``"class"``.
    name
        The name that was given.
    choices
        The candidates, as they are shown in the message.
    remedy
        How to choose one of them, as a clause.

    Examples
    --------
    >>> from transferkit.errors import AmbiguousNameError
    >>> choices = ["'crane bird' (index 134)", "'crane' (index 517)"]
    >>> print(AmbiguousNameError("class", "crane", choices, "give the index"))
    class 'crane' is ambiguous: 'crane bird' (index 134) or 'crane' (index 517); give the index
    """

    def __init__(self, kind: str, name: object, choices: Iterable[str], remedy: str) -> None:
        choices = list(choices)
        super().__init__(f"{kind} {shorten(name)} is ambiguous: {_join(choices)}; {remedy}")
        self.kind = kind
        self.name = name
        self.choices = choices
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (AmbiguousNameError, (self.kind, self.name, self.choices, self.remedy))


def _join(choices: Iterable[str]) -> str:
    """Return ``a``, ``a or b`` or ``a, b or c``."""
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


class BackendNotInstalledError(TransferkitError, ImportError):
    """A backend whose framework is not installed; the message says how to install it."""


class PluginError(TransferkitError, RuntimeError):
    """A backend plugin that is broken or made for another version of the plugin interface."""


class UnsupportedError(TransferkitError, RuntimeError):
    """An operation that the backend does not support, such as gradients."""


class ParameterError(TransferkitError, ValueError):
    """A parameter with an invalid value; the message says which values are valid."""


class ArgumentTypeError(TransferkitError, TypeError):
    """An argument of a wrong type, or one that cannot be combined with another argument."""


class NetworkError(TransferkitError, ValueError):
    """A network that is not valid: a name is used twice, or refers to nothing before it."""


class ShapeError(TransferkitError, ValueError):
    """An array or an image of a shape that the network or the call does not accept."""


class ImageError(TransferkitError, ValueError):
    """An image that cannot be used.

    Parameters
    ----------
    source
        Where the image came from: its path, or its position in the input (``"images[3]"``).
    reason
        What is wrong with it, as a clause.

    Examples
    --------
    >>> from transferkit.errors import ImageError
    >>> print(ImageError("cat.jpg", "the file is empty"))
    cat.jpg: the file is empty
    """

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{shorten_path(self.source)}: {self.reason}"


class DatasetError(TransferkitError, ValueError):
    """Unusable data: no images, one class only, not one label per image, a table without them."""


class DownloadError(TransferkitError, OSError):
    """A failed download; the message has the URL and where to put the file manually."""


class FileFormatError(TransferkitError, ValueError):
    """A file that is damaged, of another format or of a newer version: weights, an archive."""


class NoGradientError(TransferkitError, ValueError):
    """An objective that has no derivative with respect to the image."""


class NotFiniteError(TransferkitError, ArithmeticError):
    """A value that is infinite or NaN: an output of a layer, or a loss during an optimization."""


class OutputError(TransferkitError, OSError):
    """A result that could not be written; no partial file is left behind."""


class WorkerError(TransferkitError, RuntimeError):
    """A process of a cluster that ended or does not see the files; the message says what to do."""
