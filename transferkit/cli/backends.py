"""``transferkit backends``: list the backends."""

from __future__ import annotations

from transferkit.cli.console import print_line, print_table

__all__ = ["backends"]


def backends() -> None:
    """List the backends with their versions and devices.

    A backend that cannot be used is listed with the reason and how to fix it.
    """
    from transferkit.backends import backend_names, describe_backend

    infos = [describe_backend(name) for name in backend_names()]
    print_table(
        ("backend", "installed", "version", "capabilities", "devices", "package"),
        [
            (
                info.name,
                "yes" if info.problem is None else "no",
                info.version or "",
                ", ".join(info.capabilities),
                ", ".join(info.devices),
                info.distribution,
            )
            for info in infos
        ],
    )
    for info in infos:
        if info.problem is not None:
            print_line(info.problem)
