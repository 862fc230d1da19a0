"""Shards: Parquet files with the features of some images, whose names have their digests.

A shard is written under a temporary name and renamed when it is complete, so that a file with the
name of a shard is never half a shard. Its name has the first digits of the SHA-256 of its content,
so that damage is found without a second file. Several processes may write shards of different
numbers into one folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from transferkit.errors import (
    DownloadError,
    FileFormatError,
    OutputError,
    ParameterError,
    TransferkitError,
    UnsupportedError,
    shorten,
    shorten_path,
)
from transferkit.store.places import Place, find_place
from transferkit.support.arrow import import_arrow

__all__ = [
    "DTYPES",
    "FORMAT",
    "RECORD_COLUMNS",
    "Record",
    "Shard",
    "ShardWriter",
    "check_layer_names",
    "decode_source",
    "distinct_shards",
    "encode_source",
    "has_valid_digest",
    "is_system_error",
    "list_parts",
    "list_shards",
    "part_name",
    "read_arrays",
    "read_records",
]

FORMAT = 1
"""The version of the format of stores and shards."""

DTYPES = ("float32", "float16")
"""The dtypes that the features in a shard may have."""

RECORD_COLUMNS = ("row", "source", "size", "modified", "sha256", "error")
"""The columns of a shard that are not layers."""

_DIGITS = 16
_NAME = re.compile(rf"shard-(?P<number>\d{{6,}})-(?P<digest>[0-9a-f]{{{_DIGITS}}})\.parquet")
# A surrogate or a backslash, as `encode_source` writes it.
_ESCAPED = re.compile(r"\\(ud[89a-f][0-9a-f]{2}|u005c)")
_KEY = b"transferkit"
# The size of the features in a row group, which is in memory while it is written.
_GROUP_BYTES = 16 << 20
_MAX_GROUP_ROWS = 1 << 16


@dataclass(frozen=True, slots=True)
class Record:
    r"""What a shard has about an image, beside its features.

    Attributes
    ----------
    row
        The number of the image in the store, from 0; skipped images count.
    source
        The path of the image, or another name that is the same in every run. Bytes of a path
        that are not valid text are written as ``\udcff`` in the file; see `encode_source`.
    size
        The length of the file in bytes; None for an image that is no file.
    modified
        When the file was modified, in nanoseconds since 1970; None for an image that is no file.
    sha256
        The digest of the file, or of the pixels of an image that is no file, 32 bytes; None if
        it could not be read.
    error
        Why the image was skipped; None if it was not.
    """

    row: int
    source: str
    size: int | None = None
    modified: int | None = None
    sha256: bytes | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard in a folder.

    Attributes
    ----------
    place
        The folder.
    name
        The name of the file.
    number
        The number of the shard in the store, from 0.
    digest
        The first digits of its SHA-256, as its name states them.
    """

    place: Place
    name: str
    number: int
    digest: str

    @property
    def location(self) -> Path | str:
        """The path of the file, or its URL."""
        return self.place.locate(self.name)

    @property
    def path(self) -> Path:
        """The path of the file, in a local folder."""
        location = self.location
        if not isinstance(location, Path):
            raise UnsupportedError(f"{shorten_path(location)}: not a local file")
        return location

    def open(self) -> Any:
        """Return the shard as a ``pyarrow.parquet.ParquetFile``, which the caller closes.

        Raises
        ------
        FileFormatError
            If it cannot be read, is damaged, or was not written as a shard.
        DownloadError
            If it cannot be read from a server.
        """
        pa, pq = import_arrow()
        location = self.location
        try:
            source = location if isinstance(location, Path) else self.place.open(self.name)
            file = pq.ParquetFile(source, memory_map=True)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise _damaged(self, error) from error
        metadata = file.schema_arrow.metadata or {}
        if _KEY not in metadata:
            file.close()
            raise FileFormatError(
                f"{shorten_path(location)}: a Parquet file, but not a shard of features"
            )
        return file

    def read_metadata(self) -> tuple[Mapping[str, Any], int]:
        """Return the metadata, and the number of rows.

        Returns
        -------
        metadata : mapping
            ``shapes``, the name of each layer to its shape, and what was given to `ShardWriter`.
        num_rows : int
            The number of rows, those of skipped images included.

        Raises
        ------
        FileFormatError
            As for `open`.
        """
        with self.open() as file:
            try:
                metadata = json.loads(file.schema_arrow.metadata[_KEY])
                return dict(metadata), int(file.metadata.num_rows)
            except (ValueError, TypeError) as error:
                raise _damaged(self, error) from error


