"""Networks as data, and passes over them; independent of any framework."""

from transferkit.networks.catalogue import NETWORKS, NetworkEntry, build_network, find_network
from transferkit.networks.graph import INPUT, WRAPPED, Network, NetworkBuilder, Node, Weights
from transferkit.networks.initialization import random_weights
from transferkit.networks.passes import (
    add_probabilities,
    add_unknown_score,
    divide_logits,
    fold_batch_norm,
    keep_needed,
    replace_head,
)
from transferkit.networks.serialization import network_from_json, network_to_json

__all__ = [
    "INPUT",
    "NETWORKS",
    "WRAPPED",
    "Network",
    "NetworkBuilder",
    "NetworkEntry",
    "Node",
    "Weights",
    "add_probabilities",
    "add_unknown_score",
    "build_network",
    "divide_logits",
    "find_network",
    "fold_batch_norm",
    "keep_needed",
    "network_from_json",
    "network_to_json",
    "random_weights",
    "replace_head",
]
