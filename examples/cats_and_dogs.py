"""Cats and dogs: train on one folder of photos, test on another, and list the mistakes.

``python examples/cats_and_dogs.py FOLDER``, where the folder contains

    train/cat  train/dog  test/cat  test/dog

Training a network from scratch takes thousands of photos. With a network that was trained on a
million photos before, a few hundred are enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import Classifier


def main() -> None:
    """Train and test on the folder on the command line."""
    parser = argparse.ArgumentParser(description="Classify cats and dogs.")
    parser.add_argument("folder", type=Path, help="with train/ and test/, each with cat/ and dog/")
    parser.add_argument("--backend", help="onnxruntime, torch or tensorflow")
    arguments = parser.parse_args()

    classifier = Classifier("mobilenet_v2", backend=arguments.backend, random_state=0)
    classifier.fit(arguments.folder / "train", on_error="skip")
    evaluation = classifier.evaluate(arguments.folder / "test", on_error="skip")

    print(evaluation)
    for mistake in evaluation.mistakes:
        print(f"{mistake.source}: predicted {mistake.predicted} ({mistake.probability:.0%})")
    for skipped in [*classifier.skipped_, *evaluation.skipped]:
        print(f"{skipped.source}: skipped, {skipped.reason}")


if __name__ == "__main__":
    main()
