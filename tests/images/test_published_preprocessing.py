"""Preprocessing read from objects like those of timm, torchvision and transformers."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from transferkit.errors import ParameterError
from transferkit.images import Preprocessing, from_timm, from_torchvision, from_transformers
from transferkit.images.published_preprocessing import published_preprocessing

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
CONFIG = {
    "input_size": (3, 224, 224), "crop_pct": 0.95, "crop_mode": "center",
    "interpolation": "bicubic", "mean": MEAN, "std": STD,
}  # fmt: skip


def test_timm() -> None:
    expected = Preprocessing(224, resize=235, interpolation="bicubic", mean=MEAN, std=STD)
    for model in (CONFIG, SimpleNamespace(**CONFIG), SimpleNamespace(pretrained_cfg=CONFIG)):
        assert from_timm(model) == expected
    squashed = from_timm({**CONFIG, "crop_mode": "squash", "crop_pct": 1.0})
    assert squashed == Preprocessing(224, crop=False, interpolation="bicubic", mean=MEAN, std=STD)
    gray = from_timm({"input_size": (1, 28, 28), "mean": (0.1,), "std": (0.3,), "crop_pct": 1})
    assert (gray.size, gray.resize, gray.mean, gray.std) == (28, 28, (0.1,) * 3, (0.3,) * 3)
    assert gray.interpolation == "bicubic"


def test_a_model_may_carry_its_preprocessing() -> None:
    own = Preprocessing(8)
    assert published_preprocessing(SimpleNamespace(preprocessing=own)) == own
    assert published_preprocessing(SimpleNamespace(pretrained_cfg=CONFIG)) == from_timm(CONFIG)
    assert published_preprocessing(SimpleNamespace(pretrained_cfg={}, preprocessing="x")) is None
    assert published_preprocessing(3) is None


class Interpolation(Enum):
    BILINEAR = "bilinear"


def test_torchvision() -> None:
    preset = SimpleNamespace(
        crop_size=[224], resize_size=[232], mean=list(MEAN), std=list(STD),
        interpolation=Interpolation.BILINEAR,
    )  # fmt: skip
    expected = Preprocessing(224, resize=232, mean=MEAN, std=STD)
    assert from_torchvision(preset) == expected
    assert from_torchvision(SimpleNamespace(transforms=lambda: preset)) == expected
    preset.resize_size = [224, 224]
    assert from_torchvision(preset) == Preprocessing(224, crop=False, mean=MEAN, std=STD)


HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SQUARE = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"size": SQUARE, **HALF, "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255},
            Preprocessing(224, crop=False, mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        (
            {"size": 224, "crop_size": 224, "do_center_crop": True, "resample": 3, **HALF},
            Preprocessing(
                224, resize=224, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, **HALF},
            Preprocessing(
                224, resize=256, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {"size": {"shortest_edge": 384}, "crop_pct": 0.875, "resample": 0, **HALF},
            Preprocessing(
                384, crop=False, interpolation="nearest", mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {
                "size": {"shortest_edge": 256}, "crop_size": SQUARE, "do_center_crop": True,
                "do_normalize": False, "do_flip_channel_order": True,
            },
            Preprocessing(224, resize=256, channel_order="bgr"),
        ),
        (
            {"size": SQUARE, "do_rescale": False, "image_mean": [51] * 3, "image_std": [102] * 3},
            Preprocessing(224, crop=False, mean=(0.2,) * 3, std=(0.4,) * 3),
        ),
        (
            {"size": SQUARE, "rescale_factor": 1 / 127.5, "rescale_offset": True},
            Preprocessing(224, crop=False, mean=(0.5,) * 3, std=(0.5,) * 3),
        ),
        ({"do_resize": False, **HALF}, Preprocessing(None, mean=(0.5,) * 3, std=(0.5,) * 3)),
    ],
)  # fmt: skip
def test_transformers(config: dict[str, Any], expected: Preprocessing) -> None:
    for processor in (config, SimpleNamespace(**config)):
        assert from_transformers(processor) == expected


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (from_timm, 3, "a int has no timm configuration"),
        (from_timm, {**CONFIG, "input_size": (3, 224, 192)}, "not square"),
        (from_timm, {**CONFIG, "crop_mode": "border"}, "crop_mode 'border'"),
        (from_timm, {**CONFIG, "mean": (0.5,) * 4}, "has 4 channels"),
        (from_timm, {**CONFIG, "interpolation": "lanczos"}, "interpolation is 'lanczos'"),
        (from_timm, {**CONFIG, "mean": "imagenet"}, "mean or std is 'imagenet'"),
        (from_torchvision, "IMAGENET1K_V1", "a str has no crop_size"),
        (
            from_torchvision,
            {"crop_size": [224], "resize_size": [256], "interpolation": "bilinear"},
            "mean or std is None; expected three numbers or one",
        ),
        (
            from_transformers,
            {"size": SQUARE, "image_mean": [0.5] * 3},
            "has no image_std; expected image_mean and image_std, or neither",
        ),
        (from_transformers, {"size": SQUARE, "image_std": [0.5] * 3}, "has no image_mean"),
        (from_transformers, 3, "a int has neither size nor image_mean"),
        (from_transformers, {"size": SQUARE, "resample": 1}, "resample 1"),
        (from_transformers, {"size": {"longest_edge": 3}}, "longest_edge"),
        (
            from_transformers,
            {"size": {"height": 256, "width": 256}, "crop_size": SQUARE, "do_center_crop": True},
            "with crop_size 224",
        ),
    ],
)
def test_what_cannot_be_expressed_is_rejected(function: Any, given: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        function(given)
