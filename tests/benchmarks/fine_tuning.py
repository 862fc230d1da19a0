"""Speed and memory of fine-tuning, compared with the usual recipe of each framework.

``python tests/benchmarks/fine_tuning.py FOLDER``, where the folder contains ``train`` and ``test``,
prints images per second from the second epoch on, and the peak memory, of MobileNetV2 with batches
of 16 and random crops and flips:

- torch: torchvision's model in train mode, AdamW, and a DataLoader with two workers;
- tensorflow: ``fit`` of the model of keras.applications, on a tf.data pipeline.

Each measurement is a process of its own, and both run in turn, so that changes of the machine's
speed affect both. With ``--plot``, the accuracy over seconds is drawn instead (torch only).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH_SIZE = 16
SIZE = 224
SCALE = (0.35, 1.0)
LEARNING_RATE = 1e-4
LAST_BLOCKS = "features.15"

# What is run for a plot, how its accuracy is measured, and its label.
CURVES = [
    ("recipe", "epochs", "torchvision, AdamW, DataLoader: each epoch"),
    ("ours", "epochs", f"FineTuning(learning_rate={LEARNING_RATE:g}): each epoch"),
    ("ours", "automatic", "FineTuning(): the result"),
]


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each epoch."""
    from transferkit import Classifier, FineTuning
    from transferkit.images.augmentation import HorizontalFlip, RandomResizedCrop

    settings: dict[str, Any] = {"trainable": LAST_BLOCKS, "views": 4} if arguments.last else {}
    if arguments.curve == "automatic":
        settings |= {"epochs": None}
    else:
        settings |= {
            "epochs": arguments.epochs,
            "learning_rate": LEARNING_RATE,
            "augmentation": [RandomResizedCrop(scale=SCALE), HorizontalFlip()],
            "validation": arguments.folder / "test" if arguments.curve else None,
            "refit": False,
        }
    start = time.monotonic()
    classifier = Classifier(
        "mobilenet_v2",
        weights=arguments.weights,
        backend=arguments.backend,
        progress=False,
        fine_tuning=FineTuning(**settings),
    ).fit(arguments.folder / "train")
    total = time.monotonic() - start
    history = classifier.history_
    if history is None:
        raise RuntimeError("the classifier has no history")
    ends = [record.seconds for record in history.epochs]
    # What precedes the first epoch: the head, and the choices.
    before = total - (history.refit or history).epochs[-1].seconds
    accuracies = [record.validation_accuracy for record in history.epochs]
    if arguments.curve == "automatic":
        accuracies = [classifier.evaluate(arguments.folder / "test").accuracy]
        ends = [total - before]
    images = classifier.n_samples_fit_
    return {"ends": ends, "before": before, "accuracies": accuracies, "images": images}


def torch_recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds and the accuracy of each epoch of torchvision's model."""
    import torch
    from torchvision import datasets, models, transforms

    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crops = [transforms.RandomResizedCrop(SIZE, SCALE), transforms.RandomHorizontalFlip()]
    center = [transforms.Resize(256), transforms.CenterCrop(SIZE)]
    data = {}
    for part, augmentation in (("train", crops), ("test", center)):
        transform = transforms.Compose([*augmentation, transforms.ToTensor(), normalize])
        folder = datasets.ImageFolder(arguments.folder / part, transform)
        data[part] = torch.utils.data.DataLoader(
            folder, BATCH_SIZE, shuffle=part == "train", num_workers=2
        )
    torch.manual_seed(0)
    model = models.mobilenet_v2()
    if arguments.weights:
        model.load_state_dict(torch.load(arguments.weights))
    model.classifier[1] = torch.nn.Linear(1280, len(data["train"].dataset.classes))
    if arguments.last:
        first = int(LAST_BLOCKS.split(".")[1])
        for parameter in model.features[:first].parameters():
            parameter.requires_grad = False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE)
    ends, accuracies, elapsed = [], [], 0.0
    for _ in range(arguments.epochs):
        start = time.monotonic()
        model.train()
        for x, y in data["train"]:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        elapsed += time.monotonic() - start
        ends.append(elapsed)
        if arguments.curve:
            model.eval()
            with torch.inference_mode():
                hits = [(model(x).argmax(1) == y).float().mean().item() for x, y in data["test"]]
            accuracies.append(statistics.mean(hits))
    return {
        "ends": ends,
        "before": 0.0,
        "accuracies": accuracies,
        "images": len(data["train"].dataset),
    }


