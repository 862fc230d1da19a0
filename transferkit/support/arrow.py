"""pyarrow, which is not required, imported when Parquet files are read or written."""

from __future__ import annotations

from typing import Any

from transferkit.errors import UnsupportedError

__all__ = ["import_arrow"]


def import_arrow() -> tuple[Any, Any]:
    """Return the modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises
    ------
    UnsupportedError
        If pyarrow is not installed.

    Examples
    --------
    >>> from transferkit.support.arrow import import_arrow
    >>> pa, pq = import_arrow()
    >>> pa.array([1, 2]).type
    DataType(int64)
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UnsupportedError(
            'Parquet files need pyarrow, which is not installed; pip install "transferkit[store]"'
        ) from error
    return pyarrow, pyarrow.parquet
