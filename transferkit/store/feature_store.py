"""`FeatureStore`: reads a folder of features, with little memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transferkit.errors import (
    DatasetError,
    FileFormatError,
    ParameterError,
    UnknownNameError,
    shorten_path,
)
from transferkit.images import Skipped
from transferkit.store.features import Features
from transferkit.store.known import find_readable
from transferkit.store.manifest import Manifest, read_manifest
from transferkit.store.mapped import map_layer
from transferkit.store.neighbors import Neighbors, check_query, find_nearest
from transferkit.store.places import FolderPlace, Place, find_place
from transferkit.store.relocation import Relocation, find_relocation, sample_records
from transferkit.store.shards import (
    RECORD_COLUMNS,
    decode_source,
    distinct_shards,
    encode_source,
    read_records,
)
from transferkit.store.verification import complete_shards, missing_shards, verify_store
from transferkit.support.arrow import import_arrow
from transferkit.support.validation import check_integer

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["FeatureStore", "Sources"]

# The bytes of features that `nearest` holds in memory at a time.
_BLOCK_BYTES = 16 << 20


class Sources(Sequence[str]):
    """The sources of the rows of a store, as compact as they are in the shards.

    A sequence of str; slices are lists.
    """

    def __init__(self, chunks: Any, relocation: Relocation | None) -> None:
        # A pyarrow.ChunkedArray.
        self._chunks = chunks
        self._relocation = relocation

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                part = self._chunks.slice(start, max(0, stop - start)).to_pylist()
                return [self._local(source) for source in part]
            return [self[position] for position in range(start, stop, step)]
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        return self._local(self._chunks[position % len(self)].as_py())

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks.chunks:
            yield from map(self._local, chunk.to_pylist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self)} sources>"

    def _local(self, source: str) -> str:
        return _local_source(source, self._relocation)


class FeatureStore(Mapping[str, npt.NDArray[Any]]):
    """The features in a folder that `transferkit.FeatureExtractor.extract_to` wrote.

    A mapping from layer to array, (n, h, w, c) or (n, d), mapped into memory. Row i of every
    array belongs to the image ``sources[i]``; images that could not be read have no row. Rows are
    in the order in which the images were given first. A store can be read while it is written; it
    then has the shards that were complete when it was opened, up to the first that was not.

    Parameters
    ----------
    folder
        The folder, or its URL on a file system of fsspec, such as ``"s3://bucket/features/"``. Of
        a store on a server, a layer is copied to a temporary file when it is first used.
    base
        The folder that has the images now, if they were moved, or the store comes from another
        machine; None: where they were. Only `sources` and `skipped` depend on it.

    Raises
    ------
    FileFormatError
        If the folder is no store, a part of it is missing, or it is of a newer version.
    ParameterError
        If ``folder`` is empty, or no path or URL.
    DownloadError
        If the store cannot be read from a server.
    DatasetError
        If the images are not in ``base``.
    UnknownNameError
        If the scheme of the URL is unknown.
    UnsupportedError
        If pyarrow, fsspec or the package that fsspec needs for the scheme is not installed.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from transferkit import FeatureExtractor, FeatureStore
    >>> from transferkit.demo import TEST
    >>> fx = FeatureExtractor("mobilenet_v2", backend="onnxruntime")
    >>> with TemporaryDirectory() as folder:
    ...     _ = fx.extract_to(folder, TEST)
    ...     store = FeatureStore(folder)
    ...     store["embedding"].shape, len(store.skipped), store.info.description["network"]
    ((24, 1280), 0, 'mobilenet_v2')
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, base: str | os.PathLike[str] | None = None
    ) -> None:
        import_arrow()
        self._place = find_place(folder)
        self._base = base
        self._manifest = read_manifest(self._place)
        self._shards = distinct_shards(self._place)
        self._check_complete()
        self._relocation = None
        if base is not None:
            self._relocation = find_relocation(sample_records(self._shards), base)

    @property
    def folder(self) -> Path | str:
        """The folder of the store, or its URL."""
        return self._place.path if isinstance(self._place, FolderPlace) else str(self._place)

    @property
    def info(self) -> Manifest:
        """What the features were computed with, and how they are stored."""
        return self._manifest

    @property
    def shards(self) -> Sequence[Path | str]:
        """The Parquet files, or their URLs, in the order of their rows, for other programs."""
        return [shard.location for shard in self._shards]

    @property
    def relocation(self) -> Relocation | None:
        """Where the images were and are, if ``base`` is given."""
        return self._relocation

    @functools.cached_property
    def sources(self) -> Sources:
        """(n,) the source of each row: a path, or another name."""
        pa, _ = import_arrow()
        parts = [
            batch.column("source").filter(batch.column("error").is_null())
            for batch in self._records(["source", "error"])
        ]
        return Sources(pa.chunked_array(parts, pa.string()), self._relocation)

    @functools.cached_property
    def indices(self) -> npt.NDArray[np.int64]:
        """(n,) the number of each row in the store, in which skipped images count."""
        parts = [
            batch.column("row").filter(batch.column("error").is_null()).to_numpy()
            for batch in self._records(["row", "error"])
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @functools.cached_property
    def positions(self) -> npt.NDArray[np.int64]:
        """(n,) the position of each row among all images of the store, skipped ones included.

        The same as `indices`, unless a shard was lost whose images are gone, or images that had
        been skipped were tried again.
        """
        readable, skipped = self._readable
        counted = readable.copy()
        counted[[position for position, _ in skipped.values()]] = True
        return np.flatnonzero(readable[counted])

    @functools.cached_property
    def skipped(self) -> list[Skipped]:
        """The images that could not be read, and why."""
        _, skipped = self._readable
        return [Skipped(self._local(source), reason) for source, (_, reason) in skipped.items()]

    @functools.cached_property
    def _readable(self) -> tuple[npt.NDArray[np.bool_], dict[str, tuple[int, str]]]:
        return find_readable(self._shards)

    @functools.cached_property
    def _num_rows(self) -> int:
        return sum(batch.column("error").null_count for batch in self._records(["error"]))

    @functools.cached_property
    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {}

    def __getitem__(self, layer: str) -> npt.NDArray[Any]:
        self._check_layer(layer)
        if layer not in self._arrays:
            self._arrays[layer] = map_layer(
                self._place,
                self._shards,
                layer,
                self._manifest.layers[layer],
                self._manifest.dtype,
                self._num_rows,
            )
        return self._arrays[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self._manifest.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.layers)

    def __len__(self) -> int:
        return len(self._manifest.layers)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[object, ...]:
        # Without the arrays, which another process maps itself.
        return (_open_store, (self._place, self._base))

    def __repr__(self) -> str:
        layers = ", ".join(f"{name!r}: {shape}" for name, shape in self._manifest.layers.items())
        return f"<FeatureStore {str(self._place)!r}: {self._num_rows} rows; {{{layers}}}>"

    def iter_batches(
        self, batch_size: int = 1024, layers: Sequence[str] | None = None
    ) -> Iterator[Features]:
        """Yield the rows in batches, in order.

        Parameters
        ----------
        batch_size
            The number of rows of a batch; the last one may have fewer.
        layers
            Layers of the store; None: all of them.

        Yields
        ------
        Features
            A mapping from layer to array, with the attributes ``sources`` and ``indices``.

        Raises
        ------
        UnknownNameError
            If a layer was not stored.
        ParameterError
            If ``batch_size`` is not an integer of at least 1.
        """
        size = check_integer("batch_size", batch_size, 1)
        arrays = {layer: self[layer] for layer in (self if layers is None else layers)}
        return self._batches(arrays, size)

    def _batches(self, arrays: Mapping[str, npt.NDArray[Any]], size: int) -> Iterator[Features]:
        for start in range(0, self._num_rows, size):
            rows = slice(start, start + size)
            yield Features(
                {layer: np.array(array[rows]) for layer, array in arrays.items()},
                self.sources[rows],
                self.indices[rows].astype(np.intp),
                [],
            )

    def nearest(self, query: npt.ArrayLike, k: int = 10, *, layer: str | None = None) -> Neighbors:
        """Return the images that are most similar to a query, by the cosine of the angle.

        All rows are compared, in blocks, so that little memory is needed.

        Parameters
        ----------
        query
            The output of the layer for one image, such as ``fx.transform([image])[0]``.
        k
            The number of images; fewer are returned if the store has fewer.
        layer
            The layer to compare; None: the only one, or else ``"embedding"``.

        Returns
        -------
        Neighbors
            ``sources``, ``rows`` and ``similarities``, the most similar first.

        Raises
        ------
        ShapeError
            If the query has another number of values than the layer.
        NotFiniteError
            If a value of the query is NaN or infinite.
        UnknownNameError
            If the layer was not stored.
        ParameterError
            If ``k`` is not an integer of at least 1, or a layer has to be chosen.
        """
        number = check_integer("k", k, 1)
        layer = self._default_layer() if layer is None else layer
        array = self[layer]
        vector = check_query(query, array.shape[1:], layer)
        flat = array.reshape(len(array), -1)
        size = max(1, _BLOCK_BYTES // (4 * len(vector)))
        blocks = (flat[start : start + size] for start in range(0, len(flat), size))
        rows, similarities = find_nearest(vector, blocks, number)
        return Neighbors([self.sources[row] for row in rows.tolist()], rows, similarities)

    def _default_layer(self) -> str:
        names = list(self)
        if len(names) > 1 and "embedding" not in names:
            raise ParameterError(
                f"layer is None, but the store has {len(names)} layers; expected one of "
                f"{', '.join(map(repr, names[:5]))}"
            )
        return names[0] if len(names) == 1 else "embedding"

    def to_arrow(self, layers: Sequence[str] | None = None) -> Any:
        """Return the store as an Arrow table, which holds it in memory.

        Parameters
        ----------
        layers
            Layers of the store; None: all of them.

        Returns
        -------
        pyarrow.Table
            The columns ``row``, ``source``, ``size``, ``modified``, ``sha256``, ``error``, and one
            list of fixed size for each layer, flattened in the order height, width, channel. It
            has the rows of skipped images too, with null as their features.

        Raises
        ------
        UnknownNameError
            If a layer was not stored.
        FileFormatError
            If a shard is damaged.
        """
        pa, _ = import_arrow()
        names = list(self) if layers is None else list(layers)
        for layer in names:
            self._check_layer(layer)
        tables = []
        for shard in self._shards:
            batches = list(read_records(shard, (*RECORD_COLUMNS, *names)))
            tables += [pa.Table.from_batches([batch]) for batch in batches]
        if not tables:
            raise DatasetError(f"{shorten_path(self._place)}: the store has no rows yet")
        # Without the metadata of each shard, such as its number.
        table = pa.concat_tables([table.replace_schema_metadata() for table in tables])
        if self._relocation is not None:
            moved = map(self._local, table["source"].to_pylist())
            sources = pa.array(map(encode_source, moved), pa.string())
            position = table.schema.get_field_index("source")
            table = table.set_column(position, table.schema.field("source"), sources)
        return table

    def to_pandas(self, layers: Sequence[str] | None = None) -> DataFrame:
        """Return the store as a data frame, which holds it in memory; requires pandas.

        Parameters
        ----------
        layers
            Layers of the store; None: all of them.

        Returns
        -------
        pandas.DataFrame
            As `Features.to_pandas`: the index is the source of each row, the columns are
            ``embedding_0``, ``embedding_1``, ...

        Raises
        ------
        UnknownNameError
            If a layer was not stored.
        UnsupportedError
            If pandas is not installed.
        """
        names = list(self) if layers is None else list(layers)
        arrays = {layer: self[layer] for layer in names}
        features = Features(arrays, list(self.sources), self.indices.astype(np.intp), [])
        return features.to_pandas()

    def verify(self) -> list[str]:
        """Read every shard and compare its content with the digest in its name.

        The same as `transferkit.store.verify_store`, which also takes a store with missing shards.

        Returns
        -------
        list of str
            What is wrong with each file that is missing or damaged; empty if none is. The next
            `transferkit.FeatureExtractor.extract_to` computes such shards again.

        Raises
        ------
        DownloadError
            If a shard cannot be read from a server.
        """
        return verify_store(self._place)

    def _records(self, columns: Sequence[str]) -> Iterator[Any]:
        for shard in self._shards:
            yield from read_records(shard, columns)

    def _local(self, source: str) -> str:
        return _local_source(source, self._relocation)

    def _check_layer(self, layer: object) -> None:
        if layer not in self:
            raise UnknownNameError(
                "layer",
                layer,
                list(self),
                of=f"the store {shorten_path(self._place)}",
                hint="extract it to another folder",
            )

    def _check_complete(self) -> None:
        """Check that no shard is missing, and leave out what is not yet complete."""
        number = self._manifest.num_shards or 0
        missing = missing_shards([shard.number for shard in self._shards], number)
        if missing:
            listed = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise FileFormatError(
                f"{shorten_path(self._place)}: {len(missing)} of {number} shards are missing "
                f"(number {listed}); copy the rest of the folder, or run the extraction again, "
                "which computes them"
            )
        self._shards = complete_shards(self._shards)


def _local_source(stored: str, relocation: Relocation | None) -> str:
    source = decode_source(stored)
    return source if relocation is None else relocation.to_local(source)


def _open_store(place: Place, base: str | os.PathLike[str] | None) -> FeatureStore:
    return FeatureStore(place, base=base)