def keras_recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each epoch of ``fit`` with the model of keras.applications."""
    import keras
    import tensorflow as tf

    data = keras.utils.image_dataset_from_directory(
        arguments.folder / "train",
        image_size=(256, 256),
        batch_size=None,
        crop_to_aspect_ratio=True,
    )
    classes = len(data.class_names)

    def augment(image: Any, label: Any) -> tuple[Any, Any]:
        box = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            area_range=SCALE,
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.slice(image, box[0], box[1])
        image = tf.image.random_flip_left_right(tf.image.resize(crop, (SIZE, SIZE)))
        return image / 127.5 - 1, label

    batches = data.map(augment, tf.data.AUTOTUNE).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)
    base = keras.applications.MobileNetV2(include_top=False, weights=None, pooling="avg")
    if arguments.last:
        names = [layer.name for layer in base.layers]
        for layer in base.layers[: names.index("block_14_expand")]:
            layer.trainable = False
    model = keras.Sequential([base, keras.layers.Dense(classes)])
    model.compile(
        keras.optimizers.AdamW(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    ends: list[float] = []
    start = time.monotonic()
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: ends.append(time.monotonic() - start)
    )
    model.fit(batches, epochs=arguments.epochs, callbacks=[callback], verbose=0)
    images = sum(1 for _ in data)
    return {"ends": ends, "before": 0.0, "accuracies": [], "images": images}


RECIPES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "torch": torch_recipe,
    "tensorflow": keras_recipe,
}


def measure(arguments: argparse.Namespace, what: str, *options: str) -> dict[str, Any]:
    """Return what a run in a process of its own prints."""
    command = [sys.executable, __file__, str(arguments.folder), "--run", what]
    command += ["--backend", arguments.backend, "--epochs", str(arguments.epochs), *options]
    if arguments.weights:
        command += ["--weights", str(arguments.weights)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def compare(arguments: argparse.Namespace) -> None:
    """Print the speed and the memory of both, in turn."""
    for options in ([], ["--last"]):
        speeds: dict[str, list[float]] = {"ours": [], "recipe": []}
        memory: dict[str, float] = {}
        for _ in range(arguments.rounds):
            for what, values in speeds.items():
                result = measure(arguments, what, *options)
                ends = result["ends"]
                values.append(result["images"] * (len(ends) - 1) / (ends[-1] - ends[0]))
                memory[what] = result["memory"]
        ratios = [a / b for a, b in zip(speeds["ours"], speeds["recipe"], strict=True)]
        for what, values in speeds.items():
            rounded = ", ".join(f"{value:.1f}" for value in values)
            print(f"{what}: images/s {rounded}; peak memory {memory[what]:.0f} MB")
        layers = f"from {LAST_BLOCKS} on" if options else "all layers"
        print(
            f"{arguments.backend}, {layers}: ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def plot(arguments: argparse.Namespace) -> None:
    """Draw the accuracy on the test photos over the seconds of training."""
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for what, curve, label in CURVES:
        result = measure(arguments, what, "--curve", curve)
        seconds = [result["before"] + end for end in result["ends"]]
        axes.plot(seconds, result["accuracies"], "o-", label=label)
        print(label, [round(second) for second in seconds], result["accuracies"], flush=True)
    axes.set_xlabel("seconds, with the head and the choices")
    axes.set_ylabel("accuracy on the test photos")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(arguments.plot, dpi=100)


def main() -> None:
    """Compare, or run one of the two."""
    parser = argparse.ArgumentParser(description="Compare the speed of fine-tuning.")
    parser.add_argument("folder", type=Path, help="with train/ and test/")
    parser.add_argument("--backend", choices=list(RECIPES), default="torch")
    parser.add_argument("--weights", help="a file; default: the published ones")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="the PNG file to draw")
    parser.add_argument("--run", choices=["ours", "recipe"], help=argparse.SUPPRESS)
    parser.add_argument("--curve", choices=["", "epochs", "automatic"], default="")
    parser.add_argument("--last", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run = ours if arguments.run == "ours" else RECIPES[arguments.backend]
        result = run(arguments)
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # The workers of the DataLoader.
        kib += 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(json.dumps({**result, "memory": kib / 1000}))
    elif arguments.plot:
        plot(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
