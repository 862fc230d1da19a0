"""Features in a NumPy file; what an interrupted run has done is kept, and gone on from."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import OutputError
from transferkit.features.extraction import ExtractionInterrupted, Features, NoneReadableError
from transferkit.features.extractor import FeatureExtractor
from transferkit.networks import network_to_json
from transferkit.support.atomic_write import check_writable, write_atomically
from transferkit.weights.files import digest

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
            kept = _joined(files, layers, done, interruption.found)
            _write(partial, {**_arrays(kept), **_origin(extractor, kept.sources)})
        raise
    found = _joined(files, layers, done, new or done)
    _write(output, _arrays(found))
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


def _arrays(found: Features) -> dict[str, npt.NDArray[Any]]:
    return {**found, "sources": np.asarray(found.sources)}


def _origin(extractor: FeatureExtractor, sources: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """All that the numbers depend on: what they must still agree with to be gone on from."""
    model = extractor.model()
    description = {
        "network": network_to_json(model.network),
        "preprocessing": json.dumps(model.preprocessing.to_dict()),
    }
    return {
        "made_by": np.asarray(digest(model.weights, description)),
        "modified": np.asarray([_modified(source) for source in sources], np.int64),
    }


def _modified(source: str) -> int:
    """When a file was last changed, in nanoseconds; 0 if it is gone."""
    try:
        return os.stat(source).st_mtime_ns
    except OSError:
        return 0


def _write(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
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
            arrays: Mapping[str, npt.NDArray[Any]] = dict(archive)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile):
        # Not written by `_write`: no archive of arrays at all.
        return nothing
    if set(arrays) != {*layers, "sources", "made_by", "modified"}:
        return nothing
    sources = arrays["sources"].tolist()
    if any(len(arrays[name]) != len(sources) for name in (*layers, "modified")):
        return nothing
    origin = _origin(extractor, sources)
    if arrays["made_by"] != origin["made_by"]:
        return nothing
    # A picture that was changed since is done again.
    unchanged = arrays["modified"] == origin["modified"]
    names = set(map(os.fspath, files))
    rows = [row for row, source in enumerate(sources) if source in names and bool(unchanged[row])]
    return Features(
        {layer: arrays[layer][rows] for layer in layers},
        [sources[row] for row in rows],
        np.arange(len(rows)),
        [],
    )
