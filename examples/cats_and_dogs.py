"""Cats and dogs: train on one folder of photos, test on another, show the mistakes.

``python examples/cats_and_dogs.py FOLDER``, where the folder has

    train/cat  train/dog  test/cat  test/dog

The lesson that this is after trains on thousands of photos; with a network that has seen a
million of them before, a few hundred are enough.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import Classifier


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description="Tell cats from dogs.")
    parser.add_argument("folder", type=Path, help="with train/ and test/, each with cat/ and dog/")
    parser.add_argument("--backend", help="onnxruntime, torch or tensorflow")
    arguments = parser.parse_args()

    classifier = Classifier("mobilenet_v2", backend=arguments.backend, random_state=0)
    classifier.fit(arguments.folder / "train", on_error="skip")
    evaluation = classifier.evaluate(arguments.folder / "test", on_error="skip")

    print(evaluation)
    for mistake in evaluation.mistakes:
        print(f"{mistake.source}: taken for {mistake.predicted} ({mistake.probability:.0%} sure)")
    for skipped in [*classifier.skipped_, *evaluation.skipped]:
        print(f"{skipped.source}: left out, {skipped.reason}")


if __name__ == "__main__":
    main()
