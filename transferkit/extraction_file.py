"""Features in a NumPy file; what an interrupted run has done is kept, and gone on from."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transferkit.errors import OutputError
from transferkit.extractor import FeatureExtractor
from transferkit.features import ExtractionInterrupted, Features, NoneReadableError
from transferkit.output import check_writable, write_atomically

__all__ = ["extract_to_file"]


def extract_to_file(
    extractor: FeatureExtractor,
    files: Sequence[Path],
    layers: Sequence[str],
    output: Path,
) -> Features:
    """Extract features of files and write them to a ``.npz`` file.

    The file has an array for each layer, and ``sources``, the path of each row, in the order
    of ``files``. Pictures that cannot be read are left out. On Ctrl-C what is done is written
    beside it, under the name with ``.partial`` behind it; the next call with the same output
    and layers takes it from there and removes it in the end.

    Parameters
    ----------
    extractor
        What extracts.
    files
        Of pictures.
    layers
        Which layers.
    output
        The file to write.

    Returns
    -------
    Features
        What was written, and what was skipped.

    Raises
    ------
    OutputError
        If the file cannot be written; found out before the work where that is possible.
    UnknownNameError
        If there is no such layer.
    KeyboardInterrupt
        On Ctrl-C, once what is done has been written.
    """
    if output.suffix != ".npz":
        raise OutputError(f"{output}: features are written to a NumPy file; end its name in .npz")
    check_writable(output)
    partial = output.with_name(output.name + ".partial")
    done = _read(partial, extractor, layers, files)
    known = set(done.sources)
    left = [file for file in files if os.fspath(file) not in known]
    try:
        new = extractor.extract(left, layers, on_error="skip") if left else None
    except NoneReadableError as error:
        if not done.sources:
            raise
        # What an earlier call left over are just the pictures that cannot be read.
        new = dataclasses.replace(done, skipped=error.skipped)
    except ExtractionInterrupted as interruption:
        if interruption.found is not None:
            _write(partial, extractor, _joined(files, layers, done, interruption.found))
        raise
    found = _joined(files, layers, done, new or done)
    _write(output, extractor, found)
    partial.unlink(missing_ok=True)
    return found


def _joined(
    files: Sequence[Path], layers: Sequence[str], done: Features, new: Features
) -> Features:
    """The rows of both, in the order of ``files``."""
    if not done.sources:
        return new
    sources = [*done.sources, *new.sources]
    row_of = {source: row for row, source in enumerate(sources)}
    names = [os.fspath(file) for file in files]
    indices = [index for index, name in enumerate(names) if name in row_of]
    rows = [row_of[names[index]] for index in indices]
    arrays = {layer: np.concatenate([done[layer], new[layer]])[rows] for layer in layers}
    ordered = [names[index] for index in indices]
    return Features(arrays, ordered, np.asarray(indices, np.intp), new.skipped)


def _write(path: Path, extractor: FeatureExtractor, found: Features) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {**found}
    arrays["sources"] = np.asarray(found.sources)
    arrays["network"] = np.asarray(str(extractor.network))
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        # np.savez takes names as keyword arguments, of which "file" would be its own.
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read(
    path: Path, extractor: FeatureExtractor, layers: Sequence[str], files: Sequence[Path]
) -> Features:
    """What an interrupted run left for these; nothing if there is none, or another's."""
    nothing = Features({}, [], np.empty(0, np.intp), [])
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: Mapping[str, npt.NDArray[np.float32]] = dict(archive)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile):
        # Not written by `_write`: no archive of arrays at all.
        return nothing
    expected = {*layers, "sources", "network"}
    if set(arrays) != expected or str(arrays["network"]) != str(extractor.network):
        return nothing
    sources = arrays["sources"].tolist()
    if any(len(arrays[layer]) != len(sources) for layer in layers):
        return nothing
    names = set(map(os.fspath, files))
    rows = [row for row, source in enumerate(sources) if source in names]
    return Features(
        {layer: arrays[layer][rows] for layer in layers},
        [sources[row] for row in rows],
        np.arange(len(rows)),
        [],
    )
