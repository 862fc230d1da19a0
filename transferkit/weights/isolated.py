"""Reading of Keras files in a separate process, with limits on its time and memory.

On damaged HDF5 files, libhdf5 can loop forever or crash, which cannot be caught or interrupted in
the same process. Reading in a new interpreter takes about half a second longer, so files with a
known digest are read by `transferkit.weights.keras_file.read_keras` directly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy

from transferkit.errors import FileFormatError, shorten_path
from transferkit.weights.files import read_safetensors
from transferkit.weights.keras_file import KerasLayers, read_keras

__all__ = ["read_keras_isolated"]

# Reading takes a fraction of this, also on a slow computer.
_CPU_SECONDS = 5
_WALL_SECONDS = 60
_SECONDS_PER_BYTE = 1e-7
# Address space, most of which libraries reserve and never use; and per byte of the file: the
# file, and the tensors twice, which may be compressed by a factor of 4.
_ADDRESS_SPACE = 4 * 2**30
_ADDRESS_SPACE_PER_BYTE = 12
_REJECTED = 3
"""The exit status of the child for a file that is rejected, with the message on stdout."""


def read_keras_isolated(path: str | os.PathLike[str]) -> KerasLayers:
    """Read the weights in a Keras file in a child process, which is ended if it takes too long.

    Parameters
    ----------
    path
        As for `transferkit.weights.keras_file.read_keras`.

    Returns
    -------
    dict of str to list of array
        As for `transferkit.weights.keras_file.read_keras`. The arrays are mapped from a temporary
        file that is removed, so changes of the file at ``path`` do not change them.

    Raises
    ------
    FileFormatError
        If the file does not exist, is damaged or truncated, refers to other files, or does not
        have Keras's structure; also if reading it takes too much time or memory, or crashes.
    """
    where = shorten_path(path)
    try:
        size = Path(path).stat().st_size
    except OSError:
        size = 0  # the child raises the error
    seconds = size * _SECONDS_PER_BYTE
    cpu_seconds = int(_CPU_SECONDS + seconds)
    address_space = _ADDRESS_SPACE + size * _ADDRESS_SPACE_PER_BYTE
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        output = Path(folder) / "layers.safetensors"
        # -P: modules in the working directory are not imported.
        command = [sys.executable, "-P", "-m", __name__]
        try:
            child = subprocess.run(
                [*command, where, str(output), str(cpu_seconds), str(address_space)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_WALL_SECONDS + seconds,
                env=_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FileFormatError(
                f"{where}: damaged: reading it took more than {error.timeout:.0f} seconds"
            ) from None
        except OSError as error:
            raise FileFormatError(
                f"{where}: cannot be read: no Python interpreter could be started ({error})"
            ) from error
        if child.returncode == _REJECTED:
            raise FileFormatError(child.stdout.decode(errors="replace"))
        if child.returncode == -getattr(signal, "SIGXCPU", 0):
            raise FileFormatError(
                f"{where}: damaged: reading it took more than {cpu_seconds} seconds of CPU time"
            )
        if child.returncode != 0:
            lines = child.stderr.decode(errors="replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "no message")
            raise FileFormatError(
                f"{where}: damaged: the process that read it ended with status "
                f"{child.returncode} ({reason})"
            )
        arrays, metadata = read_safetensors(output)
    layers: KerasLayers = {}
    position = 0
    for name, count in json.loads(metadata["layers"]):
        layers[name] = [arrays[str(index)] for index in range(position, position + count)]
        position += count
    return layers


def _environment() -> dict[str, str]:
    """Return the environment of a child that finds the same packages, and starts no threads."""
    folders = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **single, "PYTHONPATH": os.pathsep.join(folders)}


def _limit(cpu_seconds: int, address_space: int) -> None:
    """Limit this process, where the operating system can."""
    if sys.platform == "win32":
        return
    import resource  # absent on Windows

    limits = (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, value in limits:
        hard = resource.getrlimit(kind)[1]
        soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (soft, hard))
        except (ValueError, OSError):  # macOS does not limit the address space
            continue


def _main(path: str, output: str, cpu_seconds: str, address_space: str) -> int:
    """Read a Keras file and write its arrays to a safetensors file."""
    _limit(int(cpu_seconds), int(address_space))
    try:
        layers = read_keras(path)
    except FileFormatError as error:
        sys.stdout.buffer.write(str(error).encode(errors="replace"))
        return _REJECTED
    arrays = [array for values in layers.values() for array in values]
    safetensors.numpy.save_file(
        {str(index): np.asarray(array, order="C") for index, array in enumerate(arrays)},
        output,
        {"layers": json.dumps([[name, len(values)] for name, values in layers.items()])},
    )
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
