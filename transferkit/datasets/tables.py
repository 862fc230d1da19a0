"""Data sets in tables: CSV, Parquet and JSON Lines with a file and a label in each row."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transferkit.datasets.labelled_images import LabelledImages
from transferkit.errors import (
    DatasetError,
    UnknownNameError,
    UnsupportedError,
    shorten,
    shorten_path,
)
from transferkit.images import Skipped
from transferkit.images.skipped import check_on_error
from transferkit.support.column_names import FILE_COLUMNS, has_name, list_columns
from transferkit.support.data_frames import import_pandas

__all__ = ["TABLE_SUFFIXES", "from_csv"]

_TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_JSON_SUFFIXES = (".jsonl", ".ndjson")
_PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = frozenset((*_TEXT_SUFFIXES, *_JSON_SUFFIXES, *_PARQUET_SUFFIXES))
"""The suffixes, in lower case, of files that `from_csv` reads."""

_DELIMITERS = (",", ";", "\t")
# By what a column is for; lower case, with underscores.
_KNOWN_COLUMNS = {
    "file": FILE_COLUMNS,
    "label": ("label", "labels", "class", "class_name", "category", "target"),
    "split": ("split", "subset", "partition"),
    "group": ("group", "groups", "group_id"),
}
_REQUIRED = ("file", "label")
_MAX_SHOWN = 5


@dataclass(frozen=True)
class _Table:
    """Rows of a table.

    Attributes
    ----------
    path
        The file.
    columns
        The names of the columns, in order.
    rows
        The values of each row, by column.
    places
        Where each row is, for messages: ``"line 3"``.
    """

    path: Path
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    places: Sequence[str]


def from_csv(
    path: str | os.PathLike[str],
    *,
    file: str | None = None,
    label: str | None = None,
    split: str | None = None,
    group: str | None = None,
    on_error: str = "raise",
) -> LabelledImages:
    r"""Return the images that a table lists: a CSV, TSV, Parquet or JSON Lines file.

    Parameters
    ----------
    path
        The table. ``.csv``, ``.tsv`` and ``.txt`` are text in UTF-8 (or UTF-16 with a byte order
        mark), separated by commas, semicolons or tabs, whose first row has the names of the
        columns. ``.jsonl`` has one JSON object on each line, as the ``metadata.jsonl`` of
        imagefolder data sets. ``.parquet`` needs pandas and pyarrow.
    file
        The column with the path of each image, absolute or relative to the folder of the table.
        None: the only one with a name such as ``file_name``, ``file``, ``path`` or ``image``.
    label
        The column with the labels. None: the only one with a name such as ``label`` or ``class``.
        Labels of text files are strings.
    split
        The column with the split of each image, such as ``train``. None: one named ``split``, if
        there is one.
    group
        The column with what several images have in common, such as the animal. None: one named
        ``group``, if there is one.
    on_error
        ``"raise"``, or ``"skip"`` to skip rows without a file or label, and files that do not
        exist; ``skipped`` of the result lists them.

    Returns
    -------
    LabelledImages
        In the order of the rows.

    Raises
    ------
    DatasetError
        If the table does not exist, cannot be read or has no rows; if the columns are not
        recognized; or if values or files are missing and ``on_error`` is ``"raise"``.
    UnknownNameError
        If a column that was named does not exist.
    UnsupportedError
        If a Parquet file is given, and pandas or pyarrow is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit.datasets import from_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("1.png", "2.png"):
    ...         Image.new("RGB", (8, 8)).save(Path(folder, name))
    ...     table = Path(folder, "photos.csv")
    ...     _ = table.write_text("file;label\n1.png;cat\n2.png;dog\n")
    ...     data = from_csv(table)
    >>> data.labels.tolist()
    ['cat', 'dog']
    """
    check_on_error(on_error)
    table = _read_table(Path(path))
    given = {"file": file, "label": label, "split": split, "group": group}
    # Before the rows: if names are missing, the first row is shown as them.
    columns = _find_columns(table, given) if table.columns else {}
    if not table.rows:
        raise DatasetError(f"{table.path}: the table has no rows")
    images: list[Path] = []
    values: dict[str, list[Hashable]] = {role: [] for role in columns if role != "file"}
    skipped: list[Skipped] = []
    missing: list[Path] = []
    for row, place in zip(table.rows, table.places, strict=True):
        cells = {role: row.get(column) for role, column in columns.items()}
        empty = [columns[role] for role, cell in cells.items() if _is_empty(cell)]
        if empty:
            reason = f"no value in the column {empty[0]!r}"
            if on_error == "raise":
                raise DatasetError(
                    f"{table.path}, {place}: {reason}; fill it in, or pass on_error='skip'"
                )
            skipped.append(Skipped(f"{table.path}, {place}", reason))
            continue
        image = _resolve(table.path.parent, cells["file"])
        if image is None:
            raise DatasetError(
                f"{table.path}, {place}: the column {columns['file']!r} has "
                f"{shorten(cells['file'])}; expected the path of an image"
            )
        # Unlike Path.is_file, False for a name that is too long for a file.
        if not os.path.isfile(image):
            missing.append(image)
            skipped.append(Skipped(str(image), f"no such file ({table.path.name}, {place})"))
            continue
        images.append(image)
        for role, of_role in values.items():
            of_role.append(cells[role])
    if missing and (on_error == "raise" or not images):
        shown = ", ".join(shorten_path(one) for one in missing[:_MAX_SHOWN])
        raise DatasetError(
            f"{table.path}: {len(missing)} of {len(table.rows)} files do not exist: {shown}"
            f"{', ...' if len(missing) > _MAX_SHOWN else ''}; relative paths are relative to the "
            "folder of the table" + ("; on_error='skip' skips them" if images else "")
        )
    if not images:
        raise DatasetError(f"{table.path}: no row has both a file and a label")
    return LabelledImages(
        images,
        values["label"],
        splits=values.get("split"),
        groups=values.get("group"),
        skipped=skipped,
    )


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _resolve(folder: Path, name: object) -> Path | None:
    """Return the path of an image in a table; None if it is none."""
    if not isinstance(name, str) or "\0" in name:
        return None
    path = folder / name
    # Written on Windows.
    if "\\" in name and os.sep == "/" and not os.path.exists(path):
        return folder / name.replace("\\", "/")
    return path


def _find_columns(table: _Table, given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the name of the column for each purpose; optional ones may be missing.

    Parameters
    ----------
    table
        The table.
    given
        The column that the caller named for each purpose, or None.
    """
    found: dict[str, str] = {}
    for role, name in given.items():
        if name is not None:
            if name not in table.columns:
                raise UnknownNameError("column", name, table.columns, of=str(table.path))
            if table.columns.count(name) > 1:
                raise DatasetError(f"{table.path}: several columns are named {shorten(name)}")
            found[role] = name
            continue
        candidates = [
            column
            for column in table.columns
            if has_name(column, _KNOWN_COLUMNS[role]) and column not in given.values()
        ]
        if len(candidates) == 1:
            found[role] = candidates[0]
        elif role in _REQUIRED or candidates:
            problem = (
                f"several columns may be the {role}: {list_columns(candidates)}"
                if candidates
                else f"the column with the {role} is not recognized"
            )
            raise DatasetError(
                f"{table.path}: {problem}; rename it to {role!r}, or name it with {role}=; the "
                f"columns are {list_columns(table.columns)}"
            )
    return found


