"""The interpreter, which runs a network by calling the primitives of a table.

Every backend uses it: with the table of torch it computes, inside ``tf.function`` it is traced,
and with the table that records ONNX nodes it builds a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ShapeError, UnsupportedError
from transferkit.networks.graph import INPUT, WRAPPED, Network, Node, Weights

__all__ = ["load_parameters", "run_network"]

Tensor = TypeVar("Tensor")


def load_parameters(
    table: Table[Tensor],
    network: Network,
    weights: Weights,
    shared: MutableMapping[tuple[str, int | None], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the weights of ``network`` as tensors of ``table``.

    Parameters
    ----------
    table
        The table that makes the tensors.
    network
        The network, which determines the weights that are needed and which of them are
        convolution kernels.
    weights
        Parameter name to array; others than those needed are ignored. Writable arrays are
        copied if the table would share their memory, so that later changes to them have no
        effect. Read-only arrays, such as those that are read from a file, are not copied, which
        saves memory.
    shared
        Tensors that earlier calls with the same table and weights made, which are used again;
        new ones are added. The keys are names with, for kernels, the number of groups.
    """
    loaded = {} if shared is None else shared

    def protect(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return array.copy() if table.shares_memory and array.flags.writeable else array

    def load(name: str, groups: int | None = None) -> Tensor:
        tensor = loaded.get((name, groups))
        if tensor is None:
            array = protect(weights[name])
            tensor = table.asarray(array) if groups is None else table.kernel(array, groups=groups)
            # A mapping of weak references does not take every kind of tensor.
            with suppress(TypeError):
                loaded[name, groups] = tensor
        return tensor

    parameters: dict[str, Tensor] = {}
    for node in network.nodes:
        names = list(node.parameters)
        if node.operation == "conv2d":
            kernel = names.pop(0)
            groups = node.attributes.get("groups", 1)
            parameters[kernel] = load(kernel, int(groups))  # type: ignore[arg-type]
        for name in names:
            parameters[name] = load(name)
    return parameters


def run_network(
    table: Table[Tensor],
    network: Network,
    parameters: Mapping[str, Tensor],
    pixels: Tensor,
    layers: Iterable[str],
    run_wrapped: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
    compute: Callable[[Node, list[Tensor], list[Tensor]], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Run all nodes of ``network`` on ``pixels`` and return the outputs of ``layers``.

    Parameters
    ----------
    table
        The table whose primitives compute the nodes.
    network
        The network to run.
    parameters
        The result of `load_parameters` with the same table.
    pixels
        (n, h, w, 3), RGB, in [0, 1].
    layers
        Names of nodes. The outputs of other nodes are freed after their last use.
    run_wrapped
        A function that computes the nodes with the operation `WRAPPED` from their common input
        and returns their outputs by name. It is called once, if there are such nodes.
    compute
        A function from a node, its inputs and its parameters to its output; None: the primitive
        of ``table``.

    Raises
    ------
    ShapeError
        If the table finds that the shapes of a node's inputs do not match; the message has the
        layer.
    UnsupportedError
        If the network has wrapped nodes and ``run_wrapped`` is None.
    """
    keep = set(layers)
    uses = Counter(name for node in network.nodes for name in node.inputs)
    values = {INPUT: pixels}
    for node in network.nodes:
        if node.operation != WRAPPED:
            inputs = [values[name] for name in node.inputs]
            weights = [parameters[name] for name in node.parameters]
            try:
                if compute is None:
                    operation = getattr(table, node.operation)
                    values[node.name] = operation(*inputs, *weights, **node.attributes)
                else:
                    values[node.name] = compute(node, inputs, weights)
            except ShapeError as error:
                raise ShapeError(f"layer {node.name!r} ({node.operation}): {error}") from error
            # The list would keep the inputs alive after their last use.
            del inputs
        elif node.name not in values:
            if run_wrapped is None:
                raise UnsupportedError(
                    f"layer {node.name!r} of {network.name} is computed by a model object of a "
                    "framework, which was not given"
                )
            values.update(run_wrapped(values[node.inputs[0]]))
        for name in node.inputs:
            uses[name] -= 1
            if not uses[name] and name not in keep:
                del values[name]
    return {name: values[name] for name in keep}
