"""What `FeatureExtractor`, `Classifier` and `ImageOptimizer` share: parameters and loading."""

from __future__ import annotations

import copy
import dataclasses
import re
import textwrap
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, Self, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags

from transferkit.backends import Backend, Calibration, Program, backend_of
from transferkit.backends.base import FLOAT32, INFERENCE, INT8
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    UnknownNameError,
    UnsupportedError,
    shorten,
)
from transferkit.images import Preprocessing
from transferkit.models.model import AnyWeights, Model, load_model
from transferkit.models.program_cache import ProgramCache, are_same
from transferkit.networks import Network
from transferkit.support.random_state import RandomState, as_seed
from transferkit.weights.own_file import RANDOM

__all__ = ["PRECISIONS", "NetworkEstimator", "document_parameters", "takes_images"]

Class = TypeVar("Class", bound=type)

PRECISIONS = (FLOAT32, INT8)
"""The values of the parameter ``precision``."""

_SHARED_BY_CLONES = frozenset(("network", "weights", "backend"))
# What `set_output` and methods such as `set_fit_request` set, by scikit-learn's names for it.
_CLONED_SETTINGS = ("_sklearn_output_config", "_metadata_request")

_DESCRIPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "network": """\
            A name (``transferkit networks`` lists them), a `transferkit.networks.Network`, a
            `transferkit.models.Model`, or a model of your own: a ``torch.nn.Module`` or a
            ``keras.Model``, which is used without being copied or changed.""",
        "weights": """\
            The name of published weights or of their source (``"torchvision"``, ``"keras"``),
            or None for the network's default; the path of a ``.pth``, ``.h5``,
            ``.weights.h5``, ``.keras`` or ``.safetensors`` file; or ``"random"``. For a
            `transferkit.networks.Network`: a mapping from parameter name to float32 array, or
            ``"random"``. Published weights that are not on disk are downloaded once.""",
        "backend": """\
            ``"onnxruntime"``, ``"torch"``, ``"tensorflow"``, the name of another plugin, or a
            `transferkit.backends.Backend`. None: the environment variable
            ``TRANSFERKIT_BACKEND``, or else the first of these that is installed and has the
            required capability.""",
        "device": """\
            One of the backend's devices, such as ``"cuda:0"``; ``"cpu"`` or None: the CPU.""",
        "preprocessing": """\
            How images are resized, cropped and normalized; None: as the weights expect it.
            Required for a `transferkit.networks.Network`, and for a ``torch.nn.Module`` unless it
            is a model of timm or was returned by `transferkit.FeatureExtractor.to_native`.""",
        "batch_size": """\
            Number of images in a batch.""",
        "precision": """\
            ``"float32"``, or ``"int8"`` for 8-bit integers on ONNX Runtime, which are faster on
            CPUs and less accurate. The activations are calibrated on images.""",
        "initialization": """\
            How random weights are initialized: ``"he"``, ``"glorot"``, ``"uniform"`` or
            ``"gaussian"``; see `transferkit.networks.random_weights`.""",
        "progress": """\
            Whether to show a progress bar; None: on a terminal or in a notebook.""",
        "cache": """\
            A folder, or a `transferkit.FeatureCache`, with features that were computed before:
            the network does not run again on an image whose features are there, in this or another
            process. None: no cache.""",
    }
)


def document_parameters(cls: Class) -> Class:
    """Replace ``{name}`` in the docstring of a class by the description of that parameter."""

    def described(match: re.Match[str]) -> str:
        # Python 3.13 removes the indentation of docstrings, earlier versions do not.
        indentation, name = match.groups()
        description = textwrap.dedent(_DESCRIPTIONS[name])
        return f"{indentation}{name}\n" + textwrap.indent(description, indentation + "    ")

    if cls.__doc__ is not None:
        cls.__doc__ = re.sub(r"^( *)\{(\w+)\}$", described, cls.__doc__, flags=re.MULTILINE)
    return cls


def takes_images(tags: Tags) -> Tags:
    """State in the tags of an estimator that ``X`` is images, not a table of numbers."""
    tags.input_tags.one_d_array = True
    tags.input_tags.two_d_array = False
    tags.input_tags.string = True
    return tags


