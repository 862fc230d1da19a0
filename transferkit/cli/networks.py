"""``transferkit networks``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transferkit.cli.console import show_table

if TYPE_CHECKING:
    from transferkit.weights import WeightsEntry

__all__ = ["networks"]


def networks() -> None:
    """List the networks and their weights.

    Operations are multiplications, each with an addition, for one picture of the input size;
    top-1 is the accuracy on ImageNet that the weights' publisher states.
    """
    from transferkit.backends.macs import count_macs
    from transferkit.networks import NETWORKS, build_network
    from transferkit.weights import WEIGHTS

    rows = []
    for entry in NETWORKS.values():
        network = build_network(entry.name)
        side = network.input_size
        weights = [row for row in WEIGHTS if row.network == entry.name]
        rows.append(
            (
                entry.name,
                entry.family,
                entry.year,
                f"{network.number_of_parameters / 1e6:.1f} M",
                f"{count_macs(network, side, side) / 1e9:.2f} G",
                f"{side} x {side}",
                "\n".join(_weights_name(row) for row in weights),
                "\n".join(f"{row.top1:.3f}" for row in weights),
                "\n".join(_where(row) for row in weights),
            )
        )
    columns = ("network", "family", "year", "parameters", "operations", "input", "weights", "top-1")
    show_table((*columns, "on disk"), rows)


def _weights_name(entry: WeightsEntry) -> str:
    return entry.name if entry.name == entry.source else f"{entry.name} ({entry.source})"


def _where(entry: WeightsEntry) -> str:
    """Whether weights are on disk; what lies there is not read, which would take long."""
    from transferkit.weights.cache import is_of_stated_size, on_disk

    if entry.packaged is not None:
        return "in the package"
    path = on_disk(entry)
    if path is None:
        return "no"
    return "yes" if is_of_stated_size(path, entry) else "damaged"
