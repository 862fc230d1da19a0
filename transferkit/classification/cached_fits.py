"""Results of fits to embeddings, kept in a cache, since fitting takes longer than finding features.

A fit is found by the values of the embeddings, the labels, the weights and all settings. What it
returns is exactly what was computed before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
import sklearn

from transferkit.classification.head import Head, fit_head
from transferkit.classification.unknown import (
    DistanceWeights,
    KnownScores,
    fit_distance,
    held_out_scores,
)
from transferkit.errors import FileFormatError, OutputError
from transferkit.features.cache import FITS, FeatureCache
from transferkit.support.version import __version__
from transferkit.weights.files import digest, read_safetensors, write_safetensors

__all__ = ["CachedFits"]

_LOGGER = logging.getLogger(__name__)

_FORMAT = 1

Floats = npt.NDArray[np.float32]
Values = dict[str, Any]


class CachedFits:
    """Fits heads and scores of unknown images, or returns what was fitted before.

    Parameters
    ----------
    cache
        Where results are kept; None: nowhere.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from transferkit.classification.cached_fits import CachedFits
    >>> from transferkit.features import FeatureCache
    >>> embeddings, labels = np.eye(4, dtype=np.float32), np.array([0, 0, 1, 1])
    >>> with TemporaryDirectory() as folder:
    ...     fits = CachedFits(FeatureCache(folder))
    ...     first = fits.head(embeddings, labels, C=1.0, seed=0)
    ...     second = fits.head(embeddings, labels, C=1.0, seed=0)
    >>> bool((first.weight == second.weight).all())
    True
    """

    def __init__(self, cache: FeatureCache | None) -> None:
        self._cache = cache

    def head(
        self,
        embeddings: Floats,
        labels: npt.NDArray[np.intp],
        *,
        C: float | None,
        seed: int,
        sample_weight: npt.NDArray[np.float64] | None = None,
    ) -> Head:
        """Return the result of `fit_head`, which describes the parameters."""
        # With C given, there are no folds.
        settings = {"C": C, "seed": None if C is not None else seed}
        path = self._path("head", embeddings, labels, sample_weight, settings)
        known = _read(path)
        if known is not None:
            arrays, values = known
            return Head(arrays["weight"], arrays["bias"], **values)
        head = fit_head(embeddings, labels, C=C, seed=seed, sample_weight=sample_weight)
        values = head._asdict()
        self._write(path, {name: values.pop(name) for name in ("weight", "bias")}, values)
        return head

    def unknown_score(
        self, embeddings: Floats, labels: npt.NDArray[np.intp], *, seed: int
    ) -> tuple[DistanceWeights, KnownScores]:
        """Return the results of `fit_distance` and `held_out_scores`."""
        path = self._path("unknown_score", embeddings, labels, None, {"seed": seed})
        known = _read(path)
        if known is not None:
            return DistanceWeights(**known[0]), KnownScores(tuple(known[1]["quantiles"]))
        scores = held_out_scores(embeddings, labels, seed=seed)
        weights = fit_distance(embeddings, labels)
        self._write(path, weights._asdict(), {"quantiles": scores.quantiles})
        return weights, scores

    def _path(
        self,
        what: str,
        embeddings: Floats,
        labels: npt.NDArray[np.intp],
        sample_weight: npt.NDArray[np.float64] | None,
        settings: Mapping[str, float | None],
    ) -> Path | None:
        """Return the file for a fit; None without a cache."""
        if self._cache is None:
            return None
        description = {
            "format": _FORMAT,
            "fit": what,
            "settings": settings,
            "shape": embeddings.shape,
            # They determine the last bits of a fit.
            "versions": [__version__, np.__version__, scipy.__version__, sklearn.__version__],
        }
        sha256 = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        sha256.update(np.ascontiguousarray(embeddings, "<f4").data)
        sha256.update(np.ascontiguousarray(labels, "<i8").data)
        if sample_weight is not None:
            sha256.update(np.ascontiguousarray(sample_weight, "<f8").data)
        return self._cache.path / FITS / f"{sha256.hexdigest()}.safetensors"

    def _write(self, path: Path | None, tensors: Mapping[str, Floats], values: Values) -> None:
        if self._cache is None or path is None:
            return
        metadata = {"values": json.dumps(values)}
        metadata["sha256"] = digest(tensors, metadata)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, tensors, metadata)
        except (OSError, OutputError) as error:
            # There was a warning already, when the features could not be written.
            _LOGGER.info("the fit is not cached: %s", error)
            return
        self._cache.limit_size()


def _read(path: Path | None) -> tuple[dict[str, Floats], Values] | None:
    """Return the arrays and values of a fit; None if there are none, or they are damaged."""
    try:
        if path is None or not path.is_file():
            return None
        mapped, metadata = read_safetensors(path)
        tensors = {name: np.array(tensor) for name, tensor in mapped.items()}
        expected = metadata.pop("sha256", None)
        if digest(tensors, metadata) != expected:
            raise FileFormatError(f"{path}: damaged")
    except (FileFormatError, OSError) as error:
        # An OSError is that of a name that is too long.
        _LOGGER.warning("not used: %s", error)
        return None
    # Those that were not used for the longest time are removed first.
    with contextlib.suppress(OSError):
        os.utime(path)
    return tensors, json.loads(metadata["values"])
