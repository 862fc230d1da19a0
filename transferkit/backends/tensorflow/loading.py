"""Loading TensorFlow without the messages that are not wanted."""

from __future__ import annotations

import importlib
import os
import re
import tempfile

__all__ = ["load_tensorflow"]

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_STANDARD_ERROR = 2
# The beginnings of lines: one of information, and the one that says why it is written here.
_INFORMATION = re.compile(rb"I0000 |WARNING: All log messages before absl::InitializeLog")


def load_tensorflow() -> None:
    """Import TensorFlow, and leave out its information if the environment asks for that.

    While it is imported, TensorFlow does not heed ``TF_CPP_MIN_LOG_LEVEL``; on CPUs with AVX-512 it
    writes that oneDNN is used. All other lines on standard error are written afterwards.

    Raises
    ------
    ImportError
        If TensorFlow is not installed.
    """
    try:
        kept = None if os.environ.get(_LEVEL, "0") == "0" else os.dup(_STANDARD_ERROR)
    except OSError:
        # Standard error is closed.
        kept = None
    if kept is None:
        importlib.import_module("tensorflow")
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STANDARD_ERROR)
        try:
            importlib.import_module("tensorflow")
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
            file.seek(0)
            lines = [line for line in file if not _INFORMATION.match(line)]
            os.write(_STANDARD_ERROR, b"".join(lines))
