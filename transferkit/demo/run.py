"""The demo: a classifier from two dozen pictures, and a cat's breed, with nothing to download."""

from __future__ import annotations

from dataclasses import dataclass

from transferkit.classification.classifier import Classifier, Prediction
from transferkit.classification.evaluation import Evaluation
from transferkit.demo import CAT, TEST, TRAIN

__all__ = ["DemoResult", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    evaluation
        Of the classifier of textures, on tiles it has not seen.
    breeds
        The three likeliest of ImageNet's classes for the cat.
    """

    evaluation: Evaluation
    breeds: list[Prediction]


def run_demo(*, backend: str | None = None, progress: bool | None = None) -> DemoResult:
    """Train on tiles of brick, grass and gravel; judge on others; name a cat's breed.

    Parameters
    ----------
    backend
        What computes; None: chosen.
    progress
        Whether progress bars are shown; None: on a terminal.

    Examples
    --------
    >>> from transferkit.demo.run import run_demo
    >>> run_demo(backend="onnxruntime").evaluation.accuracy > 0.9
    True
    """
    textures = Classifier(backend=backend, progress=progress).fit(TRAIN)
    imagenet = Classifier.pretrained(backend=backend, progress=progress)
    return DemoResult(textures.evaluate(TEST), imagenet.predict_top(CAT, k=3)[0])
