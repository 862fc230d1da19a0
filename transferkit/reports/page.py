"""HTML pages made from the templates of this package by Jinja, which is imported when needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transferkit.errors import OutputError, UnsupportedError, shorten_path
from transferkit.support.atomic_write import check_writable, write_atomically
from transferkit.support.version import __version__

__all__ = ["check_report", "render_page", "write_page"]


def check_report(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page that is to be written, after checking that it can be.

    Parameters
    ----------
    path
        Ends in ``.html``.

    Raises
    ------
    OutputError
        If the name does not end in ``.html``, or the file cannot be written.
    UnsupportedError
        If Jinja or matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() != ".html":
        raise OutputError(f"{shorten_path(target)}: expected a file name that ends in .html")
    _environment()
    check_writable(target)
    return target


def render_page(template: str, content: Mapping[str, Any]) -> str:
    """Return a page: one HTML file without scripts, and without requests to other servers.

    Parameters
    ----------
    template
        The name of a template in the folder ``templates``, which extends ``base.html``.
    content
        Its variables. Text is escaped, except what a template marks as safe.

    Raises
    ------
    UnsupportedError
        If Jinja or matplotlib is not installed.
    """
    page = _environment().get_template(template)
    text: str = page.render(version=__version__, **content)
    return text


def write_page(path: str | os.PathLike[str], template: str, content: Mapping[str, Any]) -> None:
    """Write a page to a file; see `render_page`.

    Raises
    ------
    OutputError
        If the name does not end in ``.html``, or the file cannot be written.
    UnsupportedError
        If Jinja or matplotlib is not installed.
    """
    target = check_report(path)
    text = render_page(template, content)
    with write_atomically(target) as file:
        # The name of a file need not be valid text.
        file.write(text.encode("utf-8", errors="replace"))


def _environment() -> Any:
    """Return the environment of the templates."""
    try:
        import jinja2
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            f'reports need {error.name}, which is not installed; pip install "transferkit[report]"'
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("transferkit.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment


def _percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage; a dash for None."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"
