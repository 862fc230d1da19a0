"""TensorFlow's information is left out while it is loaded, if the environment asks for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INFORMATION = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    "I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n"
)
OTHER = "W0000 00:00:1.2 3 a warning\n"


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [(None, INFORMATION + OTHER), ("0", INFORMATION + OTHER), ("2", OTHER)],
    ids=["not set", "everything", "errors"],
)
@pytest.mark.parametrize("fails", [False, True], ids=["loaded", "failed"])
def test_only_information_is_left_out(
    tmp_path: Path, level: str | None, expected: str, fails: bool
) -> None:
    (tmp_path / "tensorflow.py").write_text(
        f"import os\nos.write(2, {(INFORMATION + OTHER).encode()!r})\n" + "1 / 0\n" * fails
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    code = "import os, transferkit.backends.tensorflow\nos.write(2, b'end')"
    process = run(code, environment)
    assert process.stderr.startswith(expected)
    rest = process.stderr.removeprefix(expected)
    assert ("ZeroDivisionError" in rest) if fails else (rest == "end")


def test_standard_error_may_be_closed(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text("print('loaded')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "2"}
    code = "import os\nos.close(2)\nimport transferkit.backends.tensorflow"
    process = run(code, environment)
    assert (process.stdout, process.returncode) == ("loaded\n", 0)
