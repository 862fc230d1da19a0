"""The constructor parameters that the three public classes share."""

from __future__ import annotations

import copy
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import NETWORK, colored, noise
from sklearn.base import clone

import transferkit
from transferkit import Classifier, FeatureExtractor, ImageOptimizer, Preprocessing
from transferkit.errors import ParameterError, UnknownNameError
from transferkit.models.estimator import NetworkEstimator, document_parameters

CLASSES = [FeatureExtractor, Classifier, ImageOptimizer]


def with_random_weights(cls: type = FeatureExtractor, **parameters: Any) -> Any:
    return cls(
        NETWORK, weights="random", preprocessing=Preprocessing(NETWORK.input_size), **parameters
    )


def weights_of(estimator: NetworkEstimator) -> npt.NDArray[np.float32]:
    """Return all weights of a network as one vector."""
    model = estimator._load()[1]
    return np.concatenate([array.ravel() for array in model.weights.values()])


# ---- random_state ---------------------------------------------------------------------------

RANDOM_STATES: dict[str, Callable[[], Any]] = {
    "int": lambda: 7,
    "numpy int": lambda: np.int64(7),
    "generator": lambda: np.random.default_rng(7),
    "random state": lambda: np.random.RandomState(7),
}


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", RANDOM_STATES)
def test_equal_random_states_give_equal_random_weights(cls: type, kind: str) -> None:
    make = RANDOM_STATES[kind]
    first, second = (with_random_weights(cls, random_state=make()) for _ in range(2))
    np.testing.assert_array_equal(weights_of(first), weights_of(second))
    other = with_random_weights(cls, random_state=8)
    assert not np.array_equal(weights_of(first), weights_of(other))


def test_an_int_gives_the_same_weights_as_the_numpy_int() -> None:
    first, second = (with_random_weights(random_state=seed) for seed in (7, np.int32(7)))
    np.testing.assert_array_equal(weights_of(first), weights_of(second))


@pytest.mark.parametrize("cls", CLASSES)
def test_none_gives_different_random_weights_in_each_object(cls: type) -> None:
    first, second = (with_random_weights(cls, random_state=None) for _ in range(2))
    assert not np.array_equal(weights_of(first), weights_of(second))
    np.testing.assert_array_equal(weights_of(first), weights_of(first))


def test_a_clone_with_random_state_none_has_different_weights() -> None:
    extractor = with_random_weights(random_state=None)
    assert not np.array_equal(weights_of(extractor), weights_of(clone(extractor)))
    extractor.set_params(random_state=3)
    np.testing.assert_array_equal(weights_of(extractor), weights_of(clone(extractor)))


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", [*RANDOM_STATES, "none"])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"]
)
def test_copies_keep_random_weights(
    cls: type, kind: str, used: bool, copied: Callable[[Any], Any]
) -> None:
    estimator = with_random_weights(cls, random_state=RANDOM_STATES.get(kind, lambda: None)())
    if used:
        weights_of(estimator)
    other = copied(estimator)
    np.testing.assert_array_equal(weights_of(other), weights_of(estimator))


@pytest.mark.parametrize("seed_of", [np.random.default_rng, np.random.RandomState])
def test_a_generator_is_advanced_by_random_weights_only(seed_of: Callable[[int], Any]) -> None:
    generator, untouched = seed_of(0), seed_of(0)
    FeatureExtractor(
        NETWORK,
        weights=random_weights_of(1),
        preprocessing=Preprocessing(16),
        random_state=generator,
    ).model()
    assert generator.random() == untouched.random()
    with_random_weights(random_state=generator).model()
    assert generator.random() != untouched.random()


def random_weights_of(seed: int) -> dict[str, npt.NDArray[np.float32]]:
    return dict(with_random_weights(random_state=seed).model().weights)


@pytest.mark.parametrize("random_state", [-1, 1.5, "0", True, [1, 2]])
@pytest.mark.parametrize("cls", CLASSES)
def test_invalid_random_states_are_rejected(cls: type, random_state: Any) -> None:
    with pytest.raises(ParameterError, match=r"random_state is .*; expected an int"):
        with_random_weights(cls, random_state=random_state)._load()


def test_the_global_random_state_of_numpy_is_not_used_or_changed() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    for kind in ("int", "generator", "random state", "none"):
        random_state = RANDOM_STATES.get(kind, lambda: None)()
        with_random_weights(random_state=random_state).transform(noise(2))
        classifier = with_random_weights(Classifier, random_state=random_state)
        classifier.fit(colored([0, 1] * 3), [0, 1] * 3)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


@pytest.mark.parametrize("kind", RANDOM_STATES)
def test_fits_with_equal_random_states_are_equal(kind: str) -> None:
    images, labels = colored([0, 1, 2] * 5, spread=250), [0, 1, 2] * 5
    first, second = (
        with_random_weights(Classifier, random_state=RANDOM_STATES[kind]()).fit(images, labels)
        for _ in range(2)
    )
    assert first.C_ == second.C_
    np.testing.assert_array_equal(first.predict_proba(images), second.predict_proba(images))


def test_an_unknown_initialization_is_rejected() -> None:
    with pytest.raises(UnknownNameError, match="unknown initialization 'xavier'"):
        with_random_weights(initialization="xavier").model()


# ---- docstrings -----------------------------------------------------------------------------


def public_objects() -> Iterator[tuple[str, Any]]:
    """Yield all public classes, functions and methods of the package, with their names."""
    for module_info in pkgutil.walk_packages(transferkit.__path__, "transferkit."):
        if re.search(r"\.(torch|tensorflow|_\w+)(\.|$)|__main__", module_info.name):
            continue
        module = import_module(module_info.name)
        yield module.__name__, module
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name, None)
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for attribute, member in vars(value).items():
                    if isinstance(member, (FunctionType, classmethod, staticmethod, property)):
                        yield f"{module.__name__}.{name}.{attribute}", member


def test_no_placeholder_is_left_in_docstrings() -> None:
    names = []
    for name, value in public_objects():
        names.append(name)
        text = getattr(value, "__doc__", None) or ""
        assert not re.search(r"^\s*\{\w+\}\s*$", text, re.MULTILINE), name
    assert "transferkit.features.extractor.FeatureExtractor" in names


@pytest.mark.parametrize("cls", CLASSES)
def test_every_constructor_parameter_is_documented(cls: type) -> None:
    parameters = list(inspect.signature(cls).parameters)
    text = inspect.cleandoc(cls.__doc__ or "")
    section = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
    documented = re.findall(r"^(\w+)$", section, re.MULTILINE)
    assert documented == parameters
    lines = section.splitlines()
    for name in parameters:
        assert re.match(r" {4}\S", lines[lines.index(name) + 1]), name


def test_a_placeholder_is_replaced_at_its_indentation() -> None:
    class Indented:
        """Summary.

        Parameters
        ----------
        {device}
        other
            Something about {batch_size}.
        """

    document_parameters(Indented)
    text = inspect.cleandoc(Indented.__doc__ or "")
    assert "\ndevice\n    One of the backend's devices" in text
    assert "\nother\n    Something about {batch_size}." in text


def test_an_unknown_placeholder_is_an_error() -> None:
    class Unknown:
        """Summary.

        {nonsense}
        """

    with pytest.raises(KeyError, match="nonsense"):
        document_parameters(Unknown)
