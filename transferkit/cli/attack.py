"""``transferkit attack``: change images so that a network misclassifies them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transferkit.cli.arguments import list_files, load_optimizer, parse_class, parse_path
from transferkit.cli.console import (
    EXIT_CODE_INTERRUPTED,
    print_json,
    print_line,
    print_skipped,
    print_table,
    print_warning,
    skipped_to_dicts,
)
from transferkit.cli.options import (
    DEFAULT_NETWORK,
    Backend,
    Json,
    NetworkOrClassifier,
    Quiet,
    Seed,
    Weights,
)
from transferkit.errors import OutputError

if TYPE_CHECKING:
    from transferkit.optimization.attacks.result import AdversarialResult

__all__ = ["attack"]

_DEFAULT_EPSILON_LINF = 2.0


def attack(
    images: Annotated[
        list[Path],
        typer.Argument(parser=parse_path, metavar="IMAGE", help="Images, or folders of images."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=parse_path,
            metavar="FOLDER",
            help="The folder to write to; it is created if it does not exist.",
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The target class, by name, index or WordNet id.",
            show_default="any other class",
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Largest allowed norm of the change. For linf in units of 1/255: 2 means at most "
            "2 of 255 levels. For other norms, pixel values range from 0 to 1.",
            show_default="2 for linf; no limit for deepfool, carlini-wagner and fmn",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The attack: fgsm, pgd, mi-fgsm, apgd, deepfool, carlini-wagner or fmn.",
        ),
    ] = "pgd",
    norm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The norm of the change: linf, l2, l1 or l0.",
            show_default="linf; l2 for carlini-wagner",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of gradient steps for each image.",
            show_default="that of the method",
        ),
    ] = None,
    restarts: Annotated[
        int, typer.Option(metavar="N", help="Number of runs, each with another random start.")
    ] = 1,
    seed: Seed = 0,
    as_json: Json = False,
    network: NetworkOrClassifier = DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Change images imperceptibly so that they are misclassified.

    Writes each image as NAME.png, in the size of the network's input, and as NAME.panel.png a
    panel with the original, the magnified change and the result. The table is for the saved pixels
    as they are; 'predict' resizes and crops them again, which may undo the change. The column
    'gradients' is the number of gradient evaluations. Use it to test the robustness of your own
    models. Requires a backend with gradients: torch or tensorflow.
    """
    from transferkit.optimization.attacks import find_attack_class

    attack_class = find_attack_class(method)
    norm = attack_class.default_norm() if norm is None else norm
    if norm == "linf":
        if epsilon is None and attack_class.is_bounded:
            epsilon = _DEFAULT_EPSILON_LINF
        if epsilon is not None:
            if not 0 <= epsilon <= 255:
                raise typer.BadParameter(
                    f"--epsilon is {epsilon:g}; for linf, expected 0 to 255, in units of 1/255"
                )
            # No other 8-bit image is that close.
            if 0 < epsilon < 0.5:
                raise typer.BadParameter(
                    f"--epsilon is {epsilon:g}; for linf it is in units of 1/255, and less than 1 "
                    f"changes no 8-bit image (for {epsilon:g} of the range of a pixel, write "
                    f"{255 * epsilon:.3g})"
                )
            epsilon /= 255
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; expected a folder")
    files = list_files(images)
    if any(path.resolve().parent == output.resolve() for path in files):
        raise OutputError(f"{output} contains the original images; choose another folder")
    optimizer = load_optimizer(network, weights, backend, seed, quiet)
    result = optimizer.attack(
        files,
        target=None if target is None else parse_class(target, optimizer),
        epsilon=epsilon,
        method=method,
        norm=norm,
        steps=steps,
        restarts=restarts,
        on_error="skip",
    )
    saved = result.save(output)
    panels = _save_panels(result, output, saved)
    if as_json:
        _print_json(result, saved, panels)
    else:
        _print_table(result)
        number = int(result.success_uint8.sum())
        print_line(f"{number} of {len(result)} attacks succeed with the images saved in {output}")
    print_skipped(result.skipped)
    if result.interrupted:
        print_warning("interrupted: images that were not reached are unchanged")
        raise typer.Exit(EXIT_CODE_INTERRUPTED)


def _save_panels(result: AdversarialResult, folder: Path, saved: Sequence[Path]) -> list[Path]:
    """Write one panel for each image, and return the paths."""
    paths: list[Path] = []
    for stem in result.file_stems:
        path = folder / f"{stem}.panel.png"
        # An image may have the name of another image's panel.
        while path in saved or path in paths:
            path = path.with_suffix(".panel.png")
        paths.append(path)
    for row, path in enumerate(paths):
        result.panel([row]).save(path)
    return paths


def _print_json(result: AdversarialResult, saved: Sequence[Path], panels: Sequence[Path]) -> None:
    images = [
        {
            "source": result.sources[row],
            "before": result.before[row]._asdict(),
            "after": result.after[row]._asdict(),
            "after_uint8": result.after_uint8[row]._asdict(),
            "success": bool(result.success[row]),
            "success_uint8": bool(result.success_uint8[row]),
            "distance": float(result.distance[row]),
            "distance_uint8": float(result.distance_uint8[row]),
            "gradient_evaluations": int(result.gradient_evaluations[row]),
            "file": str(saved[row]),
            "panel": str(panels[row]),
        }
        for row in range(len(result))
    ]
    print_json(
        {
            "method": result.method,
            "norm": result.norm,
            "epsilon": result.epsilon,
            "success_rate": result.success_rate,
            "success_rate_uint8": result.success_rate_uint8,
            "interrupted": result.interrupted,
            "images": images,
            "skipped": skipped_to_dicts(result.skipped),
        }
    )


def _print_table(result: AdversarialResult) -> None:
    rows = [
        (
            source,
            before.label,
            f"{after.label}" + ("" if success else " (failed)"),
            f"{after.probability:.3f}",
            f"{255 * distance:.2f}/255" if result.norm == "linf" else f"{distance:.4g}",
            evaluations,
        )
        for source, before, after, success, distance, evaluations in zip(
            result.sources,
            result.before,
            result.after_uint8,
            result.success_uint8,
            result.distance_uint8,
            result.gradient_evaluations,
            strict=True,
        )
    ]
    print_table(("image", "before", "after", "probability", "distance", "gradients"), rows)
