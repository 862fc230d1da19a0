"""``transferkit demo``."""

from __future__ import annotations

from command_line import output_of
from samples import DEMO


def test_demo_prints_accuracy_predictions_and_next_steps() -> None:
    text = output_of("demo", "--backend", "onnxruntime")
    assert f"Classifier of brick, grass, gravel, trained on {DEMO / 'train'}" in text
    assert "accuracy on 24 test images: 1.000" in text
    assert "Egyptian cat: 0." in text
    assert "transferkit fit FOLDER" in text
