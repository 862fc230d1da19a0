"""Transfer learning in full: frozen network, new head, fine-tuning, saving and loading.

``python examples/fine_tuning.py FOLDER``, where the folder contains ``train`` and ``test``, each
with one subfolder of photos for each class.

The network was trained on a million photos before. First only a new head is fitted; then the whole
network is trained further, at a low learning rate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transferkit import Classifier, FineTuning


def main() -> None:
    """Train and test on the folder on the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a network on your photos.")
    parser.add_argument("folder", type=Path, help="with train/ and test/")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--backend", default="torch", help="torch or tensorflow")
    parser.add_argument("--epochs", type=int, help="default: chosen by the number of photos")
    parser.add_argument("--output", type=Path, default=Path("fine_tuned.safetensors"))
    arguments = parser.parse_args()
    train, test = arguments.folder / "train", arguments.folder / "test"

    # The frozen network, and a head.
    classifier = Classifier(arguments.network, backend=arguments.backend, random_state=0)
    classifier.fit(train, on_error="skip")
    print("head only:", classifier.evaluate(test, on_error="skip"))

    # All layers, from that head. `fine_tune` would continue with other images.
    classifier.set_params(fine_tuning=FineTuning(epochs=arguments.epochs))
    classifier.fit(train, on_error="skip")
    print("fine-tuned:", classifier.evaluate(test, on_error="skip"))
    if classifier.history_ is not None:
        for epoch in classifier.history_.epochs:
            print(f"epoch {epoch.epoch}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.4f}")
        print("kept:", classifier.history_.best, dict(classifier.history_.choices))

    # The file loads on any backend, also on one that cannot train.
    classifier.save(arguments.output)
    loaded = Classifier.load(arguments.output, backend="onnxruntime")
    print("loaded:", loaded.evaluate(test, on_error="skip"))


if __name__ == "__main__":
    main()
