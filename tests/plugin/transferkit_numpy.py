"""A plugin: the NumPy reference in float32, as an installable backend."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transferkit.testing import ReferenceBackend


class NumpyBackend(ReferenceBackend):
    """NumPy.

    Parameters
    ----------
    device
        One of `devices`; None is the CPU.
    """

    name: ClassVar[str] = "numpy"

    def __init__(self, device: str | None = None) -> None:
        super().__init__(device, np.float32)
