"""The stateless call, from parameters and pixels to outputs and updates, of which training is made.

All parameters have the layout of `transferkit.networks.Weights`, convolution kernels included, on
every backend, and so have their gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from transferkit.backends.base import StatelessFunction, Table
from transferkit.backends.interpreter import run_network
from transferkit.networks.graph import Network, Node
from transferkit.networks.training import (
    BATCH_NORM_TRAINING,
    CONV2D_BATCH_NORM,
    MASK,
    MASK_PER_IMAGE,
)

__all__ = ["SEED", "apply_network"]

Tensors: TypeAlias = Mapping[str, Any]

SEED = "seed"
"""The name among the draws of the seed of a model object's own random layers."""


def apply_network(
    table: Table[Any],
    network: Network,
    parameters: Tensors,
    x: Any,
    layers: Iterable[str],
    *,
    training: bool,
    draws: Tensors,
    wrapped: StatelessFunction | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a network whose parameters are arguments.

    Parameters
    ----------
    table
        The table whose primitives compute the nodes; its backend has the capability
        ``"training"``.
    network
        The network, which may have nodes of `transferkit.networks.training`.
    parameters
        Parameter name to tensor, in the shapes of ``network.parameters``.
    x
        The input of the network: pixels (n, h, w, 3), or the activations that replace them.
    layers
        Names of nodes.
    training
        Whether masks are applied, and batch norms normalize by the batch, where the network has
        such nodes.
    draws
        The mask of each node with one, by its name, and `SEED` for a model object; empty unless
        ``training``.
    wrapped
        `WrappedModel.stateless` of the model object that computes the wrapped nodes of
        ``network``, if it has any.

    Returns
    -------
    outputs : dict of str to tensor
        Each of ``layers`` to its output.
    updates : dict of str to tensor
        The new values of the parameters that a step in training changes without a gradient:
        running statistics.
    """
    updates: dict[str, Any] = {}

    def run_wrapped(inputs: Any) -> Mapping[str, Any]:
        if wrapped is None:
            return {}
        outputs, changed = wrapped(parameters, inputs, training, draws.get(SEED))
        updates.update(changed)
        return outputs

    def compute(node: Node, inputs: list[Any], weights: list[Any]) -> Any:
        attributes: Any = dict(node.attributes)
        if node.operation == "conv2d":
            kernel, *bias = weights
            kernel = table.kernel_of_tensor(kernel, attributes.get("groups", 1))
            return table.conv2d(inputs[0], kernel, *bias, **attributes)
        if node.operation == CONV2D_BATCH_NORM:
            return _conv2d_batch_norm(table, inputs[0], weights, attributes)
        if node.operation == BATCH_NORM_TRAINING:
            momentum = attributes.pop("momentum")
            if not training:
                return table.batch_norm(*inputs, *weights, **attributes)
            y, *statistics = table.batch_norm_training(
                *inputs, *weights, momentum=momentum, **attributes
            )
            updates.update(zip(node.parameters[2:], statistics, strict=True))
            return y
        if node.operation in (MASK, MASK_PER_IMAGE):
            return table.multiply(inputs[0], draws[node.name]) if training else inputs[0]
        return getattr(table, node.operation)(*inputs, *weights, **attributes)

    outputs = run_network(table, network, parameters, x, layers, run_wrapped, compute)
    return outputs, updates


def _conv2d_batch_norm(
    table: Table[Any], x: Any, weights: list[Any], attributes: dict[str, Any]
) -> Any:
    """Return a convolution with a batch norm of fixed statistics, as one convolution."""
    kernel, *bias, scale, shift, mean, variance = weights
    epsilon = table.asarray(attributes.pop("epsilon"))
    factor = table.divide(scale, table.sqrt(table.add(variance, epsilon)))
    # The factor is per output channel, the first axis of the kernel.
    last = table.multiply(table.transpose(kernel, axes=(1, 2, 3, 0)), factor)
    kernel = table.kernel_of_tensor(
        table.transpose(last, axes=(3, 0, 1, 2)), attributes.get("groups", 1)
    )
    offset = table.subtract(bias[0], mean) if bias else table.multiply(mean, table.asarray(-1.0))
    return table.conv2d(x, kernel, table.add(table.multiply(offset, factor), shift), **attributes)
