"""The connection to Ray: that of the caller, or one that ends with the call."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from transferkit.errors import UnsupportedError

__all__ = ["connected", "import_ray"]

# What Ray writes about its own work to standard error; problems are raised as errors.
_LOGGERS = ("ray", "ray.data")


def import_ray() -> Any:
    """Return the module ``ray``, with ``ray.data``.

    Raises
    ------
    UnsupportedError
        If it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UnsupportedError(
            'extraction with Ray needs ray, which is not installed; pip install "transferkit[ray]"'
        ) from error
    return ray


@contextmanager
def connected(num_cpus: int | None) -> Iterator[Any]:
    """Connect to Ray during a ``with`` block, and keep it quiet.

    A connection that exists is used, and stays. Otherwise Ray connects to the cluster of the
    environment, or starts on this machine, and the connection ends with the block.

    Parameters
    ----------
    num_cpus
        The number of CPUs to offer if Ray is started on this machine; None: its cores.

    Yields
    ------
    module
        ``ray``.
    """
    # The import changes it, too.
    with _unchanged_process():
        ray = import_ray()
    is_ours = not ray.is_initialized()
    with _unchanged_process() if is_ours else nullcontext(), _quiet():
        if is_ours:
            _connect(ray, num_cpus)
        try:
            yield ray
        finally:
            if is_ours:
                ray.shutdown()


def _connect(ray: Any, num_cpus: int | None) -> None:
    settings = {
        "log_to_driver": False,
        "configure_logging": False,
        "include_dashboard": False,
    }
    try:
        ray.init(num_cpus=num_cpus, **settings)
    except ValueError:
        if num_cpus is None:
            raise
        # The environment has a cluster, whose CPUs are what they are.
        ray.init(**settings)


@contextmanager
def _unchanged_process() -> Iterator[None]:
    """Undo what Ray changes of this process, and does not undo when it is shut down."""
    before = {name: value for name, value in os.environ.items() if _is_of_ray(name)}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in filter(_is_of_ray, list(os.environ)):
            del os.environ[name]
        os.environ.update(before)
        # Only the main thread may set it, and so may Ray.
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _is_of_ray(variable: str) -> bool:
    return variable.startswith("RAY_") or variable == "PYTHONBREAKPOINT"


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
