"""`AdversarialResult`: what an attack made, and how good it is."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.classification.classifier import Prediction
from transferkit.errors import OutputError, ParameterError, UnsupportedError
from transferkit.images import Skipped
from transferkit.images.conversion import to_float32, to_uint8
from transferkit.optimization.attacks.norms import lengths
from transferkit.optimization.attacks.rounding import levels
from transferkit.support.atomic_write import check_writable, write_atomically

__all__ = ["AdversarialResult", "Curve", "Panel", "TransferResult", "verdicts"]

Floats = npt.NDArray[np.float32]

_SIDE = 224


class Curve(NamedTuple):
    """How often an attack succeeds, by how far it may go.

    Attributes
    ----------
    epsilons
        (k,) ascending.
    success
        (k,) the share of the pictures that were changed by at most so much and are successes;
        never falling.
    """

    epsilons: npt.NDArray[np.float64]
    success: npt.NDArray[np.float64]


class Panel:
    """A picture that shows an attack's pictures, each with its verdict.

    Attributes
    ----------
    image
        A PIL image of mode RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a PNG file; what is there is replaced, once the new file is whole.

        Raises
        ------
        OutputError
            If it cannot be written, or does not end in ``.png``.
        """
        _write_png(self.image, Path(path))

    def _repr_png_(self) -> Any:
        return self.image._repr_png_()


@dataclass(frozen=True, eq=False)
class AdversarialResult:
    """Pictures that an attack changed, one for each that it was given.

    A picture that needed no change, or for which no change within epsilon was found by a
    method that looks for the smallest one, is as it was.

    Attributes
    ----------
    images
        (n, h, w, 3) RGB, float32 in [0, 1].
    saved
        (n, h, w, 3) uint8: what `save` writes. `images` rounded so that they stay within
        epsilon; where rounding would undo the attack its change is magnified first, as far as
        epsilon allows.
    originals
        (n, h, w, 3) float32 in [0, 1]: the pictures as the network takes them.
    success, success_saved
        (n,) bool: whether `images`, and `saved`, are what was wanted, by more than backends may
        differ in.
    before, after, after_saved
        What the network says of `originals`, of `images` and of `saved`: a
        `transferkit.Prediction` each, the likeliest class and its probability.
    labels
        What each picture is, as it was given or else as the network saw it.
    targets
        What each was to become; None: anything else.
    method, norm
        What was done.
    epsilon
        How far pictures were allowed to go; None: as far as it took.
    evaluations
        (n,) how many gradients each picture took.
    sources
        What each came from: its path, or its place in the input.
    skipped
        Pictures that were left out, and why.
    interrupted
        Whether the run was stopped before it was done.
    """

    images: Floats
    saved: npt.NDArray[np.uint8]
    originals: Floats
    success: npt.NDArray[np.bool_]
    success_saved: npt.NDArray[np.bool_]
    before: list[Prediction]
    after: list[Prediction]
    after_saved: list[Prediction]
    labels: list[Hashable]
    targets: list[Hashable] | None
    method: str
    norm: str
    epsilon: float | None
    evaluations: npt.NDArray[np.intp]
    sources: list[str]
    skipped: list[Skipped]
    interrupted: bool

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def distance(self) -> npt.NDArray[np.float64]:
        """(n,) how far `images` are from `originals`, in `norm`; pixels range over 1."""
        return lengths(self.images.astype(np.float64) - self.originals, self.norm)

    @cached_property
    def distance_saved(self) -> npt.NDArray[np.float64]:
        """(n,) how far `saved` are from `originals`."""
        starts = levels(self.originals)
        if self.norm == "l0":
            # An original between two 8-bit values is no change by being rounded.
            starts = np.rint(starts)
        return lengths((self.saved - starts) / 255, self.norm)

    @property
    def clean_accuracy(self) -> float:
        """The share of the originals that the network takes for what they are.

        1 where no labels were given, since then they are what the network takes them for.
        """
        hits = [found.label == label for found, label in zip(self.before, self.labels, strict=True)]
        return float(np.mean(hits))

    @property
    def success_rate(self) -> float:
        """The share of `success`."""
        return float(self.success.mean())

    @property
    def success_rate_saved(self) -> float:
        """The share of `success_saved`."""
        return float(self.success_saved.mean())

    @property
    def median_distance(self) -> float:
        """The median of how far each picture must be changed; infinite for half or more failures.

        A failure counts as infinitely far. Of a method with an epsilon it says little: such a
        method goes as far as it may.
        """
        return float(np.median(np.where(self.success, self.distance, np.inf)))

    def curve(self, epsilons: Sequence[float] | None = None) -> Curve:
        """The share of successes within each of some distances.

        Parameters
        ----------
        epsilons
            Distances in `norm`; None: 0, those at which one more succeeds, and `epsilon`.

        Raises
        ------
        ParameterError
            If one is not finite.
        """
        if epsilons is None:
            chosen = np.unique([0.0, self.epsilon or 0.0, *self.distance[self.success]])
        else:
            chosen = np.sort(np.ravel(np.asarray(epsilons, np.float64)))
            if not np.isfinite(chosen).all():
                raise ParameterError(f"epsilons are {epsilons!r}; they must be finite numbers")
        within = self.distance[:, None] <= chosen * (1 + 1e-6) + 1e-6
        found = (within & self.success[:, None]).mean(axis=0)
        return Curve(chosen, np.asarray(found, np.float64))

    def plot_curve(
        self, path: str | os.PathLike[str], epsilons: Sequence[float] | None = None
    ) -> None:
        """Draw `curve` into a PNG file.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If it cannot be written, or does not end in ``.png``.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError as error:
            raise UnsupportedError(
                'matplotlib, which draws curves, is not installed; pip install "transferkit[plots]"'
            ) from error
        target = _png_path(path)
        check_writable(target)
        curve = self.curve(epsilons)
        figure = Figure(figsize=(5, 3.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        in_levels = self.norm == "linf"
        axes.step(curve.epsilons * (255 if in_levels else 1), curve.success, where="post")
        axes.set_xlabel(f"largest change, {self.norm}" + (" (1/255)" if in_levels else ""))
        axes.set_ylabel("share of successes")
        axes.set_ylim(-0.02, 1.02)
        axes.set_title(f"{self.method}, {len(self)} pictures")
        with write_atomically(target) as file:
            figure.savefig(file, format="png", dpi=120)

    def panel(self, rows: Sequence[int] | None = None) -> Panel:
        """Original, change and result side by side, each with its verdict; a row for each picture.

        The change is magnified until its largest value is as far from grey as black is.

        Parameters
        ----------
        rows
            Which pictures to show, from 0; None: the first eight.

        Raises
        ------
        ParameterError
            If there is no such picture, or none is named.
        """
        from transferkit.support.drawing import labeled_grid

        chosen = list(range(min(len(self), 8))) if rows is None else np.ravel(rows).tolist()
        if not chosen or any(row not in range(len(self)) for row in chosen):
            raise ParameterError(f"rows are {rows!r}; expected some of 0 to {len(self) - 1}")
        tiles: list[npt.NDArray[np.uint8]] = []
        labels = []
        for row in chosen:
            change = to_float32(self.saved[row]) - self.originals[row]
            largest = float(np.abs(change).max())
            factor = 0.5 / largest if largest > 0 else 1.0
            tiles += [
                to_uint8(self.originals[row]),
                to_uint8(np.clip(0.5 + factor * change, 0, 1)),
                self.saved[row],
            ]
            far = float(self.distance_saved[row])
            said = f"{far * 255:.2g}/255" if self.norm == "linf" else f"{far:.3g}"
            labels += [
                _said(self.before[row]),
                f"change x {factor:.0f}\n{self.norm} {said}",
                _said(self.after_saved[row]) + ("" if self.success_saved[row] else " (failed)"),
            ]
        return Panel(labeled_grid(tiles, labels, columns=3, side=_SIDE))

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `saved` as PNG files, which keep every pixel as it is.

        Parameters
        ----------
        folder
            Is made if it is not there. A file is called as its picture's was, numbered where
            several were called alike; what is called so already is replaced.

        Returns
        -------
        list of Path
            One for each picture.

        Raises
        ------
        OutputError
            If it cannot be written, or would replace one of the pictures that were attacked.
        """
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{place}: cannot be made: {error.strerror or error}") from error
        paths = [place / f"{name}.png" for name in self.names]
        sources = {Path(source).resolve() for source in self.sources}
        for path in paths:
            if path.resolve() in sources:
                raise OutputError(f"{path}: is one of the pictures themselves; take another folder")
        for path, picture in zip(paths, self.saved, strict=True):
            _write_png(Image.fromarray(picture), path)
        return paths

    @property
    def names(self) -> list[str]:
        """A name for each picture, no two alike, to call files by."""
        taken: set[str] = set()
        names = []
        for source in self.sources:
            stem = Path(source).stem.replace("[", "-").replace("]", "") or "picture"
            name, number = stem, 1
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.casefold())
            names.append(name)
        return names

    def __repr__(self) -> str:
        bound = "" if self.epsilon is None else f", epsilon {self.epsilon:.4g}"
        state = ", interrupted" if self.interrupted else ""
        return (
            f"AdversarialResult({len(self)} pictures, {self.method}, {self.norm}{bound}: "
            f"{self.success_rate:.0%} successes, {self.success_rate_saved:.0%} in 8 bits, "
            f"median distance {self.median_distance:.4g}{state})"
        )


@dataclass(frozen=True, eq=False)
class TransferResult:
    """What another network makes of an attack's pictures.

    Attributes
    ----------
    success
        (n,) bool: whether the pictures as they would be saved are what was wanted to the other
        network as well, and the originals were not.
    attempted
        (n,) bool: which of them were changed and successes where they were made, in 8 bits, and
        not what was wanted to the other network from the first.
    before, after
        What the other network says of the originals and of the pictures.
    """

    success: npt.NDArray[np.bool_]
    attempted: npt.NDArray[np.bool_]
    before: list[Prediction]
    after: list[Prediction]

    @property
    def rate(self) -> float:
        """The share of the successes that fool the other network too; NaN if there are none."""
        number = int(self.attempted.sum())
        return float((self.success & self.attempted).sum() / number) if number else math.nan

    def __repr__(self) -> str:
        return f"TransferResult({self.rate:.0%} of {int(self.attempted.sum())} fool it too)"


def verdicts(logits: Floats, labels: Sequence[Hashable]) -> list[Prediction]:
    """The likeliest class of each row of logits (n, classes), with its probability."""
    likely = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    best = logits.argmax(axis=1)
    return [
        Prediction(labels[index], float(row[index]))
        for index, row in zip(best, likely, strict=True)
    ]


def _said(found: Prediction) -> str:
    return f"{found.label}\n{found.probability:.1%}"


def _png_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise OutputError(f"{target}: end the name of the picture in .png")
    return target


def _write_png(image: Image.Image, path: Path) -> None:
    with write_atomically(_png_path(path)) as file:
        image.save(file, "PNG")
