"""The list of backends, the choice of one, and the errors for those that cannot be used."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transferkit import FeatureExtractor
from transferkit.backends import (
    Backend,
    backend_names,
    backend_of,
    describe_backend,
    get_backend,
)
from transferkit.backends.base import API_VERSION
from transferkit.errors import (
    ArgumentTypeError,
    BackendNotInstalledError,
    PluginError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images import Preprocessing
from transferkit.testing import ReferenceBackend

_BUILT_IN = ["onnxruntime", "torch", "tensorflow"]

# The module of a plugin that works.
_WORKING = """
from transferkit.testing import ReferenceBackend
class Mine(ReferenceBackend):
    name = "mine"
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with a backend, for one test."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(source: str, *, name: str = "mine", member: str = "Mine") -> None:
        module = f"plugin_of_{name}"
        # An earlier test may have imported another plugin under this name.
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{module}-2.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 2.0\n")
        (metadata / "entry_points.txt").write_text(
            f"[transferkit.backends]\n{name} = {module}:{member}\n"
        )

    return install


def _run(program: str) -> str:
    """Run a program in a new interpreter and return its output."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---- listing backends ------------------------------------------------------------------


def test_built_in_backends_come_first_in_order_of_preference(install: Install) -> None:
    assert backend_names() == _BUILT_IN
    install(_WORKING, name="zebra")
    install(_WORKING, name="alpha")
    assert backend_names() == [*_BUILT_IN, "alpha", "zebra"]


def test_listing_backends_imports_no_framework() -> None:
    loaded = _run(
        "import sys\n"
        "from transferkit.backends import backend_names\n"
        "backend_names()\n"
        "print(*{'torch', 'tensorflow', 'onnxruntime', 'onnx', 'keras'} & sys.modules.keys())"
    )
    assert loaded.split() == []


def test_getting_a_backend_imports_only_its_framework() -> None:
    loaded = _run(
        "import sys\n"
        "from transferkit.backends import get_backend\n"
        "get_backend('onnxruntime')\n"
        "print(*{'torch', 'tensorflow', 'onnxruntime'} & sys.modules.keys())"
    )
    assert loaded.split() == ["onnxruntime"]


def test_description_agrees_with_the_backend(backend: Backend) -> None:
    info = describe_backend(backend.name)
    assert info.name == backend.name
    assert info.distribution == "transferkit"
    assert info.version == backend.version()
    assert set(info.capabilities) == backend.capabilities
    assert info.devices == backend.devices()
    assert info.problem is None


# ---- choosing a backend ----------------------------------------------------------------


@pytest.mark.usefixtures("no_backend_variable")
def test_onnxruntime_is_the_default() -> None:
    assert get_backend().name == "onnxruntime"


def test_environment_variable_chooses_the_backend(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(_WORKING)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "mine")
    assert get_backend().name == "mine"
    # An empty variable counts as unset.
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "")
    assert get_backend().name == "onnxruntime"


def test_argument_overrides_the_environment_variable(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(_WORKING)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "mine")
    assert get_backend("onnxruntime").name == "onnxruntime"


def test_unknown_name_in_the_environment_variable_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "onnx_runtime")
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        get_backend()


def test_a_backend_object_is_returned_unchanged() -> None:
    backend = ReferenceBackend()
    assert get_backend(backend) is backend


def test_backend_is_found_by_name(backend: Backend) -> None:
    assert type(get_backend(backend.name)) is type(backend)


@pytest.mark.parametrize("name", ["tensorflw", "Torch", "onnx_runtime"])
def test_unknown_name_is_rejected_with_close_matches(name: str) -> None:
    for look_up in (get_backend, describe_backend):
        with pytest.raises(UnknownNameError, match="did you mean") as caught:
            look_up(name)
        assert caught.value.close_matches


def test_unknown_device_is_rejected(backend: Backend) -> None:
    with pytest.raises(UnknownNameError, match="abacus"):
        get_backend(backend.name, device="abacus")
    first = backend.devices()[0]
    assert get_backend(backend.name, device=first).name == backend.name


def test_backends_without_the_capability_are_skipped(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFERKIT_BACKEND", raising=False)
    # Simulate a machine without a framework that has gradients.
    for name in (
        "torch",
        "tensorflow",
        "transferkit.backends.torch.backend",
        "transferkit.backends.tensorflow.backend",
    ):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedError, match=r'pip install "transferkit\[torch\]"'):
        get_backend(needs="gradients")
    install(
        _WORKING.replace('"mine"', '"mine"; capabilities = frozenset({"inference", "gradients"})')
    )
    assert get_backend(needs="gradients").name == "mine"


@pytest.mark.parametrize("given", ["onnxruntime", ReferenceBackend()], ids=["name", "backend"])
def test_missing_capability_is_rejected(given: str | Backend) -> None:
    with pytest.raises(UnsupportedError, match=r"not support gradients.*transferkit\[torch\]"):
        get_backend(given, needs="gradients")


# ---- the owner of a model object --------------------------------------------------------

# The module of a plugin with model objects of its own.
_WITH_MODELS = (
    _WORKING
    + """
    @classmethod
    def owns(cls, model):
        return isinstance(model, Model)
