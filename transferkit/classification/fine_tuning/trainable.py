"""Which parameters of a network are trained, and how their learning rates differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

from transferkit.errors import ParameterError, UnknownNameError, shorten
from transferkit.networks.graph import WRAPPED, Network

__all__ = ["Trainable", "find_groups", "find_trained", "learning_rate_factors"]

Trainable: TypeAlias = str | Callable[[str], bool]
"""``"head"``, ``"all"``, the name of a layer, or a function from the name of a parameter."""


def find_trained(network: Network, trainable: Trainable, parameters: Sequence[str]) -> list[str]:
    """Return the names of the parameters that are trained, in the order of the network.

    Parameters
    ----------
    network
        The network with its head.
    trainable
        ``"head"``; ``"all"``; a layer: the parameters of that layer and of all layers after it;
        or a function from the name of a parameter to whether it is trained.
    parameters
        The names of all parameters that have gradients, in the order of the network: not those
        of running statistics.

    Raises
    ------
    UnknownNameError
        If there is no such layer.
    ParameterError
        If nothing is trained.
    """
    if callable(trainable):
        trained = [name for name in parameters if trainable(name)]
    elif trainable == "all":
        trained = list(parameters)
    elif trainable == "head":
        trained = list(network.node("logits").parameters)
    else:
        trained = _from_layer(network, trainable, parameters)
    if not trained:
        raise ParameterError(
            f"trainable is {shorten(trainable)}, which selects none of the {len(parameters)} "
            f"parameters of {network.name}, such as {', '.join(parameters[-3:])}"
        )
    return trained


def _from_layer(network: Network, layer: str, parameters: Sequence[str]) -> list[str]:
    """Return the parameters of a layer, or of the layers in it, and of all after it."""
    if any(node.operation == WRAPPED for node in network.nodes):
        return _from_module(network, layer, parameters)
    nodes = network.nodes
    names = [node.name for node in nodes]
    target = network.aliases.get(layer, layer)
    # A block has the name of its last layer, or begins the names of all of them.
    inside = [
        index for index, name in enumerate(names) if name == target or name.startswith(f"{layer}.")
    ]
    if not inside:
        choices = ["head", "all", *network.layers]
        raise UnknownNameError("trainable layer", layer, choices, of=network.name)
    after = {name for node in nodes[inside[0] :] for name in node.parameters}
    return [name for name in parameters if name in after]


def _from_module(network: Network, layer: str, parameters: Sequence[str]) -> list[str]:
    """Return the parameters of a layer of a model object, and of all after it in its order."""
    target = network.aliases.get(layer, layer)
    first = next((index for index, name in enumerate(parameters) if _is_in(name, target)), None)
    if first is not None:
        return list(parameters[first:])
    if target in {node.name for node in network.nodes}:
        raise ParameterError(
            f"trainable is {shorten(layer)}, a layer without parameters of its own; choose one "
            "with parameters, or pass a function from the name of a parameter"
        )
    # There is no head yet when a name is checked before the probe is fitted.
    head = network.node("logits").parameters if "logits" in network.layers else ()
    layers = dict.fromkeys(_layer_of(name) for name in parameters if name not in head)
    choices = ["head", "all", *filter(None, layers)]
    raise UnknownNameError("trainable layer", layer, choices, of=network.name)


def _layer_of(parameter: str) -> str:
    """Return the name of the layer that has a parameter; "" if it is in the model itself."""
    return parameter.rpartition("/" if "/" in parameter else ".")[0]


def _is_in(parameter: str, layer: str) -> bool:
    return parameter.startswith((f"{layer}.", f"{layer}/"))


def find_groups(names: list[str]) -> dict[str, str]:
    """Return the block of each parameter: the beginning of its name, up to the first number.

    Examples
    --------
    >>> from transferkit.classification.fine_tuning.trainable import find_groups
    >>> find_groups(["features.14.conv.0.0.weight", "layer1.0.bn1.bias", "conv1.weight"])
    {'features.14.conv.0.0.weight': 'features.14', 'layer1.0.bn1.bias': 'layer1.0', ...}
    """
    return {name: _block(name) for name in names}


def _block(name: str) -> str:
    separator = "/" if "/" in name else "."
    parts = name.split(separator)
    for index, part in enumerate(parts[:-1]):
        if part.isdigit():
            return separator.join(parts[: index + 1])
    return parts[0] if len(parts) == 1 else separator.join(parts[:-1])


def learning_rate_factors(
    names: list[str], head: Collection[str], layer_decay: float, factors: Mapping[str, float]
) -> dict[str, float]:
    """Return the factor of the learning rate of each parameter.

    Parameters
    ----------
    names
        The trained parameters, from the first layer to the last.
    head
        Which of them are of the last linear layer.
    layer_decay
        The ratio of the rate of a block to that of the block after it, in (0, 1]: the head has a
        factor of 1, the last block ``layer_decay``, the block before it ``layer_decay ** 2``
        (Clark et al., 2020, "ELECTRA", appendix A).
    factors
        The beginning of names to a further factor; of several, the longest one counts.

    Raises
    ------
    ParameterError
        If the beginning of no name matches an entry of ``factors``.
    """
    unused = [prefix for prefix in factors if not any(n.startswith(prefix) for n in names)]
    if unused:
        raise ParameterError(
            f"learning_rate_factors has {shorten(unused[0])}, with which no trained parameter "
            f"begins; the first and the last are {names[0]} and {names[-1]}"
        )
    groups = find_groups(names)
    body = list(dict.fromkeys(groups[name] for name in names if name not in head))
    exponents = {group: len(body) - index for index, group in enumerate(body)}
    result: dict[str, float] = {}
    for name in names:
        exponent = 0 if name in head else exponents[groups[name]]
        matching = [prefix for prefix in factors if name.startswith(prefix)]
        own = factors[max(matching, key=len)] if matching else 1.0
        result[name] = layer_decay**exponent * own
    return result
