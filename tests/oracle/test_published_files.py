"""From torchvision's own model to a file as it is published, and to the same numbers here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torchvision import transforms

from transferkit.backends import Backend, Program
from transferkit.networks import NETWORKS, build_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.weights.reading import classes_of, read_arrays, read_weights, variant_of

_CLASSES = 11


def _randomized(name: str) -> torch.nn.Module:
    """torchvision's model with random weights and, in its batch norms, random statistics."""
    torch.manual_seed(0)
    model: torch.nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=_CLASSES
    ).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_(0, 0.1)
            elif getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.1)
    return model


@pytest.mark.parametrize(
    "name", [name for name, entry in NETWORKS.items() if "torchvision" in entry.variants]
)
def test_a_published_file_gives_the_same_numbers(
    name: str, backends: list[Backend], tmp_path: Path
) -> None:
    model = _randomized(name)
    pixels = np.random.default_rng(1).random((1, 64, 96, 3), np.float32)
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    with torch.inference_mode():
        expected = model(normalize(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))).numpy()
    network = build_network(name, variant="torchvision", classes=_CLASSES)
    state = model.state_dict()
    for zipped in (True, False):
        path = tmp_path / "file.pth"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        assert variant_of(path) == "torchvision"
        assert classes_of(read_arrays(path, network), network) == _CLASSES
        weights = read_weights(path, network)
        assert all(np.array_equal(array, state[key].numpy()) for key, array in weights.items())
    for backend in backends:
        found = Program(backend, network, weights).run(pixels, ["logits"])["logits"]
        assert_close(found, expected, ACTIVATION_TOLERANCE, f"{backend.name}, logits")
