"""A plugin: the reference in float32, as a backend that anybody can install."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from transferkit.errors import UnknownNameError
from transferkit.testing import ReferenceBackend


class NumpyBackend(ReferenceBackend):
    """NumPy.

    Parameters
    ----------
    device
        One of `devices`; None means the processor.
    """

    name: ClassVar[str] = "numpy"

    def __init__(self, device: str | None = None) -> None:
        if device is not None and device not in self.devices():
            raise UnknownNameError("NumPy device", device, self.devices())
        super().__init__(np.float32)
