"""``transferkit demo``: show what transferkit does."""

from __future__ import annotations

from transferkit.cli.console import print_line
from transferkit.cli.options import Backend, Quiet

__all__ = ["demo"]


def demo(backend: Backend = None, quiet: Quiet = False) -> None:
    """Train and test a classifier on included images.

    Then classify a photo of a cat with ImageNet weights. Nothing is downloaded.
    """
    from transferkit.demo import CAT, TRAIN
    from transferkit.demo.run import run_demo

    result = run_demo(backend=backend, progress=False if quiet else None)
    evaluation = result.evaluation
    number = int(evaluation.confusion_matrix.sum())
    print_line(f"Classifier of {', '.join(evaluation.classes)}, trained on {TRAIN}")
    print_line(f"  accuracy on {number} test images: {evaluation.accuracy:.3f}")
    print_line(f"Most probable ImageNet classes of {CAT}")
    for label, probability in result.cat_predictions:
        print_line(f"  {label}: {probability:.3f}")
    print_line("Next, train a classifier on a folder with one subfolder of images for each class:")
    print_line("  transferkit fit FOLDER -o model.safetensors")
    print_line("  transferkit predict model.safetensors IMAGE...")
