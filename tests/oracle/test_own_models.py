"""Models that people bring: timm's and torchvision's, wrapped; and torchvision's, out again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
import torchvision
from torch import nn

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import get_backend
from transferkit.networks import build_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import random_weights_and_statistics

# Small ones of each kind, with the layer that is called embedding here, as its users get it.
_TIMM = ("resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224", "convnext_atto")
_SIDE = 224


def _pixels(number: int, side: int = _SIDE) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).random((number, side, side, 3), np.float32)


def _as_trained_on(pixels: npt.NDArray[np.float32]) -> torch.Tensor:
    x = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def _extractor(model: nn.Module) -> FeatureExtractor:
    preprocessing = Preprocessing(_SIDE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return FeatureExtractor(model, preprocessing=preprocessing, progress=False)


@pytest.mark.parametrize("name", _TIMM)
def test_timm_model(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False)
    fx = _extractor(model)
    pixels = _pixels(2)
    found = fx.extract(list(pixels), ["embedding", "logits"])
    assert model.training
    model.eval()
    with torch.no_grad():
        features = model.forward_features(_as_trained_on(pixels))
        embedding = model.forward_head(features, pre_logits=True).numpy()
        logits = model(_as_trained_on(pixels)).numpy()
    assert_close(found["embedding"], embedding, ACTIVATION_TOLERANCE, "embedding")
    assert_close(found["logits"], logits, ACTIVATION_TOLERANCE, "logits")


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 512), ("vgg11", 4096), ("densenet121", 1024)]
)
def test_torchvision_model(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    pixels = _pixels(1)
    fx = _extractor(model)
    found = fx.extract(list(pixels), ["embedding", "logits"])
    model.eval()
    with torch.no_grad():
        logits = model(_as_trained_on(pixels)).numpy()
    assert found["embedding"].shape == (1, size)
    assert_close(found["logits"], logits, ACTIVATION_TOLERANCE, "logits")


def test_layers_are_called_as_torchvision_calls_them() -> None:
    model = torchvision.models.resnet18(weights=None)
    _, names = torchvision.models.feature_extraction.get_graph_node_names(model)
    modules = {name for name, _ in model.named_modules()}
    expected = [name for name in names if name in modules or name.endswith("relu_1")]
    found = [layer for layer in _extractor(model).layers() if layer in set(expected)]
    assert found == expected


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "vgg11_bn", "mobilenet_v3_small"])
def test_native_goes_into_torchvisions_model_and_back(name: str) -> None:
    network = build_network(name)
    native = get_backend("torch").to_native(network, random_weights_and_statistics(network, seed=0))
    assert isinstance(native, nn.Module)
    model = torchvision.models.get_model(name, weights=None)
    model.load_state_dict(native.state_dict())
    pixels = _pixels(2)
    native.eval()
    model.eval()
    with torch.no_grad():
        found = native(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        expected = model(_as_trained_on(pixels)).numpy()
    assert_close(found, expected, ACTIVATION_TOLERANCE, "logits")
    assert list(native.state_dict()) == list(model.state_dict())
    other = torchvision.models.get_model(name, weights=None).eval()
    native.load_state_dict(other.state_dict())
    with torch.no_grad():
        found = native(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        expected = other(_as_trained_on(pixels)).numpy()
    assert_close(found, expected, ACTIVATION_TOLERANCE, "logits")
