"""Which backends and which photos the tests run on."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

from transferkit.backends import Backend, describe_backend, get_backend
from transferkit.backends.base import GRADIENTS
from transferkit.images import list_images, read_image
from transferkit.weights import find_weights

BUILT_IN = ("onnxruntime", "torch", "tensorflow")
"""Each is the name of a backend and of the module of its framework."""

# Compares every backend with Keras's own networks, and so needs TensorFlow.
_KERAS_PARITY = "test_keras_parity.py"

DATA_VARIABLE = "TRANSFERKIT_TEST_DATA"

# The same examples at every run: a failure that comes and goes helps nobody.
settings.register_profile("transferkit", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("transferkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        help="comma-separated names of the backends to test; one that is missing fails. "
        "Default: the built-in ones whose framework is installed.",
    )
    parser.addoption(
        "--oracle",
        action="store_true",
        help="also compare with torchvision, which must be installed",
    )


def asked_for(config: pytest.Config) -> list[str]:
    """The names of the backends to test."""
    option: str | None = config.getoption("--backends")
    if option is not None:
        return [name.strip() for name in option.split(",") if name.strip()]
    return [name for name in BUILT_IN if importlib.util.find_spec(name) is not None]


def can_differentiate(name: str) -> bool:
    """Whether a backend has gradients; one that cannot be used is for its tests to tell of."""
    found = describe_backend(name)
    return found.problem is not None or GRADIENTS in found.capabilities


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is run for each backend with gradients, where there is none."""
    names = asked_for(config)
    of_none = [
        item
        for item in items
        if "differentiable" in getattr(item, "fixturenames", ())
        and not any(map(can_differentiate, names))
    ]
    if of_none:
        config.hook.pytest_deselected(items=of_none)
        items[:] = [item for item in items if item not in of_none]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name == "oracle" and not config.getoption("--oracle"):
        return True
    # One backend alone can be compared with no other.
    if collection_path.name == "test_parity.py" and len(asked_for(config)) < 2:
        return True
    name = collection_path.name
    if name == _KERAS_PARITY and "tensorflow" not in asked_for(config):
        return True
    # What is about one framework's own objects is in a file that ends in its backend's name.
    if any(name.endswith(f"_{one}.py") and one not in asked_for(config) for one in BUILT_IN):
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = asked_for(metafunc.config)
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", names, indirect=True, scope="session")
    if "differentiable" in metafunc.fixturenames:
        able = [name for name in names if can_differentiate(name)]
        metafunc.parametrize("differentiable", able, indirect=True, scope="session")
    if "backend_pair" in metafunc.fixturenames:
        pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
        ids = [f"{a}-{b}" for a, b in pairs]
        metafunc.parametrize("backend_pair", pairs, ids=ids, indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that was asked for; one that cannot be used is a failure."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> list[Backend]:
    """All backends that were asked for, where it is dear to make what they are tried on."""
    return [get_backend(name) for name in asked_for(request.config)]


@pytest.fixture(scope="session")
def differentiable(request: pytest.FixtureRequest) -> Backend:
    """Each backend that was asked for and has gradients."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def backend_pair(request: pytest.FixtureRequest) -> tuple[Backend, Backend]:
    """Each two of the backends that were asked for."""
    first, second = request.param
    return get_backend(first), get_backend(second)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real photos that the environment names; without it, the test is skipped.

    It holds ``cats_dogs/{train,test}/{cat,dog}`` and ``pets/{train,test}/<breed>``.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} names no folder of photos")
    return Path(folder)


@pytest.fixture(scope="session")
def photos(data_folder: Path) -> npt.NDArray[np.float32]:
    """Fifty of the test photos, as MobileNetV2 wants them: 50 x 224 x 224 x 3, in [0, 1]."""
    paths = [
        path for name in ("cats_dogs", "pets") for path in list_images(data_folder / name / "test")
    ]
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, 50).astype(int)]
    preprocessing = find_weights("mobilenet_v2").preprocessing
    pictures = [preprocessing.apply(read_image(path, str(path)), str(path)) for path in chosen]
    pixels: npt.NDArray[np.float32] = np.stack(pictures).astype(np.float32) / 255
    return pixels


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test fetches anything, but for those that bring a server of their own."""
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")


@pytest.fixture
def no_backend_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user who has chosen no backend."""
    monkeypatch.delenv("TRANSFERKIT_BACKEND", raising=False)
