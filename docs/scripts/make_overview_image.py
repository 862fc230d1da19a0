"""Make ``docs/images/overview.jpg``: ``python docs/scripts/make_overview_image.py``.

The image shows test images of the demo with the predictions of a classifier, and the photo of a
cat with the prediction of the published weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from transferkit import Classifier
from transferkit.demo import CAT, TEST, TRAIN
from transferkit.support.drawing import labeled_grid

__all__ = ["main"]

_OUTPUT = Path(__file__).parents[1] / "images" / "overview.jpg"
_SIDE = 160


def main() -> None:
    """Write the image."""
    paths = [TEST / name / f"{name}-1.jpg" for name in ("brick", "grass", "gravel")]
    trained = Classifier("mobilenet_v2", random_state=0).fit(TRAIN)
    predictions = trained.predict_top(paths, k=1)
    predictions += Classifier.pretrained("mobilenet_v2").predict_top(CAT, k=1)
    labels = [f"{best.label}\n{best.probability:.0%}" for (best,) in predictions]
    tiles = [_tile(path) for path in (*paths, CAT)]
    labeled_grid(tiles, labels, columns=len(tiles), side=_SIDE).save(
        _OUTPUT, quality=85, optimize=True
    )


def _tile(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE)))


if __name__ == "__main__":
    main()
