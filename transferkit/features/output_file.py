"""Extraction to a NumPy file, which is resumed after an interruption."""

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

from transferkit.errors import OutputError, ParameterError, UnsupportedError
from transferkit.features.extraction import ExtractionInterrupted, Features, NoneReadableError
from transferkit.features.extractor import FeatureExtractor
from transferkit.networks import network_to_json
from transferkit.support.atomic_write import check_writable, write_atomically
from transferkit.weights.files import digest

__all__ = ["extract_to_file"]

# The arrays of a file, or of its partial results, that are not layers.
_RESERVED = ("sources", "made_by", "modified")


def extract_to_file(
    extractor: FeatureExtractor,
    files: Sequence[Path],
    layers: Sequence[str],
    output: Path,
) -> Features:
    """Extract features of files and write them to a ``.npz`` file.

    The file has an array for each layer, and ``sources``, the path of each row, in the order
    of ``files``. Images that cannot be read are left out. On Ctrl-C the results so far are
    written to a second file, named after the first with ``.partial`` appended; the next call
    with the same output and layers resumes from it, and removes it at the end.

    Parameters
    ----------
    extractor
        The extractor to run. Its network must have its weights as arrays: results of a
        framework's own model, whose weights may change, could not be resumed safely.
    files
        Paths of images.
    layers
        The layers to extract.
    output
        The file to write.

    Returns
    -------
    Features
        The features that were written, and the images that were skipped.

    Raises
    ------
    OutputError
        If the file cannot be written; checked before the extraction where possible.
    UnknownNameError
        If a layer is unknown.
    ParameterError
        If a layer has the name of another array of the file.
    UnsupportedError
        If the extractor runs a framework's own model.
    KeyboardInterrupt
        On Ctrl-C, after the results so far have been written.
    """
    if output.suffix != ".npz":
        raise OutputError(f"{output}: expected a file name that ends in .npz")
    check_writable(output)
    _check_extractor(extractor, layers)
    partial = output.with_name(output.name + ".partial")
    done = _read(partial, extractor, layers, files)
    known = set(done.sources)
    left = [file for file in files if os.fspath(file) not in known]
    try:
        new = extractor.extract(left, layers, on_error="skip") if left else None
    except NoneReadableError as error:
        if not done.sources:
            raise
        # An earlier call has done all images that can be read.
        new = dataclasses.replace(done, skipped=error.skipped)
    except ExtractionInterrupted as interruption:
        if interruption.features is not None:
            kept = _joined(files, layers, done, interruption.features)
            _write(partial, {**_arrays(kept), **_origin(extractor, kept.sources)})
        raise
    features = _joined(files, layers, done, new or done)
    _write(output, _arrays(features))
    partial.unlink(missing_ok=True)
    return features


def _check_extractor(extractor: FeatureExtractor, layers: Sequence[str]) -> None:
    """Check that the file can hold the layers, and that its origin can be recognized."""
    remedy = "use FeatureExtractor.extract, and write the arrays yourself"
    reserved = [layer for layer in layers if layer in _RESERVED]
    if reserved:
        raise ParameterError(
            f"layer {reserved[0]!r} has the name of another array of the file; expected layers "
            f"other than {', '.join(map(repr, _RESERVED))}; {remedy}"
        )
    model = extractor.model()
    if model.wrapped is not None:
        raise UnsupportedError(
            f"network {model.network.name!r} is a model of a framework, whose weights may change "
            f"between an interruption and the next call; expected a network of this library; "
            f"{remedy}"
        )


def _joined(
    files: Sequence[Path], layers: Sequence[str], done: Features, new: Features
) -> Features:
    """Return the rows of both, in the order of ``files``."""
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


def _arrays(features: Features) -> dict[str, npt.NDArray[Any]]:
    return {**features, "sources": np.asarray(features.sources)}


def _origin(extractor: FeatureExtractor, sources: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return a digest of everything that the values depend on, and the files' times."""
    model = extractor.model()
    description = {
        "network": network_to_json(model.network),
        "preprocessing": json.dumps(model.preprocessing.to_dict()),
    }
    if model.calibration is not None:
        description["calibration"] = model.calibration.digest()
    return {
        "made_by": np.asarray(digest(model.weights, description)),
        "modified": np.asarray([_modified(source) for source in sources], np.int64),
    }


def _modified(source: str) -> int:
    """Return the modification time of a file in nanoseconds; 0 if it does not exist."""
    try:
        return os.stat(source).st_mtime_ns
    except OSError:
        return 0


def _write(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    with write_atomically(path) as file, zipfile.ZipFile(file, "w") as archive:
        # np.savez takes names as keyword arguments, and "file" is one of its own.
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read(
    path: Path, extractor: FeatureExtractor, layers: Sequence[str], files: Sequence[Path]
) -> Features:
    """Return the results of an interrupted run with the same settings; empty if there are none."""
    nothing = Features({}, [], np.empty(0, np.intp), [])
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: Mapping[str, npt.NDArray[Any]] = dict(archive)
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile):
        # Not written by `_write`.
        return nothing
    if set(arrays) != {*layers, *_RESERVED}:
        return nothing
    sources = arrays["sources"].tolist()
    if any(len(arrays[name]) != len(sources) for name in (*layers, "modified")):
        return nothing
    origin = _origin(extractor, sources)
    if arrays["made_by"] != origin["made_by"]:
        return nothing
    # An image that has changed since is extracted again.
    unchanged = arrays["modified"] == origin["modified"]
    names = set(map(os.fspath, files))
    rows = [row for row, source in enumerate(sources) if source in names and bool(unchanged[row])]
    return Features(
        {layer: arrays[layer][rows] for layer in layers},
        [sources[row] for row in rows],
        np.arange(len(rows)),
        [],
    )