class NetworkEstimator(BaseEstimator):  # type: ignore[misc]
    """The constructor parameters of the public classes, and the program made from them."""

    def __init__(
        self,
        network: object,
        *,
        weights: AnyWeights,
        backend: str | Backend | None,
        device: str | None,
        preprocessing: Preprocessing | None,
        batch_size: int,
        initialization: str,
        random_state: RandomState,
        progress: bool | None,
        precision: str = FLOAT32,
    ) -> None:
        self.network = network
        self.weights = weights
        self.backend = backend
        self.device = device
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.initialization = initialization
        self.random_state = random_state
        self.progress = progress
        self.precision = precision
        self._programs = ProgramCache()
        self._int8_programs = ProgramCache()
        self._calibrated_with: tuple[object, ...] = ()
        self._sampled_seed: tuple[RandomState, int] | None = None

    def _load(self, *, needs: str = INFERENCE) -> tuple[Program, Model]:
        """Return the program and the model that the parameters describe."""
        if self._is_int8():
            calibration = self._current_calibration()
            program, model = self._load_float32(needs=INT8)
            return self._int8_programs.get(
                (model, calibration),
                lambda: dataclasses.replace(model, calibration=calibration),
                lambda: program.backend,
                None,
                needs=INT8,
            )
        return self._load_float32(needs=needs)

    def _load_float32(self, *, needs: str) -> tuple[Program, Model]:
        """Return the program and the model in float32, whatever the precision is."""
        return self._programs.get(
            (*self._model_parameters(), self.backend),
            self._load_model,
            self._chosen_backend,
            self.device,
            needs=needs,
        )

    def _is_int8(self) -> bool:
        """Return whether the precision is int8, after checking that the network supports it."""
        precision = self.precision
        if not isinstance(precision, str):
            raise ParameterError(
                f"precision is {shorten(precision)}; expected {' or '.join(map(repr, PRECISIONS))}"
            )
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, PRECISIONS)
        if precision == FLOAT32:
            return False
        network = self.network
        wrapped = network.wrapped if isinstance(network, Model) else None
        is_object = wrapped is not None or not isinstance(network, (str, Network, Model))
        if is_object:
            raise UnsupportedError(
                f"precision={INT8!r} needs a network of this library, not a "
                f"{type(network if wrapped is None else wrapped.model).__name__}; quantize it "
                f"with its framework, or choose precision={FLOAT32!r}"
            )
        return True

    def _current_calibration(self) -> Calibration:
        """Return the calibration for the current parameters, or that of the given model."""
        calibration: Calibration | None = getattr(self, "calibration_", None)
        if calibration is not None and self._is_calibration_current():
            return calibration
        if isinstance(self.network, Model) and self.network.calibration is not None:
            return self.network.calibration
        which = "not calibrated" if calibration is None else "not calibrated since a change"
        raise NotFittedError(
            f"this {type(self).__name__} with precision={INT8!r} is {which}; call "
            "calibrate(images) with some images like those that it will be used on"
        )

    def _is_calibrated(self) -> bool:
        """Return whether there is a calibration for the current parameters."""
        if hasattr(self, "calibration_") and self._is_calibration_current():
            return True
        return isinstance(self.network, Model) and self.network.calibration is not None

    def _is_calibration_current(self) -> bool:
        return are_same(self._model_parameters(), self._calibrated_with)

    def _set_calibration(self, calibration: Calibration) -> None:
        self.calibration_ = calibration
        self._calibrated_with = self._model_parameters()

    def _chosen_backend(self) -> str | Backend | None:
        """Return the backend that was given, or the one that runs an object of a framework."""
        network = self.network
        if self.backend is not None or isinstance(network, (str, Network)):
            return self.backend
        if isinstance(network, Model):
            return None if network.wrapped is None else network.wrapped.backend
        try:
            return backend_of(network)
        except ArgumentTypeError:
            # Loading the model raises an error that names what is accepted.
            return None

    def _model_parameters(self) -> tuple[object, ...]:
        """Return what the model is made from: if it changes, the model is made again."""
        return (
            self.network,
            self.weights,
            self.preprocessing,
            self.initialization,
            self._seed_of_weights(),
        )

    def _load_model(self) -> Model:
        return load_model(
            self.network,
            self.weights,
            self.preprocessing,
            self.backend,
            self.device,
            initialization=self.initialization,
            random_state=self._seed_of_weights(),
            progress=self.progress,
        )

    def _seed_of_weights(self) -> int:
        """Return the seed of random weights, sampled once if ``random_state`` is not an int.

        It is 0 for other weights, which must not advance a generator.
        """
        random_state = self.random_state
        if not isinstance(random_state, (np.random.Generator, np.random.RandomState, NoneType)):
            seed = as_seed(random_state)
            return seed if self._has_random_weights() else 0
        if not self._has_random_weights():
            return 0
        with self._programs.lock:
            if self._sampled_seed is None or self._sampled_seed[0] is not random_state:
                self._sampled_seed = (random_state, as_seed(random_state))
            return self._sampled_seed[1]

    def _has_random_weights(self) -> bool:
        return isinstance(self.weights, str) and self.weights == RANDOM

    def __sklearn_clone__(self) -> Self:
        # scikit-learn's own function would copy the model and its weights for every fold.
        cloned = type(self)(
            **{
                name: value if name in _SHARED_BY_CLONES else clone(value, safe=False)
                for name, value in self.get_params(deep=False).items()
            }
        )
        for name in _CLONED_SETTINGS:
            if name in vars(self):
                setattr(cloned, name, copy.deepcopy(vars(self)[name]))
        return cloned

    def __getstate__(self) -> dict[str, Any]:
        if self._has_random_weights():
            # Sampled before copying, so that a copy in another process has the same weights.
            self._seed_of_weights()
        state: Any = super().__getstate__()
        return dict(state)
