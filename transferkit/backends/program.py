"""A network with its weights on a backend, compiled for the layers that are requested."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from transferkit.backends.base import Backend, WrappedModel
from transferkit.backends.calibration import Calibration
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ShapeError
from transferkit.networks.graph import WRAPPED, Network, Weights
from transferkit.networks.passes import fold_batch_norm, keep_needed
from transferkit.support.locks import ForkSafeLock

__all__ = ["Program"]

_LOGGER = logging.getLogger(__name__)

# Each compiled function may have its own copy of the weights.
_MAX_COMPILED = 4
_MAX_VALID_SIZES = 64


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A network pruned to some layers, compiled, and the image sizes known to be valid for it."""

    network: Network
    function: Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[np.float32]]]
    valid_sizes: set[tuple[int, int]] = field(default_factory=set)


class Program:
    """A network with its weights on a backend, compiled on first use.

    It can be used from several threads at once.

    Parameters
    ----------
    backend
        The backend that runs the network.
    network, weights
        The network and its weights.
    wrapped
        The model object that computes the wrapped nodes of ``network``, if it has any.
    calibration
        The ranges with which the network is computed in 8-bit integers, by a backend that can;
        None: it is computed in float32.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.backends import Program, get_backend
    >>> from transferkit.networks import build_network, random_weights
    >>> network = build_network("mobilenet_v2")
    >>> weights = random_weights(network, random_state=0)
    >>> program = Program(get_backend("onnxruntime"), network, weights)
    >>> outputs = program.run(np.zeros((1, 64, 64, 3), np.float32), ["embedding"])
    >>> outputs["embedding"].shape
    (1, 1280)
    """

    def __init__(
        self,
        backend: Backend,
        network: Network,
        weights: Weights,
        wrapped: WrappedModel | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.backend = backend
        self.calibration = calibration
        self.wrapped = wrapped
        self.network = network
        self.weights = weights
        self._compiled: OrderedDict[frozenset[str], _Compiled] = OrderedDict()
        self._lock = ForkSafeLock()
        self._digests: dict[frozenset[str], str] = {}
        # Shared by all sets of layers, for as long as one of them uses the tensor.
        self._parameters: MutableMapping[tuple[str, int | None], Any] = WeakValueDictionary()

    def load(self, layers: Sequence[str]) -> Callable[[Any], dict[str, Any]]:
        """Return a function over tensors of the backend, from pixels to the outputs of ``layers``.

        Nodes that ``layers`` do not need are removed. Batch normalization is folded into the
        preceding convolution, unless the output of that convolution is in ``layers``.

        Parameters
        ----------
        layers
            Names of nodes, or aliases.

        Returns
        -------
        callable
            Takes pixels (n, h, w, 3) and returns a dict from each of ``layers`` to its output.
            It can be passed to `Backend.value_and_grad` and `Backend.compile`.

        Raises
        ------
        UnknownNameError
            If the network does not have one of the layers.
        UnsupportedError
            If the program has a calibration, and the backend does not compute with integers.
        """
        table = self.backend.table
        targets = tuple(self.network.resolve(layer) for layer in layers)
        if self.calibration is not None:
            quantized = self.backend.load_int8(
                self.network, self.weights, targets, self.calibration
            )

            def renamed(pixels: Any) -> dict[str, Any]:
                outputs = quantized(pixels)
                return dict(zip(layers, map(outputs.__getitem__, targets), strict=True))

            return renamed
        network, weights = fold_batch_norm(
            keep_needed(self.network, targets), self.weights, keep=targets
        )
        parameters = load_parameters(table, network, weights, self._parameters)
        names = [node.name for node in network.nodes if node.operation == WRAPPED]
        run_wrapped = self.wrapped.load(names) if self.wrapped is not None and names else None

        def function(pixels: Any) -> dict[str, Any]:
            outputs = run_network(table, network, parameters, pixels, targets, run_wrapped)
            return {layer: outputs[target] for layer, target in zip(layers, targets, strict=True)}

        return function

    def release(self) -> None:
        """Free what is compiled; it is compiled again on the next use."""
        with self._lock:
            self._compiled.clear()

    def release_if_changed(self, names: Collection[str], sha256: str) -> None:
        """Free what is compiled, if it may have earlier values of arrays that a user changed.

        Parameters
        ----------
        names
            The names of some weights.
        sha256
            The digest of their current names and values.
        """
        key = frozenset(names)
        with self._lock:
            # What was compiled before the first digest may be older than it.
            if self._digests.get(key) != sha256:
                self._compiled.clear()
                # What was compiled may live on until its reference cycles are collected.
                self._parameters.clear()
            self._digests[key] = sha256

    def to_native(self) -> object:
        """Return the network as a model object of the framework.

        If the program runs a wrapped model object, that object is returned, not a copy.

        Raises
        ------
        UnsupportedError
            If the framework has no model objects.
        """
        if self.wrapped is not None:
            return self.wrapped.model
        return self.backend.to_native(self.network, self.weights)

    def shapes(self, height: int, width: int) -> Mapping[str, tuple[int, ...]]:
        """Return the output shape of each layer for one image, (h, w, c) or (d,).

        Raises
        ------
        ShapeError
            If the network does not accept images of this size.
        """
        return infer_shapes(self.network, height, width, self.wrapped)

    def run(
        self, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        """Run the network on a batch of images and return the outputs of ``layers``.

        Parameters
        ----------
        pixels
            (n, h, w, 3), RGB, float32 in [0, 1].
        layers
            Names of nodes, or aliases. The network is compiled for each set of layers; the last
            four sets stay compiled.

        Returns
        -------
        mapping of str to array
            Each of ``layers`` to its output, (n, h, w, c) or (n, d), float32.

        Raises
        ------
        UnknownNameError
            If the network does not have one of the layers.
        ShapeError
            If ``pixels`` has another shape, or the network does not accept images of this size.
        """
        if pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) == 0:
            raise ShapeError(f"pixels have shape {pixels.shape}; expected (n, h, w, 3) with n >= 1")
        targets = {layer: self.network.resolve(layer) for layer in layers}
        compiled = self._compile(frozenset(targets.values()), (pixels.shape[1], pixels.shape[2]))
        size = self.backend.micro_batch_size or len(pixels)
        outputs = [
            compiled.function(pixels[start : start + size]) for start in range(0, len(pixels), size)
        ]
        if len(outputs) == 1:
            return {layer: outputs[0][target] for layer, target in targets.items()}
        return {
            layer: np.concatenate([output[target] for output in outputs])
            for layer, target in targets.items()
        }

    def _compile(self, targets: frozenset[str], size: tuple[int, int]) -> _Compiled:
        """Return the network compiled for some nodes, after checking the image size."""
        with self._lock:
            if targets not in self._compiled:
                names = sorted(targets)
                self._compiled[targets] = _Compiled(
                    keep_needed(self.network, names), self.backend.compile(self.load(names))
                )
                _LOGGER.debug("compiled %s for layers %s", self.network.name, ", ".join(names))
                if len(self._compiled) > _MAX_COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(targets)
            compiled = self._compiled[targets]
        # Frameworks differ for a window larger than its input: some raise, one returns zeros.
        if size not in compiled.valid_sizes:
            infer_shapes(compiled.network, *size, self.wrapped)
            with self._lock:
                if len(compiled.valid_sizes) >= _MAX_VALID_SIZES:
                    compiled.valid_sizes.clear()
                compiled.valid_sizes.add(size)
        return compiled