class ShardWriter:
    """Writes a shard, which is renamed into place when a ``with`` block ends without an error.

    After an error, no file is left.

    Parameters
    ----------
    folder
        The folder, which exists, or its URL.
    number
        The number of the shard in the store, from 0.
    layers
        The name of each layer to the shape of its output for one image, (h, w, c) or (d,).
    dtype
        ``"float32"`` or ``"float16"``.
    metadata
        Further entries for the metadata of the file, as plain data for JSON.

    Attributes
    ----------
    path : pathlib.Path or str
        The file, or its URL; None before it is complete.
    num_rows
        The number of rows so far.

    Raises
    ------
    OutputError
        On entering or later: if the file cannot be written.
    ParameterError
        If a layer has the name of another column, or the dtype is unknown.
    UnsupportedError
        If pyarrow is not installed.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from transferkit.store import Record, ShardWriter, list_shards, read_arrays
    >>> with TemporaryDirectory() as folder:
    ...     with ShardWriter(folder, 0, {"embedding": (3,)}) as writer:
    ...         records = [Record(0, "a.jpg"), Record(1, "b.jpg", error="the file is empty")]
    ...         writer.append(records, {"embedding": np.ones((1, 3), np.float32)})
    ...     list(read_arrays(list_shards(folder)[0], "embedding"))
    [array([[1., 1., 1.]], dtype=float32)]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        number: int,
        layers: Mapping[str, Sequence[int]],
        dtype: str = "float32",
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        check_layer_names(layers)
        if dtype not in DTYPES:
            raise ParameterError(
                f"dtype is {shorten(dtype)}; expected {' or '.join(map(repr, DTYPES))}"
            )
        self.path: Path | str | None = None
        self.num_rows = 0
        self._place = find_place(folder)
        self._number = number
        self._shapes = {layer: tuple(shape) for layer, shape in layers.items()}
        self._dtype = np.dtype(dtype)
        lengths = [math.prod(shape) for shape in self._shapes.values()]
        bytes_of_row = max(1, sum(lengths) * self._dtype.itemsize)
        self._group_rows = min(max(1, _GROUP_BYTES // bytes_of_row), _MAX_GROUP_ROWS)
        self._schema = _schema(self._shapes, dtype, {**(metadata or {}), "number": number})
        self._part = part_name(number)
        self._is_begun = False
        self._file: Any = None
        self._writer: Any = None
        self._records: list[Record] = []
        self._arrays = {
            layer: np.empty((self._group_rows, math.prod(shape)), self._dtype)
            for layer, shape in self._shapes.items()
        }

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def open(self) -> None:
        """Create the temporary file.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        _, pq = import_arrow()
        try:
            self._is_begun = True
            self._file = _HashingFile(self._place.begin(self._part).open("xb"))
            self._writer = pq.ParquetWriter(
                self._file,
                self._schema,
                compression="NONE",
                use_dictionary=False,
                # Those of layers would say nothing; those of rows let readers skip row groups.
                write_statistics=["row"],
            )
        except OSError as error:
            self.discard()
            raise self._not_written(error) from None

    def append(
        self,
        records: Sequence[Record],
        outputs: Mapping[str, Sequence[npt.NDArray[Any]] | npt.NDArray[Any]],
    ) -> None:
        """Add rows.

        Parameters
        ----------
        records
            The images, in the order of their rows.
        outputs
            Layer to array (m, h, w, c) or (m, d), or a list of m arrays: the features of the m
            images without an error. They are copied.
        """
        done = 0
        for record in records:
            row = len(self._records)
            for layer, array in self._arrays.items():
                # A value beyond the range of float16 becomes infinite.
                with np.errstate(over="ignore"):
                    array[row] = 0 if record.error else outputs[layer][done].reshape(-1)
            done += record.error is None
            self._records.append(record)
            self.num_rows += 1
            if len(self._records) == self._group_rows:
                try:
                    self._write_group()
                except OSError as error:
                    raise self._not_written(error) from None

    def finish(self) -> None:
        """Write the rest of the shard, and rename it into place.

        Raises
        ------
        OutputError
            If it cannot be written; no file is left then.
        """
        try:
            self._write_group()
            self._writer.close()
            self._file.sync()
            self._file.close()
            digits = self._file.sha256.hexdigest()[:_DIGITS]
            name = f"shard-{self._number:06}-{digits}.parquet"
            self._place.complete(self._part, name)
            self._is_begun = False
            self.path = self._place.locate(name)
        except OSError as error:
            raise self._not_written(error) from None
        finally:
            self.discard()

    def discard(self) -> None:
        """Close and remove what is temporary, if it is still there."""
        if self._file is not None:
            # pyarrow writes the end of the file when the writer is closed, now or later.
            self._file.discards = True
            with suppress(OSError):
                self._file.close()
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()
        if self._is_begun:
            self._is_begun = False
            with suppress(OSError):
                self._place.discard(self._part)

    def _write_group(self) -> None:
        if not self._records:
            return
        pa, _ = import_arrow()
        number = len(self._records)
        is_skipped = np.array([record.error is not None for record in self._records])
        columns = []
        for name in RECORD_COLUMNS:
            values = [getattr(record, name) for record in self._records]
            values = [encode_source(value) if isinstance(value, str) else value for value in values]
            columns.append(pa.array(values, self._schema.field(name).type))
        for layer, array in self._arrays.items():
            columns.append(
                pa.FixedSizeListArray.from_arrays(
                    pa.array(array[:number].reshape(-1)),
                    type=self._schema.field(layer).type,
                    mask=pa.array(is_skipped),
                )
            )
        self._writer.write_table(pa.table(columns, schema=self._schema), number)
        self._records.clear()

    def _not_written(self, error: OSError) -> OutputError:
        name = f"shard {self._number}"
        reason = error.strerror or error
        return OutputError(f"{shorten_path(self._place)}: {name} cannot be written: {reason}")


