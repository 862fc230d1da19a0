"""``transferkit backends``."""

from __future__ import annotations

from transferkit.cli.console import say, show_table

__all__ = ["backends"]


def backends() -> None:
    """List the backends: installed or not, version, capabilities, devices."""
    from transferkit.backends import backend_names, describe_backend

    found = [describe_backend(name) for name in backend_names()]
    show_table(
        ("backend", "installed", "version", "can do", "devices", "from"),
        [
            (
                info.name,
                "yes" if info.problem is None else "no",
                info.version or "",
                ", ".join(info.capabilities),
                ", ".join(info.devices),
                info.distribution,
            )
            for info in found
        ],
    )
    for info in found:
        if info.problem is not None:
            say(info.problem)
