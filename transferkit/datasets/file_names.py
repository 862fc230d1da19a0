"""Data sets whose labels are in the names of the files."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from transferkit.datasets.labelled_images import LabelledImages
from transferkit.errors import DatasetError, ParameterError, shorten
from transferkit.images import Skipped, list_images
from transferkit.images.skipped import check_on_error

__all__ = ["from_names"]

_OPTIONAL = ("split", "group")
_MAX_SHOWN = 5


def from_names(
    folder: str | os.PathLike[str], pattern: str | re.Pattern[str], *, on_error: str = "raise"
) -> LabelledImages:
    r"""Return the images in a folder, with the labels in their names.

    Parameters
    ----------
    folder
        A folder; its subfolders are searched as well.
    pattern
        A regular expression for the whole name of a file, with the named group ``label`` and
        optionally ``group`` and ``split``: ``r"(?P<label>.+)_\d+\.jpg"``. If it contains a slash,
        it is compared with the path below ``folder``, with slashes on every system.
    on_error
        ``"raise"``, or ``"skip"`` to skip images whose name does not match; ``skipped`` of the
        result lists them.

    Returns
    -------
    LabelledImages
        In the order of `transferkit.list_images`.

    Raises
    ------
    DatasetError
        If the folder does not exist or has no images, if no name matches, or if one does not and
        ``on_error`` is ``"raise"``.
    ParameterError
        If the pattern is not a regular expression, or has no group ``label``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from transferkit.datasets import from_names
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("maine_coon_1.jpg", "maine_coon_2.jpg", "pug_1.jpg"):
    ...         Image.new("RGB", (8, 8)).save(Path(folder, name))
    ...     data = from_names(folder, r"(?P<label>.+)_\d+\.jpg")
    >>> data.counts
    {'maine_coon': 2, 'pug': 1}
    """
    check_on_error(on_error)
    expression = _compiled(pattern)
    images = list_images(folder)
    names = [_name(image, Path(folder), expression) for image in images]
    if "label" not in expression.groupindex:
        raise ParameterError(
            f"pattern is {shorten(expression.pattern)}, without a group for the label; write "
            rf"(?P<label>...) around it, as in '(?P<label>.+)_\d+\.jpg', for {names[0]!r}"
        )
    roles = ["label", *(name for name in _OPTIONAL if name in expression.groupindex)]
    matches = [expression.fullmatch(unicodedata.normalize("NFC", name)) for name in names]
    # A group that took no part in the match, or an empty one, is not a label.
    used = [
        index
        for index, match in enumerate(matches)
        if match is not None and all(match[role] for role in roles)
    ]
    unused = sorted(set(range(len(images))) - set(used))
    if unused and (on_error == "raise" or not used):
        shown = ", ".join(names[index] for index in unused[:_MAX_SHOWN])
        shown += ", ..." if len(unused) > _MAX_SHOWN else ""
        number = f"{len(unused)} of {len(images)} names do not match"
        what = number if used else "no name matches"
        remedy = "; pass on_error='skip' to leave them out" if used else ""
        raise DatasetError(
            f"{os.fspath(folder)}: {what} the pattern {shorten(expression.pattern)}, which must "
            f"match the whole name: {shown}{remedy}"
        )
    values = {role: [matches[index][role] for index in used] for role in roles}  # type: ignore[index]
    return LabelledImages(
        [images[index] for index in used],
        values["label"],
        splits=values.get("split"),
        groups=values.get("group"),
        skipped=[Skipped(str(images[index]), "its name does not match") for index in unused],
    )


def _compiled(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    if not isinstance(pattern, (str, re.Pattern)) or isinstance(
        getattr(pattern, "pattern", ""), bytes
    ):
        raise ParameterError(f"pattern is {shorten(pattern)}; expected a regular expression")
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ParameterError(
            f"pattern is {shorten(pattern)}, not a regular expression: {error}"
        ) from None


def _name(image: Path, folder: Path, pattern: re.Pattern[str]) -> str:
    """Return what is compared with the pattern: the name of the file, or its path."""
    if "/" not in pattern.pattern or image == folder:
        return image.name
    return image.relative_to(folder).as_posix()
