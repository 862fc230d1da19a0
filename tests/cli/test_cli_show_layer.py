"""``transferkit show-layer``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from command_line import error_of, output_of
from PIL import Image
from samples import DEMO

from transferkit.support.drawing import colormap

CAT = DEMO / "cat.jpg"


def test_image_of_one_channel_is_written(tmp_path: Path) -> None:
    output = tmp_path / "features.png"
    text = output_of("show-layer", CAT, "--layer", "features.6", "--channel", 3, "-o", output)
    with Image.open(output) as image:
        assert f"saved {output}: {image.width} x {image.height} pixels" in text
        colors = set(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))
    assert tuple(colormap(np.array([[1.0]]))[0, 0].tolist()) in colors


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    output = tmp_path / "features.png"
    for arguments, message in (
        ((CAT, "--layer", "features.6", "-o", tmp_path / "a.txt"), "ends in .png"),
        ((CAT, "--layer", "features.6", "-o", tmp_path / "b" / "a.png"), "does not exist"),
        ((CAT, "--layer", "logits", "-o", output), "expected a feature map (h, w, c)"),
        ((CAT, "--layer", "feature.6", "-o", output), "did you mean"),
        ((CAT, "--layer", "features.6", "--weights", "no.pth", "-o", output), "no such file"),
        (("missing.jpg", "--layer", "features.6", "-o", output), "no such file"),
    ):
        assert message in error_of("show-layer", *arguments)
    assert list(tmp_path.iterdir()) == []
