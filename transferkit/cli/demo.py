"""``transferkit demo``."""

from __future__ import annotations

from transferkit.cli.console import say
from transferkit.cli.options import Backend, Quiet

__all__ = ["demo"]


def demo(backend: Backend = None, quiet: Quiet = False) -> None:
    """Train on pictures that come with the package, and say what to do next."""
    from transferkit.demo import CAT, TRAIN
    from transferkit.demo.run import run_demo

    found = run_demo(backend=backend, progress=False if quiet else None)
    number = int(found.evaluation.confusion_matrix.sum())
    say(f"Textures (brick, grass, gravel): trained on {TRAIN}")
    say(f"  accuracy on {number} tiles not seen before: {found.evaluation.accuracy:.3f}")
    say(f"The cat in {CAT}, by ImageNet's 1,000 classes:")
    for label, probability in found.breeds:
        say(f"  {label}: {probability:.3f}")
    say("Next, with a folder that has one subfolder of photos for each class:")
    say("  transferkit fit FOLDER -o model.safetensors")
    say("  transferkit predict model.safetensors PHOTO ...")
