"""Images with their labels, and labels as indices of classes."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from transferkit.datasets import LabelledImages
from transferkit.datasets.labels import Labels, check_finite_labels, label_array
from transferkit.errors import DatasetError, shorten, shorten_path
from transferkit.features import Features
from transferkit.features.extraction import check_no_store
from transferkit.images import Images, Skipped, count_images, list_labeled_images
from transferkit.images.stream import source_name
from transferkit.store import FeatureStore
from transferkit.support.remote import is_url

__all__ = [
    "LabelsOfSources",
    "check_classes",
    "class_indices",
    "format_labels",
    "list_small_classes",
    "of_rows",
    "unknown_labels_error",
    "with_labels",
]

LabelsOfSources = Mapping[Any, Any] | LabelledImages
"""The labels of the images of a store by their sources: a dict, or images with their labels."""

_MAX_SHOWN = 5


def with_labels(
    X: Images | LabelledImages | FeatureStore,
    y: Labels | LabelsOfSources | None,
    *,
    on_error: str = "raise",
    skipped: list[Skipped] | None = None,
    accepts_store: bool = False,
) -> tuple[Images, npt.NDArray[Any]]:
    """Return images and an array with one label for each of them.

    Strings are converted to Unicode's normalization form C, since file systems differ in it.

    Parameters
    ----------
    X, y
        Images and their labels, or a folder of class folders or `LabelledImages`, and None; or a
        store of features, of which the number of rows is not compared, and its labels, or
        those of its sources.
    on_error, skipped
        Of class folders without images, as for `transferkit.list_labeled_images`; and what
        `LabelledImages` already left out.
    accepts_store
        Whether ``X`` may be a store.

    Raises
    ------
    DatasetError
        If labels are missing, of mixed or other types, not finite, or not as many as images; or
        a source of a store has none.
    ImageTypeError
        If ``X`` is a store, which is not accepted.
    """
    if not accepts_store:
        check_no_store(X)
    if isinstance(X, FeatureStore):
        if isinstance(y, LabelledImages) and skipped is not None:
            skipped += y.skipped
        return X, _labels_of_rows(X, y)
    if isinstance(X, LabelledImages):
        if skipped is not None:
            skipped += X.skipped
        return _images_and_labels(X, y)
    if y is None:
        if not isinstance(X, (str, os.PathLike)):
            raise DatasetError(
                "labels are missing: pass y, one label for each image, or the path of a folder "
                "with one subfolder of images for each class, or transferkit.datasets.from_csv and "
                "the like"
            )
        paths, names = list_labeled_images(X, on_error=on_error, skipped=skipped)
        return paths, np.asarray(names)
    if isinstance(y, (Mapping, LabelledImages)):
        raise DatasetError(
            f"y is a {type(y).__name__}, which is accepted for a FeatureStore; for images, pass "
            "one label for each, in their order"
        )
    labels = label_array(y)
    _check_images(X, len(labels))
    check_finite_labels(labels)
    number = count_images(X)
    if number is not None and number != len(labels):
        raise DatasetError(f"X has {number} images, but y has {len(labels)} labels")
    return X, labels


def _labels_of_rows(store: FeatureStore, y: Labels | LabelsOfSources | None) -> npt.NDArray[Any]:
    """Return the labels of a store, one for each row if they are those of sources."""
    if y is None:
        raise DatasetError(
            "labels are missing: X is a store of features; pass y, one label for each of its rows, "
            "in the order of X.sources, or a dict from source to label"
        )
    if isinstance(y, (Mapping, LabelledImages)):
        labels = label_array(_labels_of_sources(store.sources, y))
    else:
        labels = label_array(y)
    check_finite_labels(labels)
    return labels


def _labels_of_sources(sources: Sequence[str], y: LabelsOfSources) -> list[Hashable]:
    if isinstance(y, LabelledImages):
        images, labels = _images_and_labels(y, None, name="y")
        names = [source_name(image, index) for index, image in enumerate(cast("Any", images))]
        y = dict(zip(names, labels.tolist(), strict=True))
    label_of = {_full_name(os.fsdecode(source)): label for source, label in y.items()}
    without = [source for source in sources if _full_name(source) not in label_of]
    if without:
        number = f"{len(without)} of the {len(sources)} images of the store have no label in y"
        raise DatasetError(
            f"{number}: {', '.join(map(shorten_path, without[:3]))}"
            f"{', ...' if len(without) > 3 else ''}; expected a label for each of X.sources"
        )
    return [label_of[_full_name(source)] for source in sources]


def _full_name(source: str) -> str:
    """Return a name of an image that does not depend on the working folder, as stores have it."""
    return source if is_url(source) else os.path.abspath(source)


def _images_and_labels(
    data: LabelledImages, y: Labels | LabelsOfSources | None, *, name: str = "X"
) -> tuple[Images, npt.NDArray[Any]]:
    """Return the images of a data set and their labels."""
    if y is not None:
        raise DatasetError("X has its own labels; leave y out, or pass X.images and y")
    splits = data.split_names
    if len(splits) > 1:
        names = format_labels(splits)
        raise DatasetError(
            f"{name} has the splits {names}; pass one of them, such as "
            f"{name}.of_split({splits[0]!r})"
        )
    return data.images, data.labels


def _check_images(X: Images, number: int) -> None:
    """Raise an error if ``X`` is a table of features with ``number`` rows, instead of images."""
    if isinstance(X, Sequence) and len(X) and isinstance(X[0], (list, tuple, np.ndarray)):
        shape = (len(X), *np.shape(X[0]))
    else:
        # A sparse matrix is rejected as such later.
        shape = () if hasattr(X, "toarray") else tuple(getattr(X, "shape", ()))
    # The array of a single image has one label; a data frame with one column may have paths.
    if len(shape) == 2 and shape[0] == number > 1 and shape[1] > 1:
        select = 'for images, select their column, such as df["path"]; '
        raise DatasetError(
            f"X is a table of {shape[0]} rows and {shape[1]} columns, not images; "
            f"{select if hasattr(X, 'columns') else ''}for features, use a classifier of "
            "scikit-learn, such as sklearn.linear_model.LogisticRegression"
        )


def of_rows(values: npt.NDArray[Any], features: Features) -> npt.NDArray[Any]:
    """Return the labels or weights of the images that were not skipped.

    Parameters
    ----------
    values
        (n,) one for each image.
    features
        The rows of the images that were not skipped.

    Raises
    ------
    DatasetError
        If there are not as many labels as images.
    """
    number = len(features.sources) + len(features.skipped)
    if number != len(values):
        raise DatasetError(f"X has {number} images, but y has {len(values)} labels")
    return np.asarray(values[features.indices])


def class_indices(
    labels: npt.NDArray[Any], classes: npt.NDArray[Any], *, of: str = ""
) -> npt.NDArray[np.intp]:
    """Return the index of the class of each label.

    Parameters
    ----------
    labels
        (n,) the label of each image.
    classes
        (c,) the classes of a classifier.
    of
        What has the labels, for the message.

    Raises
    ------
    DatasetError
        If a label is not one of the classes.
    """
    index_of = {label: index for index, label in enumerate(classes.tolist())}
    unknown = set(labels.tolist()) - index_of.keys()
    if unknown:
        raise unknown_labels_error(unknown, classes, of=of)
    return np.asarray([index_of[label] for label in labels.tolist()], np.intp)


def unknown_labels_error(
    unknown: Iterable[Hashable], classes: npt.NDArray[Any], *, of: str = ""
) -> DatasetError:
    """Return the error for labels that are not classes of a classifier."""
    return DatasetError(
        f"{of + ' has ' if of else ''}labels that are not classes of the classifier: "
        f"{format_labels(sorted(unknown, key=str))}; its classes are "
        f"{format_labels(classes.tolist())}"
    )


def check_classes(
    classes: npt.NDArray[Any], counts: npt.NDArray[np.intp], *, min_images: int, weighted: bool
) -> None:
    """Check that there are at least two classes of enough images.

    Parameters
    ----------
    classes
        (c,) the labels of the classes.
    counts
        (c,) the number of images of each class that a classifier is fitted to; classes without
        any are not counted.
    min_images
        The number of images that each class needs.
    weighted
        Whether images of weight 0 were left out, which the message then states.

    Raises
    ------
    DatasetError
        If not.
    """
    classes, counts = classes[counts > 0], counts[counts > 0]
    which = " of a weight greater than 0" if weighted else ""
    if len(classes) == 0:
        raise DatasetError(f"no images{which} to train on")
    if len(classes) == 1:
        images = f" among the images{which}" if weighted else ""
        raise DatasetError(
            f"only one class{images}, {shorten(classes.tolist()[0])}; at least two are required"
        )
    if counts.min() < min_images:
        small = classes[counts < min_images].tolist()
        raise DatasetError(
            f"classes with only one image{which}: {format_labels(small)}; to choose C by "
            "cross-validation each class needs at least two. Add images, leave these classes out, "
            "or pass C"
        )


def list_small_classes(
    classes: npt.NDArray[Any], counts: npt.NDArray[np.intp], min_images: int
) -> list[Skipped]:
    """Return the classes with fewer than ``min_images`` images, and the reason to skip them.

    Parameters
    ----------
    classes
        (c,) the labels of the classes.
    counts
        (c,) the number of images of each.
    min_images
        The number of images that each class needs.
    """
    small = counts < min_images
    return [
        Skipped(
            f"class {shorten(label)}",
            f"{count} image; at least {min_images} are required" if count else "no image is left",
        )
        for label, count in zip(classes[small].tolist(), counts[small].tolist(), strict=True)
    ]


def format_labels(labels: Sequence[Hashable]) -> str:
    """Return the first few labels and the number of further ones, for a message."""
    more = f" and {len(labels) - _MAX_SHOWN} more" if len(labels) > _MAX_SHOWN else ""
    return ", ".join(map(shorten, labels[:_MAX_SHOWN])) + more
