"""SIGKILL at random moments: an extraction resumes, and its columns are those of a whole run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import killed_extraction
import numpy as np
import pytest
from killed_extraction import LAYERS
from samples import noise, tiny_extractor, write_images

from transferkit import FeatureStore

# 50 of them have been run, and so can be again.
KILLS = int(os.environ.get("TRANSFERKIT_TEST_KILLS", "3"))
SCRIPT = Path(killed_extraction.__file__)
TIMEOUT = 120


def start(photos: Path, store: Path, prefix: str = "") -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path]),
        # Where a killed process leaves what it has not uploaded.
        "TMPDIR": str(store.parent),
    }
    command = [sys.executable, str(SCRIPT), str(photos), f"{prefix}{store}"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors.decode()


def shard_names(store: Path) -> list[str]:
    return sorted(path.name for path in store.glob("shard-*"))


@pytest.fixture(params=["", "local://"])
def prefix(request: pytest.FixtureRequest) -> str:
    """What makes a path one that is treated as if it were on a server."""
    return str(request.param)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a signal of POSIX")
def test_extractions_killed_at_random_moments_end_with_the_same_columns(
    tmp_path: Path, prefix: str
) -> None:
    photos = tmp_path / "photos"
    paths = write_images(photos, noise(300))
    for path in paths[7::50]:
        path.write_bytes(b"no image")
    finish(start(photos, tmp_path / "whole"))
    whole = FeatureStore(tmp_path / "whole").to_arrow().combine_chunks()
    assert len(shard_names(tmp_path / "whole")) == 15
    generator = np.random.default_rng()
    number = kills = 0
    while kills < KILLS:
        store = tmp_path / f"killed{number}"
        number += 1
        while kills < KILLS:
            before, limit = shard_names(store), time.monotonic() + TIMEOUT
            process = start(photos, store, prefix)
            while process.poll() is None and shard_names(store) == before:
                assert time.monotonic() < limit
                time.sleep(0.001)
            time.sleep(generator.uniform(0, 0.05))
            was_running = process.poll() is None
            process.kill()
            process.communicate()
            # What was there is still there.
            assert set(before) <= set(shard_names(store))
            if not was_running:
                break
            kills += 1
        finish(start(photos, store, prefix))
        assert shard_names(store) == shard_names(tmp_path / "whole")
        killed = FeatureStore(store).to_arrow().combine_chunks()
        assert killed.equals(whole)
        assert FeatureStore(store).verify() == []


def test_of_two_processes_one_works_and_the_other_says_so(tmp_path: Path, prefix: str) -> None:
    photos, store = tmp_path / "photos", tmp_path / "store"
    write_images(photos, noise(3))
    extractor = tiny_extractor(backend="onnxruntime")

    def images() -> Iterator[Path]:
        yield photos / "000.png"
        process = start(photos, store, prefix)
        _, errors = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1
        assert "OutputError" in errors.decode()
        assert "another process is writing to this store" in errors.decode()

    extractor.extract_to(f"{prefix}{store}", images(), LAYERS, shard_size=20)
    assert len(FeatureStore(store).sources) == 1
    finish(start(photos, store, prefix))
    assert len(FeatureStore(store).sources) == 3
