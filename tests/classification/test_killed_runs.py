"""SIGKILL at random moments: the run resumes, and ends with the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import killed_run
import numpy as np
import pytest
from safetensors import safe_open

from transferkit.backends import Backend

FILE = "checkpoint.safetensors"
KILLS = 2
SCRIPT = Path(killed_run.__file__)
TIMEOUT = 120


def start(backend: str, checkpoint: Path, output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path])}
    command = [sys.executable, str(SCRIPT), backend, str(checkpoint), str(output)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def histories(folder: Path) -> list[dict[str, Any]]:
    """The histories in the checkpoints: that of the first run, and of that on all images."""
    found = []
    for path in (folder / FILE, folder / "refit" / FILE):
        if path.exists():
            with safe_open(path, "numpy") as file:
                found.append(json.loads(file.metadata()["progress"])["history"])
    return found


def complete_epochs(folder: Path) -> int:
    """The number of epochs in the checkpoints."""
    return sum(len(history["epochs"]["epoch"]) for history in histories(folder))


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be replaced there")
def test_a_run_killed_at_random_moments_ends_with_the_same_weights(
    differentiable: Backend, tmp_path: Path
) -> None:
    name = differentiable.name
    finish(start(name, tmp_path / "whole", tmp_path / "whole.npz"))
    generator = np.random.default_rng()
    folder, output = tmp_path / "killed", tmp_path / "killed.npz"
    kills, times = 0, set()
    for _ in range(KILLS):
        before, limit = complete_epochs(folder), time.monotonic() + TIMEOUT
        process = start(name, folder, output)
        while process.poll() is None and complete_epochs(folder) == before:
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.1))
        kills += process.poll() is None
        process.kill()
        process.communicate()
        times.add(histories(folder)[0]["steps"]["seconds"][0])
    assert kills > 0
    finish(start(name, folder, output))
    # It was resumed, and not begun again.
    assert times == {histories(folder)[0]["steps"]["seconds"][0]}
    with np.load(tmp_path / "whole.npz") as whole, np.load(output) as killed:
        assert set(whole) == set(killed)
        for key in whole:
            np.testing.assert_array_equal(whole[key], killed[key])
