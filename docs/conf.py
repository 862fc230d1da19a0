"""The configuration of the documentation: ``sphinx-build -W docs docs/_build``."""

import contextlib
import inspect
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy.typing as npt
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import transferkit
from transferkit.networks import NETWORKS
from transferkit.weights import WEIGHTS, WeightsEntry

project = "transferkit"
author = "The transferkit developers"
project_copyright = author
version = release = transferkit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["attrs_block", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "images/NOTICE.md"]
# Single backticks in docstrings name Python objects, and arguments, which have no page to link to.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name for name in ("AnyWeights", "Attribute", "ImageLike", "Images", "Padding", "Weights")
}
python_maximum_signature_line_length = 80
napoleon_attr_annotations = False
napoleon_google_docstring = False
napoleon_use_rtype = False

# pytest runs the examples in docstrings.
doctest_test_doctest_blocks = ""

html_theme = "furo"
html_title = f"transferkit {version}"
html_static_path = ["static"]
html_css_files = ["layout.css"]

_ARRAY_LIKE = stringify_annotation(npt.ArrayLike, "smart")
_DTYPE_LIKE = stringify_annotation(npt.DTypeLike, "smart")
# A type alias of this package inside another type.
_ALIAS = re.compile(r"TypeAliasForwardRef\('(\w+)'\)")
_ARRAY = re.compile(
    r"~numpy\.ndarray\[~?tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([^][]+)\]\]"
)


def shorten_types(text: str | None) -> str | None:
    """Replace the types that autodoc expands by their aliases."""
    if text is None:
        return None
    text = text.replace(_ARRAY_LIKE, "ArrayLike").replace(_DTYPE_LIKE, "DTypeLike")
    return _ALIAS.sub(r"\1", _ARRAY.sub(r"NDArray[\1]", text))


def keep_summary(
    _app: Sphinx, what: str, _name: str, subject: object, _options: object, lines: list[str]
) -> None:
    """Restore the summaries of properties: napoleon takes words before a colon as a type."""
    text = inspect.getdoc(subject)
    if what == "property" and text is not None and "\n---" not in text:
        lines[:] = [*text.splitlines(), ""]


def weights_table() -> str:
    """Return the catalog of weights as a table in Markdown."""
    columns = ("network", "weights", "top-1", "size", "license", "published as, checksum")
    rows = [columns, ("---",) * len(columns)]
    for name in NETWORKS:
        entries = [entry for entry in WEIGHTS if entry.network == name]
        rows += [_weights_row(entry, first=entry is entries[0]) for entry in entries]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _weights_row(entry: WeightsEntry, *, first: bool) -> tuple[str, ...]:
    packaged = " (in the package)" if entry.packaged else ""
    published_as = entry.published_as.removeprefix("torchvision.models.")
    checksum = "no checksum" if entry.checksum is None else f"`{entry.checksum}`"
    return (
        f"`{entry.network}`" if first else "",
        f"`{entry.name}`",
        f"{entry.top1 * 100:.3f}".rstrip("0").rstrip(".") + "%",
        "" if entry.size is None else f"{entry.size:,.1f}&nbsp;MiB",
        f"[{entry.license}]({entry.license_stated_at})",
        f"[`{published_as}`]({entry.url}){packaged}<br>{checksum}",
    )


def command_line_reference() -> str:
    """Return the reference of the command line as Markdown."""
    script = runpy.run_path(str(Path(__file__).parent / "scripts" / "command_line_reference.py"))
    reference: Callable[[], str] = script["command_line_reference"]
    return reference()


_GENERATED: dict[str, Callable[[], str]] = {
    "<!-- the table of weights -->": weights_table,
    "<!-- the command line reference -->": command_line_reference,
}


def insert_generated(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Replace the comments in a page that stand for generated text."""
    for comment, generate in _GENERATED.items():
        if comment in source[0]:
            source[0] = source[0].replace(comment, generate())


def draw_layer(app: Sphinx) -> None:
    """Draw the image of "Looking inside a network" with the code that the page shows."""
    folder = Path(app.srcdir, "generated")
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        runpy.run_path(str(Path(app.srcdir, "show_layer.py")))


def setup(app: Sphinx) -> None:
    """Connect the functions above to Sphinx."""
    app.connect("source-read", insert_generated)
    app.connect("builder-inited", draw_layer)
    # Napoleon has the default priority, 500.
    app.connect("autodoc-process-docstring", keep_summary, priority=900)
    app.connect(
        "autodoc-process-signature",
        lambda _app, _what, _name, _object, _options, arguments, returned: (
            shorten_types(arguments),
            shorten_types(returned),
        ),
    )
