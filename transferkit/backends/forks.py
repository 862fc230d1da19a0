"""Detection of processes that were forked after a framework started threads or used a GPU."""

from __future__ import annotations

import os
from functools import cache

from transferkit.errors import UnsupportedError

__all__ = ["FORK_FIRST", "forked_process_error", "was_started_before_fork"]

FORK_FIRST = (
    "fork before the first prediction (gunicorn: omit --preload, or load the model without "
    "predicting)"
)
"""The remedy for frameworks that start when they first compute."""


def was_started_before_fork(framework: str) -> bool:
    """Return whether a framework first computed in a process that this one was forked from.

    The first call for a framework, in any process, marks it as started there. A fork copies
    neither the threads of a framework nor its connection to a GPU.

    Examples
    --------
    >>> from transferkit.backends.forks import was_started_before_fork
    >>> was_started_before_fork("numpy")
    False
    """
    return _first_process(framework) != os.getpid()


def forked_process_error(framework: str, *remedies: str) -> UnsupportedError:
    """Return the error for a framework that cannot compute in a forked process.

    Parameters
    ----------
    framework
        The name of the framework.
    remedies
        What can be done other than to start the process in another way, as clauses.
    """
    remedy = ", or ".join(
        ('start the process with multiprocessing.get_context("spawn")', *remedies)
    )
    return UnsupportedError(
        f"{framework} was started in the parent process, and does not work in a forked child; "
        f"{remedy}"
    )


@cache
def _first_process(framework: str) -> int:  # noqa: ARG001 - the key of the cache
    return os.getpid()
