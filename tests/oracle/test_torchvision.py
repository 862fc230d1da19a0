"""The same numbers as torchvision: its network, its transforms, its published weights.

Collected with ``--oracle`` only, in an environment that has torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torchvision import transforms

from transferkit.backends import Backend, Program
from transferkit.images import Preprocessing, list_images, read_image
from transferkit.networks import NETWORKS, Network, Weights, build_network
from transferkit.networks.catalogue import IMAGENET_MEAN, IMAGENET_STD
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.weights import find_weights, load_weights

_BATCH_SIZE = 32
# Fine enough to find another rounding rule, and quick.
_NUMBER_OF_TRANSFORMED_PHOTOS = 100


def _torchvision_model(network: Network, weights: Weights) -> torch.nn.Module:
    """The network of torchvision with these weights, under the very same names."""
    # Without its own random weights, which take longer to draw than all the rest.
    with torch.device("meta"):
        model: torch.nn.Module = torchvision.models.get_model(network.name, weights=None)
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    for name in model.state_dict():
        if name.endswith(".num_batches_tracked"):
            state[name] = torch.tensor(0)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _torchvision_activations(
    model: torch.nn.Module, network: Network, pixels: npt.NDArray[np.float32]
) -> dict[str, npt.NDArray[np.float32]]:
    """What each module gives, and ``embedding``, from pixels that are not normalised yet."""
    found: dict[str, npt.NDArray[np.float32]] = {}

    def keep(name: str, output: torch.Tensor) -> None:
        # A copy: the ReLU6 that follows writes into its input.
        array = output.detach().clone().numpy()
        found[name] = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: keep(name, output))
        for name, module in model.named_modules()
        if name
    ]
    # What the last linear layer takes and gives.
    last = network.resolve("logits")
    hooks.append(
        model.get_submodule(last).register_forward_pre_hook(
            lambda _module, inputs: keep("embedding", inputs[0])
        )
    )
    normalize = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)
    with torch.inference_mode():
        planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        model(normalize(planes.to(next(model.parameters()).dtype)))
    for hook in hooks:
        hook.remove()
    found["logits"] = found[last]
    return found


def _test_photos(data_folder: Path) -> list[Path]:
    return [
        path for name in ("cats_dogs", "pets") for path in list_images(data_folder / name / "test")
    ]


def _transformed(path: Path) -> npt.NDArray[np.float32]:
    """A photo as torchvision's recipe reads it, H x W x 3."""
    recipe = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    )
    with Image.open(path) as image:
        # The recipe has no eye for EXIF; transferkit turns photos upright, so both are given such.
        upright = ImageOps.exif_transpose(image).convert("RGB")
    pixels: npt.NDArray[np.float32] = recipe(upright).numpy().transpose(1, 2, 0)
    return pixels


@pytest.fixture(scope="module")
def mobilenet() -> tuple[Network, Weights]:
    network = build_network("mobilenet_v2", mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return network, random_weights_and_statistics(network, seed=0)


@pytest.fixture(scope="module")
def published() -> tuple[Network, Weights]:
    return load_weights(find_weights("mobilenet_v2"))


@pytest.mark.parametrize("shape", [(2, 224, 224, 3), (1, 32, 32, 3), (3, 97, 131, 3)])
def test_every_layer_with_random_weights(
    backend: Backend, mobilenet: tuple[Network, Weights], shape: tuple[int, ...]
) -> None:
    network, weights = mobilenet
    _check_every_layer(backend, network, weights, shape)


def _check_every_layer(
    backend: Backend, network: Network, weights: Weights, shape: tuple[int, ...]
) -> None:
    pixels = np.random.default_rng(1).random(shape, np.float32)
    # Torchvision's network in double precision, which is right to all digits: statistics drawn at
    # random let rounding grow, its own in single precision as much as a backend's, and two that
    # are right to 7e-5 may be twice that apart.
    model = _torchvision_model(network, weights).double()
    expected = _torchvision_activations(model, network, pixels)
    # Every module that runs gives an output that answers by its name.
    assert expected.keys() <= set(network.layers)
    found = Program(backend, network, weights).run(pixels, list(expected))
    for layer, array in expected.items():
        assert_close(found[layer], array, ACTIVATION_TOLERANCE, layer)


# One of each family: the first with batch norm, as its names are counted on from there.
@pytest.mark.parametrize(
    "name", ["vgg11", "vgg11_bn", "resnet18", "resnet50", "mobilenet_v3_small"]
)
def test_every_layer_of_family(backend: Backend, name: str) -> None:
    network = build_network(name)
    weights = random_weights_and_statistics(network, seed=0)
    _check_every_layer(backend, network, weights, (1, 64, 97, 3))


@pytest.mark.parametrize(
    "name", [name for name, entry in NETWORKS.items() if "torchvision" in entry.variants]
)
def test_output_of_every_network(backend: Backend, name: str) -> None:
    network = build_network(name, variant="torchvision")
    weights = random_weights_and_statistics(network, seed=2)
    pixels = np.random.default_rng(1).random((2, 96, 75, 3), np.float32)
    model = _torchvision_model(network, weights)
    expected = _torchvision_activations(model, network, pixels)
    found = Program(backend, network, weights).run(pixels, ["embedding", "logits"])
    for layer, array in found.items():
        assert_close(array, expected[layer], ACTIVATION_TOLERANCE, layer)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 224), (131, 200)])
def test_preprocessing_pixel_for_pixel(
    data_folder: Path, size: int, resize: int, interpolation: str
) -> None:
    preprocessing = Preprocessing(size=size, resize=resize, interpolation=interpolation)
    mode = transforms.InterpolationMode(interpolation)
    recipe = transforms.Compose(
        [
            transforms.Resize(resize, interpolation=mode),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
        ]
    )
    photos = _test_photos(data_folder)
    for path in photos[:: max(1, len(photos) // _NUMBER_OF_TRANSFORMED_PHOTOS)]:
        with Image.open(path) as image:
            expected = recipe(ImageOps.exif_transpose(image).convert("RGB"))
        found = preprocessing.apply(read_image(path, str(path)), str(path))
        assert found.dtype == np.uint8
        floats = found.astype(np.float32) / 255
        np.testing.assert_array_equal(floats, expected.numpy().transpose(1, 2, 0), str(path))


def _batches(photos: list[Path]) -> Iterator[tuple[list[Path], npt.NDArray[np.float32]]]:
    for start in range(0, len(photos), _BATCH_SIZE):
        paths = photos[start : start + _BATCH_SIZE]
        yield paths, np.stack([_transformed(path) for path in paths])


def test_published_weights_on_all_test_photos(
    backend: Backend, published: tuple[Network, Weights], data_folder: Path
) -> None:
    network, weights = published
    preprocessing = find_weights("mobilenet_v2").preprocessing
    model = _torchvision_model(network, weights)
    program = Program(backend, network, weights)
    layers = ["embedding", "logits"]
    for paths, theirs in _batches(_test_photos(data_folder)):
        # Each goes its own way from the file on.
        pictures = [preprocessing.apply(read_image(path, str(path)), str(path)) for path in paths]
        ours = np.stack(pictures).astype(np.float32) / 255
        expected = _torchvision_activations(model, network, theirs)
        found = program.run(ours, layers)
        for layer in layers:
            assert_close(found[layer], expected[layer], ACTIVATION_TOLERANCE, layer)
        top = found["logits"].argmax(axis=1)
        np.testing.assert_array_equal(top, expected["logits"].argmax(axis=1))
