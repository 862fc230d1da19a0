"""The networks to compare: named, and checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from transferkit.backends import backend_of
from transferkit.errors import ArgumentTypeError, ParameterError, UnknownNameError, shorten
from transferkit.models import AnyWeights, Model, find_architecture
from transferkit.networks import Network, find_network
from transferkit.weights import find_weights
from transferkit.weights.own_file import RANDOM, is_weights_file

__all__ = ["Candidate", "WeightsOf", "make_candidates"]

WeightsOf: TypeAlias = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str] | None] | None
"""The type of the parameter ``weights``: for all networks of the catalog, or for some by name."""


@dataclass(frozen=True)
class Candidate:
    """A network to compare.

    Attributes
    ----------
    name
        Unique among those that are compared.
    network
        What was given.
    weights
        The weights of a network of the catalog; None: its default, or the network has its own.
    weights_name
        The name of the weights for the table.
    is_fine_tuned
        Whether it is also fine-tuned.
    """

    name: str
    network: object
    weights: AnyWeights
    weights_name: str
    is_fine_tuned: bool


def make_candidates(networks: object, weights: WeightsOf, fine_tune: object) -> list[Candidate]:
    """Return the networks to compare, checked as far as that is possible without loading them.

    Parameters
    ----------
    networks, weights, fine_tune
        As for `transferkit.compare`.

    Raises
    ------
    UnknownNameError
        If a network or its weights do not exist; the message has close matches.
    ParameterError
        If there are no networks, or one is given twice.
    ArgumentTypeError
        If a network has another type.
    """
    given = _as_list("networks", networks)
    if not given:
        raise ParameterError("networks is empty; expected at least one")
    tuned = _as_list("fine_tune", fine_tune)
    for position, network in enumerate(given):
        _check_type(network)
        if any(network is other or _is_same_name(network, other) for other in given[:position]):
            raise ParameterError(f"networks has {shorten(_name(network))} twice")
    catalogued = [network for network in given if isinstance(network, str)]
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in catalogued:
                raise UnknownNameError("network in weights", name, catalogued)
    for network in tuned:
        if not any(network is other or _is_same_name(network, other) for other in given):
            raise UnknownNameError("network in fine_tune", _name(network), map(_name, given))
    candidates: list[Candidate] = []
    for network in given:
        own: AnyWeights = None
        if isinstance(network, str):
            own = weights.get(network) if isinstance(weights, Mapping) else weights
            find_architecture(network, own)
            find_network(network)
        names = [candidate.name for candidate in candidates]
        candidates.append(
            Candidate(
                _unique(_name(network), names),
                network,
                own,
                _weights_name(network, own),
                any(network is other or _is_same_name(network, other) for other in tuned),
            )
        )
    return candidates


def _as_list(parameter: str, value: object) -> list[Any]:
    """Return the networks in a list; a single one may be given without."""
    if isinstance(value, (str, Model)):
        return [value]
    if not isinstance(value, Sequence):
        raise ArgumentTypeError(
            f"{parameter} is {shorten(value)}; expected a list, such as "
            "['mobilenet_v2', 'resnet50']"
        )
    return list(value)


def _check_type(network: object) -> None:
    if isinstance(network, (str, Model)):
        return
    if isinstance(network, Network):
        raise ArgumentTypeError(
            f"networks has a Network ({network.name}), which has no weights; pass a Model, "
            "transferkit.models.load_model(network, weights, preprocessing)"
        )
    try:
        backend_of(network)
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"networks has {shorten(network)}; expected names, Models, torch.nn.Modules or "
            "keras.Models"
        ) from None


def _is_same_name(one: object, other: object) -> bool:
    return isinstance(one, str) and isinstance(other, str) and one == other


def _name(network: object) -> str:
    if isinstance(network, str):
        return network
    return network.network.name if isinstance(network, Model) else type(network).__name__


def _unique(name: str, names: list[str]) -> str:
    """Return a name that is not in a list, with a number if necessary."""
    if name not in names:
        return name
    number = 2
    while f"{name} ({number})" in names:
        number += 1
    return f"{name} ({number})"


def _weights_name(network: object, weights: AnyWeights) -> str:
    if not isinstance(network, str):
        return "its own"
    if isinstance(weights, Hashable) and weights == RANDOM:
        return RANDOM
    if isinstance(weights, (str, os.PathLike)) and is_weights_file(weights):
        return os.path.basename(weights)
    return find_weights(network, None if weights is None else str(weights)).name