class Model:
    pass
"""
)


def test_a_plugin_owns_its_models(install: Install) -> None:
    # One that fails to load, and one that fails when it is asked.
    install("1 / 0\n", name="aaa")
    install(f"{_WORKING}    owns = None\n", name="bbb")
    install(_WITH_MODELS)
    install(_WORKING, name="zebra")
    model = get_backend("mine").__class__.owns.__globals__["Model"]()
    assert backend_of(model) == "mine"
    with pytest.raises(ArgumentTypeError, match="model is a int; expected"):
        backend_of(3)


def test_plugins_are_not_imported_for_models_of_built_in_backends(
    backend: Backend, install: Install
) -> None:
    if backend.name == "torch":
        import torch

        model = torch.nn.Identity()
    elif backend.name == "tensorflow":
        import keras

        model = keras.Sequential([keras.Input((8, 8, 3))])
    else:
        pytest.skip("it has no model objects")
    install(_WITH_MODELS)
    assert backend_of(model) == backend.name
    assert "plugin_of_mine" not in sys.modules


def test_a_plugin_that_is_named_may_run_models_that_another_backend_owns(
    backend: Backend, install: Install
) -> None:
    if backend.name != "torch":
        pytest.skip("the model is PyTorch's")
    import torch

    source = _WITH_MODELS.replace("isinstance(model, Model)", "True")
    install(
        f"{source}\ndef wrap(*_, **__): raise RuntimeError('mine is asked')\nMine.wrap = wrap\n"
    )
    extractor = FeatureExtractor(torch.nn.Identity(), backend="mine", preprocessing=Preprocessing())
    with pytest.raises(RuntimeError, match="mine is asked"):
        extractor.layers()
    extractor = FeatureExtractor(torch.nn.Identity(), backend="onnxruntime")
    with pytest.raises(UnsupportedError, match="'onnxruntime' cannot run a Identity; 'torch' can"):
        extractor.layers()


# ---- backends that cannot be used ------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_error_for_a_missing_framework_has_the_install_command(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"transferkit.backends.{name}.backend", raising=False)
    with pytest.raises(BackendNotInstalledError) as caught:
        get_backend(name)
    assert f'pip install "transferkit[{name}]"' in str(caught.value)
    info = describe_backend(name)
    assert info.version is None
    assert info.devices == info.capabilities == ()
    assert info.problem == str(caught.value)


def test_error_for_a_plugin_without_its_framework_has_its_distribution(install: Install) -> None:
    install("import a_framework_that_is_not_there\n")
    with pytest.raises(BackendNotInstalledError, match="pip install --upgrade plugin_of_mine"):
        get_backend("mine")


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (API_VERSION + 1, "expected version 1; update transferkit$"),
        (API_VERSION - 1, "expected version 1; update plugin_of_mine$"),
        (None, "update plugin_of_mine"),
        ("new", "update plugin_of_mine"),
    ],
)
def test_plugin_for_another_interface_version_is_rejected(
    install: Install, version: object, advice: str
) -> None:
    install(f"{_WORKING}    api_version = {version!r}\n")
    with pytest.raises(PluginError, match=advice):
        get_backend("mine")
    assert re.search(advice, str(describe_backend("mine").problem))


@pytest.mark.parametrize("value", ["int", "object()", "lambda: None"])
def test_plugin_that_is_not_a_backend_is_rejected(install: Install, value: str) -> None:
    install(f"Mine = {value}\n")
    with pytest.raises(PluginError, match=r"not a subclass of\s+transferkit.backends.Backend"):
        get_backend("mine")


@pytest.mark.parametrize("source", ["1 / 0\n", "def broken(:\n", "raise RuntimeError('no')\n"])
def test_plugin_that_fails_to_load_is_rejected(install: Install, source: str) -> None:
    install(source)
    with pytest.raises(PluginError, match="'mine' of plugin_of_mine failed to load"):
        get_backend("mine")


def test_plugin_without_the_class_of_its_entry_point_is_rejected(install: Install) -> None:
    install(_WORKING, member="Yours")
    with pytest.raises(PluginError, match="Yours"):
        get_backend("mine")


@pytest.mark.usefixtures("no_backend_variable")
def test_a_broken_plugin_does_not_affect_other_backends(install: Install) -> None:
    install("1 / 0\n", name="aaa")
    assert get_backend().name == "onnxruntime"
    assert "aaa" in backend_names()
