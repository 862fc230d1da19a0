"""Units that are dead on an image: behind an activation that has no gradient there.

The gradient through the last activations before a unit is relaxed for some steps, so that the
unit is maximized before its activation, where it has a gradient. Olah, Mordvintsev and Schubert,
2017, "Feature Visualization", relax gradients similarly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.backends import Program
from transferkit.networks import Network
from transferkit.networks.graph import INPUT, WRAPPED, Node
from transferkit.optimization.objectives import Evaluate
from transferkit.optimization.visualization.octave import Octave

__all__ = ["relax_activations", "revive"]

Floats: TypeAlias = npt.NDArray[np.float32]

_ACTIVATIONS = frozenset({"relu", "clip", "hard_sigmoid", "hard_swish"})
_MAX_STEPS = 64
# A unit counts as alive after this many steps in turn, since each has other transforms.
_ALIVE_STEPS = 8


def relax_activations(network: Network, layers: Sequence[str]) -> tuple[Network, dict[str, str]]:
    """Add a copy of layers without the last activations before them.

    Parameters
    ----------
    network
        The network, which is not changed.
    layers
        The names of layers.

    Returns
    -------
    network : Network
        With the additional nodes.
    relaxed : dict
        Each layer to the name of its copy; layers without such an activation are missing.
    """
    by_name = {node.name: node for node in network.nodes}
    copies: dict[str, Node] = {}
    names: dict[str, str] = {}

    def relaxed_name(name: str) -> str:
        node = by_name.get(name)
        if name not in names:
            names[name] = name
            if node is not None and node.operation in _ACTIVATIONS:
                names[name] = node.inputs[0]
            elif node is not None and node.operation != WRAPPED and not node.parameters:
                inputs = tuple(map(relaxed_name, node.inputs))
                if inputs != node.inputs:
                    names[name] = f"{name} (relaxed)"
                    copies[name] = replace(node, name=names[name], inputs=inputs)
        return names[name]

    relaxed = {}
    for layer in layers:
        target = network.resolve(layer)
        # Clipped pixels, which an input of the network may be, are no activation.
        if relaxed_name(target) not in (target, INPUT):
            relaxed[layer] = names[target]
    nodes = []
    for node in network.nodes:
        nodes.append(node)
        if node.name in copies:
            nodes.append(copies[node.name])
    return replace(network, nodes=tuple(nodes)), relaxed


def revive(
    program: Program,
    octave: Octave,
    objective: Evaluate,
    layers: Sequence[str],
    parameters: Floats,
    generator: np.random.Generator,
) -> Floats | None:
    """Return parameters of an image on which a unit is alive; None if none are found.

    Parameters
    ----------
    program
        The network on a backend with gradients.
    octave
        The octave whose size and settings are used.
    objective, layers
        The objective of the image, and the layers that it needs.
    parameters
        (1, ...), the parameters of the image on which it is dead.
    generator
        Samples the transforms.
    """
    network, names = relax_activations(program.network, layers)
    if not names:
        return None
    relaxed = Program(program.backend, network, program.weights, program.wrapped)
    settings = octave.settings

    def octave_of(compute: Callable[[Any], dict[str, Any]]) -> Octave:
        made = Octave(program.backend, compute, [objective], settings, octave.size)
        made.initialize(parameters)
        return made

    needed = {layer: names.get(layer, layer) for layer in layers}
    compute_relaxed = relaxed.load(list(dict.fromkeys(needed.values())))

    def compute(pixels: Any) -> dict[str, Any]:
        outputs = compute_relaxed(pixels)
        return {layer: outputs[name] for layer, name in needed.items()}

    moving, original = octave_of(compute), octave_of(program.load(list(layers)))
    alive_steps = 0
    for step in range(_MAX_STEPS):
        coefficients = settings.optimizer.coefficients(step, _MAX_STEPS, reset_at=0)
        transforms = octave.transforms.sample(generator)
        moving.step(coefficients, transforms)
        current = moving.parameters()
        if not np.isfinite(current).all():
            return None
        original.restart(current)
        is_dead = original.step(coefficients, transforms).is_dead[0]
        alive_steps = 0 if is_dead else alive_steps + 1
        if alive_steps == _ALIVE_STEPS:
            return current
    return None
