"""pandas, which is not required, imported when a data frame is made."""

from __future__ import annotations

from typing import Any

from transferkit.errors import UnsupportedError

__all__ = ["import_pandas"]


def import_pandas() -> Any:
    """Return the module ``pandas``.

    Raises
    ------
    UnsupportedError
        If it is not installed.

    Examples
    --------
    >>> from transferkit.support.data_frames import import_pandas
    >>> import_pandas().DataFrame({"loss": [0.5, 0.25]})["loss"].tolist()
    [0.5, 0.25]
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise UnsupportedError(
            "a data frame needs pandas, which is not installed; pip install pandas"
        ) from error
    return pd
