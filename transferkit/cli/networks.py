"""``transferkit networks``: list the networks and their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transferkit.cli.console import print_table

if TYPE_CHECKING:
    from transferkit.weights import WeightsEntry

__all__ = ["networks"]

# Fits into 100 columns of a terminal.
_COLUMNS = ("network", "year", "parameters", "GMACs", "input", "weights", "top-1", "on disk")


def networks() -> None:
    """List the networks and their published weights.

    GMACs are the billions of multiply-accumulate operations for one image, and input is its
    width and height in pixels. Top-1 is the accuracy on ImageNet that the publisher of the
    weights states. Weights that are 'included' are part of the package.
    """
    from transferkit.backends.macs import count_macs
    from transferkit.networks import NETWORKS, build_network
    from transferkit.weights import WEIGHTS

    rows: list[tuple[object, ...]] = []
    for entry in NETWORKS.values():
        network = build_network(entry.name)
        side = network.input_size
        description = (
            entry.name,
            entry.year,
            f"{network.num_parameters / 1e6:.1f} M",
            f"{count_macs(network, side, side) / 1e9:.2f}",
            side,
        )
        cells = [
            (_name_and_publisher(weights), f"{weights.top1:.3f}", _state_on_disk(weights))
            for weights in WEIGHTS
            if weights.network == entry.name
        ]
        first, *others = cells or [("", "", "")]
        rows.append((*description, *first))
        rows += [("",) * len(description) + row for row in others]
    print_table(_COLUMNS, rows)


def _name_and_publisher(entry: WeightsEntry) -> str:
    return entry.name if entry.name == entry.source else f"{entry.name} ({entry.source})"


def _state_on_disk(entry: WeightsEntry) -> str:
    """Return whether weights are on disk; compares sizes only, since checksums take long."""
    from transferkit.weights.cache import is_of_stated_size, on_disk

    if entry.packaged is not None:
        return "included"
    path = on_disk(entry)
    if path is None:
        return "no"
    return "yes" if is_of_stated_size(path, entry) else "damaged"
