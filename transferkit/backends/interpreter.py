"""The one interpreter: it walks a network and calls a table of primitives.

Over torch's table the walk computes; inside ``tf.function`` it is traced; over the table
that records ONNX nodes it writes a graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Table
from transferkit.errors import ShapeError, UnsupportedError
from transferkit.networks.graph import INPUT, WRAPPED, Network, Weights

__all__ = ["load_parameters", "run_network"]

Tensor = TypeVar("Tensor")


def load_parameters(table: Table[Tensor], network: Network, weights: Weights) -> dict[str, Tensor]:
    """The weights that ``network`` names, as tensors of ``table``.

    Parameters
    ----------
    table
        Whose tensors to make.
    network
        Says which weights are needed, and which of them are convolution kernels.
    weights
        Parameter name to array; may hold more than is needed. Arrays that can be written to
        are copied where the table would share their memory, so that nothing that happens to
        them later changes what is computed. Read-only ones, as weights are that come from a
        file, are not: of large weights there should be few copies.
    """

    def own(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return array.copy() if table.shares_memory and array.flags.writeable else array

    parameters: dict[str, Tensor] = {}
    for node in network.nodes:
        names = list(node.parameters)
        if node.operation == "conv2d":
            kernel = names.pop(0)
            groups = node.attributes.get("groups", 1)
            parameters[kernel] = table.kernel(own(weights[kernel]), groups=int(groups))  # type: ignore[arg-type]
        for name in names:
            parameters[name] = table.asarray(own(weights[name]))
    return parameters


def run_network(
    table: Table[Tensor],
    network: Network,
    parameters: Mapping[str, Tensor],
    pixels: Tensor,
    layers: Iterable[str],
    run_wrapped: Callable[[Tensor], Mapping[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """Run ``network`` on ``pixels`` and give the outputs of ``layers``.

    Parameters
    ----------
    table
        What computes.
    network
        What to compute: every node of it is run.
    parameters
        From `load_parameters`, with the same table.
    pixels
        (n, h, w, 3), RGB, in [0, 1].
    layers
        Names of nodes. Any other output is let go as soon as nothing needs it.
    run_wrapped
        From what the nodes whose operation is `WRAPPED` take, which is the same for all, to
        their outputs; called once, and only if there are such nodes.

    Raises
    ------
    ShapeError
        If the table finds that a node's inputs do not fit it; names the layer.
    """
    keep = set(layers)
    uses = Counter(name for node in network.nodes for name in node.inputs)
    values = {INPUT: pixels}
    for node in network.nodes:
        if node.operation != WRAPPED:
            inputs = [values[name] for name in node.inputs]
            operation = getattr(table, node.operation)
            weights = [parameters[name] for name in node.parameters]
            try:
                values[node.name] = operation(*inputs, *weights, **node.attributes)
            except ShapeError as error:
                raise ShapeError(f"layer {node.name!r} ({node.operation}): {error}") from error
            del inputs
        elif node.name not in values:
            if run_wrapped is None:
                raise UnsupportedError(
                    f"layer {node.name!r} of {network.name} is computed by a framework's own "
                    "model, which was not given"
                )
            values.update(run_wrapped(values[node.inputs[0]]))
        for name in node.inputs:
            uses[name] -= 1
            if not uses[name] and name not in keep:
                del values[name]
    return {name: values[name] for name in keep}