def _read_table(path: Path) -> _Table:
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DatasetError(
            f"{shorten_path(path)}: not a table; expected a file that ends in "
            f"{', '.join(sorted(TABLE_SUFFIXES))}"
        )
    try:
        if suffix in _PARQUET_SUFFIXES:
            table = _read_parquet(path)
        else:
            text = _read_text(path)
            table = _parse_json(path, text) if suffix in _JSON_SUFFIXES else _parse_csv(path, text)
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"{shorten_path(path)}: cannot be read: {reason}") from None
    return table


def _read_text(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}, line {line}: not valid {error.encoding.upper()} text; save the table as UTF-8"
        ) from None


def _parse_csv(path: Path, text: str) -> _Table:
    header = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=header.count)
    # With line ends unchanged, as the reader needs them.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    places: list[str] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if not any(stripped):
                continue
            if not columns:
                columns = stripped
                continue
            place = f"line {reader.line_num}"
            if len(stripped) != len(columns):
                raise DatasetError(
                    f"{path}, {place}: {len(stripped)} values for {len(columns)} columns; put "
                    "quotes around values with a separator in them"
                )
            rows.append(dict(zip(columns, stripped, strict=True)))
            places.append(place)
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None
    return _Table(path, columns, rows, places)


def _parse_json(path: Path, text: str) -> _Table:
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}, line {number}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{path}, line {number}: {shorten(row)}; expected a JSON object")
        rows.append(row)
        places.append(f"line {number}")
    return _Table(path, list(dict.fromkeys(key for row in rows for key in row)), rows, places)


def _read_parquet(path: Path) -> _Table:
    pandas = import_pandas()
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise UnsupportedError(
            f"{path}: Parquet needs pyarrow, which is not installed; pip install pyarrow"
        ) from error
    except ValueError as error:
        # Errors of pyarrow are ValueErrors.
        raise DatasetError(f"{path}: not a valid Parquet file: {shorten(str(error))}") from None
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return _Table(path, [str(column) for column in frame.columns], rows, places)
