"""Whether the files of a store have what was written to them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from transferkit.errors import DownloadError
from transferkit.store.manifest import read_manifest
from transferkit.store.mapped import compare_copy
from transferkit.store.places import find_place
from transferkit.store.shards import Shard, distinct_shards, has_valid_digest
from transferkit.support.arrow import import_arrow

__all__ = ["complete_shards", "missing_shards", "verify_store"]


def verify_store(folder: str | os.PathLike[str]) -> list[str]:
    """Compare the content of every shard with the digest in its name.

    The copies of layers in the folder are compared with the shards, too, if none of these is
    damaged. A copy that differs is removed.

    Parameters
    ----------
    folder
        The folder of the store, or its URL. Shards may be missing.

    Returns
    -------
    list of str
        What is wrong with each file that is missing or damaged; empty if none is. The next
        `transferkit.FeatureExtractor.extract_to` computes such shards again.

    Raises
    ------
    FileFormatError
        If the folder is no store, or it is of a newer version.
    DownloadError
        If a shard cannot be read from a server.
    ParameterError
        If ``folder`` is not a path or a URL.
    UnsupportedError
        If pyarrow is not installed.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit import FeatureExtractor
    >>> from transferkit.demo import TEST
    >>> from transferkit.store import verify_store
    >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    >>> with TemporaryDirectory() as folder:
    ...     store = fx.extract_to(folder, TEST)
    ...     store.shards[0].unlink()
    ...     verify_store(folder)
    ['shard 0: missing']
    """
    import_arrow()
    place = find_place(folder)
    manifest = read_manifest(place)
    shards = distinct_shards(place)
    missing = missing_shards([shard.number for shard in shards], manifest.num_shards)
    problems = {number: f"shard {number}: missing" for number in missing}
    for shard in shards:
        try:
            is_valid = has_valid_digest(shard)
        except DownloadError:
            raise
        except OSError as error:
            problems[shard.number] = f"{shard.name}: cannot be read: {error.strerror or error}"
        else:
            if not is_valid:
                problems[shard.number] = f"{shard.name}: the content is not what was written"
    found = [problems[number] for number in sorted(problems)]
    if not found:
        for layer, shape in manifest.layers.items():
            problem = compare_copy(place, complete_shards(shards), layer, shape, manifest.dtype)
            found += [] if problem is None else [problem]
    return found


def missing_shards(present: list[int], num_complete: int | None) -> list[int]:
    """Return the numbers of the shards that a store should have, but does not.

    Parameters
    ----------
    present
        The numbers of those that it has.
    num_complete
        The number of shards after the last run that was completed; None before the first. Later
        ones may not be written yet.
    """
    return sorted(set(range(num_complete or 0)).difference(present))


def complete_shards(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards up to the first that is not there, which may be written yet.

    Several processes may write shards at the same time, and not complete them in order.

    Parameters
    ----------
    shards
        One of each number, by number.
    """
    return [shard for index, shard in enumerate(shards) if shard.number == index]
