"""The state of a run in a folder, from which the run is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from transferkit.errors import FileFormatError, OutputError, shorten_path
from transferkit.weights.files import digest, read_safetensors, write_safetensors

__all__ = ["Checkpoint", "CheckpointFolder"]

Array: TypeAlias = npt.NDArray[Any]

# The number changes with what a checkpoint holds.
_FORMAT = "transferkit.fine_tuning.checkpoint.3"
_FILE = "checkpoint.safetensors"
_SEPARATOR = "|"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The content of a checkpoint.

    Attributes
    ----------
    arrays
        The name of each group of arrays, such as the trained parameters, to the arrays in it by
        name.
    progress
        Everything else: plain data for JSON.
    """

    arrays: Mapping[str, Mapping[str, Array]]
    progress: Mapping[str, Any]


class CheckpointFolder:
    """A folder with the checkpoint of one run.

    Parameters
    ----------
    folder
        The folder, which is created.
    run
        What determines the run, by name, such as the settings and a digest of the images. A
        checkpoint of a run that differs is rejected.

    Raises
    ------
    OutputError
        If the folder cannot be created.
    """

    def __init__(self, folder: str | os.PathLike[str], run: Mapping[str, str]) -> None:
        self._path = Path(folder, _FILE)
        self._run = dict(run)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{shorten_path(folder)}: cannot be created: {error.strerror or error}"
            ) from None

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, which replaces the one before once it is complete.

        Raises
        ------
        OutputError
            If it cannot be written; the checkpoint before is left.
        """
        tensors = {
            f"{group}{_SEPARATOR}{name}": np.asarray(array, np.float32)
            for group, arrays in checkpoint.arrays.items()
            for name, array in arrays.items()
        }
        metadata = {
            "format": _FORMAT,
            "run": json.dumps(self._run),
            "progress": json.dumps(checkpoint.progress),
        }
        metadata["sha256"] = digest(tensors, metadata)
        write_safetensors(self._path, tensors, metadata)

    def read(self) -> Checkpoint | None:
        """Return the checkpoint in the folder; None if there is none.

        Raises
        ------
        FileFormatError
            If it is damaged, or of another run; the message says what differs.
        """
        if not self._path.exists():
            return None
        where = shorten_path(self._path)
        tensors, metadata = read_safetensors(self._path)
        expected = metadata.pop("sha256", None)
        if metadata.get("format") != _FORMAT or digest(tensors, metadata) != expected:
            raise FileFormatError(
                f"{where}: not a checkpoint of this transferkit, or damaged; delete it"
            )
        run = json.loads(metadata["run"])
        different = [name for name in self._run if run.get(name) != self._run[name]]
        if different:
            details = "; ".join(
                f"{name} was {run.get(name)}, now {self._run[name]}" for name in different
            )
            raise FileFormatError(
                f"{where}: a checkpoint of another run: {details}; repeat that run, choose "
                "another folder, or delete this one"
            )
        arrays: dict[str, dict[str, Array]] = {}
        for name, array in tensors.items():
            group, _, own = name.partition(_SEPARATOR)
            arrays.setdefault(group, {})[own] = array
        return Checkpoint(arrays, json.loads(metadata["progress"]))