class _HashingFile:
    """A file that is written from its start to its end, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.discards = False

    @property
    def closed(self) -> bool:
        return self._file.closed and not self.discards

    def write(self, data: bytes) -> int:
        if self.discards:
            return len(data)
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        if not self.discards:
            self._file.flush()

    def sync(self) -> None:
        """Wait until the content is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def encode_source(text: str) -> str:
    r"""Return a text that is valid Unicode, which the name of a file need not be.

    Bytes of a path that are not valid text, which Python has as surrogates, are written as
    ``\udcff``. A backslash that is followed by the same in the text itself is ``\u005c``.

    Examples
    --------
    >>> from transferkit.store.shards import decode_source, encode_source
    >>> encode_source("caf\udce9.jpg")
    'caf\\udce9.jpg'
    >>> decode_source("caf\\udce9.jpg") == "caf\udce9.jpg"
    True
    """
    return _ESCAPED.sub(r"\\u005c\1", text).encode("utf-8", "backslashreplace").decode("utf-8")


def decode_source(text: str) -> str:
    """Return the text of which `encode_source` returned this one."""
    return _ESCAPED.sub(lambda match: chr(int(match[1][1:], 16)), text)


def check_layer_names(layers: Mapping[str, Sequence[int]] | Sequence[str]) -> None:
    """Check that no layer has the name of another column of a shard.

    Raises
    ------
    ParameterError
        If one has.
    """
    reserved = [layer for layer in layers if layer in RECORD_COLUMNS]
    if reserved:
        raise ParameterError(
            f"layer {reserved[0]!r} has the name of another column of the store; expected layers "
            f"other than {', '.join(map(repr, RECORD_COLUMNS))}"
        )


def _schema(shapes: Mapping[str, tuple[int, ...]], dtype: str, metadata: Mapping[str, Any]) -> Any:
    pa, _ = import_arrow()
    value = pa.field("element", pa.type_for_alias(dtype), nullable=False)
    fields = [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("size", pa.int64()),
        pa.field("modified", pa.int64()),
        pa.field("sha256", pa.binary(32)),
        pa.field("error", pa.string()),
    ]
    fields += [
        pa.field(layer, pa.list_(value, math.prod(shape))) for layer, shape in shapes.items()
    ]
    content = {
        **metadata,
        "format": FORMAT,
        "shapes": {layer: list(shape) for layer, shape in shapes.items()},
    }
    return pa.schema(fields, {_KEY: json.dumps(content, sort_keys=True)})


