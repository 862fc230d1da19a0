"""How the documentation is built: ``sphinx-build -W docs docs/_build``."""

import contextlib
import re
import runpy
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
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "show_layer.py"]
# Single backticks in docstrings name Python objects, and arguments, which have no page to link to.
default_role = "py:obj"

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name for name in ("Attribute", "Images", "Padding", "Picture", "Weights")
}
python_maximum_signature_line_length = 100
napoleon_attr_annotations = False
napoleon_google_docstring = False
napoleon_use_rtype = False

# The examples in docstrings are run by pytest.
doctest_test_doctest_blocks = ""

html_theme = "furo"
html_title = f"transferkit {version}"

_ARRAY_LIKE = stringify_annotation(npt.ArrayLike, "smart")
_ARRAY = re.compile(
    r"~numpy\.ndarray\[~?tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[([^][]+)\]\]"
)


def shorten_types(text: str | None) -> str | None:
    """NumPy's types by the names they are written by, which autodoc spells out."""
    return text and _ARRAY.sub(r"NDArray[\1]", text.replace(_ARRAY_LIKE, "ArrayLike"))


_TABLE_OF_WEIGHTS = "<!-- the table of weights -->"


def weights_table() -> str:
    """The catalogue of weights as a table in Markdown."""
    columns = ("network", "weights", "top-1", "size", "licence", "file", "published as")
    rows = [columns, ("---",) * len(columns)]
    for name in NETWORKS:
        entries = [entry for entry in WEIGHTS if entry.network == name]
        rows += [_weights_row(entry, first=entry is entries[0]) for entry in entries]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _weights_row(entry: WeightsEntry, *, first: bool) -> tuple[str, ...]:
    return (
        f"`{entry.network}`" if first else "",
        f"`{entry.name}`",
        f"{entry.top1 * 100:.3f}".rstrip("0").rstrip(".") + " %",
        "" if entry.size is None else f"{entry.size:,.1f} MiB",
        f"[{entry.license}]({entry.license_stated_at})",
        "in the package" if entry.packaged else f"[{entry.checksum or 'no digest'}]({entry.url})",
        f"`{entry.published_as}`",
    )


def fill_in(_app: Sphinx, _name: str, source: list[str]) -> None:
    """Put the table where a page asks for it."""
    if _TABLE_OF_WEIGHTS in source[0]:
        source[0] = source[0].replace(_TABLE_OF_WEIGHTS, weights_table())


def draw_pictures(app: Sphinx) -> None:
    """Make the pictures that pages show, by running the very code that stands beside them."""
    folder = Path(app.srcdir, "generated")
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        runpy.run_path(str(Path(app.srcdir, "show_layer.py")))


def setup(app: Sphinx) -> None:
    """Tell Sphinx of what is done here and not by an extension."""
    app.connect("source-read", fill_in)
    app.connect("builder-inited", draw_pictures)
    app.connect(
        "autodoc-process-signature",
        lambda _app, _what, _name, _object, _options, arguments, returned: (
            shorten_types(arguments),
            shorten_types(returned),
        ),
    )
