"""How far does the transfer carry? Photos of objects, waste, textures, characters.

``python examples/other_kinds_of_image.py FOLDER...``, where each folder contains ``train`` and
``test``, each with one subfolder of images for each class.

The network was trained on photos of everyday objects. For each folder, a linear classifier is
trained on its output for the training images, and the same with random weights, which have learned
nothing: what the former gains over the latter was transferred. With ``--fine-tune`` the network is
also trained further.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import Classifier, Evaluation, FineTuning, compare
from transferkit.datasets import from_folder
from transferkit.models import load_model


def main() -> None:
    """Measure the transfer to the folders on the command line."""
    parser = argparse.ArgumentParser(description="Measure the transfer to other kinds of image.")
    parser.add_argument("folders", type=Path, nargs="+", help="each with train/ and test/")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--backend", help="torch or tensorflow for --fine-tune")
    parser.add_argument("--fine-tune", action="store_true")
    arguments = parser.parse_args()
    for folder in arguments.folders:
        measure(folder, arguments.network, arguments.backend, arguments.fine_tune)


def measure(folder: Path, network: str, backend: str | None, fine_tune: bool) -> None:
    """Print how far the transfer carries to the images of one folder."""
    train = from_folder(folder / "train", on_error="skip")
    test = from_folder(folder / "test", on_error="skip")
    pretrained = load_model(network)
    untrained = load_model(network, weights="random", random_state=0)

    # By cross-validation on the training images alone: no test image is needed to choose a network.
    comparison = compare(
        [pretrained, untrained], train, cv=5, backend=backend, on_error="skip", progress=False
    )
    rows = {row.network: row for row in comparison.table}
    kinds = {"pretrained": pretrained.network.name, "random": f"{untrained.network.name} (2)"}
    print(f"{folder.name}: {len(train)} training and {len(test)} test images")
    print(f"  chance: {max(test.counts.values()) / len(test):.3f}")
    for kind, name in kinds.items():
        row = rows[name]
        print(
            f"  {kind}: LogME {row.logme:.3f}, cross-validated accuracy {row.accuracy:.3f} "
            f"({row.low:.3f} to {row.high:.3f})"
        )

    # On the test images.
    for kind, model in (("random", untrained), ("pretrained", pretrained)):
        classifier = Classifier(model, backend=backend, random_state=0, progress=False)
        report(kind, classifier.fit(train, on_error="skip").evaluate(test, on_error="skip"))
    if fine_tune:
        tuned = Classifier(pretrained, backend=backend, fine_tuning=FineTuning(), random_state=0)
        report("fine-tuned", tuned.fit(train, on_error="skip").evaluate(test, on_error="skip"))


def report(kind: str, evaluation: Evaluation) -> None:
    """Print a test accuracy with its interval."""
    low, high = evaluation.interval
    print(f"  {kind}: test accuracy {evaluation.accuracy:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
