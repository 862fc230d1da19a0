"""`Finding`: what is wrong with one image; the kinds of findings and their thresholds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from transferkit.errors import ArgumentTypeError, ParameterError, UnknownNameError, shorten
from transferkit.support.validation import is_number

__all__ = ["KINDS", "PAIR_KINDS", "THRESHOLDS", "Finding", "check_kinds", "check_thresholds"]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "unreadable": "Files that cannot be decoded, truncated ones included",
        "misnamed": "Files whose suffix is that of another format",
        "leak": "Images that are also in another split",
        "conflicting-label": "The same image in two classes",
        "duplicate": "Exact copies of another file",
        "near-duplicate": "Copies that were re-saved, resized, mirrored, cropped or brightened",
        "label": "Labels that a classifier, trained on the other images, disagrees with",
        "outlier": "Images that are unlike the others of their class",
        "blank": "Images of one uniform color",
        "blurred": "Blurred images",
        "dark": "Dark images",
        "bright": "Overexposed images",
        "grey": "Gray images among images in color",
        "tiny": "Images with few pixels",
        "aspect-ratio": "Very long or very wide images",
        "imbalance": "Classes of very different sizes",
    }
)
"""The kinds of findings, and what they mean, in the order of a report."""

PAIR_KINDS = frozenset(("duplicate", "near-duplicate", "leak", "conflicting-label"))
"""The kinds that are about two images: `Finding.file` and `Finding.related`."""

THRESHOLDS: Mapping[str, float] = MappingProxyType(
    {
        "near-duplicate": 0.93,
        "label": 0.65,
        "outlier": 5.0,
        "blank": 0.01,
        "blurred": 0.65,
        "dark": 0.2,
        "bright": 0.76,
        "grey": 0.03,
        "tiny": 64.0,
        "aspect-ratio": 3.0,
        "imbalance": 10.0,
    }
)
"""The default thresholds of the kinds that have one; see `Finding.measure`."""


class Finding(NamedTuple):
    """Something that is wrong with one image.

    Attributes
    ----------
    file
        The path of the image, or its position in the input (``"images[3]"``); the smallest class
        for ``"imbalance"``.
    kind
        One of `transferkit.inspection.KINDS`.
    measure
        How strong it is, in the units of the threshold; None if nothing is measured.

        - ``"duplicate"``, ``"near-duplicate"``, ``"leak"``, ``"conflicting-label"``: the
          correlation of the two images, 1 for exact copies;
        - ``"label"``: the probability of the class in ``related``, minus that of the label;
        - ``"outlier"``: by how many standard deviations the image is less similar to its class
          than usual;
        - ``"blank"``: the standard deviation of the luminance, in [0, 0.5];
        - ``"blurred"``: how little a further blur changes the image, in [0, 1];
        - ``"dark"``, ``"bright"``: the luminance that 95% of the pixels do not exceed, or reach,
          in [0, 1];
        - ``"grey"``: the difference between the largest and the smallest channel that 99% of the
          pixels do not exceed, in [0, 1];
        - ``"tiny"``: the shorter side in pixels;
        - ``"aspect-ratio"``: the longer side divided by the shorter one;
        - ``"imbalance"``: the number of images of the largest class, divided by that of the
          smallest one.
    threshold
        The limit that the measure exceeds, or that it falls below for ``"blank"``, ``"dark"``,
        ``"grey"`` and ``"tiny"``; None if there is none.
    related
        The other image of a pair, which would be kept; the class that the classifier predicts; the
        reason why a file cannot be read; the format of a misnamed file; the largest class; or
        None.
    """

    file: str
    kind: str
    measure: float | None = None
    threshold: float | None = None
    related: str | None = None


def check_kinds(kinds: Iterable[str] | None) -> frozenset[str]:
    """Return the kinds that were chosen; all for None.

    Raises
    ------
    ArgumentTypeError
        If ``kinds`` is a string, or cannot be iterated.
    UnknownNameError
        If a kind is unknown.

    Examples
    --------
    >>> from transferkit.inspection.findings import check_kinds
    >>> sorted(check_kinds(["leak", "label"]))
    ['label', 'leak']
    """
    if kinds is None:
        return frozenset(KINDS)
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        raise ArgumentTypeError(f"kinds is {shorten(kinds)}; expected a list such as ['leak']")
    chosen = list(kinds)
    for kind in chosen:
        if not isinstance(kind, str) or kind not in KINDS:
            raise UnknownNameError("kind of finding", kind, KINDS)
    return frozenset(chosen)


def check_thresholds(thresholds: Mapping[str, float] | None) -> dict[str, float]:
    """Return the default thresholds, with those that were given in their place.

    Raises
    ------
    ArgumentTypeError
        If ``thresholds`` is no mapping.
    UnknownNameError
        If a kind is unknown or has no threshold.
    ParameterError
        If a threshold is no number.

    Examples
    --------
    >>> from transferkit.inspection.findings import check_thresholds
    >>> check_thresholds({"tiny": 100})["tiny"]
    100.0
    """
    if thresholds is not None and not isinstance(thresholds, Mapping):
        raise ArgumentTypeError(
            f"thresholds is {shorten(thresholds)}; expected a mapping such as {{'tiny': 100}}"
        )
    merged = dict(THRESHOLDS)
    for kind, value in (thresholds or {}).items():
        if kind not in THRESHOLDS:
            raise UnknownNameError("threshold", kind, THRESHOLDS)
        # Not `value != value` alone: infinity turns a kind off, NaN is a mistake.
        if not is_number(value) or value != value:  # noqa: PLR0124
            raise ParameterError(
                f"the threshold of {kind!r} is {shorten(value)}; expected a number"
            )
        merged[kind] = float(value)
    return merged
