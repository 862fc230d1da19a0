"""Features from a store, in place of those that a classifier would compute from images."""

from __future__ import annotations

import numpy as np

from transferkit.backends import Program
from transferkit.errors import DatasetError, ParameterError, shorten_path
from transferkit.features import Features
from transferkit.features.identity import Identity, identify
from transferkit.models import Model
from transferkit.store import FeatureStore

__all__ = ["read_stored_features"]


def read_stored_features(
    store: FeatureStore, program: Program, model: Model, layer: str, num_labels: int
) -> Features:
    """Return the features of a layer in a store, as if they had been computed from the images.

    Parameters
    ----------
    store
        The store.
    program, model
        The network of a classifier.
    layer
        The layer that it is trained on.
    num_labels
        The number of labels: one for each row of the store, or one for each of its images, those
        that were skipped included.

    Returns
    -------
    Features
        ``indices`` are positions among the labels.

    Raises
    ------
    ParameterError
        If the features are those of another network, other weights, preprocessing or precision.
    UnknownNameError
        If the layer was not stored.
    DatasetError
        If the store has another number of images.
    """
    _check_identity(store, program, model)
    resolved = model.network.resolve(layer)
    # A layer may be stored under another of its names.
    names = [name for name in store if model.network.resolve(name) == resolved]
    rows = np.arange(len(store.indices))
    skipped = store.skipped
    if num_labels == len(rows):
        skipped = []
    elif num_labels == len(rows) + len(skipped):
        rows = store.positions
    else:
        left_out = f" and {len(skipped)} skipped images" if skipped else ""
        raise DatasetError(
            f"X has {len(rows)} rows{left_out}, but y has {num_labels} labels; expected one for "
            "each row" + (", or one for each row and skipped image" if skipped else "")
        )
    array = store[names[0] if names else layer]
    return Features(
        {layer: np.asarray(array, np.float32)},
        list(store.sources),
        rows.astype(np.intp),
        skipped,
    )


def _check_identity(store: FeatureStore, program: Program, model: Model) -> None:
    """Check that the features are those that the network of a classifier computes."""
    source = shorten_path(store.folder)
    stored = Identity.from_dict(store.info.description, source)
    found = stored.differences(
        identify(program, model),
        # Which are within 1e-4 of each other.
        ignored=("backend", "device"),
        names=(" in the store", " in the classifier"),
    )
    if found:
        raise ParameterError(
            f"{source}: not the features of this classifier's network: {'; '.join(found)}; pass "
            "the network, weights and preprocessing of the store to the classifier"
        )
