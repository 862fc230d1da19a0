"""``transferkit attack``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import list_files, load_optimizer, parse_class
from transferkit.cli.console import INTERRUPTED, printable, report_skipped, say, show_table, warn
from transferkit.cli.options import DEFAULT_NETWORK, Backend, NetworkOrClassifier, Quiet, Weights
from transferkit.errors import OutputError

__all__ = ["attack"]


def attack(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write to; made if need be.")
    ],
    target: Annotated[
        str | None,
        typer.Option(help="The class to become, by name or index. [default: any other]"),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="How far to go: for linf in 1/255, so that 2 is two of 255 levels; for other "
            "norms as it is, pixels ranging over 1. [default: 2 for linf; as far as it takes for "
            "deepfool, carlini-wagner and fmn]"
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="fgsm, pgd, mi-fgsm, apgd, deepfool, carlini-wagner or fmn.")
    ] = "pgd",
    norm: Annotated[
        str | None,
        typer.Option(help="linf, l2, l1 or l0. [default: linf; l2 for carlini-wagner]"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradients for each image. [default: the method's]")
    ] = None,
    restarts: Annotated[int, typer.Option(help="How often to begin.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="For random starts.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    network: NetworkOrClassifier = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Change images so little that nobody sees it, until the network takes them for another class.

    Writes each as NAME.png, with a panel that shows the change as NAME.panel.png. To test one's
    own models with. Needs a backend with gradients.
    """
    from transferkit.optimization.attacks import METHODS, usual_norm

    usual = usual_norm(method)
    norm = usual if norm is None else norm
    if norm == "linf":
        if epsilon is None and METHODS[method].is_bounded:
            epsilon = 2.0
        if epsilon is not None:
            if not 0 <= epsilon <= 255:
                raise typer.BadParameter(f"--epsilon is {epsilon:g}; in 1/255 it is 0 to 255")
            epsilon /= 255
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is no folder; give the name of one")
    files = list_files(paths)
    if any(path.resolve().parent == output.resolve() for path in files):
        raise OutputError(f"{output}: holds the images themselves; give another folder")
    optimizer = load_optimizer(network, weights, backend, seed, quiet)
    found = optimizer.attack(
        files,
        target=None if target is None else parse_class(target),
        epsilon=epsilon,
        method=method,
        norm=norm,
        steps=steps,
        restarts=restarts,
        on_error="skip",
    )
    written = found.save(output)
    panels: list[Path] = []
    for name in found.names:
        panel = output / f"{name}.panel.png"
        # An image may be called as another's panel.
        while panel in written or panel in panels:
            panel = panel.with_suffix(".panel.png")
        panels.append(panel)
    for row, path in enumerate(panels):
        found.panel([row]).save(path)
    rows = [
        {
            "source": found.sources[row],
            "before": found.before[row]._asdict(),
            "after": found.after[row]._asdict(),
            "after_saved": found.after_saved[row]._asdict(),
            "success": bool(found.success[row]),
            "success_saved": bool(found.success_saved[row]),
            "distance": float(found.distance[row]),
            "distance_saved": float(found.distance_saved[row]),
            "evaluations": int(found.evaluations[row]),
            "file": str(written[row]),
            "panel": str(panels[row]),
        }
        for row in range(len(found))
    ]
    if as_json:
        summary = {
            "method": method,
            "norm": norm,
            "epsilon": epsilon,
            "success_rate": found.success_rate,
            "success_rate_saved": found.success_rate_saved,
            "interrupted": found.interrupted,
            "images": rows,
            "skipped": [{"source": left.source, "reason": left.reason} for left in found.skipped],
        }
        json.dump(summary, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show_table(
            ("image", "was", "is now", "probability", "distance", "gradients"),
            [
                (
                    printable(source),
                    printable(str(before.label)),
                    printable(str(after.label)) + ("" if success else " (failed)"),
                    f"{after.probability:.3f}",
                    f"{255 * distance:.2f}/255" if norm == "linf" else f"{distance:.4g}",
                    number,
                )
                for source, before, after, success, distance, number in zip(
                    found.sources,
                    found.before,
                    found.after_saved,
                    found.success_saved,
                    found.distance_saved,
                    found.evaluations,
                    strict=True,
                )
            ],
        )
        number = int(found.success_saved.sum())
        say(f"{number} of {len(found)} succeed in 8 bits, as they were saved to {output}")
    report_skipped(found.skipped, "attacked")
    if found.interrupted:
        warn("interrupted: images that were not reached are as they were")
        raise typer.Exit(INTERRUPTED)
