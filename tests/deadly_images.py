"""Images whose reading has consequences; a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from transferkit.images import NamedImage


@dataclass(frozen=True)
class DeadlyImage(NamedImage):
    """An image that kills the process that reads it first."""

    source: str
    killed: str

    def read(self) -> bytes:
        """Return the content of the file, in another process than the first."""
        if not os.path.exists(self.killed):
            Path(self.killed).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return Path(self.source).read_bytes()


@dataclass(frozen=True)
class SlowImage(NamedImage):
    """An image that is read slowly."""

    source: str

    def read(self) -> bytes:
        """Return the content of the file, after a while."""
        time.sleep(0.1)
        return Path(self.source).read_bytes()
