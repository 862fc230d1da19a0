"""The manifest of a store: what its features were computed with, and how they are stored."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transferkit.errors import DownloadError, FileFormatError, ParameterError, shorten, shorten_path
from transferkit.store.places import Place, find_place
from transferkit.store.shards import DTYPES, FORMAT, list_shards

__all__ = ["MANIFEST", "Manifest", "has_manifest", "read_manifest", "write_manifest"]

MANIFEST = "_manifest.json"
"""The name of the manifest in the folder of a store."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the features of a store were computed with, and how they are stored.

    Attributes
    ----------
    description
        What they were computed with, as plain data for JSON: ``network``, ``weights_digest``,
        ``preprocessing``, ``precision``, ``backend``, ``device``, ``versions`` and more.
    layers
        The name of each layer to the shape of its output for one image, (h, w, c) or (d,).
    dtype
        ``"float32"`` or ``"float16"``.
    shard_size
        The number of images of a shard that is complete.
    num_shards
        The number of shards after the last run that was completed; None before the first.
    num_rows
        The number of images in these, skipped ones included; None before the first.
    format
        The version of the format of the store.
    """

    description: Mapping[str, Any]
    layers: Mapping[str, tuple[int, ...]]
    dtype: str
    shard_size: int
    num_shards: int | None = None
    num_rows: int | None = None
    format: int = FORMAT

    def check_same(self, other: Manifest, differences: list[str], place: Place) -> None:
        """Check that a run with other settings would write the same columns.

        Parameters
        ----------
        other
            The manifest that the run would write.
        differences
            In which its description differs, as clauses.
        place
            Where the store is, for the message.

        Raises
        ------
        ParameterError
            If it would not; the message names each difference.
        """
        found = list(differences)
        for name in ("layers", "dtype", "shard_size"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                if name == "layers" and set(ours) != set(theirs):
                    ours, theirs = list(ours), list(theirs)
                found.append(f"{name} is {shorten(ours)} in the store, {shorten(theirs)} here")
        if found:
            raise ParameterError(
                f"{shorten_path(place)}: a store made with other settings: {'; '.join(found)}; "
                "use the same settings, or another folder"
            )


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write the manifest of a store, whole or not at all.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    text = json.dumps(dataclasses.asdict(manifest), indent=2)
    find_place(folder).write(MANIFEST, text.encode())


def has_manifest(folder: str | os.PathLike[str]) -> bool:
    """Return whether there is a store in a folder, which need not exist.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    try:
        return MANIFEST in find_place(folder).names()
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a store.

    Raises
    ------
    FileFormatError
        If there is none, or it is damaged or of a newer version.
    DownloadError
        If it cannot be read from a server.
    """
    place = find_place(folder)
    where = shorten_path(place.locate(MANIFEST))
    try:
        with place.open(MANIFEST) as file:
            text = file.read().decode()
    except FileNotFoundError:
        raise FileFormatError(_why_missing(place)) from None
    except DownloadError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise FileFormatError(f"{where}: cannot be read: {reason}") from error
    try:
        data: Mapping[str, Any] = json.loads(text)
        version = data["format"]
        if isinstance(version, int) and version > FORMAT:
            raise FileFormatError(
                f"{where}: a store of format {version}; this version of transferkit reads formats "
                f"up to {FORMAT}: pip install --upgrade transferkit"
            )
        manifest = Manifest(
            description=dict(data["description"]),
            layers={str(layer): tuple(map(int, shape)) for layer, shape in data["layers"].items()},
            dtype=str(data["dtype"]),
            shard_size=int(data["shard_size"]),
            num_shards=None if data["num_shards"] is None else int(data["num_shards"]),
            num_rows=None if data["num_rows"] is None else int(data["num_rows"]),
            format=int(version),
        )
        if manifest.dtype not in DTYPES or manifest.shard_size < 1 or not manifest.layers:
            raise ValueError("an entry has an invalid value")
    except FileFormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise FileFormatError(
            f"{where}: not the manifest of a store, or damaged ({shorten(error)})"
        ) from error
    return manifest


def _why_missing(place: Place) -> str:
    """Return the message for a folder without a manifest."""
    where = shorten_path(place)
    try:
        place.names()
    except FileNotFoundError:
        return f"{where}: no such folder"
    except NotADirectoryError:
        return f"{where}: a file, not a folder"
    if list_shards(place):
        return (
            f"{where}: the store has no {MANIFEST}, as if only a part of it had been copied; copy "
            "it too"
        )
    return f"{where}: no store of features in this folder: it has no {MANIFEST}"
