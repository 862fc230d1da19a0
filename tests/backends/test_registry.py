"""Which backends there are, which one is chosen, and what is said when one cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transferkit.backends import Backend, backend_names, describe_backend, get_backend
from transferkit.backends.base import API_VERSION
from transferkit.errors import (
    BackendNotInstalledError,
    PluginError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.testing import ReferenceBackend

_BUILT_IN = ["onnxruntime", "torch", "tensorflow"]

# What a plugin's module may hold that works.
_WORKING = """
from transferkit.testing import ReferenceBackend
class Mine(ReferenceBackend):
    name = "mine"
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution that registers a backend, for one test."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(source: str, *, name: str = "mine", member: str = "Mine") -> None:
        module = f"plugin_of_{name}"
        # Whichever plugin an earlier test has imported under this name is not this one.
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
    """Run a program in a fresh interpreter and give what it prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---- which there are ---------------------------------------------------------------------


def test_built_in_backends_come_first_in_the_order_of_preference(install: Install) -> None:
    assert backend_names() == _BUILT_IN
    install(_WORKING, name="zebra")
    install(_WORKING, name="alpha")
    assert backend_names() == [*_BUILT_IN, "alpha", "zebra"]


def test_listing_imports_no_framework() -> None:
    loaded = _run(
        "import sys\n"
        "from transferkit.backends import backend_names\n"
        "backend_names()\n"
        "print(*{'torch', 'tensorflow', 'onnxruntime', 'onnx', 'keras'} & sys.modules.keys())"
    )
    assert loaded.split() == []


def test_a_framework_is_imported_when_its_backend_is_first_used() -> None:
    loaded = _run(
        "import sys\n"
        "from transferkit.backends import get_backend\n"
        "get_backend('onnxruntime')\n"
        "print(*{'torch', 'tensorflow', 'onnxruntime'} & sys.modules.keys())"
    )
    assert loaded.split() == ["onnxruntime"]


def test_description(backend: Backend) -> None:
    info = describe_backend(backend.name)
    assert info.name == backend.name
    assert info.distribution == "transferkit"
    assert info.version == backend.version()
    assert set(info.capabilities) == backend.capabilities
    assert info.devices == backend.devices()
    assert info.problem is None


# ---- which one is chosen -----------------------------------------------------------------


@pytest.mark.usefixtures("no_backend_variable")
def test_onnxruntime_is_chosen_where_nobody_says() -> None:
    assert get_backend().name == "onnxruntime"


def test_environment_variable_is_asked(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(_WORKING)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "mine")
    assert get_backend().name == "mine"
    # An empty one says nothing.
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "")
    assert get_backend().name == "onnxruntime"


def test_argument_goes_before_the_environment(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(_WORKING)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "mine")
    assert get_backend("onnxruntime").name == "onnxruntime"


def test_environment_variable_with_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "onnx_runtime")
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        get_backend()


def test_a_backend_is_given_back() -> None:
    backend = ReferenceBackend()
    assert get_backend(backend) is backend


def test_backend_by_name(backend: Backend) -> None:
    assert type(get_backend(backend.name)) is type(backend)


@pytest.mark.parametrize("name", ["tensorflw", "Torch", "onnx_runtime"])
def test_unknown_name_has_close_matches(name: str) -> None:
    for look_up in (get_backend, describe_backend):
        with pytest.raises(UnknownNameError, match="did you mean") as caught:
            look_up(name)
        assert caught.value.close_matches


def test_unknown_device(backend: Backend) -> None:
    with pytest.raises(UnknownNameError, match="abacus"):
        get_backend(backend.name, device="abacus")
    first = backend.devices()[0]
    assert get_backend(backend.name, device=first).name == backend.name


def test_what_cannot_do_what_is_needed_is_passed_over(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFERKIT_BACKEND", raising=False)
    # As on a machine with no framework that has gradients.
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
def test_asking_for_what_a_backend_cannot_do(given: str | Backend) -> None:
    with pytest.raises(UnsupportedError, match=r"not gradients.*transferkit\[torch\]"):
        get_backend(given, needs="gradients")


# ---- what cannot be used -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_not_installed_names_the_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"transferkit.backends.{name}", raising=False)
    with pytest.raises(BackendNotInstalledError) as caught:
        get_backend(name)
    assert f'pip install "transferkit[{name}]"' in str(caught.value)
    info = describe_backend(name)
    assert info.version is None
    assert info.devices == info.capabilities == ()
    assert info.problem == str(caught.value)


def test_plugin_that_lacks_its_framework_names_its_distribution(install: Install) -> None:
    install("import a_framework_that_is_not_there\n")
    with pytest.raises(BackendNotInstalledError, match="pip install --upgrade plugin_of_mine"):
        get_backend("mine")


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (API_VERSION + 1, "update transferkit, which speaks version 1"),
        (API_VERSION - 1, "update plugin_of_mine: this transferkit needs version 1"),
        (None, "update plugin_of_mine"),
        ("new", "update plugin_of_mine"),
    ],
)
def test_plugin_for_another_version(install: Install, version: object, advice: str) -> None:
    install(f"{_WORKING}    api_version = {version!r}\n")
    with pytest.raises(PluginError, match=advice):
        get_backend("mine")
    assert advice in str(describe_backend("mine").problem)


@pytest.mark.parametrize("value", ["int", "object()", "lambda: None"])
def test_plugin_that_is_no_backend(install: Install, value: str) -> None:
    install(f"Mine = {value}\n")
    with pytest.raises(PluginError, match=r"no subclass of\s+transferkit.backends.Backend"):
        get_backend("mine")


@pytest.mark.parametrize("source", ["1 / 0\n", "def broken(:\n", "raise RuntimeError('no')\n"])
def test_plugin_that_fails_to_load(install: Install, source: str) -> None:
    install(source)
    with pytest.raises(PluginError, match="'mine' of plugin_of_mine fails to load"):
        get_backend("mine")


def test_plugin_without_what_its_entry_point_names(install: Install) -> None:
    install(_WORKING, member="Yours")
    with pytest.raises(PluginError, match="Yours"):
        get_backend("mine")


@pytest.mark.usefixtures("no_backend_variable")
def test_a_broken_plugin_disturbs_no_other(install: Install) -> None:
    install("1 / 0\n", name="aaa")
    assert get_backend().name == "onnxruntime"
    assert "aaa" in backend_names()
