"""Preprocessing that timm, torchvision and transformers publish: the same input as with theirs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image

from transferkit import FeatureExtractor
from transferkit.demo import CAT
from transferkit.images import Preprocessing, from_timm, from_torchvision, from_transformers
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close

_TIMM = ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto")


def _image() -> Image.Image:
    return Image.open(CAT).convert("RGB")


def _input(preprocessing: Preprocessing) -> torch.Tensor:
    """Return the input of a network for the image of the demo, (3, h, w)."""
    pixels = np.asarray(preprocessing.apply(_image()), np.float32) / np.float32(255)
    x = (pixels - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    return torch.from_numpy(x.transpose(2, 0, 1).copy())


@pytest.mark.parametrize("name", _TIMM)
@pytest.mark.parametrize("has_head", [True, False])
def test_timm_model_is_used_without_preprocessing(name: str, has_head: bool) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **({} if has_head else {"num_classes": 0}))
    settings = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**settings, is_training=False)
    torch.testing.assert_close(_input(from_timm(model)), transform(_image()))
    assert from_timm(settings) == from_timm(model)
    layer = "logits" if has_head else "embedding"
    result = FeatureExtractor(model, layer=layer, progress=False).transform([CAT])
    with torch.no_grad():
        expected = model.eval()(transform(_image())[None]).numpy()
    assert_close(result, expected, ACTIVATION_TOLERANCE, layer)


@pytest.mark.parametrize(
    "weights",
    [
        torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
        torchvision.models.EfficientNet_B1_Weights.IMAGENET1K_V2,
        torchvision.models.ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1,
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
    ],
)
def test_torchvision_weights(weights: torchvision.models.WeightsEnum) -> None:
    torch.testing.assert_close(_input(from_torchvision(weights)), weights.transforms()(_image()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessor", {}),
        ("CLIPImageProcessor", {}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 224}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("MobileNetV2ImageProcessor", {}),
    ],
)
def test_transformers_processor(name: str, settings: dict[str, object]) -> None:
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, name)(**settings)
    expected = processor(_image(), return_tensors="pt")["pixel_values"][0]
    # Their own resizing rounds differently in few pixels.
    difference = (_input(from_transformers(processor)) - expected).abs()
    assert difference.mean() < 0.01


def test_torchvision_models_without_a_head() -> None:
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    preprocessing = from_torchvision(weights)
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    expected = FeatureExtractor(model, preprocessing=preprocessing).transform([CAT])
    body = torch.nn.Sequential(*list(model.children())[:-1])
    result = FeatureExtractor(body, preprocessing=preprocessing).transform([CAT])
    assert_close(result, expected, ACTIVATION_TOLERANCE, "children")
    model.fc = torch.nn.Identity()
    result = FeatureExtractor(model, preprocessing=preprocessing).transform([CAT])
    assert_close(result, expected, ACTIVATION_TOLERANCE, "identity")
