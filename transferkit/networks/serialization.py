"""A network as JSON and back, with what is read distrusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from transferkit.networks.graph import Attribute, Network, Node

__all__ = ["network_from_json", "network_to_json"]


def network_to_json(network: Network) -> str:
    """``network`` as text that `network_from_json` reads."""
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
    """The network that ``text`` describes.

    Whether its operations exist and fit together is not seen here, but when its shapes are
    inferred.

    Raises
    ------
    ValueError
        If the text is no JSON or describes no network: an entry is missing, a node takes an
        input that is not before it, a name occurs twice or means nothing.

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
        raise ValueError(f"no description of a network: {error!r}") from error


def _attribute(value: object) -> Attribute:
    """An attribute with JSON's lists as tuples again."""
    if isinstance(value, list):
        return cast(Attribute, tuple(map(_attribute, value)))
    if isinstance(value, (int, float, str)):
        return value
    raise TypeError(f"{value!r} is no attribute")