def list_shards(folder: str | os.PathLike[str]) -> list[Shard]:
    """Return the shards in a folder, by number; other files are left out.

    Raises
    ------
    FileFormatError
        If the folder cannot be read.
    DownloadError
        If it cannot be read from a server.
    """
    place = find_place(folder)
    try:
        names = place.names()
    except DownloadError:
        raise
    except OSError as error:
        raise FileFormatError(f"{shorten_path(folder)}: {error.strerror or error}") from error
    matches = [match for match in map(_NAME.fullmatch, names) if match is not None]
    shards = [Shard(place, match[0], int(match["number"]), match["digest"]) for match in matches]
    return sorted(shards, key=lambda shard: shard.number)


def distinct_shards(folder: str | os.PathLike[str]) -> list[Shard]:
    """Return one shard of each number in a folder, by number; see `list_shards`."""
    # Two processes may have written the same shard, with different versions of a library.
    return list({shard.number: shard for shard in list_shards(folder)}.values())


def list_parts(folder: str | os.PathLike[str], number: int | None = None) -> list[str]:
    """Return the temporary names of shards that are written, or whose process was killed.

    Parameters
    ----------
    folder
        The folder of the store.
    number
        The number of a shard; None: all of them.
    """
    start = ".shard-" if number is None else f"{_part_start(number)}."
    names = find_place(folder).names()
    return [name for name in names if name.startswith(start) and name.endswith(".part")]


def part_name(number: int, suffix: str = "") -> str:
    """Return a new name for a temporary file of a shard.

    Parameters
    ----------
    number
        The number of the shard.
    suffix
        What comes before the end of the name, to tell it from others.
    """
    return f"{_part_start(number)}.{secrets.token_hex(4)}{suffix}.part"


def _part_start(number: int) -> str:
    return f".shard-{number:06}"


def has_valid_digest(shard: Shard) -> bool:
    """Return whether the content of a shard has the digest that its name states.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with shard.place.open(shard.name) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest.startswith(shard.digest)


def read_arrays(shard: Shard, layer: str) -> Iterator[npt.NDArray[Any]]:
    """Yield the features of a layer, of the images that were not skipped, in parts.

    Parameters
    ----------
    shard
        The shard.
    layer
        A layer of it.

    Yields
    ------
    array
        (m, d), read-only; a feature map (h, w, c) is flattened to d = h * w * c.

    Raises
    ------
    FileFormatError
        If the shard is damaged, or does not have the layer.
    """
    for batch in _batches(shard, [layer]):
        column = batch.column(0)
        # Without the rows of skipped images, which are null.
        yield column.flatten().to_numpy().reshape(-1, column.type.list_size)


def read_records(shard: Shard, columns: Sequence[str] = RECORD_COLUMNS) -> Iterator[Any]:
    """Yield the columns of a shard that are not layers, of all its images, in parts.

    Parameters
    ----------
    shard
        The shard.
    columns
        Some of `RECORD_COLUMNS`.

    Yields
    ------
    pyarrow.RecordBatch

    Raises
    ------
    FileFormatError
        If the shard is damaged.
    """
    return _batches(shard, columns)


def _batches(shard: Shard, columns: Sequence[str]) -> Iterator[Any]:
    """Yield some columns of a shard, as many rows at a time as are in a row group."""
    pa, _ = import_arrow()
    with shard.open() as file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise FileFormatError(
                f"{shorten_path(shard.location)}: no column {shorten(missing[0])} in this shard"
            )
        try:
            for index in range(file.num_row_groups):
                # A name with a dot also selects the columns that are nested below its parts.
                table = file.read_row_group(index, columns=list(columns)).select(list(columns))
                yield from table.combine_chunks().to_batches()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise _damaged(shard, error) from error


def is_system_error(error: BaseException | None) -> bool:
    """Return whether an error is of the operating system, and says nothing about the content.

    The OSErrors that pyarrow raises for files that are damaged have no number.
    """
    return isinstance(error, OSError) and error.errno is not None


def _damaged(shard: Shard, error: Exception) -> TransferkitError:
    if isinstance(error, DownloadError):
        return DownloadError(str(error))
    path = shard.location
    if is_system_error(error):
        reason = getattr(error, "strerror", None) or error
        return FileFormatError(f"{shorten_path(path)}: cannot be read: {reason}")
    return FileFormatError(
        f"{shorten_path(path)}: damaged or truncated; run the extraction again, which repairs it"
    )
