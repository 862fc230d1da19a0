"""How much memory is available."""

from __future__ import annotations

from pathlib import Path

__all__ = ["available_memory"]

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Return the number of bytes that can be allocated without swapping.

    Returns
    -------
    int or None
        None if the system does not say, which only Linux does.

    Examples
    --------
    >>> from transferkit.support.memory import available_memory
    >>> memory = available_memory()
    >>> memory is None or memory > 0
    True
    """
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None
