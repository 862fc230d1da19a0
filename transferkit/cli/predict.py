"""``transferkit predict``: classify images."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated

import typer

from transferkit.cli.arguments import list_files, parse_path
from transferkit.cli.console import (
    print_json,
    print_skipped,
    print_table,
    skipped_to_dicts,
    write_csv,
)
from transferkit.cli.options import (
    CLASSIFIER_SUFFIX,
    DEFAULT_NETWORK,
    Backend,
    BatchSize,
    Json,
    Quiet,
    Weights,
)

__all__ = ["predict"]

_UNKNOWN = "none of these"


def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=parse_path,
            metavar="PATH",
            help="Optionally a .safetensors file that 'fit' saved, then images or folders of "
            "images. Without a classifier, the classes of ImageNet are predicted.",
        ),
    ],
    top: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of classes to print for each image.")
    ] = 1,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown",
            help="Print 'none of these' for images that are far from the training images.",
        ),
    ] = False,
    known_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --unknown: the share of images of the classes that keep their class.",
            show_default="0.98",
        ),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Without a classifier: the network; 'transferkit networks' lists them.",
            show_default=DEFAULT_NETWORK,
        ),
    ] = None,
    weights: Weights = None,
    backend: Backend = None,
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
) -> None:
    """Classify images.

    Images that cannot be read are skipped and listed at the end.
    """
    import numpy as np

    from transferkit.classification.classifier import KNOWN_SHARE, Classifier, top_predictions
    from transferkit.features.extractor import FeatureExtractor
    from transferkit.networks.passes import UNKNOWN_SCORE

    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv cannot be used together")
    misplaced = [path for path in paths[1:] if path.suffix == CLASSIFIER_SUFFIX]
    if misplaced:
        raise typer.BadParameter(f"{misplaced[0]}: a classifier must be the first argument")
    if paths[0].suffix == CLASSIFIER_SUFFIX:
        for option, value in (("--network", network), ("--weights", weights)):
            if value is not None:
                raise typer.BadParameter(
                    f"{paths[0]} contains its own network and weights; {option} cannot be used "
                    "with it"
                )
        classifier = Classifier.load(paths[0], backend=backend)
        paths = paths[1:]
    else:
        classifier = Classifier.pretrained(
            network or DEFAULT_NETWORK, weights=weights, backend=backend
        )
    if known_share is not None and not unknown:
        raise typer.BadParameter("--known-share needs --unknown")
    layers = ["probabilities"]
    threshold = math.inf
    if unknown:
        threshold = classifier.unknown_threshold(
            KNOWN_SHARE if known_share is None else known_share
        )
        layers.append(UNKNOWN_SCORE)
    extractor = FeatureExtractor(
        classifier.model_,
        backend=backend,
        batch_size=batch_size,
        progress=False if quiet else None,
    )
    outputs = extractor.extract(list_files(paths), layers, on_error="skip")
    scores = outputs[UNKNOWN_SCORE][:, 0] if unknown else np.zeros(len(outputs.sources))
    predictions = [
        top_predictions(classifier.classes_, probabilities, top)
        for probabilities in outputs["probabilities"]
    ]
    # Of each image, its score too, which is not shown without --unknown.
    found = list(zip(outputs.sources, predictions, scores.tolist(), strict=True))
    if as_json:
        images = [
            {
                "source": source,
                "predictions": [prediction._asdict() for prediction in best],
                **({"unknown_score": score, "unknown": score > threshold} if unknown else {}),
            }
            for source, best, score in found
        ]
        print_json({"images": images, "skipped": skipped_to_dicts(outputs.skipped)})
    elif as_csv:
        ranked = (
            (
                source,
                rank,
                label,
                f"{probability:.6f}",
                *((f"{score:.6f}", int(score > threshold)) if unknown else ()),
            )
            for source, best, score in found
            for rank, (label, probability) in enumerate(best, start=1)
        )
        more = ("unknown_score", "unknown") if unknown else ()
        write_csv(sys.stdout, ("source", "rank", "label", "probability", *more), ranked)
    else:
        rows = [
            (source if rank == 0 else "", label, f"{probability:.3f}")
            if score <= threshold
            else (source, _UNKNOWN, "-")
            for source, best, score in found
            for rank, (label, probability) in enumerate(best[:1] if score > threshold else best)
        ]
        print_table(("image", "class", "probability"), rows)
    print_skipped(outputs.skipped)
