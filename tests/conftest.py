"""The backends and photos that the tests run on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from backend_selection import BUILT_IN, can_differentiate, requested_backends
from hypothesis import settings

from transferkit.backends import Backend, get_backend
from transferkit.images import list_images, read_image
from transferkit.images.conversion import to_float32
from transferkit.weights import find_weights

# Compares every backend with Keras's networks, which need TensorFlow.
_KERAS_PARITY = "test_keras_parity.py"
# Compare backends with each other.
_PARITY = ("test_parity.py", "test_training_parity.py")

DATA_VARIABLE = "TRANSFERKIT_TEST_DATA"

# The same examples in every run, so that failures are reproducible.
settings.register_profile("transferkit", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("transferkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backends",
        help="comma-separated names of the backends to test, which must be installed; "
        "default: the built-in ones whose framework is installed",
    )
    parser.addoption(
        "--oracle",
        action="store_true",
        help="also compare with torchvision, which must be installed",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests of backends with gradients if there are none."""
    names = requested_backends(config)
    deselected = [
        item
        for item in items
        if "differentiable" in getattr(item, "fixturenames", ())
        and not any(map(can_differentiate, names))
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name == "oracle" and not config.getoption("--oracle"):
        return True
    # A comparison of backends needs two.
    if collection_path.name in _PARITY and len(requested_backends(config)) < 2:
        return True
    name = collection_path.name
    if name == _KERAS_PARITY and "tensorflow" not in requested_backends(config):
        return True
    # Tests of one framework's objects are in files that end with the name of its backend.
    if any(
        name.endswith(f"_{one}.py") and one not in requested_backends(config) for one in BUILT_IN
    ):
        return True
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = requested_backends(metafunc.config)
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
    """Each requested backend; one that cannot be used is a failure."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def backends(request: pytest.FixtureRequest) -> list[Backend]:
    """All requested backends, for tests with an expensive setup."""
    return [get_backend(name) for name in requested_backends(request.config)]


@pytest.fixture(scope="session")
def differentiable(request: pytest.FixtureRequest) -> Backend:
    """Each requested backend that has gradients."""
    return get_backend(request.param)


@pytest.fixture(scope="session")
def backend_pair(request: pytest.FixtureRequest) -> tuple[Backend, Backend]:
    """Each pair of the requested backends."""
    first, second = request.param
    return get_backend(first), get_backend(second)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real photos from the environment; skip the test without it.

    It contains ``cats_dogs/{train,test}/{cat,dog}`` and ``pets/{train,test}/<breed>``.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        pytest.skip(f"{DATA_VARIABLE} is not set to a folder of photos")
    return Path(folder)


@pytest.fixture(scope="session")
def photos(data_folder: Path) -> npt.NDArray[np.float32]:
    """50 test photos, preprocessed for MobileNetV2: (50, 224, 224, 3), float32 in [0, 1]."""
    paths = [
        path for name in ("cats_dogs", "pets") for path in list_images(data_folder / name / "test")
    ]
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, 50).astype(int)]
    preprocessing = find_weights("mobilenet_v2").preprocessing
    images = [preprocessing.apply(read_image(path, str(path)), str(path)) for path in chosen]
    return to_float32(np.stack(images))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid downloads, except in tests with their own server."""
    monkeypatch.setenv("TRANSFERKIT_OFFLINE", "1")


@pytest.fixture
def no_backend_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variable that selects a backend."""
    monkeypatch.delenv("TRANSFERKIT_BACKEND", raising=False)
