"""Features in memory: a mapping from layer to array, with the sources of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from transferkit.images import Skipped
from transferkit.store.shards import encode_source
from transferkit.support.data_frames import import_pandas

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Features", "column_names"]


@dataclass(frozen=True, eq=False)
class Features(Mapping[str, npt.NDArray[np.float32]]):
    """The outputs of layers for images: a mapping from layer to array.

    Row i of every array belongs to the same image; rows are in the order of the input.

    Attributes
    ----------
    arrays
        Layer to array (n, h, w, c) or (n, d), float32.
    sources
        The source of each row: a path, or a position in the input (``"images[3]"``).
    indices
        (n,) the position of each row in the input, counted from 0.
    skipped
        The images that were left out, and why.
    """

    arrays: Mapping[str, npt.NDArray[np.float32]]
    sources: list[str]
    indices: npt.NDArray[np.intp]
    skipped: list[Skipped]

    def __getitem__(self, layer: str) -> npt.NDArray[np.float32]:
        return self.arrays[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def __repr__(self) -> str:
        layers = ", ".join(f"{name!r}: {array.shape}" for name, array in self.arrays.items())
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"Features({len(self.sources)} images{skipped}; {{{layers}}})"

    def to_pandas(self) -> DataFrame:
        """Return the features as a data frame; requires pandas.

        Returns
        -------
        pandas.DataFrame
            One row for each image, whose index, named ``source``, is its source; one float32
            column for each value of each layer, named after the layer and the position of the
            value: ``embedding_0``, ``embedding_1``, ... Feature maps are flattened in the order
            height, width, channel.

        Raises
        ------
        UnsupportedError
            If pandas is not installed.

        Examples
        --------
        >>> import numpy as np
        >>> from transferkit import FeatureExtractor
        >>> extractor = FeatureExtractor("resnet18", weights="random", random_state=0)
        >>> features = extractor.extract(np.zeros((2, 64, 64, 3), np.uint8), ["embedding"])
        >>> features.to_pandas().iloc[:, :2].columns.tolist()
        ['embedding_0', 'embedding_1']
        """
        pd = import_pandas()
        # The strings of pandas have no names that are not valid text.
        is_text = all(encode_source(source) == source for source in self.sources)
        index = pd.Index(self.sources, None if is_text else object, name="source")
        frames = [
            pd.DataFrame(
                array.reshape(len(array), -1),
                index=index,
                columns=column_names(layer, array.shape[1:]),
            )
            for layer, array in self.arrays.items()
        ]
        return pd.concat(frames, axis=1)


def column_names(layer: str, shape: Sequence[int]) -> list[str]:
    """Return the names of the columns of a layer with outputs of ``shape`` for each image."""
    return [f"{layer}_{index}" for index in range(math.prod(shape))]
