"""``transferkit cache``: list or remove downloads, or the features in a cache of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.console import format_count, print_line, print_table
from transferkit.errors import DatasetError, shorten_path

if TYPE_CHECKING:
    from transferkit.features import FeatureCache

__all__ = ["cache"]

cache = typer.Typer(
    help="List or remove cached weights, data sets and features.",
    no_args_is_help=True,
)

_Features = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder of a cache of features, whose content is meant instead.",
    ),
]


@cache.command("list")
def list_cache(features: _Features = None) -> None:
    """List the weights and the archives of data sets in the cache folder.

    With --features, list the layers in a cache of features, with the number of images.
    """
    from transferkit.datasets.cache import cached_archives
    from transferkit.weights import cache_folder, cached_files

    if features is not None:
        _list_features(features)
        return
    files = sorted(cached_files() + cached_archives())
    if files:
        rows = [(path.name, _megabytes(path.stat().st_size)) for path in files]
        print_table(("file", "size"), rows)
    print_line(f"{cache_folder()}: {format_count(len(files), 'file')}")


@cache.command("clear")
def empty_cache(
    features: _Features = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove all weights and archives of data sets from the cache folder.

    Other files in the folder are kept, and so are unpacked data sets. With --features, remove all
    features from a cache of features.
    """
    from transferkit.datasets.cache import cached_archives, clear_archives
    from transferkit.weights import cache_folder, cached_files, clear_cache

    if features is not None:
        _clear_features(features, yes=yes)
        return
    if not yes:
        number = format_count(len(cached_files() + cached_archives()), "file")
        typer.confirm(f"Remove {number} from {cache_folder()}?", abort=True)
    removed = clear_cache() + clear_archives()
    print_line(f"{cache_folder()}: {format_count(len(removed), 'file')} removed")


def _open_features(folder: str) -> FeatureCache:
    from transferkit.features import FeatureCache

    found = FeatureCache(folder)
    if not found.path.is_dir():
        raise DatasetError(f"{shorten_path(found.path)}: no such folder")
    return found


def _list_features(folder: str) -> None:
    found = _open_features(folder)
    features = found.features()
    rows: list[tuple[object, ...]] = [
        (one.network, one.layer, one.backend, one.num_images, _megabytes(one.num_bytes))
        for one in features
    ]
    rest = found.size() - sum(one.num_bytes for one in features)
    if rest > 0:
        rows.append(("results of fits", "", "", "", _megabytes(rest)))
    if rows:
        print_table(("network", "layer", "backend", "images", "size"), rows)
    print_line(f"{found.path}: {_megabytes(found.size())}")


def _clear_features(folder: str, *, yes: bool) -> None:
    found = _open_features(folder)
    if not yes:
        size = _megabytes(found.size())
        typer.confirm(f"Remove {size} of features from {found.path}?", abort=True)
    print_line(f"{found.path}: {_megabytes(found.clear())} removed")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
