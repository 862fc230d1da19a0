"""The command line: a thin layer over the classes."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from transferkit import __version__
from transferkit.errors import DatasetError, OutputError, TransferkitError

if TYPE_CHECKING:
    from transferkit.classifier import Classifier
    from transferkit.features import Features
    from transferkit.image_optimizer import ImageOptimizer
    from transferkit.images import Skipped
    from transferkit.objectives import Objective
    from transferkit.weights import WeightsEntry

__all__ = ["main"]

_INTERRUPTED = 130
_DEFAULT_NETWORK = "mobilenet_v2"
_MODEL_SUFFIX = ".safetensors"
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class _Commands(TyperGroup):
    """The commands, with the library's errors told in a line instead of a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            with warnings.catch_warnings():
                # In a line too, and not with the place in the source that gave it.
                warnings.showwarning = lambda message, *_: _warn(f"warning: {message}")
                found = super().invoke(ctx)
            # What waits to be written may fail yet, if its reader has gone.
            sys.stdout.flush()
            return found
        except BrokenPipeError:
            raise
        except (TransferkitError, ValueError, OSError) as error:
            _warn(f"error: {error}")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as interruption:
            keeps_what_is_done = ctx.invoked_subcommand in {"extract", "download"}
            again = "; call it again to go on from there" if keeps_what_is_done else ""
            _warn(f"interrupted{again}")
            raise typer.Exit(_INTERRUPTED) from interruption


