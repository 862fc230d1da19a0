"""The page of an inspection: each kind with thumbnails, pairs side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from transferkit.images import ImageLike, Skipped
from transferkit.inspection.findings import KINDS, PAIR_KINDS, Finding
from transferkit.reports import Thumbnail, check_report, make_thumbnails, write_page

__all__ = ["Inspected", "write_report"]

# Findings of a kind that are shown; about 4 KB for each thumbnail.
_SHOWN = 24
# Kinds whose thumbnails would show nothing.
_WITHOUT_PHOTOS = frozenset(("unreadable", "imbalance"))
# Kinds whose measure is a fault if it is low.
_LOW = frozenset(("blank", "dark", "grey", "tiny"))


class Inspected(NamedTuple):
    """What the page shows; see the attributes of `transferkit.inspection.Inspection`."""

    findings: Sequence[Finding]
    sources: Sequence[str]
    images: Sequence[ImageLike] | npt.NDArray[np.generic]
    labels: npt.NDArray[Any] | None
    splits: npt.NDArray[Any] | None
    notes: Sequence[str]
    skipped: Sequence[Skipped]
    network: str
    root: Path | None


class _Photo(NamedTuple):
    thumbnail: Thumbnail | None
    name: str
    label: str


class _Item(NamedTuple):
    """One finding on the page: one photo or two, and a line about it."""

    photos: list[_Photo]
    text: str


class _Section(NamedTuple):
    kind: str
    meaning: str
    number: int
    threshold: str
    items: list[_Item]
    is_pair: bool
    advice: str


_ADVICE: Mapping[str, str] = {
    "unreadable": "Such files are skipped when they are used.",
    "misnamed": "They are read by their content; other programs may reject them.",
    "leak": "Accuracy on copies of training images says nothing about new images. Remove them "
    "from the test split.",
    "conflicting-label": "At least one of the two labels is wrong.",
    "duplicate": "Copies give an image more weight, and leak if the data set is split at random.",
    "near-duplicate": "Copies give an image more weight, and leak if the data set is split at "
    "random.",
    "label": "The most doubtful first. Some are wrong labels, others unusual images.",
    "outlier": "They may belong to no class.",
    "imbalance": "The classifier may prefer large classes; see the balanced accuracy.",
}


def write_report(inspection: Inspected, path: str | os.PathLike[str]) -> None:
    """Write the page of an inspection; see `transferkit.inspection.Inspection.report`."""
    check_report(path)
    by_kind = {
        kind: [finding for finding in inspection.findings if finding.kind == kind] for kind in KINDS
    }
    shown = {
        kind: sorted(findings, key=_strength)[:_SHOWN]
        for kind, findings in by_kind.items()
        if findings
    }
    position = {source: index for index, source in enumerate(inspection.sources)}
    needed = [
        name
        for kind, findings in shown.items()
        if kind not in _WITHOUT_PHOTOS
        for finding in findings
        for name in _names(finding)
    ]
    images: dict[str, ImageLike] = {name: inspection.images[position[name]] for name in needed}
    thumbnails = make_thumbnails(images)
    names = _short_names(inspection)

    def photo(source: str) -> _Photo:
        row = position.get(source)
        parts = [
            str(values[row])
            for values in (inspection.splits, inspection.labels)
            if values is not None and row is not None
        ]
        return _Photo(thumbnails.get(source), names.get(source, source), ", ".join(parts))

    sections = [
        _Section(
            kind,
            KINDS[kind],
            len(by_kind[kind]),
            _describe_threshold(findings),
            [
                _Item([photo(name) for name in _names(finding)], _describe(finding))
                for finding in findings
            ],
            kind in PAIR_KINDS,
            _ADVICE.get(kind, ""),
        )
        for kind, findings in shown.items()
    ]
    write_page(
        path,
        "inspection.html",
        {
            "name": inspection.root.name if inspection.root is not None else "images",
            "headline": _format_number(len(inspection.findings)),
            "facts": _facts(inspection),
            "classes": _class_table(inspection),
            "sections": sections,
            "notes": inspection.notes,
            "skipped": inspection.skipped[:_SHOWN],
            "num_skipped": len(inspection.skipped),
        },
    )


def _format_number(number: int) -> str:
    return f"{number:,} finding" if number == 1 else f"{number:,} findings"


def _names(finding: Finding) -> list[str]:
    """Return the images that a finding is about: one, or two."""
    if finding.kind in PAIR_KINDS and finding.related is not None:
        return [finding.file, finding.related]
    return [finding.file]


def _strength(finding: Finding) -> float:
    measure = finding.measure or 0.0
    return measure if finding.kind in _LOW else -measure


def _short_names(inspection: Inspected) -> dict[str, str]:
    """Return the name of each file below the inspected folder."""
    if inspection.root is None:
        return {}
    root = os.path.join(os.fspath(inspection.root), "")
    return {source: source.removeprefix(root) for source in inspection.sources}


def _describe(finding: Finding) -> str:
    if finding.kind in PAIR_KINDS:
        is_exact = finding.threshold is None
        return "exact copy" if is_exact else f"similarity {finding.measure:.2f}"
    if finding.kind == "label":
        return f"predicted: {finding.related} (margin {finding.measure:.2f})"
    if finding.kind in ("unreadable", "misnamed"):
        return f"content: {finding.related}" if finding.kind == "misnamed" else str(finding.related)
    if finding.kind == "imbalance":
        return f"{finding.measure:g} times as many images in {finding.related}"
    unit = " pixels" if finding.kind == "tiny" else ""
    return f"{finding.measure:g}{unit}"


def _describe_threshold(findings: Sequence[Finding]) -> str:
    thresholds = {one.threshold for one in findings if one.threshold is not None}
    if not thresholds or findings[0].kind in PAIR_KINDS:
        return ""
    word = "below" if findings[0].kind in _LOW else "above"
    return f"{word} {thresholds.pop():g}"


def _facts(inspection: Inspected) -> list[tuple[str, str]]:
    facts = [("images", f"{len(inspection.sources):,}")]
    if inspection.labels is not None:
        facts.append(("classes", f"{len(np.unique(inspection.labels)):,}"))
    if inspection.splits is not None:
        names, counts = np.unique(inspection.splits, return_counts=True)
        facts.append(
            ("splits", ", ".join(f"{a} {b:,}" for a, b in zip(names, counts, strict=True)))
        )
    facts.append(("network", inspection.network))
    if inspection.root is not None:
        facts.append(("folder", os.fspath(inspection.root)))
    return facts


def _class_table(inspection: Inspected) -> dict[str, Any] | None:
    """Return the number of images of each class, by split."""
    if inspection.labels is None:
        return None
    splits = [] if inspection.splits is None else np.unique(inspection.splits).tolist()
    rows = []
    for label in np.unique(inspection.labels):
        is_label = inspection.labels == label
        row = [str(label), f"{is_label.sum():,}"]
        row += [f"{(is_label & (inspection.splits == split)).sum():,}" for split in splits]
        rows.append(row)
    return {"columns": ["class", "images", *splits], "rows": rows}
