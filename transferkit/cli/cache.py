"""``transferkit cache``: list or remove downloaded weights and archives of data sets."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import format_count, print_line, print_table

__all__ = ["cache"]

cache = typer.Typer(help="List or remove downloaded weights and data sets.", no_args_is_help=True)


@cache.command("list")
def list_cache() -> None:
    """List the weights and the archives of data sets in the cache folder."""
    from transferkit.datasets.cache import cached_archives
    from transferkit.weights import cache_folder, cached_files

    files = sorted(cached_files() + cached_archives())
    if files:
        rows = [(path.name, f"{path.stat().st_size / 1e6:,.1f} MB") for path in files]
        print_table(("file", "size"), rows)
    print_line(f"{cache_folder()}: {format_count(len(files), 'file')}")


@cache.command("clear")
def empty_cache(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove all weights and archives of data sets from the cache folder.

    Other files in the folder are kept, and so are unpacked data sets.
    """
    from transferkit.datasets.cache import cached_archives, clear_archives
    from transferkit.weights import cache_folder, cached_files, clear_cache

    if not yes:
        number = format_count(len(cached_files() + cached_archives()), "file")
        typer.confirm(f"Remove {number} from {cache_folder()}?", abort=True)
    removed = clear_cache() + clear_archives()
    print_line(f"{cache_folder()}: {format_count(len(removed), 'file')} removed")
