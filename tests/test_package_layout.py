"""Each package imports only packages below it, and no module is part of an import cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import transferkit

ROOT = Path(transferkit.__file__).parent

# From the bottom to the top; packages of one layer do not import each other.
LAYERS = (
    ("errors",),
    ("support",),
    ("images", "networks"),
    ("weights",),
    ("datasets", "reports", "sources", "store"),
    ("backends",),
    ("training",),
    ("models",),
    ("features",),
    ("classification",),
    ("optimization", "inspection", "comparison"),
    ("demo", "ray", "testing"),
    ("cli",),
)
LAYER_OF = {package: level for level, packages in enumerate(LAYERS) for package in packages}

# Modules of the frameworks, and the packages that may import them.
FRAMEWORKS = {
    "torch": ("backends.torch",),
    "tensorflow": ("backends.tensorflow",),
    "keras": ("backends.tensorflow",),
    "onnxruntime": ("backends.onnx",),
    "onnx": ("backends.onnx", "models.export"),
}


def module_name(path: Path) -> str:
    """The name of a module below the package: ``backends.torch.table``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_names(path: Path) -> Iterator[str]:
    """Every module or name that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of the package that a module imports; '' is the package's root."""
    found = set()
    for name in imported_names(MODULES[module]):
        if name == "transferkit" or name.startswith("transferkit."):
            inner = name.removeprefix("transferkit").lstrip(".")
            # The last part may be a name in a module.
            found.add(inner if inner in MODULES else inner.rpartition(".")[0])
    return found - {module}


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("module", [name for name in MODULES if name not in {"", "__main__"}])
def test_imports_go_down(module: str) -> None:
    package = module.partition(".")[0]
    for other in imported_modules(module):
        assert other in MODULES, f"{module} imports {other or 'the root of the package'}"
        assert other, f"{module} imports the root of the package"
        layer = other.partition(".")[0]
        assert layer == package or LAYER_OF[layer] < LAYER_OF[package], f"{module} imports {other}"


def test_there_is_no_import_cycle() -> None:
    graph = {module: imported_modules(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "onnx"])
def test_a_table_imports_neither_backend_nor_wrapper(framework: str) -> None:
    imports = imported_modules(f"backends.{framework}.table")
    assert not any(is_inside(other, f"backends.{framework}") for other in imports)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_only_its_backend_imports_a_framework(framework: str) -> None:
    for module, path in MODULES.items():
        if any(name.partition(".")[0] == framework for name in imported_names(path)):
            assert any(is_inside(module, package) for package in FRAMEWORKS[framework]), module


def test_every_package_has_a_layer() -> None:
    packages = {module.partition(".")[0] for module in MODULES} - {"", "__main__"}
    assert packages == set(LAYER_OF)


def test_tests_mirror_the_package() -> None:
    folders = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir()}
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    # `testing` is run by tests/backends, the demo by the command line's tests.
    assert packages - {"testing", "demo"} <= folders
