"""The errors that transferkit raises on purpose.

Every one is a `TransferkitError`, and also the built-in kind of error that it is
nearest to, so that ``except ValueError`` works as a reader would expect. A message says
what was given, what was expected, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AmbiguousNameError",
    "BackendNotInstalledError",
    "DatasetError",
    "DownloadError",
    "FileFormatError",
    "ImageError",
    "NoGradientError",
    "NotFiniteError",
    "OutputError",
    "ParameterError",
    "PluginError",
    "ShapeError",
    "TransferkitError",
    "UnknownNameError",
    "UnsupportedError",
]

_MOST_SUGGESTED = 4


class TransferkitError(Exception):
    """What all errors of this library have in common.

    Examples
    --------
    >>> from transferkit import TransferkitError, list_images
    >>> try:
    ...     list_images("no such folder")
    ... except TransferkitError as error:
    ...     print(error)
    no such folder: there is no such file or folder
    """


class UnknownNameError(TransferkitError, ValueError):
    """A network, layer, backend, class or weights entry that does not exist.

    Parameters
    ----------
    kind
        What was looked for, as a noun: ``"network"``, ``"layer"``.
    name
        The name that was given.
    known
        The names that there are; those that have the name as one of their words, or else the
        closest, are put into the message.
    of
        What it was looked for in, where the kind does not say it: a layer for a channel.

    Examples
    --------
    >>> from transferkit.errors import UnknownNameError
    >>> print(UnknownNameError("network", "mobilenetv2", ["mobilenet_v2", "vgg16"]))
    unknown network 'mobilenetv2'; did you mean 'mobilenet_v2'?
    >>> print(UnknownNameError("class", "cat", ["crate", "tiger cat", "Egyptian cat"]))
    unknown class 'cat'; did you mean 'tiger cat' or 'Egyptian cat'?
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], *, of: str = "") -> None:
        known = list(known)
        word = str(name).casefold()
        close = [other for other in known if word in other.casefold().split()][:_MOST_SUGGESTED]
        close = close or difflib.get_close_matches(str(name), known, n=_MOST_SUGGESTED, cutoff=0.6)
        message = f"unknown {kind} {name!r}" + (f" of {of}" if of else "")
        if close:
            message += f"; did you mean {' or '.join(map(repr, close))}?"
        elif known:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            message += f"; there is: {shown}"
        super().__init__(message)
        self.kind = kind
        self.name = name
        self.close_matches = close

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore_unknown_name, (str(self), self.kind, self.name, self.close_matches))


def _restore_unknown_name(
    message: str, kind: str, name: object, close_matches: list[str]
) -> UnknownNameError:
    """Rebuild the error in another process, where the known names are no longer at hand."""
    error = UnknownNameError(kind, name, close_matches)
    error.args = (message,)
    return error


class AmbiguousNameError(TransferkitError, ValueError):
    """A name that several things have.

    Parameters
    ----------
    kind
        What was looked for, as a noun: ``"class"``.
    name
        The name that was given.
    choices
        What it may mean, each as it is told to a reader.
    remedy
        How to say which is meant, as a clause.

    Examples
    --------
    >>> from transferkit.errors import AmbiguousNameError
    >>> print(AmbiguousNameError("class", "crane", ["a bird", "a machine"], "give its index"))
    class 'crane' may be a bird or a machine; give its index
    """

    def __init__(self, kind: str, name: object, choices: Iterable[str], remedy: str) -> None:
        choices = list(choices)
        super().__init__(f"{kind} {name!r} may be {' or '.join(choices)}; {remedy}")
        self.kind = kind
        self.name = name
        self.choices = choices
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (AmbiguousNameError, (self.kind, self.name, self.choices, self.remedy))


class BackendNotInstalledError(TransferkitError, ImportError):
    """A backend was asked for whose framework is not installed; the message has the remedy."""


class PluginError(TransferkitError, RuntimeError):
    """A backend plugin is broken, or made for another version of the plugin interface."""


class UnsupportedError(TransferkitError, RuntimeError):
    """A backend was asked for something that it cannot do, such as gradients."""


class ParameterError(TransferkitError, ValueError):
    """A parameter has a value that it cannot have; the message says which it can."""


class ShapeError(TransferkitError, ValueError):
    """An array or a picture has a shape that the network or the call cannot take."""


class ImageError(TransferkitError, ValueError):
    """One picture cannot be used.

    Parameters
    ----------
    source
        Where the picture came from: its path, or its place in the input (``"images[3]"``).
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
        return f"{self.source}: {self.reason}"


class DatasetError(TransferkitError, ValueError):
    """Pictures or labels that cannot be learnt from: none, one class, unequal lengths."""


class DownloadError(TransferkitError, OSError):
    """A file could not be fetched; the message says from where, and where it can be put by hand."""


class FileFormatError(TransferkitError, ValueError):
    """A weights or classifier file that is damaged, of another kind, or too new."""


class NoGradientError(TransferkitError, ValueError):
    """What is to be made large or small has no derivative in the picture."""


class NotFiniteError(TransferkitError, ArithmeticError):
    """An optimisation met a value that is infinite or no number; names the step."""


class OutputError(TransferkitError, OSError):
    """A result could not be written where it was asked for; nothing was left there."""
