"""Conversion of networks to JSON and back; the JSON is treated as untrusted input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from transferkit.errors import NetworkError, shorten
from transferkit.networks.graph import Attribute, Network, Node

__all__ = ["network_from_json", "network_to_json"]


def network_to_json(network: Network) -> str:
    """Return ``network`` as JSON text for `network_from_json`."""
    return json.dumps(
        {
            "name": network.name,
            "input_size": network.input_size,
            "nodes": [
                {
                    "name": node.name,
                    "operation": node.operation,
                    "inputs": node.inputs,
                    "attributes": dict(node.attributes),
                    "parameters": node.parameters,
                }
                for node in network.nodes
            ],
            "parameters": dict(network.parameters),
            "aliases": dict(network.aliases),
        }
    )


def network_from_json(text: str) -> Network:
    """Return the network that ``text`` describes.

    Whether the operations exist and their shapes match is checked later, by shape inference.

    Raises
    ------
    NetworkError
        If the text is not JSON or not a valid network: an entry is missing, an input of a node
        does not precede it, a name is used twice or does not exist.

    Examples
    --------
    >>> from transferkit.networks import build_network, network_from_json, network_to_json
    >>> network = build_network("mobilenet_v2")
    >>> network_from_json(network_to_json(network)) == network
    True
    """
    try:
        data: Mapping[str, Any] = json.loads(text)
        return Network(
            name=str(data["name"]),
            nodes=tuple(
                Node(
                    str(node["name"]),
                    str(node["operation"]),
                    tuple(map(str, node["inputs"])),
                    {str(name): _attribute(value) for name, value in node["attributes"].items()},
                    tuple(map(str, node["parameters"])),
                )
                for node in data["nodes"]
            ),
            parameters={
                str(name): tuple(map(int, shape)) for name, shape in data["parameters"].items()
            },
            aliases={str(alias): str(target) for alias, target in data["aliases"].items()},
            input_size=int(data["input_size"]),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise NetworkError(f"not a valid description of a network: {shorten(error)}") from error


def _attribute(value: object) -> Attribute:
    """Return an attribute with JSON's lists converted to tuples."""
    if isinstance(value, list):
        return cast(Attribute, tuple(map(_attribute, value)))
    if isinstance(value, (int, float, str)):
        return value
    raise TypeError(f"{shorten(value)} is not a valid attribute")
