"""Warnings point to the code that called the library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import transferkit
from transferkit.support.warning import warn

PACKAGE = Path(transferkit.__file__).parent

warn_of_darkness = partial(warn, "dark")


def called_from(module: str, function: Callable[[], None]) -> Callable[[], None]:
    """Return a function of a module that calls another."""
    namespace: dict[str, Any] = {"__name__": module, "function": function}
    exec(compile("def call():\n    function()", f"{module}.py", "exec"), namespace)
    call: Callable[[], None] = namespace["call"]
    return call


def file_of_warning(function: Callable[[], None]) -> str:
    with pytest.warns(UserWarning, match="^dark$") as seen:
        function()
    (warning,) = seen
    return Path(warning.filename).name


@pytest.mark.parametrize(
    "module", ["transferkit", "transferkit.images.reading", "sklearn.pipeline", "joblib.parallel"]
)
def test_frames_of_the_package_and_of_scikit_learn_are_skipped(module: str) -> None:
    inside = called_from(module, called_from("transferkit.images.stream", warn_of_darkness))
    assert file_of_warning(inside) == "test_warning.py"
    assert file_of_warning(called_from("script", inside)) == "script.py"


def test_the_first_frame_outside_is_the_place() -> None:
    assert file_of_warning(warn_of_darkness) == "test_warning.py"
    # The user's function may itself be called by scikit-learn.
    script = called_from("script", called_from("transferkit", warn_of_darkness))
    assert file_of_warning(called_from("sklearn.pipeline", script)) == "script.py"
    plugin = called_from("transferkit_numpy", called_from("transferkit", warn_of_darkness))
    assert file_of_warning(plugin) == "transferkit_numpy.py"


def test_all_warnings_of_the_package_are_issued_this_way() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "support" / "warning.py":
            assert "warnings.warn(" not in path.read_text(encoding="utf-8"), path
