"""``transferkit cache``."""

from __future__ import annotations

from typing import Annotated

import typer

from transferkit.cli.console import say, show_table

__all__ = ["cache"]


cache = typer.Typer(help="See or clear what was downloaded.", no_args_is_help=True)


@cache.command("list")
def list_cache() -> None:
    """List the weights in the cache folder."""
    from transferkit.weights import cache_folder, cached_files

    files = cached_files()
    if files:
        rows = [(path.name, f"{path.stat().st_size / 1e6:,.1f} MB") for path in files]
        show_table(("file", "size"), rows)
    say(f"{cache_folder()}: {len(files)} {'file' if len(files) == 1 else 'files'}")


@cache.command("clear")
def empty_cache(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove all weights from the cache folder; nothing else in it is touched."""
    from transferkit.weights import cache_folder, cached_files, clear_cache

    if not yes:
        typer.confirm(f"Remove {len(cached_files())} files from {cache_folder()}?", abort=True)
    removed = clear_cache()
    say(f"{cache_folder()}: {len(removed)} {'file' if len(removed) == 1 else 'files'} removed")
