"""``transferkit features``: say what is in a store of features, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transferkit.cli.arguments import parse_path, parse_store
from transferkit.cli.console import (
    format_count,
    print_json,
    print_line,
    print_skipped,
    print_table,
    print_warning,
    skipped_to_dicts,
)
from transferkit.cli.options import Json

if TYPE_CHECKING:
    from transferkit.images import Skipped
    from transferkit.store import FeatureStore

__all__ = ["features", "print_some_skipped"]

_MAX_SKIPPED = 20


def features(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=parse_store, metavar="FOLDER", help="The folder of the store, or its URL."
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Compare every file with its digest; exit with 1 if any is damaged or missing.",
        ),
    ] = False,
    base: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            metavar="FOLDER",
            help="The folder that has the images now, if they were moved.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Describe and check a store of features.

    Prints the number of rows, the layers, and what they were computed with: network, weights,
    preprocessing, precision, backend and versions; and the images that were skipped.
    """
    from transferkit.store import FeatureStore

    if verify:
        # Before the store is opened, which fails if a shard is missing.
        _verify(folder)
    store = FeatureStore(folder, base=base)
    if json:
        print_json(_content(store))
    else:
        _print(store)
        if verify:
            number = format_count(len(store.shards), "file")
            print_line(f"verified: {number}, none damaged or missing")
        print_some_skipped(store.skipped, None)


def _verify(folder: Path | str) -> None:
    """Exit with a list of the damaged and missing files if there are any."""
    from transferkit.store import verify_store

    problems = verify_store(folder)
    if not problems:
        return
    print_warning(f"error: {format_count(len(problems), 'damaged or missing file')}:")
    for problem in problems:
        print_warning(f"  {problem}")
    print_warning("the next 'transferkit extract' with the same settings repairs this")
    raise typer.Exit(1)


def print_some_skipped(skipped: Sequence[Skipped], folder: Path | str | None) -> None:
    """Print the first skipped images on standard error, and how to list all of them.

    Parameters
    ----------
    skipped
        All of them.
    folder
        The store to name in the hint; None: the command that lists them is running.
    """
    print_skipped(skipped, _MAX_SKIPPED)
    more = len(skipped) - _MAX_SKIPPED
    if more > 0:
        command = "--json" if folder is None else f"transferkit features --json {folder}"
        print_warning(f"  and {more:,} more; {command} lists them")


def _content(store: FeatureStore) -> dict[str, Any]:
    info = store.info
    return {
        "rows": len(store.indices),
        "files": len(store.shards),
        "layers": {name: list(shape) for name, shape in info.layers.items()},
        "dtype": info.dtype,
        "shard_size": info.shard_size,
        "complete": info.num_shards is not None,
        **info.description,
        "skipped": skipped_to_dicts(store.skipped),
    }


def _print(store: FeatureStore) -> None:
    info = store.info
    description = info.description
    print_line(
        f"{store.folder}: {len(store.indices):,} rows in {format_count(len(store.shards), 'file')}"
        + ("" if info.num_shards is not None else "; the extraction is not complete")
    )
    rows = [(name, " x ".join(map(str, shape)), info.dtype) for name, shape in info.layers.items()]
    print_table(("layer", "shape", "dtype"), rows)
    print_table(
        ("computed with", ""),
        [
            (name.replace("_", " "), _format(value))
            for name, value in description.items()
            if not name.startswith("network_")
        ],
    )


def _format(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return str(value)
