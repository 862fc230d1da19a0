"""`LabelledImages`: images with their labels, and what is known about each."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from transferkit.datasets.copies import content_keys
from transferkit.datasets.labels import Labels, check_finite_labels, label_array
from transferkit.datasets.splitting import link_images, split_units
from transferkit.errors import DatasetError, ParameterError, UnknownNameError, shorten
from transferkit.images import ImageLike, Skipped
from transferkit.images.stream import source_name
from transferkit.support.data_frames import import_pandas
from transferkit.support.random_state import RandomState, as_seed
from transferkit.support.validation import is_number

__all__ = ["LabelledImages"]


@dataclass(eq=False, repr=False)
class LabelledImages:
    """Images with their labels, in a fixed order.

    `from_folder`, `from_csv`, `from_names` and the data sets return it; `Classifier.fit`,
    `Classifier.evaluate`, `transferkit.inspect_images` and `transferkit.compare` accept it.

    Parameters
    ----------
    images
        (n,) paths, or images as for `transferkit.images.read_image`.
    labels
        (n,) the label of each: strings, numbers or booleans.
    splits
        (n,) the name of the split of each image, such as ``"train"``; None: there are none.
    groups
        (n,) what several images have in common, such as the animal; those of one group stay on
        one side of a split. None: each image is a group of its own.
    skipped
        What was left out, and why.

    Raises
    ------
    DatasetError
        If the lengths differ, or labels are of mixed types or not finite.

    Examples
    --------
    >>> from transferkit.datasets import LabelledImages
    >>> data = LabelledImages(["1.jpg", "2.jpg", "3.jpg"], ["cat", "dog", "cat"])
    >>> len(data), data.classes.tolist(), data.counts
    (3, ['cat', 'dog'], {'cat': 2, 'dog': 1})
    """

    images: Sequence[ImageLike]
    labels: npt.NDArray[Any]
    splits: npt.NDArray[Any] | None = None
    groups: npt.NDArray[Any] | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __init__(
        self,
        images: Sequence[ImageLike],
        labels: Labels,
        *,
        splits: Labels | None = None,
        groups: Labels | None = None,
        skipped: Sequence[Skipped] = (),
    ) -> None:
        self.images = images
        self.labels = label_array(labels)
        check_finite_labels(self.labels)
        self.splits = None if splits is None else label_array(splits)
        self.groups = None if groups is None else label_array(groups)
        self.skipped = list(skipped)
        for name in ("labels", "splits", "groups"):
            values = getattr(self, name)
            if values is not None and len(values) != len(images):
                raise DatasetError(f"there are {len(images)} images, but {len(values)} {name}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def classes(self) -> npt.NDArray[Any]:
        """(c,) the different labels, sorted."""
        return np.unique(self.labels)

    @property
    def counts(self) -> dict[Hashable, int]:
        """Each label with its number of images."""
        labels, counts = np.unique(self.labels, return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    @property
    def sources(self) -> list[str]:
        """The path of each image, or its position (``"images[3]"``)."""
        return [source_name(image, index) for index, image in enumerate(self.images)]

    @property
    def split_names(self) -> list[str]:
        """The names of the splits, sorted; empty if there are none."""
        return [] if self.splits is None else [str(name) for name in np.unique(self.splits)]

    def take(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> LabelledImages:
        """Return the images at some positions, in this order.

        Parameters
        ----------
        rows
            (m,) positions, from 0.
        """
        rows = np.asarray(rows, np.intp)
        return LabelledImages(
            [self.images[row] for row in rows],
            self.labels[rows],
            splits=None if self.splits is None else self.splits[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def of_split(self, name: str) -> LabelledImages:
        """Return the images of one split.

        Raises
        ------
        UnknownNameError
            If there is no split of that name.

        Examples
        --------
        >>> from transferkit.datasets import LabelledImages
        >>> data = LabelledImages(["1.jpg", "2.jpg"], ["cat", "dog"], splits=["train", "test"])
        >>> data.of_split("test").images
        ['2.jpg']
        """
        if self.splits is None or name not in self.split_names:
            raise UnknownNameError("split", name, self.split_names)
        # The names of splits may be numbers in a table.
        part = self.take(np.flatnonzero([str(split) == name for split in self.splits]))
        return dataclasses.replace(part, splits=None)

    def split(
        self,
        test: float = 0.2,
        *,
        random_state: RandomState = 0,
        groups: Labels | None = None,
    ) -> tuple[LabelledImages, LabelledImages]:
        """Split the images into those for training and those for testing.

        The split is stratified: each class is split in the same proportion. Images with the same
        content (the same SHA-256) and images of one group stay on one side, so that nothing is
        tested on what was trained on. The same images, in the same order, are split in the same
        way on every machine.

        Parameters
        ----------
        test
            The fraction of the images of each class for testing, between 0 and 1. At least one
            image of each class is on each side. With groups of several images, the numbers are
            those closest to it that were found.
        random_state
            An int of at least 0; another one gives another split. Or a generator, or None, as for
            the estimators.
        groups
            (n,) what several images have in common, such as the animal; None: ``groups`` of the
            images.

        Returns
        -------
        train, test : LabelledImages
            Both in the order of the images; ``skipped`` of the images is that of ``train``.

        Raises
        ------
        DatasetError
            If a class has fewer than two images or groups, or the images already have splits.
        ImageError
            If a file cannot be read.
        ParameterError
            If ``test`` or ``random_state`` is invalid.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit.datasets import LabelledImages
        >>> images = [np.full((8, 8, 3), value, np.uint8) for value in range(10)]
        >>> data = LabelledImages(images, ["cat", "dog"] * 5)
        >>> train, test = data.split(test=0.2)
        >>> train.counts, test.counts
        ({'cat': 4, 'dog': 4}, {'cat': 1, 'dog': 1})
        """
        if not is_number(test) or not 0 < test < 1:
            raise ParameterError(f"test is {shorten(test)}; expected a fraction such as 0.2")
        seed = as_seed(random_state)
        if self.splits is not None:
            raise DatasetError(
                f"the images already have the splits {', '.join(self.split_names)}; split one of "
                f"them, such as that of of_split({self.split_names[0]!r})"
            )
        of_groups = self.groups if groups is None else label_array(groups)
        if of_groups is not None and len(of_groups) != len(self):
            raise DatasetError(f"there are {len(self)} images, but {len(of_groups)} groups")
        keys = [content_keys(self.images)]
        if of_groups is not None:
            keys.append(of_groups.tolist())
        is_test = split_units(link_images(len(self), keys), self.labels, float(test), seed)
        train, held_out = self.take(np.flatnonzero(~is_test)), self.take(np.flatnonzero(is_test))
        train.skipped = list(self.skipped)
        return train, held_out

    def to_pandas(self) -> Any:
        """Return a data frame with the columns source, label, and split and group if known.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.
        """
        columns: dict[str, Any] = {"source": self.sources, "label": self.labels}
        if self.splits is not None:
            columns["split"] = self.splits
        if self.groups is not None:
            columns["group"] = self.groups
        return import_pandas().DataFrame(columns)

    def __repr__(self) -> str:
        splits = f", splits {', '.join(self.split_names)}" if self.split_names else ""
        return f"<LabelledImages: {len(self)} images of {len(self.counts)} classes{splits}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(str(label))}</td><td>{count}</td></tr>"
            for label, count in self.counts.items()
        )
        return (
            f"<p>{escape(repr(self).strip('<>'))}</p><table><thead><tr><th>class</th>"
            f"<th>images</th></tr></thead><tbody>{rows}</tbody></table>"
        )
