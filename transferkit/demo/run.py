"""The demo: training on a few images, and the ImageNet classes of a photo."""

from __future__ import annotations

from dataclasses import dataclass

from transferkit.classification.classifier import Classifier, Prediction
from transferkit.classification.evaluation import Evaluation
from transferkit.demo import CAT, TEST, TRAIN

__all__ = ["DemoResult", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The result of `run_demo`.

    Attributes
    ----------
    evaluation
        The evaluation of the trained classifier on the images in `transferkit.demo.TEST`.
    cat_predictions
        The three most probable ImageNet classes of `transferkit.demo.CAT`, the most probable
        one first.
    """

    evaluation: Evaluation
    cat_predictions: list[Prediction]


def run_demo(*, backend: str | None = None, progress: bool | None = None) -> DemoResult:
    """Train and test a classifier on the included images, and classify a photo of a cat.

    The classifier is trained on `transferkit.demo.TRAIN`. Nothing is downloaded.

    Parameters
    ----------
    backend
        The name of a backend; None: as for `transferkit.FeatureExtractor`.
    progress
        Whether to show progress bars; None: on a terminal or in a notebook.

    Returns
    -------
    DemoResult
        The test accuracy and the classes of the cat.

    Examples
    --------
    >>> from transferkit.demo.run import run_demo
    >>> run_demo(backend="onnxruntime").evaluation.accuracy > 0.9
    True
    """
    textures = Classifier(backend=backend, progress=progress).fit(TRAIN)
    imagenet = Classifier.pretrained(backend=backend, progress=progress)
    return DemoResult(textures.evaluate(TEST), imagenet.predict_top(CAT, k=3)[0])
