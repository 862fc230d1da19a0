"""Ray on this machine, started once for all tests that need it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray with two CPUs."""
    # There are folders of this name that are not Ray.
    pytest.importorskip("ray.data")
    import ray

    # For the modules of the tests in the workers.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        ray.init(
            num_cpus=2,
            log_to_driver=False,
            configure_logging=False,
            logging_level=logging.ERROR,
            include_dashboard=False,
        )
    yield ray
    ray.shutdown()
