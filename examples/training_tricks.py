"""The techniques of training, one at a time: a plot for each, of the loss on other photos.

``python examples/training_tricks.py FOLDER``, where the folder contains ``train`` and ``test``,
each with one subfolder of photos for each class. Only the last blocks of the network are trained,
so that an epoch takes seconds; what comes before runs once for each photo, or each of four crops.

Every run differs from the first one, "default", in the setting that its name says.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from transferkit import Classifier, FineTuning
from transferkit.images.augmentation import (
    CutMix,
    HorizontalFlip,
    MixUp,
    RandAugment,
    RandomResizedCrop,
)
from transferkit.training import SGD, History

CROP = RandomResizedCrop(scale=(0.35, 1.0))

# The name of a plot to the settings of its runs.
TECHNIQUES: dict[str, dict[str, dict[str, Any]]] = {
    "optimizer": {
        "SGD, momentum": {"optimizer": SGD(0.003, momentum=0.9)},
        "Adam": {"optimizer": "adam"},
        "RMSprop": {"optimizer": "rmsprop"},
        "Adagrad": {"optimizer": "adagrad", "learning_rate": 0.003},
    },
    "learning_rate": {
        "a tenth": {"learning_rate": 1e-4},
        "three times": {"learning_rate": 3e-3},
    },
    "schedule": {
        "constant": {"schedule": "constant"},
        "exponential": {"schedule": "exponential"},
        "one cycle": {"schedule": "one_cycle", "warmup": 0.0},
    },
    "layers": {
        "one rate for all": {"layer_decay": 1.0},
        "L2-SP": {"l2_sp": 0.1},
        "head only": {"trainable": "head"},
    },
    "batch_norm": {"updated": {"batch_norm": "update"}},
    "regularization": {
        "dropout 0.3": {"dropout": 0.3},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        "stochastic depth 0.2": {"stochastic_depth": 0.2},
    },
    "augmentation": {
        "crops": {"augmentation": [CROP], "views": 4},
        "crops, flips": {"augmentation": [CROP, HorizontalFlip()], "views": 4},
        "crops, RandAugment": {"augmentation": [CROP, RandAugment()], "views": 4},
        "MixUp": {"augmentation": [MixUp()]},
        "CutMix": {"augmentation": [CutMix()]},
    },
    "clipping": {"none": {"clip_norm": None}},
}


def main() -> None:
    """Draw the plots for the folder on the command line."""
    parser = argparse.ArgumentParser(description="Compare the techniques of training.")
    parser.add_argument("folder", type=Path, help="with train/ and test/")
    parser.add_argument("--network", default="mobilenet_v2")
    parser.add_argument("--weights", help="a file; default: the published ones")
    parser.add_argument("--backend", default="torch", help="torch or tensorflow")
    parser.add_argument("--trainable", default="features.14", help="the first layer to train")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("tricks"), help="a folder")
    arguments = parser.parse_args()
    defaults: dict[str, Any] = {
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "trainable": arguments.trainable,
        "augmentation": [],
        "validation": arguments.folder / "test",
    }

    def train(settings: dict[str, Any]) -> History:
        if not isinstance(settings.get("optimizer", ""), str):
            settings = {"learning_rate": None, **settings}
        classifier = Classifier(
            arguments.network,
            weights=arguments.weights,
            backend=arguments.backend,
            random_state=0,
            fine_tuning=FineTuning(**{**defaults, **settings}),
        )
        history = classifier.fit(arguments.folder / "train").history_
        if history is None:
            raise RuntimeError("the classifier has no history")
        return history

    arguments.output.mkdir(exist_ok=True)
    mpl.use("agg")
    reference = train({})
    for technique, runs in TECHNIQUES.items():
        histories = {"default": reference}
        histories |= {name: train(settings) for name, settings in runs.items()}
        draw(histories, arguments.output / f"{technique}.png")
        for name, history in histories.items():
            accuracy = history.epochs[-1].validation_accuracy
            print(f"{technique}: {name}: accuracy {accuracy:.3f} after the last epoch", flush=True)


def draw(histories: dict[str, History], path: Path) -> None:
    """Plot the loss and the accuracy on the other photos over the epochs."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
        for index, (name, history) in enumerate(histories.items()):
            values = [getattr(record, f"validation_{quantity}") for record in history.epochs]
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, color="black" if index == 0 else f"C{index - 1}", label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{quantity} on other photos")
        axes.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right")
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
