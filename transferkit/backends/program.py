"""A network with its weights on a backend, compiled for the layers that are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Backend, WrappedModel
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ShapeError
from transferkit.networks.graph import WRAPPED, Network, Weights
from transferkit.networks.passes import fold_batch_norm, keep_needed

__all__ = ["Program"]

# Each set of layers that is compiled has weights of its own.
_COMPILED_AT_MOST = 4


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A network pruned to some layers and compiled, and the picture sizes known to fit it."""

    network: Network
    function: Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[np.float32]]]
    sizes: set[tuple[int, int]] = field(default_factory=set)


class Program:
    """A network with its weights on a backend, ready to run; compiled when first asked.

    Parameters
    ----------
    backend
        Where to run.
    network, weights
        What to run.
    wrapped
        What computes the nodes of ``network`` that are not over the table, if any.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.backends import Program, get_backend
    >>> from transferkit.networks import build_network, random_weights
    >>> network = build_network("mobilenet_v2")
    >>> weights = random_weights(network, random_state=0)
    >>> program = Program(get_backend("onnxruntime"), network, weights)
    >>> found = program.run(np.zeros((1, 64, 64, 3), np.float32), ["embedding"])
    >>> found["embedding"].shape
    (1, 1280)
    """

    def __init__(
        self,
        backend: Backend,
        network: Network,
        weights: Weights,
        wrapped: WrappedModel | None = None,
    ) -> None:
        self.backend = backend
        self.wrapped = wrapped
        self.network = network
        self.weights = weights
        self._compiled: OrderedDict[frozenset[str], _Compiled] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        """A function over the backend's tensors, from pixels to the outputs of ``layers``.

        Only what ``layers`` need is kept, and batch norm is folded into the convolution
        before it wherever that convolution's own output was not asked for.

        Parameters
        ----------
        layers
            Nodes' names or aliases.

        Returns
        -------
        callable
            Pixels (n, h, w, 3) to a mapping from each of ``layers`` to its output. It can be
            given to `Backend.value_and_grad` and `Backend.compile`.

        Raises
        ------
        UnknownNameError
            If there is no such layer.
        """
        table = self.backend.table
        targets = tuple(self.network.resolve(layer) for layer in layers)
        network, weights = fold_batch_norm(
            keep_needed(self.network, targets), self.weights, keep=targets
        )
        parameters = load_parameters(table, network, weights)
        names = [node.name for node in network.nodes if node.operation == WRAPPED]
        run_wrapped = self.wrapped.load(names) if self.wrapped is not None and names else None

        def function(pixels: Any) -> dict[str, Any]:
            outputs = run_network(table, network, parameters, pixels, targets, run_wrapped)
            return {layer: outputs[target] for layer, target in zip(layers, targets, strict=True)}

        return function

    def to_native(self) -> object:
        """The network as an object of the framework; where it is one, that object.

        Raises
        ------
        UnsupportedError
            If the backend has no models of its own.
        """
        if self.wrapped is not None:
            return self.wrapped.model
        return self.backend.to_native(self.network, self.weights)

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """The shape of each layer's output for one picture, (h, w, c) or (d,).

        Raises
        ------
        ShapeError
            If the network cannot take pictures of that size.
        """
        return infer_shapes(self.network, height, width, self.wrapped)

    def run(
        self, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """The outputs of layers.

        Parameters
        ----------
        pixels
            (n, h, w, 3), RGB, float32 in [0, 1].
        layers
            Nodes' names or aliases. The last few sets of layers stay compiled.

        Returns
        -------
        mapping of str to array
            Each of ``layers`` to (n, h, w, c) or (n, d), float32.

        Raises
        ------
        UnknownNameError
            If there is no such layer.
        ShapeError
            If ``pixels`` has another shape, or the network cannot take pictures of that size.
        """
        if pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) == 0:
            raise ShapeError(f"pixels have shape {pixels.shape}; expected (n, h, w, 3), n >= 1")
        targets = {layer: self.network.resolve(layer) for layer in layers}
        compiled = self._get(frozenset(targets.values()), (pixels.shape[1], pixels.shape[2]))
        step = self.backend.micro_batch_size or len(pixels)
        parts = [
            compiled.function(pixels[start : start + step]) for start in range(0, len(pixels), step)
        ]
        if len(parts) == 1:
            return {layer: parts[0][target] for layer, target in targets.items()}
        return {
            layer: np.concatenate([part[target] for part in parts])
            for layer, target in targets.items()
        }

    def _get(self, targets: frozenset[str], size: tuple[int, int]) -> _Compiled:
        with self._lock:
            if targets not in self._compiled:
                names = sorted(targets)
                self._compiled[targets] = _Compiled(
                    keep_needed(self.network, names), self.backend.compile(self.load(names))
                )
                if len(self._compiled) > _COMPILED_AT_MOST:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(targets)
            compiled = self._compiled[targets]
        # Frameworks differ in what they make of a window that does not fit; one gives zeros.
        if size not in compiled.sizes:
            infer_shapes(compiled.network, *size, self.wrapped)
            compiled.sizes.add(size)
        return compiled
