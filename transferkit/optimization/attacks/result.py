"""`AdversarialResult`: the adversarial images of an attack, and measures of their quality."""

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
from transferkit.errors import OutputError, ParameterError, shorten, shorten_path
from transferkit.images import Skipped
from transferkit.images.conversion import to_float32, to_uint8
from transferkit.optimization.attacks.norms import vector_norms
from transferkit.optimization.attacks.rounding import uint8_levels
from transferkit.support.atomic_write import png_path, write_atomically
from transferkit.support.numerics import as_array, softmax
from transferkit.support.plots import plot_file

__all__ = ["AdversarialResult", "Curve", "Panel", "TransferResult", "predicted_classes"]

Floats = npt.NDArray[np.float32]

# The side of a panel's images in pixels, and the number of rows by default.
_SIDE = 224
_DEFAULT_ROWS = 8


class Curve(NamedTuple):
    """The success rate of an attack as a function of the allowed change.

    Attributes
    ----------
    epsilons
        (k,) in ascending order.
    success_rates
        (k,) the fraction of the images that succeed with a change of at most this epsilon; it
        never decreases.
    """

    epsilons: npt.NDArray[np.float64]
    success_rates: npt.NDArray[np.float64]


class Panel:
    """An image that shows adversarial images with their originals; notebooks display it.

    Attributes
    ----------
    image
        A PIL image of mode RGB.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG file. An existing file is replaced when the new one is complete.

        Raises
        ------
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        _write_png(self.image, Path(path))

    def _repr_png_(self) -> Any:
        return self.image._repr_png_()


@dataclass(frozen=True, eq=False)
class AdversarialResult:
    """The result of an attack: one adversarial image per input image.

    An image is unchanged if it needed no change, or if a method that minimizes the change found
    none within epsilon.

    Attributes
    ----------
    images
        (n, h, w, 3) RGB, float32 in [0, 1].
    images_uint8
        (n, h, w, 3) uint8: the images that `save` writes. They are `images`, rounded so that they
        stay within epsilon. Where rounding would undo the attack, the change is first magnified,
        as far as epsilon allows.
    originals
        (n, h, w, 3) float32 in [0, 1]: the input images after resizing and cropping.
    success, success_uint8
        (n,) bool: whether the attack succeeds with `images`, and with `images_uint8`, by a margin
        larger than the numerical difference between backends.
    before, after, after_uint8
        The predictions for `originals`, `images` and `images_uint8`: for each image a
        `transferkit.Prediction`, which is the predicted class and its probability.
    labels
        The labels of the images: the given ones, or the classes that the network predicts. They
        are indices if the labels of the network's classes are unknown.
    targets
        The target classes; None in an untargeted attack.
    method, norm
        The name of the method, and the norm.
    epsilon
        The largest allowed norm of a change; None for no limit.
    gradient_evaluations
        (n,) the number of gradients computed for each image.
    sources
        The origin of each image: its path, or its position in the input.
    skipped
        The images that were left out, with the reasons.
    interrupted
        Whether the attack was stopped by Ctrl-C.
    epsilons
        All epsilons that were given, in ascending order; empty for no limit.
    """

    images: Floats
    images_uint8: npt.NDArray[np.uint8]
    originals: Floats
    success: npt.NDArray[np.bool_]
    success_uint8: npt.NDArray[np.bool_]
    before: list[Prediction]
    after: list[Prediction]
    after_uint8: list[Prediction]
    labels: list[Hashable]
    targets: list[Hashable] | None
    method: str
    norm: str
    epsilon: float | None
    gradient_evaluations: npt.NDArray[np.intp]
    sources: list[str]
    skipped: list[Skipped]
    interrupted: bool
    epsilons: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def distance(self) -> npt.NDArray[np.float64]:
        """(n,) the distance of `images` from `originals` in `norm`, for pixels in [0, 1]."""
        return vector_norms(self.images.astype(np.float64) - self.originals, self.norm)

    @cached_property
    def distance_uint8(self) -> npt.NDArray[np.float64]:
        """(n,) the distance of `images_uint8` from `originals`."""
        original_levels = uint8_levels(self.originals)
        if self.norm == "l0":
            # Rounding an original that lies between two levels does not count as a change.
            original_levels = np.rint(original_levels)
        return vector_norms((self.images_uint8 - original_levels) / 255, self.norm)

    @property
    def clean_accuracy(self) -> float:
        """The accuracy on the originals; 1 if no labels were given."""
        is_correct = [
            prediction.label == label
            for prediction, label in zip(self.before, self.labels, strict=True)
        ]
        return float(np.mean(is_correct))

    @property
    def success_rate(self) -> float:
        """The fraction of images with `success`."""
        return float(self.success.mean())

    @property
    def success_rate_uint8(self) -> float:
        """The fraction of images with `success_uint8`."""
        return float(self.success_uint8.mean())

    @property
    def median_distance(self) -> float:
        """The median of `distance`, with failures as infinite.

        It is meaningful for methods that minimize the change. The others use all of epsilon.
        """
        return float(np.median(np.where(self.success, self.distance, np.inf)))

    def curve(self, epsilons: Sequence[float] | None = None) -> Curve:
        """Return the success rate for each of several epsilons.

        Parameters
        ----------
        epsilons
            Distances in `norm`; None: 0, the distances of all successes, and `epsilons`.

        Raises
        ------
        ParameterError
            If an epsilon is not a finite number.
        """
        if epsilons is None:
            chosen = np.unique(
                [0.0, self.epsilon or 0.0, *self.epsilons, *self.distance[self.success]]
            )
        else:
            try:
                chosen = np.sort(np.ravel(as_array(epsilons, np.float64)))
            except (TypeError, ValueError):
                chosen = np.array([np.nan])
            if not np.isfinite(chosen).all():
                raise ParameterError(f"epsilons is {shorten(epsilons)}; expected finite numbers")
        is_within = self.distance[:, None] <= chosen * (1 + 1e-6) + 1e-6
        rates = (is_within & self.success[:, None]).mean(axis=0)
        return Curve(chosen, np.asarray(rates, np.float64))

    def plot_curve(
        self, path: str | os.PathLike[str], epsilons: Sequence[float] | None = None
    ) -> None:
        """Plot `curve` to a PNG file.

        Raises
        ------
        UnsupportedError
            If matplotlib is not installed.
        OutputError
            If the file cannot be written, or its name does not end in ``.png``.
        """
        curve = self.curve(epsilons)
        with plot_file(path, 5, 3.5) as figure:
            axes = figure.subplots()
            in_levels = self.norm == "linf"
            axes.step(curve.epsilons * (255 if in_levels else 1), curve.success_rates, where="post")
            axes.set_xlabel(f"epsilon, {self.norm}" + (" (1/255)" if in_levels else ""))
            axes.set_ylabel("success rate")
            axes.set_ylim(-0.02, 1.02)
            axes.set_title(f"{self.method}, {len(self)} images")

    def panel(self, rows: Sequence[int] | None = None) -> Panel:
        """Return an image with the original, the change and the 8-bit result of each image.

        The change is magnified until its largest value reaches black or white from middle gray.

        Parameters
        ----------
        rows
            The indices of the images, from 0; None: the first eight.

        Raises
        ------
        ParameterError
            If ``rows`` is empty, or has an index that does not exist.
        """
        from transferkit.support.drawing import labeled_grid

        if rows is None:
            chosen = list(range(min(len(self), _DEFAULT_ROWS)))
        else:
            chosen = np.ravel(rows).tolist()
        if not chosen or any(row not in range(len(self)) for row in chosen):
            raise ParameterError(
                f"rows is {shorten(rows)}; expected indices from 0 to {len(self) - 1}"
            )
        tiles: list[npt.NDArray[np.uint8]] = []
        captions = []
        for row in chosen:
            change = to_float32(self.images_uint8[row]) - self.originals[row]
            largest = float(np.abs(change).max())
            factor = 0.5 / largest if largest > 0 else 1.0
            tiles += [
                to_uint8(self.originals[row]),
                to_uint8(np.clip(0.5 + factor * change, 0, 1)),
                self.images_uint8[row],
            ]
            distance = float(self.distance_uint8[row])
            in_norm = f"{distance * 255:.2g}/255" if self.norm == "linf" else f"{distance:.3g}"
            state = "" if self.success_uint8[row] else " (failed)"
            captions += [
                _caption(self.before[row]),
                f"change x {factor:.0f}\n{self.norm} {in_norm}",
                _caption(self.after_uint8[row]) + state,
            ]
        return Panel(labeled_grid(tiles, captions, columns=3, side=_SIDE))

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write `images_uint8` as PNG files, which are lossless.

        Parameters
        ----------
        folder
            Created if it does not exist. The names of the files are `file_stems` with ``.png``;
            existing files are replaced.

        Returns
        -------
        list of Path
            One per image.

        Raises
        ------
        OutputError
            If a file cannot be written, or would replace one of the input images.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{shorten_path(folder)}: cannot be created: {reason}") from None
        paths = [folder / f"{stem}.png" for stem in self.file_stems]
        sources = {Path(source).resolve() for source in self.sources}
        for path in paths:
            if path.resolve() in sources:
                raise OutputError(f"{path}: is one of the input images; choose another folder")
        for path, image in zip(paths, self.images_uint8, strict=True):
            _write_png(Image.fromarray(image), path)
        return paths

    @property
    def file_stems(self) -> list[str]:
        """A unique file name without extension for each image, from the name of its source."""
        taken: set[str] = set()
        # The last number that was added to each name.
        numbers: dict[str, int] = {}
        stems = []
        for source in self.sources:
            base = Path(source).stem.replace("[", "-").replace("]", "") or "image"
            stem, number = base, numbers.get(base.casefold(), 1)
            while stem.casefold() in taken:
                number += 1
                stem = f"{base}-{number}"
            numbers[base.casefold()] = number
            taken.add(stem.casefold())
            stems.append(stem)
        return stems

    def _format(self, distance: float) -> str:
        """Return a distance as text, of linf in levels: 2/255."""
        if self.norm != "linf" or not math.isfinite(distance):
            return f"{distance:.4g}"
        return f"{255 * distance:.4g}/255" if distance else "0"

    def _repr_png_(self) -> Any:
        return self.panel()._repr_png_() if len(self) else None

    def __repr__(self) -> str:
        bound = "" if self.epsilon is None else f", epsilon {self._format(self.epsilon)}"
        state = ", interrupted" if self.interrupted else ""
        return (
            f"AdversarialResult({len(self)} images, {self.method}, {self.norm}{bound}: "
            f"success rate {self.success_rate:.0%}, {self.success_rate_uint8:.0%} in 8 bits, "
            f"median distance {self._format(self.median_distance)}{state})"
        )


@dataclass(frozen=True, eq=False)
class TransferResult:
    """The predictions of another network for adversarial images.

    Attributes
    ----------
    success
        (n,) bool: whether the attack succeeds on the other network with the 8-bit image, and
        does not with the original.
    attempted
        (n,) bool: whether the image was changed and succeeds in 8 bits on the attacked network,
        and its original does not on the other network.
    before, after
        The predictions of the other network for the originals and for the 8-bit images.
    """

    success: npt.NDArray[np.bool_]
    attempted: npt.NDArray[np.bool_]
    before: list[Prediction]
    after: list[Prediction]

    @property
    def rate(self) -> float:
        """The transfer rate: the fraction of `attempted` with `success`; NaN without any."""
        count = int(self.attempted.sum())
        return float((self.success & self.attempted).sum() / count) if count else math.nan

    def __repr__(self) -> str:
        number = int(self.attempted.sum())
        rate = f"{self.rate:.0%} of {number} images transfer" if number else "no images attempted"
        return f"TransferResult({rate})"


def predicted_classes(logits: Floats, labels: Sequence[Hashable]) -> list[Prediction]:
    """Return the predicted class of each row of logits (n, classes), with its probability."""
    return [
        Prediction(labels[index], float(row[index]))
        for index, row in zip(logits.argmax(axis=1), softmax(logits), strict=True)
    ]


def _caption(prediction: Prediction) -> str:
    return f"{prediction.label}\n{prediction.probability:.1%}"


def _write_png(image: Image.Image, path: Path) -> None:
    with write_atomically(png_path(path)) as file:
        image.save(file, "PNG")
