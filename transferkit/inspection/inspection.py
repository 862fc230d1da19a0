"""`inspect_images`: everything that is wrong with the images of a data set, in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.backends import Backend
from transferkit.datasets import LabelledImages, from_folder
from transferkit.features import FeatureExtractor
from transferkit.features.extraction import NoneReadableError, check_finite, compute_features
from transferkit.images import Images, Skipped, list_images
from transferkit.images.stream import image_sequence, source_name
from transferkit.inspection.duplicates import (
    Pair,
    exact_pairs,
    groups_of_copies,
    near_pairs,
)
from transferkit.inspection.findings import KINDS, Finding, check_kinds, check_thresholds
from transferkit.inspection.labels import label_disagreement, outlier_scores
from transferkit.inspection.neighbors import check_number
from transferkit.inspection.observation import Observer
from transferkit.inspection.result import Inspection
from transferkit.models import AnyWeights
from transferkit.support.random_state import RandomState, as_seed

__all__ = ["inspect_images"]

_COPIES = frozenset(("duplicate", "near-duplicate", "leak", "conflicting-label"))
_NEAR_COPIES = _COPIES - {"duplicate"}
# What more than this fraction of the images has in common is a property of the data set.
_COMMON = 0.5
# Kinds that a blank image is not listed for again.
_OF_STRUCTURE = frozenset(("blurred", "dark", "bright", "grey"))
# The splits whose images are kept rather than those of others.
_TRAINING = ("train", "training")


def inspect_images(
    data: Images | LabelledImages,
    network: object = "mobilenet_v2",
    *,
    weights: AnyWeights = None,
    backend: str | Backend | None = None,
    device: str | None = None,
    batch_size: int = 32,
    kinds: Iterable[str] | None = None,
    thresholds: Mapping[str, float] | None = None,
    random_state: RandomState = 0,
    progress: bool | None = None,
) -> Inspection:
    """Find what is wrong with the images of a data set.

    Each file is read once, in threads, while a network computes the embeddings of those before it.

    Parameters
    ----------
    data
        A folder with ``class/file`` or ``split/class/file``, or with images only; a
        `transferkit.datasets.LabelledImages`; or images as for
        `transferkit.images.stream_batches`. Without labels, the kinds that need them are not
        looked for.
    network, weights, backend, device, batch_size
        As for `transferkit.FeatureExtractor`: what computes the embeddings.
    kinds
        The kinds of findings to look for, of `transferkit.inspection.KINDS`; None: all.
    thresholds
        Kind to threshold, in place of those of `transferkit.inspection.THRESHOLDS`.
    random_state
        Seed of the folds for the labels: an int, a ``numpy.random.Generator``, a
        ``numpy.random.RandomState``, or None.
    progress
        Whether to show a progress bar; None: on a terminal or in a notebook.

    Returns
    -------
    Inspection
        Its ``findings`` are a list of `Finding`, which it also writes as a table, JSON or a page.

    Raises
    ------
    DatasetError
        If there are no images, or class folders and splits are mixed.
    UnknownNameError
        If the network, a kind or a threshold is unknown.
    UnsupportedError
        If there are more than 100,000 images and faiss is not installed.

    Notes
    -----
    Copies are found by SHA-256, or among the nearest neighbors of the embeddings and then
    confirmed in pixels (`transferkit.inspection.alignment.compare_copies`). Labels are compared
    with the predictions of a linear classifier that was trained on the other images, as in
    confident learning (Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty in
    dataset labels", 2021).

    Examples
    --------
    >>> from transferkit import inspect_images
    >>> from transferkit.demo import TRAIN
    >>> found = inspect_images(TRAIN, backend="onnxruntime")
    >>> found.findings
    []
    """
    chosen = check_kinds(kinds)
    limits = check_thresholds(thresholds)
    seed = as_seed(random_state)
    root, collection = _collect(data)
    if chosen & _NEAR_COPIES:
        check_number(len(collection.sources))
    extractor = FeatureExtractor(
        network,
        weights=weights,
        backend=backend,
        device=device,
        batch_size=batch_size,
        progress=progress,
    )
    observed = _observe(extractor, collection)
    findings: list[Finding] = []
    notes: list[str] = []
    ranking: list[Finding] = []
    findings += _file_findings(collection, observed)
    findings += _appearance_findings(collection, observed, limits, chosen, notes)
    groups = np.arange(len(observed.rows))
    if chosen & _COPIES:
        pairs = _find_pairs(collection, observed, limits["near-duplicate"], chosen)
        findings += _copy_findings(collection, pairs)
        position = {row: index for index, row in enumerate(observed.rows.tolist())}
        groups = groups_of_copies(
            len(observed.rows),
            [
                pair._replace(first=position[pair.first], second=position[pair.second])
                for pair in pairs
                if pair.first in position and pair.second in position
            ],
        )
    if len(observed.rows):
        found, ranking = _class_findings(collection, observed, groups, limits, chosen, seed)
        findings += found
    findings += _imbalance(collection, limits["imbalance"])
    order = {kind: index for index, kind in enumerate(KINDS)}
    kept = [finding for finding in findings if finding.kind in chosen]
    return Inspection(
        findings=sorted(kept, key=lambda finding: order[finding.kind]),
        label_ranking=ranking,
        sources=collection.sources,
        labels=collection.labels,
        splits=collection.splits,
        notes=notes,
        skipped=collection.skipped,
        network=extractor.model().network.name,
        root=root,
        images=collection.images,
        digests=[one.digest for one in observed.observer.observations],
    )


class _Collection(NamedTuple):
    """The images of a data set; labels and splits are None where there are none."""

    images: Any
    sources: list[str]
    labels: npt.NDArray[Any] | None
    splits: npt.NDArray[Any] | None
    skipped: list[Skipped]

    @property
    def rank(self) -> npt.NDArray[np.intp]:
        """The order in which images are kept: those of the training split first."""
        number = len(self.sources)
        if self.splits is None:
            return np.arange(number)
        is_other = ~np.isin(np.char.lower(self.splits.astype(str)), _TRAINING)
        rank = np.empty(number, np.intp)
        rank[np.argsort(is_other, kind="stable")] = np.arange(number)
        return rank


def _collect(data: Images | LabelledImages) -> tuple[Path | None, _Collection]:
    """Return the folder, if one was given, and the images in it."""
    root = None
    if isinstance(data, (str, os.PathLike)):
        folder = Path(data)
        data = _read_folder(folder)
        root = folder if folder.is_dir() else None
    if isinstance(data, LabelledImages):
        return root, _Collection(data.images, data.sources, data.labels, data.splits, data.skipped)
    images = image_sequence(data)
    sources = [source_name(image, index) for index, image in enumerate(images)]
    return root, _Collection(images, sources, None, None, [])


def _read_folder(folder: Path) -> LabelledImages | list[Path]:
    """Return the images of a folder, with labels unless most images are in no subfolder."""
    images = list_images(folder)
    loose = sum(folder in (image, image.parent) for image in images)
    return images if 2 * loose >= len(images) else from_folder(folder, on_error="skip")


class _Observed(NamedTuple):
    """What the pass over the images gave.

    ``rows`` are the positions of the images that were read, ``embeddings`` their embeddings of unit
    length, and ``unreadable`` the others, with the reason.
    """

    observer: Observer
    rows: npt.NDArray[np.intp]
    embeddings: npt.NDArray[np.float32]
    unreadable: dict[int, str]


def _observe(extractor: FeatureExtractor, collection: _Collection) -> _Observed:
    observer = Observer(len(collection.sources))
    program, model = extractor._load()
    try:
        features = compute_features(
            program,
            model.preprocessing,
            collection.images,
            ["embedding"],
            batch_size=extractor.batch_size,
            on_error="skip",
            progress=extractor.progress,
            read=observer,
        )
    except NoneReadableError as error:
        reasons = {index: one.reason for index, one in enumerate(error.skipped)}
        empty = np.zeros((0, 1), np.float32)
        return _Observed(observer, np.zeros(0, np.intp), empty, reasons)
    embeddings = features["embedding"].reshape(len(features.sources), -1)
    check_finite(embeddings, features.sources, "embedding")
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings /= np.maximum(norms, np.finfo(np.float32).tiny)
    left_out = sorted(set(range(len(collection.sources))) - set(features.indices.tolist()))
    reasons = {index: one.reason for index, one in zip(left_out, features.skipped, strict=True)}
    return _Observed(observer, features.indices, embeddings, reasons)


def _file_findings(collection: _Collection, observed: _Observed) -> Iterator[Finding]:
    for index, source in enumerate(collection.sources):
        observation = observed.observer.observations[index]
        if index in observed.unreadable:
            yield Finding(source, "unreadable", related=observed.unreadable[index])
        # The wrong suffix of a file that cannot be read may be the reason.
        if observation.misnamed:
            yield Finding(source, "misnamed", related=observation.file_format)


def _appearance_findings(
    collection: _Collection,
    observed: _Observed,
    limits: Mapping[str, float],
    chosen: frozenset[str],
    notes: list[str],
) -> Iterator[Finding]:
    rows = [
        (index, one.measures)
        for index, one in enumerate(observed.observer.observations)
        if one.measures is not None
    ]
    if not rows:
        return

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.array([getattr(measures, name) for _, measures in rows], np.float64)

    width, height = column("width"), column("height")
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    is_blank = column("contrast") < limits["blank"]
    # Nearly black and nearly white have no color.
    is_exposed = (column("dark") >= limits["dark"]) & (column("bright") <= limits["bright"])
    # Each kind with its measure, whether it is found if that is high, and what the images are.
    for kind, values, is_high, adjective in (
        ("blank", column("contrast"), False, "of one color"),
        ("blurred", column("blur"), True, "blurred"),
        ("dark", column("dark"), False, "dark"),
        ("bright", column("bright"), True, "overexposed"),
        ("grey", column("chroma"), False, "gray"),
        ("tiny", shorter, False, "tiny"),
        ("aspect-ratio", longer / shorter, True, "very long or wide"),
    ):
        is_found = values > limits[kind] if is_high else values < limits[kind]
        if kind in _OF_STRUCTURE:
            is_found &= ~is_blank
        if kind == "grey":
            is_found &= is_exposed
        number = int(is_found.sum())
        if kind != "blank" and number > _COMMON * len(rows):
            if kind in chosen:
                notes.append(
                    f"{number:,} of {len(rows):,} images are {adjective}; as a property of the "
                    "data set it is not listed"
                )
            continue
        for row in np.flatnonzero(is_found):
            source = collection.sources[rows[row][0]]
            yield Finding(source, kind, round(float(values[row]), 4), limits[kind])


def _find_pairs(
    collection: _Collection, observed: _Observed, threshold: float, chosen: frozenset[str]
) -> list[Pair]:
    """Return the pairs of copies, as positions in the collection, the one to keep first."""
    rank = collection.rank
    observations = observed.observer.observations
    pairs = list(exact_pairs([one.digest for one in observations], rank))
    copies = {pair.second for pair in pairs}
    # One of each group of exact copies is compared with the others.
    unique = np.array([row not in copies for row in observed.rows.tolist()], bool)
    if chosen & _NEAR_COPIES and unique.sum() > 1:
        rows = observed.rows[unique]
        embeddings = observed.embeddings if unique.all() else observed.embeddings[unique]
        measured = [observations[row].measures for row in rows]
        colors = np.array([one.color for one in measured if one is not None], np.float32)
        copies_of_rows = observed.observer.copies[rows]
        for pair in near_pairs(copies_of_rows, colors, embeddings, threshold):
            first, second = int(rows[pair.first]), int(rows[pair.second])
            if rank[first] > rank[second]:
                first, second = second, first
            pairs.append(pair._replace(first=first, second=second))
    return pairs


def _copy_findings(collection: _Collection, pairs: list[Pair]) -> Iterator[Finding]:
    """Yield a finding for every image of a group of copies but the first one.

    It is related to the most similar one of those that come before it, in another split, of another
    class, and of the same split and class.
    """
    sources, rank = collection.sources, collection.rank
    groups = groups_of_copies(len(sources), pairs)
    linked: dict[int, dict[int, Pair]] = {}
    for pair in pairs:
        linked.setdefault(pair.first, {})[pair.second] = pair
        linked.setdefault(pair.second, {})[pair.first] = pair
    members: dict[int, list[int]] = {}
    for image in sorted(linked, key=rank.__getitem__):
        members.setdefault(int(groups[image]), []).append(image)

    def differ(values: npt.NDArray[Any] | None, one: int, other: int) -> bool:
        return values is not None and values[one] != values[other]

    for group in members.values():
        for position, image in enumerate(group):
            related: dict[str, int] = {}
            # Those that are directly linked to the image last, the most similar one at the end.
            for other in sorted(
                group[:position],
                key=lambda other: (
                    linked[image][other].similarity if other in linked[image] else -1.0,
                    -rank[other],
                ),
            ):
                leaks = differ(collection.splits, image, other)
                conflicts = differ(collection.labels, image, other)
                if leaks:
                    related["leak"] = other
                if conflicts:
                    related["conflicting-label"] = other
                if not leaks and not conflicts:
                    related["duplicate"] = other
            for kind, other in related.items():
                pair = linked[image].get(other) or max(
                    linked[image].values(), key=lambda pair: pair.similarity
                )
                is_exact = pair.threshold is None
                yield Finding(
                    sources[image],
                    "near-duplicate" if kind == "duplicate" and not is_exact else kind,
                    round(pair.similarity, 4),
                    pair.threshold,
                    sources[other],
                )


def _class_findings(
    collection: _Collection,
    observed: _Observed,
    groups: npt.NDArray[np.intp],
    limits: Mapping[str, float],
    chosen: frozenset[str],
    seed: int,
) -> tuple[list[Finding], list[Finding]]:
    """Return what labels and embeddings tell, and all images by the margin of their labels."""
    sources = [collection.sources[row] for row in observed.rows]
    labels = np.zeros(len(sources), np.intp)
    ranking: list[Finding] = []
    findings: list[Finding] = []
    if collection.labels is not None:
        classes, labels = np.unique(collection.labels[observed.rows], return_inverse=True)
        if "label" in chosen:
            margins, predicted = label_disagreement(observed.embeddings, labels, groups, seed)
            for row in np.argsort(-margins, kind="stable"):
                # NaN is sorted to the end.
                if np.isnan(margins[row]):
                    break
                ranking.append(
                    Finding(
                        sources[row],
                        "label",
                        round(float(margins[row]), 4),
                        limits["label"],
                        str(classes[predicted[row]]),
                    )
                )
            findings += [one for one in ranking if (one.measure or 0.0) > limits["label"]]
    if "outlier" in chosen:
        suspect = {finding.file for finding in findings}
        scores = outlier_scores(observed.embeddings, labels)
        # NaN is not above the threshold.
        found = np.flatnonzero(scores > limits["outlier"])
        for row in found[np.argsort(-scores[found], kind="stable")]:
            # A wrong label is what makes an image unlike the others of the class.
            if sources[row] not in suspect:
                score = round(float(scores[row]), 2)
                findings.append(Finding(sources[row], "outlier", score, limits["outlier"]))
    return findings, ranking


def _imbalance(collection: _Collection, limit: float) -> Iterator[Finding]:
    if collection.labels is None:
        return
    labels, counts = np.unique(collection.labels, return_counts=True)
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    ratio = float(counts[largest] / counts[smallest])
    if ratio > limit:
        yield Finding(
            str(labels[smallest]),
            "imbalance",
            round(ratio, 2),
            limit,
            str(labels[largest]),
        )
