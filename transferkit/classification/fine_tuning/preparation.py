"""The part of a network that is trained, prepared for it, and the part before, which runs once."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import StatelessFunction, WrappedModel
from transferkit.classification.fine_tuning.draws import Masks
from transferkit.classification.fine_tuning.settings import FineTuning
from transferkit.classification.fine_tuning.trainable import (
    Trainable,
    find_trained,
    learning_rate_factors,
)
from transferkit.models import Model
from transferkit.networks import Network
from transferkit.networks.graph import WRAPPED
from transferkit.networks.passes import keep_needed
from transferkit.networks.training import (
    add_dropout,
    add_stochastic_depth,
    find_cuts,
    fuse_batch_norm,
    replace_input,
    update_batch_norm,
)
from transferkit.training.step import ParameterGroups

__all__ = ["Preparation", "check_trainable", "prepare", "with_tuned"]

Array = npt.NDArray[Any]

_OWN = "model."


@dataclass(frozen=True, eq=False)
class Preparation:
    """The part of a model that is trained.

    Attributes
    ----------
    network
        From the input to ``logits``, with the nodes that training needs.
    parameters
        All parameters of ``network`` at the start, by name.
    groups
        The parameters that are trained.
    masks
        The masks that each step needs.
    cut
        The layer of the model whose output is the input of ``network``; None: pixels.
    stateless
        The model object that computes the wrapped nodes of ``network``, if it has any.
    pretrained
        The names of the trained parameters that the head is not part of.
    """

    network: Network
    parameters: Mapping[str, Array]
    groups: ParameterGroups
    masks: Masks
    cut: str | None
    stateless: StatelessFunction | None
    pretrained: frozenset[str]


def check_trainable(model: Model, layer: str, trainable: Trainable) -> None:
    """Check that the layer to train from exists, before there is a head.

    Parameters
    ----------
    model
        The model without the new head.
    layer
        The layer that the head is put on.
    trainable
        As for `find_trained`. A function is not checked: it may select the head.

    Raises
    ------
    UnknownNameError
        If there is no such layer.
    ParameterError
        If the layer has no parameters of its own, nor any after it.
    """
    if callable(trainable) or trainable in ("all", "head"):
        return
    network = keep_needed(model.network, [layer])
    parameters = network.parameters if model.wrapped is None else model.wrapped.parameters()
    find_trained(network, trainable, list(parameters))


def prepare(model: Model, settings: FineTuning, seed: int) -> Preparation:
    """Return the part of a model with a head that is trained.

    Parameters
    ----------
    model
        From pixels to ``logits``, which are a linear layer.
    settings
        What is trained, and how; checked.
    seed
        The seed of the masks.

    Raises
    ------
    UnknownNameError
        If there is no layer of the name ``settings.trainable``.
    ParameterError
        If nothing is trained, or the settings need what the network does not have.
    UnsupportedError
        If the backend of a model object does not train it.
    """
    network = keep_needed(model.network, ["logits"])
    head = network.node("logits").parameters
    statistics: frozenset[str] = network.statistics
    parameters: dict[str, Array] = {name: model.weights[name] for name in network.parameters}
    candidates = [name for name in network.parameters if name not in statistics]
    wrapped = model.wrapped
    # The head of any model object is trained, also of one without trainable parameters.
    if wrapped is not None and settings.trainable != "head":
        own = {_outer_name(name, head): array for name, array in wrapped.parameters().items()}
        buffers = wrapped.statistics()
        candidates = [*own, *candidates]
        parameters = {**own, **buffers, **parameters}
        statistics = frozenset(buffers)
    trained = find_trained(model.network, settings.trainable, candidates)
    network, cut = _after_frozen_part(network, set(trained), wrapped is not None)
    network, masks = _add_masks(network, model, settings, seed)
    if settings.batch_norm == "update":
        network = update_batch_norm(network)
        if wrapped is None:
            statistics &= set(network.parameters)
    else:
        network = fuse_batch_norm(network, [network.resolve("logits")])
        statistics = frozenset()
    has_wrapped = any(node.operation == WRAPPED for node in network.nodes)
    factors = learning_rate_factors(
        trained, head, settings.layer_decay, settings.learning_rate_factors or {}
    )
    decayed = frozenset(name for name in trained if parameters[name].ndim > 1)
    return Preparation(
        network,
        {
            name: array
            for name, array in parameters.items()
            if has_wrapped or name in network.parameters
        },
        ParameterGroups(
            factors, decayed, statistics if has_wrapped or wrapped is None else frozenset()
        ),
        masks,
        cut,
        _stateless(wrapped, network, head, settings)
        if has_wrapped and wrapped is not None
        else None,
        frozenset(name for name in trained if name not in head),
    )


def _after_frozen_part(
    network: Network, trained: set[str], is_wrapped: bool
) -> tuple[Network, str | None]:
    """Return the part of a network after the last cut before anything is trained, and the cut."""
    trains_wrapped = is_wrapped and bool(trained - set(network.node("logits").parameters))
    first = next(
        index
        for index, node in enumerate(network.nodes)
        if trained & set(node.parameters) or (node.operation == WRAPPED and trains_wrapped)
    )
    before = [node.name for node in network.nodes[:first]]
    cuts = [name for name in find_cuts(network, "logits") if name in before]
    frozen = network.nodes[: before.index(cuts[-1]) + 1] if cuts else ()
    # Nothing is saved by storing the pixels after their normalization.
    if not any(node.parameters or node.operation == WRAPPED for node in frozen):
        return network, None
    return replace_input(network, cuts[-1], ["logits"]), cuts[-1]


def _add_masks(
    network: Network, model: Model, settings: FineTuning, seed: int
) -> tuple[Network, Masks]:
    dropout: dict[str, tuple[int, float]] = {}
    depth: dict[str, float] = {}
    if settings.stochastic_depth:
        network, names = add_stochastic_depth(network)
        # The probability rises linearly with the block.
        depth = {
            name: settings.stochastic_depth * (index + 1) / len(names)
            for index, name in enumerate(names)
        }
    if settings.dropout:
        network, name = add_dropout(network)
        weight, *_ = model.network.node("logits").parameters
        dropout = {name: (model.weights[weight].shape[1], settings.dropout)}
    seeds = any(node.operation == WRAPPED for node in network.nodes)
    return network, Masks(seed, dropout, depth, seeds)


def _stateless(
    wrapped: WrappedModel, network: Network, head: Collection[str], settings: FineTuning
) -> StatelessFunction:
    layers = [node.name for node in network.nodes if node.operation == WRAPPED]
    function = wrapped.stateless(layers, update_batch_norm=settings.batch_norm == "update")

    def run(
        parameters: Mapping[str, Any], x: Any, training: bool, seed: Any
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        own = {_inner_name(n, head): tensor for n, tensor in parameters.items() if n not in head}
        return function(own, x, training, seed)

    return run


def _outer_name(name: str, head: Collection[str]) -> str:
    """Return the name of a parameter of a model object, which may have a layer like the head."""
    return f"{_OWN}{name}" if name in head else name


def _inner_name(name: str, head: Collection[str]) -> str:
    """Return the name in the model object of a parameter that `_outer_name` named."""
    inner = name.removeprefix(_OWN)
    return inner if inner in head else name


def with_tuned(model: Model, parameters: Mapping[str, Array]) -> Model:
    """Return a model with new values of some parameters.

    Parameters
    ----------
    model
        The model; it is not changed.
    parameters
        Name to array, of parameters of the network and of the model object in it.
    """
    weights = {
        name: _read_only(parameters[name]) if name in parameters else array
        for name, array in model.weights.items()
    }
    own = {
        _inner_name(name, weights): array
        for name, array in parameters.items()
        if name not in weights
    }
    wrapped = model.wrapped
    if wrapped is not None and own:
        wrapped = wrapped.with_parameters(own)
    return dataclasses.replace(model, weights=weights, wrapped=wrapped)


def _read_only(array: Array) -> npt.NDArray[np.float32]:
    """Return a float32 copy that backends can use without another copy."""
    copy = np.array(array, np.float32)
    copy.setflags(write=False)
    return copy