app = typer.Typer(
    cls=_Commands,
    help="Transfer learning for images: the same numbers on PyTorch, TensorFlow and ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Network = Annotated[str, typer.Option(help="The network; 'transferkit networks' lists them.")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Its weights: the name of published ones, torchvision, keras, a file, or random. By "
        "default: the first that 'transferkit networks' lists."
    ),
]
NetworkOrClassifier = Annotated[
    str,
    typer.Option(
        help="The network; 'transferkit networks' lists them. Or the file of a classifier of "
        "one's own, whose classes are then the ones to name."
    ),
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="What computes; 'transferkit backends' lists them. By default: the one in "
        "TRANSFERKIT_BACKEND, or the first installed."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="How many images the network gets at once.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code.

    Parameters
    ----------
    arguments
        What follows the program's name; None: what it was called with.

    Notes
    -----
    Exit codes: 0, done; 1, an error, told on standard error; 2, wrong usage; 130, interrupted.
    """
    # TensorFlow tells of its compilation on standard error; nothing of that is an error.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app(arguments, prog_name="transferkit")


@app.command()
def demo(backend: Backend = None, quiet: Quiet = False) -> None:
    """Train on pictures that come with the package, and say what to do next."""
    from transferkit.demo import run_demo
    from transferkit.demo_data import CAT, TRAIN

    found = run_demo(backend=backend, progress=False if quiet else None)
    number = int(found.evaluation.confusion_matrix.sum())
    _say(f"Textures (brick, grass, gravel): trained on {TRAIN}")
    _say(f"  accuracy on {number} tiles not seen before: {found.evaluation.accuracy:.3f}")
    _say(f"The cat in {CAT}, by ImageNet's 1,000 classes:")
    for label, probability in found.breeds:
        _say(f"  {label}: {probability:.3f}")
    _say("Next, with a folder that has one subfolder of photos for each class:")
    _say("  transferkit fit FOLDER -o model.safetensors")
    _say("  transferkit predict model.safetensors PHOTO ...")


@app.command()
def fit(
    images: Annotated[Path, typer.Argument(help="A folder with one subfolder of images a class.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to save to.")],
    test: Annotated[Path | None, typer.Option(help="Such a folder to judge on.")] = None,
    network: Network = _DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    strength: Annotated[
        float | None,
        typer.Option(
            "--C", help="Inverse regularisation strength. By default: chosen by cross-validation."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For drawing the folds of cross-validation.")] = 0,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Make a classifier of a folder of labelled folders."""
    from transferkit.classifier import Classifier
    from transferkit.images import list_labelled_images
    from transferkit.output import check_writable

    # Found out now rather than after the work.
    if output.suffix != _MODEL_SUFFIX:
        raise OutputError(f"{output}: end the name of a classifier's file in {_MODEL_SUFFIX}")
    check_writable(output)
    labels = set(list_labelled_images(images)[1])
    if test is not None and (unknown := set(list_labelled_images(test)[1]) - labels):
        names = ", ".join(sorted(unknown)[:5])
        raise DatasetError(
            f"{test}: {len(unknown)} class folders that {images} does not have: {names}"
        )
    classifier = Classifier(
        network,
        C=strength,
        weights=weights,
        backend=backend,
        seed=seed,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    classifier.fit(images, on_error="skip")
    classifier.save(output)
    if test is not None and test.resolve() == images.resolve():
        _warn(f"{test} is what was learnt from: the accuracy says nothing of other images")
    _tell_skipped(classifier.skipped_)
    number = len(classifier.classes_)
    names = ", ".join(classifier.classes_[:8].tolist()) + (", ..." if number > 8 else "")
    _say(f"saved {output}: {number} classes ({names}), C = {classifier.C_:g}")
    if test is not None:
        evaluation = classifier.evaluate(test, on_error="skip")
        number = int(evaluation.confusion_matrix.sum())
        _say(f"accuracy on {number} images of {test}: {evaluation.accuracy:.4f}")
        pairs = evaluation.worst_pairs()
        if pairs:
            _say("most often confused:")
            rows = [
                (_printable(str(pair.label)), _printable(str(pair.predicted)), pair.images)
                for pair in pairs
            ]
            _show_table(("is", "taken for", "images"), rows)
        _tell_skipped(evaluation.skipped)


@app.command()
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="A file saved by 'fit' (.safetensors), then images or folders of them. Without "
            "such a file: ImageNet's classes."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to give for each image.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    network: Annotated[
        str | None,
        typer.Option(
            help="Without such a file: the network; 'transferkit networks' lists them. "
            "[default: mobilenet_v2]"
        ),
    ] = None,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Classify images."""
    from transferkit.classifier import Classifier, top_predictions

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    progress = False if quiet else None
    misplaced = [path for path in paths[1:] if path.suffix == _MODEL_SUFFIX]
    if misplaced:
        raise typer.BadParameter(f"{misplaced[0]}: give the classifier's file first")
    if paths[0].suffix == _MODEL_SUFFIX:
        for option, given in (("--network", network), ("--weights", weights)):
            if given is not None:
                raise typer.BadParameter(
                    f"{paths[0]}: has its own network and weights; leave out {option}"
                )
        classifier = Classifier.load(paths[0], backend=backend)
        paths = paths[1:]
    else:
        classifier = Classifier.pretrained(
            network or _DEFAULT_NETWORK, weights=weights, backend=backend
        )
    found = _probabilities(classifier, paths, batch_size, progress)
    rows = [
        (source, top_predictions(classifier.classes_, probabilities, top))
        for source, probabilities in zip(found.sources, found["probabilities"], strict=True)
    ]
    if as_json:
        images = [
            {"source": source, "predictions": [best._asdict() for best in predictions]}
            for source, predictions in rows
        ]
        skipped = [{"source": left.source, "reason": left.reason} for left in found.skipped]
        json.dump({"images": images, "skipped": skipped}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif as_csv:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file name need not be text; a program gets the bytes that it is made of.
            sys.stdout.reconfigure(errors="surrogateescape")
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("source", "rank", "label", "probability"))
        for source, predictions in rows:
            for rank, (label, probability) in enumerate(predictions, start=1):
                writer.writerow((source, rank, label, f"{probability:.6f}"))
    else:
        _show_table(
            ("image", "class", "probability"),
            [
                (
                    _printable(source) if rank == 0 else "",
                    _printable(str(label)),
                    f"{probability:.3f}",
                )
                for source, predictions in rows
                for rank, (label, probability) in enumerate(predictions)
            ],
        )
    _tell_skipped(found.skipped)


@app.command()
def extract(
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    layer: Annotated[
        list[str] | None,
        typer.Option(help="A layer to extract; may be given several times. [default: embedding]"),
    ] = None,
    network: Network = _DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Write layers' activations to a NumPy file: an array for each, and 'sources'.

    Interrupted, it keeps what is done; called again with the same output, it goes on there.
    """
    from transferkit.extraction_file import extract_to_file
    from transferkit.extractor import FeatureExtractor

    extractor = FeatureExtractor(
        network,
        weights=weights,
        backend=backend,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    layers = layer or ["embedding"]
    found = extract_to_file(extractor, _files(paths), layers, output)
    shapes = ", ".join(f"{name} {found[name].shape}" for name in layers)
    _say(f"saved {output}: {shapes}")
    _tell_skipped(found.skipped)


@app.command()
def show_layer(
    image: Annotated[Path, typer.Argument(help="An image.")],
    layer: Annotated[str, typer.Option(help="The layer; 'transferkit layers' lists them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .png file to write.")],
    channel: Annotated[
        list[int] | None,
        typer.Option(help="A channel, from 0; may be given several times. [default: all]"),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="Colour each 'channel' by itself, or the 'layer' alike.")
    ] = "channel",
    network: Network = _DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
) -> None:
    """Draw a layer's channels for an image, each as a tile with its number."""
    from transferkit.extractor import FeatureExtractor
    from transferkit.output import check_writable, write_atomically

    if output.suffix != ".png":
        raise OutputError(f"{output}: the picture is a PNG file; end its name in .png")
    check_writable(output)
    extractor = FeatureExtractor(network, weights=weights, backend=backend)
    picture = extractor.show_layer(image, layer, channels=channel, scale=scale)
    with write_atomically(output) as file:
        picture.save(file, "PNG")
    _say(f"saved {output}: {picture.width} x {picture.height} pixels")


@app.command()
def visualize(
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write.")],
    classes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CLASS...", help="Classes, by name, index or WordNet id; a picture of each."
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Instead: a layer; 'transferkit layers' lists them.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Channels of the layer, a picture of each: 7, or 0:16 for the first 16."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="An image to start from.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="How many steps.")] = 256,
    size: Annotated[
        int | None, typer.Option(min=1, help="The side in pixels. By default: the network's.")
    ] = None,
    octaves: Annotated[
        int | None,
        typer.Option(min=1, help="How many sizes. By default: 3 from noise, 1 from an image."),
    ] = None,
    animation: Annotated[Path | None, typer.Option(help="A .gif of how they came about.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For all that is drawn.")] = 0,
    network: NetworkOrClassifier = _DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Make pictures of what a network sees in classes or layers.

    Interrupted, it writes what it has.
    """
    from transferkit.output import check_writable

    for path, suffixes in ((output, _PICTURE_SUFFIXES), (animation, (".gif",))):
        if path is not None:
            if path.suffix.lower() not in suffixes:
                raise OutputError(f"{path}: end its name in {', '.join(suffixes)}")
            check_writable(path)
    optimizer = _optimizer(network, weights, backend, seed, quiet)
    found = optimizer.visualize(
        _objectives(classes or [], layer, channels),
        start=start,
        steps=steps,
        size=size,
        octaves=octaves,
        frames=0 if animation is None else 24,
    )
    found.save(output)
    if animation is not None:
        found.animation(animation)
    _say(f"saved {output}: {len(found.history)} steps in {found.seconds:.1f} s")
    if any(target is not None for target in found.targets):
        rows = [
            (_printable(label), f"{probability:.4f}", f"{robustness:.4f}")
            for label, probability, robustness in zip(
                found.labels, found.probability, found.robustness, strict=True
            )
        ]
        _show_table(("class", "probability", "robustness"), rows)
    if found.interrupted:
        _warn(f"interrupted after {len(found.history)} of {steps} steps")
        raise typer.Exit(_INTERRUPTED)


def _optimizer(
    network: str, weights: str | None, backend: str | None, seed: int, quiet: bool
) -> ImageOptimizer:
    """What changes pictures by the gradient of a network, or of a classifier in a file."""
    from transferkit.classifier import Classifier
    from transferkit.image_optimizer import ImageOptimizer

    progress = False if quiet else None
    if not network.endswith(_MODEL_SUFFIX):
        return ImageOptimizer(
            network, weights=weights, backend=backend, seed=seed, progress=progress
        )
    if weights is not None:
        raise typer.BadParameter(f"{network}: has its own weights; leave out --weights")
    classifier = Classifier.load(network, backend=backend)
    return ImageOptimizer(classifier, backend=backend, seed=seed, progress=progress)


def _class(given: str) -> str | int:
    """A class's index, where it is one, or else its name."""
    return int(given) if given.isdecimal() else given


def _objectives(classes: Sequence[str], layer: str | None, channels: str | None) -> list[Objective]:
    """What the arguments of 'visualize' ask for."""
    from transferkit.objectives import Channel, Class, Layer

    if bool(classes) == (layer is not None):
        raise typer.BadParameter("name either classes or a --layer")
    if channels is not None and layer is None:
        raise typer.BadParameter("--channels needs a --layer")
    found: list[Objective] = [Class(_class(name), "distinct") for name in classes]
    if layer is not None and channels is None:
        found = [Layer(layer)]
    elif layer is not None and channels is not None:
        first, colon, last = channels.partition(":")
        if not (first or "0").isdecimal() or not (last.isdecimal() if colon else first):
            raise typer.BadParameter(f"--channels {channels!r}: give one, as 7, or some, as 0:16")
        start = int(first or 0)
        numbers = range(start, int(last) if colon else start + 1)
        if not numbers:
            raise typer.BadParameter(f"--channels {channels!r} names none")
        found = [Channel(layer, number) for number in numbers]
    return found


@app.command()
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
    network: NetworkOrClassifier = _DEFAULT_NETWORK,
    weights: Weights = None,
    backend: Backend = None,
    quiet: Quiet = False,
) -> None:
    """Change images so little that nobody sees it, until the network takes them for another class.

    Writes each as NAME.png, with a panel that shows the change as NAME.panel.png. To test one's
    own models with. Needs a backend with gradients.
    """
    from transferkit.attacks import METHODS, usual_norm

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
    files = _files(paths)
    if any(path.resolve().parent == output.resolve() for path in files):
        raise OutputError(f"{output}: holds the images themselves; give another folder")
    optimizer = _optimizer(network, weights, backend, seed, quiet)
    found = optimizer.attack(
        files,
        target=None if target is None else _class(target),
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
        _show_table(
            ("image", "was", "is now", "probability", "distance", "gradients"),
            [
                (
                    _printable(source),
                    _printable(str(before.label)),
                    _printable(str(after.label)) + ("" if success else " (failed)"),
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
        _say(f"{number} of {len(found)} succeed in 8 bits, as they were saved to {output}")
    _tell_skipped(found.skipped, "attacked")
    if found.interrupted:
        _warn("interrupted: images that were not reached are as they were")
        raise typer.Exit(_INTERRUPTED)


@app.command()
def networks() -> None:
    """List the networks and their weights.

    Operations are multiplications, each with an addition, for one picture of the input size;
    top-1 is the accuracy on ImageNet that the weights' publisher states.
    """
    from transferkit.backends.multiply_adds import count_multiply_adds
    from transferkit.networks import NETWORKS, build_network
    from transferkit.weights import WEIGHTS

    rows = []
    for entry in NETWORKS.values():
        network = build_network(entry.name)
        side = network.input_size
        weights = [row for row in WEIGHTS if row.network == entry.name]
        rows.append(
            (
                entry.name,
                entry.family,
                entry.year,
                f"{network.number_of_parameters / 1e6:.1f} M",
                f"{count_multiply_adds(network, side, side) / 1e9:.2f} G",
                f"{side} x {side}",
                "\n".join(_weights_name(row) for row in weights),
                "\n".join(f"{row.top1:.3f}" for row in weights),
                "\n".join(_where(row) for row in weights),
            )
        )
    columns = ("network", "family", "year", "parameters", "operations", "input", "weights", "top-1")
    _show_table((*columns, "on disk"), rows)


def _weights_name(entry: WeightsEntry) -> str:
    return entry.name if entry.name == entry.source else f"{entry.name} ({entry.source})"


def _where(entry: WeightsEntry) -> str:
    """Whether weights are on disk; what lies there is not read, which would take long."""
    from transferkit.weights.cache import is_of_stated_size, on_disk

    if entry.packaged is not None:
        return "in the package"
    path = on_disk(entry)
    if path is None:
        return "no"
    return "yes" if is_of_stated_size(path, entry) else "damaged"


@app.command()
def download(
    names: Annotated[list[str], typer.Argument(help="Networks.", metavar="NETWORK...")],
    weights: Annotated[
        str | None,
        typer.Option(
            help="Which weights, or whose: torchvision or keras. By default: each network's first."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch networks' published weights, check them, and keep them in the cache.

    Interrupted, it keeps what has arrived; called again, it goes on there.
    """
    from transferkit.weights import fetch, find_weights

    failed = 0
    # Every name is looked up before the first file is fetched.
    for entry in [find_weights(name, weights) for name in names]:
        if entry.packaged is not None:
            _say(f"{entry.network}, {entry.name}: in the package")
        else:
            try:
                path = fetch(entry, progress=False if quiet else None)
            except TransferkitError as error:
                # One that cannot be had is no reason to leave out the others.
                _warn(f"error: {error}")
                failed += 1
            else:
                _say(f"{entry.network}, {entry.name}: {path}")
    if failed:
        raise typer.Exit(1)


cache = typer.Typer(help="See or clear what was downloaded.", no_args_is_help=True)
app.add_typer(cache, name="cache")


@cache.command("list")
def list_cache() -> None:
    """List the weights in the cache folder."""
    from transferkit.weights import cache_folder, cached_files

    files = cached_files()
    if files:
        rows = [(path.name, f"{path.stat().st_size / 1e6:,.1f} MB") for path in files]
        _show_table(("file", "size"), rows)
    _say(f"{cache_folder()}: {len(files)} {'file' if len(files) == 1 else 'files'}")


@cache.command("clear")
def empty_cache(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove all weights from the cache folder; nothing else in it is touched."""
    from transferkit.weights import cache_folder, cached_files, clear_cache

    if not yes:
        typer.confirm(f"Remove {len(cached_files())} files from {cache_folder()}?", abort=True)
    removed = clear_cache()
    _say(f"{cache_folder()}: {len(removed)} {'file' if len(removed) == 1 else 'files'} removed")


@app.command()
def layers(
    network: Annotated[str, typer.Argument(help="The network.")] = "mobilenet_v2",
) -> None:
    """List a network's layers and their shapes."""
    from transferkit.backends.shapes import infer_shapes
    from transferkit.networks import build_network

    built = build_network(network)
    rows = []
    for name, shape in infer_shapes(built, built.input_size, built.input_size).items():
        target = built.resolve(name)
        operation = built.node(name).operation if target == name else f"= {target}"
        rows.append((name, " x ".join(map(str, shape)), operation))
    _show_table(("layer", "shape", "operation"), rows)


@app.command()
def backends() -> None:
    """List the backends: installed or not, version, capabilities, devices."""
    from transferkit.backends import backend_names, describe_backend

    found = [describe_backend(name) for name in backend_names()]
    _show_table(
        ("backend", "installed", "version", "can do", "devices", "from"),
        [
            (
                info.name,
                "yes" if info.problem is None else "no",
                info.version or "",
                ", ".join(info.capabilities),
                ", ".join(info.devices),
                info.distribution,
            )
            for info in found
        ],
    )
    for info in found:
        if info.problem is not None:
            _say(info.problem)


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"transferkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Transfer learning for images: the same numbers on PyTorch, TensorFlow, ONNX Runtime."""


def _probabilities(
    classifier: Classifier, paths: Sequence[Path], batch_size: int, progress: bool | None
) -> Features:
    """The classifier's probabilities, with what cannot be read left out."""
    from transferkit.extractor import FeatureExtractor

    extractor = FeatureExtractor(
        classifier.network_,
        weights=classifier.weights_,
        backend=classifier.backend,
        preprocessing=classifier.preprocessing_,
        batch_size=batch_size,
        progress=progress,
    )
    return extractor.extract(_files(paths), ["probabilities"], on_error="skip")


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files that the arguments name, with folders replaced by the images in them."""
    from transferkit.images import list_images

    if not paths:
        raise DatasetError("no images were given")
    files: list[Path] = []
    for path in paths:
        files += list_images(path) if path.is_dir() else [path]
    return files


def _tell_skipped(skipped: Sequence[Skipped], what: str = "read") -> None:
    if skipped:
        images = "1 image" if len(skipped) == 1 else f"{len(skipped)} images"
        _warn(f"skipped {images} that cannot be {what}:")
    for left_out in skipped:
        _warn(f"  {left_out.source}: {left_out.reason}")


def _say(text: str) -> None:
    """A line on standard output, as it is: neither wrapped nor read as markup."""
    Console().print(_printable(text), markup=False, highlight=False, soft_wrap=True)


def _warn(text: str) -> None:
    """A line on standard error."""
    style = "red" if text.startswith("error") else "yellow"
    Console(stderr=True).print(
        _printable(text), style=style, markup=False, highlight=False, soft_wrap=True
    )


def _printable(text: str) -> str:
    r"""The text in one line, with what no terminal should be sent written as in ``\x1b``.

    The name of a file may hold line breaks, a terminal's commands, and bytes that are no text.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Into a file or a pipe, lines are as long as they are; no name is cut in two.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)
