"""User-defined models of PyTorch."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import pickle
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import NETWORK, WEIGHTS, colored, noise, write_images
from sklearn.base import clone
from torch import Tensor, nn

from transferkit import Classifier, FeatureExtractor, ImageOptimizer, Preprocessing
from transferkit.backends import Program, backend_of, get_backend
from transferkit.errors import (
    ArgumentTypeError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.features.output_file import extract_to_file
from transferkit.networks import add_probabilities
from transferkit.optimization.objectives import Direction
from transferkit.support.numerics import l2_normalize
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)

Floats = npt.NDArray[np.float32]

SIDE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
PREPROCESSING = Preprocessing(SIDE, mean=MEAN, std=STD)
BACKEND = get_backend("torch")


class Branched(nn.Module):
    """A branch, a layer that is called twice, in-place activations and a mapping as output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.act = nn.ReLU(inplace=True)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.pair = _Pair()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, object]:
        x -= 0.1
        x = self.act(self.stem(x))
        y = self.shared(self.act(self.shared(x)))
        y, z = self.pair(y)
        x = (x + y + z).mean((2, 3))
        return {"fc": x, "logits": self.fc(self.drop(x)), "seen": len(x)}


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, 2 * x


class NamedOutputs(NamedTuple):
    map: Tensor
    logits: Tensor


class Plain(nn.Module):
    """A convolution followed by ``head``."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(x))


class Lambda(nn.Module):
    """A function of a feature map."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return the model with random parameters and batch norm statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.5 * torch.rand(buffer.shape, generator=generator) + 0.1)
    return model


def program(model: nn.Module, side: int = SIDE) -> Program:
    wrapped = BACKEND.wrap(model, input_size=side, mean=MEAN, std=STD)
    return Program(BACKEND, wrapped.network, {}, wrapped)


def pixels_of(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def normalized_input(pixels: Floats) -> Tensor:
    """Return the normalized input (n, 3, h, w) that the model gets."""
    x = (pixels - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return everything that a call of the model could change."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks))
            for module in model.modules()
        ],
        "flags": [tensor.requires_grad for tensor in model.parameters()],
        "gradients": [
            None if tensor.grad is None else tensor.grad.tolist() for tensor in model.parameters()
        ],
        "values": {name: tensor.tolist() for name, tensor in model.state_dict().items()},
        "attributes": sorted(vars(model)),
    }


def in_training(model: nn.Module) -> nn.Module:
    """Return a model as during training: half frozen, with gradients and mixed modes."""
    model.train()
    for index, (module, parameter) in enumerate(
        zip(list(model.modules())[1:], model.parameters(), strict=False)
    ):
        module.train(index % 2 == 0)
        parameter.requires_grad_(index % 2 == 0)
        if index % 2 == 0:
            parameter.grad = torch.ones_like(parameter)
    return model


def test_layers_have_the_names_of_modules() -> None:
    layers = program(Branched()).network.layers
    assert layers == (
        "normalize", "stem.0", "stem.1", "stem", "act", "shared", "act_1", "shared_1",
        "drop", "embedding", "fc", "output.fc", "logits",
    )  # fmt: skip


def test_outputs_equal_those_of_the_model() -> None:
    model = randomized(Branched())
    pixels = pixels_of(3, SIDE, 20)
    result = program(model).run(
        pixels,
        [
            "stem.0",
            "stem",
            "act",
            "shared",
            "act_1",
            "shared_1",
            "embedding",
            "logits",
            "output.fc",
        ],
    )
    model.eval()
    with torch.no_grad():
        x = normalized_input(pixels) - 0.1
        expected: dict[str, Tensor] = {"stem.0": model.stem[0](x)}
        expected["stem"] = model.stem[1](expected["stem.0"])
        expected["act"] = expected["stem"].clamp(min=0)
        expected["shared"] = model.shared(expected["act"])
        expected["act_1"] = expected["shared"].clamp(min=0)
        expected["shared_1"] = model.shared(expected["act_1"])
        output = model(normalized_input(pixels))
    expected |= {"logits": output["logits"], "output.fc": output["fc"], "embedding": output["fc"]}
    # The output is from before the in-place activation.
    assert (expected["stem"] < 0).any()
    for layer, tensor in expected.items():
        array = tensor.numpy()
        array = array.transpose(0, 2, 3, 1) if array.ndim == 4 else array
        assert_close(result[layer], array, ACTIVATION_TOLERANCE, layer)


def test_in_place_activation_does_not_change_the_output_before_it() -> None:
    model = Plain(nn.ReLU(inplace=True))
    pixels = pixels_of(2, SIDE, SIDE)
    result = program(model).run(pixels, ["conv", "head"])
    assert (result["conv"] < 0).any()
    np.testing.assert_array_equal(np.maximum(result["conv"], 0), result["head"])


def test_gradients_with_respect_to_pixels() -> None:
    model = in_training(randomized(Branched()))
    before = state_of(model)
    table = BACKEND.table
    pixels = pixels_of(2, SIDE, SIDE)
    for layer in ("logits", "act", "stem.0"):
        load = program(model).load([layer])

        def loss(x: Tensor, layer: str = layer, load: Any = load) -> Tensor:
            y = table.flatten(load(x)[layer])
            return table.sum(table.multiply(y, table.tanh(y)), axes=(0, 1))

        result = BACKEND.compile(BACKEND.value_and_grad(loss))(pixels)["gradient"]
        assert state_of(model) == before
        alone = copy.deepcopy(model).eval()
        x = torch.from_numpy(pixels).requires_grad_()
        normalized = (x - torch.tensor(MEAN)) / torch.tensor(STD)
        inner = normalized.permute(0, 3, 1, 2) - 0.1
        y = {
            "logits": alone(normalized.permute(0, 3, 1, 2).clone())["logits"],
            "act": alone.stem(inner).clamp(min=0),
            "stem.0": alone.stem[0](inner),
        }[layer]
        (expected,) = torch.autograd.grad((y * torch.tanh(y)).sum(), x)
        assert_close(result, expected.numpy(), GRADIENT_TOLERANCE, layer)


def test_model_is_unchanged_after_a_run() -> None:
    model = in_training(randomized(Branched()))
    before = state_of(model)
    random_state = torch.random.get_rng_state()
    run = program(model)
    assert state_of(model) == before
    first = run.run(pixels_of(2, SIDE, SIDE), ["logits", "act"])
    assert state_of(model) == before
    run.shapes(20, 24)
    assert state_of(model) == before
    again = run.run(pixels_of(2, SIDE, SIDE), ["logits", "act"])
    np.testing.assert_array_equal(first["logits"], again["logits"])
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_model_is_unchanged_after_an_error(kind: type[BaseException]) -> None:
    fails = False

    def function(x: Tensor) -> Tensor:
        if fails:
            raise kind("in the middle")
        return x.mean((2, 3))

    model = Plain(Lambda(function))
    in_training(model)
    before = state_of(model)
    run = program(model)
    fails = True
    with pytest.raises(kind, match="in the middle"):
        run.load(["conv"])(torch.zeros(1, SIDE, SIDE, 3))
    assert state_of(model) == before
    if kind is RuntimeError:
        with pytest.raises(ShapeError, match="RuntimeError: in the middle"):
            program(model)
        assert state_of(model) == before


def test_buffers_written_in_evaluation_mode_are_restored() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("last", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.last = x.mean().detach()
            return self.conv(x)

    model = Counting()
    before = state_of(model)
    program(model).run(pixels_of(1, SIDE, SIDE), ["output"])
    assert state_of(model) == before


def test_linear_layers_before_the_classifier_are_not_the_embedding() -> None:
    # The linear layer of channel attention is not a classifier.
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.embedding = nn.Linear(6, 6)
            self.fc = nn.Linear(6, 4)
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x * self.embedding(x.mean((2, 3)))[..., None, None].sigmoid()
            logits: Tensor = self.fc(x.amax((2, 3))) * self.scale
            return logits

    model = Attending()
    run = program(model)
    result = run.run(pixels_of(2, SIDE, SIDE), ["embedding", "module.embedding", "logits", "fc"])
    assert result["embedding"].shape == (2, 6)
    with torch.no_grad():
        expected = model.fc(torch.from_numpy(result["embedding"]))
    assert_close(result["fc"], expected.numpy(), ACTIVATION_TOLERANCE, "fc")
    np.testing.assert_array_equal(result["logits"], result["fc"])


def test_outputs_without_one_row_per_image_are_left_out() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.each = nn.Linear(4, 4)
            self.table = nn.Embedding(2, 4)
            self.count = Lambda(torch.tensor)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y = self.each(x.permute(0, 2, 3, 1).reshape(-1, 4)).reshape(len(x), -1, 4)
            return y + self.table(self.count([0]))

    assert program(Windows()).network.layers == ("normalize", "conv", "output")


def test_convolution_of_one_pixel_counts_as_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1),
                          nn.Flatten())  # fmt: skip
    run = program(model)
    result = run.run(pixels_of(2, SIDE, SIDE), ["1", "embedding", "logits"])
    assert run.shapes(SIDE, SIDE)["embedding"] == (6,)
    np.testing.assert_array_equal(result["embedding"], result["1"].reshape(2, 6))
    # A convolution of more than one pixel does not.
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert program(model).network.resolve("embedding") == "output"


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity()),
        nn.AdaptiveAvgPool2d(1),
        Lambda(lambda x: x.flatten(2).mT[:, 0]),
        # A linear layer that an activation or normalization follows is no head.
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.Hardswish()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4)),
        Lambda(lambda x: nn.functional.normalize(x.mean((2, 3)))),
        Lambda(lambda x: {"map": x, "pooled": x.mean((2, 3))}),
    ],
)
def test_output_that_no_linear_layer_computes_is_the_embedding(head: nn.Module) -> None:
    model = randomized(Plain(head))
    run = program(model)
    pixels = pixels_of(3, SIDE, SIDE)
    result = run.run(pixels, ["embedding"])["embedding"]
    assert run.shapes(SIDE, SIDE)["embedding"] == (4,)
    with torch.no_grad():
        output = model.eval()(normalized_input(pixels))
    output = output["pooled"] if isinstance(output, dict) else output
    assert_close(result, output.flatten(1).numpy(), ACTIVATION_TOLERANCE, "embedding")
    classifier = Classifier(model, preprocessing=PREPROCESSING)
    labels = [0, 1, 2] * 4
    assert classifier.fit(colored(labels), labels).score(colored(labels, seed=1), labels) > 0.9


class Heads(nn.Module):
    """Two linear layers, of the same or of different vectors."""

    def __init__(self, output: Any, is_shared: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(4, 2)
        self.output = output
        self.is_shared = is_shared

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x).mean((2, 3))
        return self.output(self.first(x), self.second(x if self.is_shared else x + 1))


@pytest.mark.parametrize("output", [lambda a, b: (a, b), lambda a, b: {"kind": a, "color": b}])
def test_two_heads_have_the_embedding_in_common(output: Any) -> None:
    model = Heads(output, is_shared=True)
    pixels = pixels_of(2, SIDE, SIDE)
    run = program(model)
    result = run.run(pixels, ["embedding", "first"])
    with torch.no_grad():
        expected = model.first(torch.from_numpy(result["embedding"])).numpy()
    assert_close(result["first"], expected, ACTIVATION_TOLERANCE, "first")
    with pytest.raises(UnknownNameError, match=r"'logits'.*entry 'logits' of a dict"):
        run.run(pixels, ["logits"])


def test_two_heads_with_different_inputs_have_no_embedding() -> None:
    run = program(Heads(lambda a, b: (a, b), is_shared=False))
    with pytest.raises(UnknownNameError, match=r"different inputs.*choose a layer"):
        run.run(pixels_of(1, SIDE, SIDE), ["embedding"])


def test_mapping_with_one_tensor_is_like_a_tensor() -> None:
    for name in ("logits", "scores"):
        model = Plain(Lambda(lambda x: x.mean((2, 3))))
        fc = nn.Linear(4, 3)
        model.head = nn.Sequential(model.head, fc, Lambda(lambda x, name=name: {name: x}))
        result = program(model).run(pixels_of(2, SIDE, SIDE), ["embedding", "logits"])
        with torch.no_grad():
            expected = fc(torch.from_numpy(result["embedding"])).numpy()
        assert_close(result["logits"], expected, ACTIVATION_TOLERANCE, "logits")


def _head(*last: nn.Module) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 7), *last,
    )  # fmt: skip
    return randomized(model)


@pytest.mark.parametrize(
    "last",
    [
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=-1),
        nn.Sigmoid(),
        Lambda(lambda x: x.softmax(1)),
        Lambda(lambda x: torch.softmax(input=x, dim=1)),
        Lambda(lambda x: nn.functional.log_softmax(x, -1)),
        Lambda(lambda x: nn.functional.softmax(x, 1).log()),
        Lambda(lambda x: nn.functional.softmax(x[:, :, None, None], 1).flatten(1)),
        Lambda(lambda x: x.reshape(-1, 7, 1, 1).softmax(1)),
        Lambda(lambda x: {"probabilities": x.softmax(1).clamp(1e-9, 1)}),
        Lambda(lambda x: x.clone().sigmoid_()),
    ],
)
def test_logits_are_before_the_last_activation(last: nn.Module) -> None:
    pixels = pixels_of(3, SIDE, SIDE)
    layers = ["logits", "embedding"]
    expected = program(_head()).run(pixels, layers)
    run = program(_head(last))
    result = run.run(pixels, layers)
    for layer in layers:
        np.testing.assert_array_equal(result[layer], expected[layer])
    with torch.no_grad():
        output = _head(last)(normalized_input(pixels))
    output = output["probabilities"] if isinstance(output, dict) else output
    name = run.network.layers[-1]
    output = output.permute(0, 2, 3, 1) if output.ndim == 4 else output
    assert_close(run.run(pixels, [name])[name], output.numpy(), ACTIVATION_TOLERANCE, name)


def test_logits_have_a_gradient_through_a_saturated_softmax() -> None:
    table = BACKEND.table
    pixels = pixels_of(2, SIDE, SIDE)
    gradients = []
    for last in ([], [nn.Softmax(dim=1)]):
        model = _head(*last)
        with torch.no_grad():
            model[4].weight *= 1000
        load = program(model).load(["logits"])

        def loss(x: Tensor, load: Any = load) -> Tensor:
            return table.sum(load(x)["logits"], axes=(0, 1))

        result = BACKEND.compile(BACKEND.value_and_grad(loss))(pixels)
        gradients.append(result["gradient"])
    assert np.abs(gradients[0]).max() > 1
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(
    "last",
    [
        Lambda(lambda x: x.exp() / x.exp().sum(1, keepdim=True)),
        Lambda(lambda x: (x.softmax(1) + (2 * x).softmax(1)) / 2),
        torch.jit.script(nn.Softmax(dim=1)).eval(),
    ],
)
def test_probabilities_without_known_logits_are_rejected(last: nn.Module) -> None:
    pixels = pixels_of(1, SIDE, SIDE)
    run = program(_head(last))
    assert run.run(pixels, ["output", "4"])["output"].sum() == pytest.approx(1)
    with pytest.raises(UnknownNameError, match=r"returns probabilities.* return the logits"):
        run.run(pixels, ["logits"])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.logsumexp(1, keepdim=True),
        lambda x: x - x.exp().sum(1, keepdim=True).log(),
        lambda x: (x.exp() / x.exp().sum(1, keepdim=True)).log(),
    ],
)
def test_logarithms_of_probabilities_are_logits(function: Any) -> None:
    pixels = pixels_of(3, SIDE, SIDE)
    expected = program(_head()).run(pixels, ["embedding", "logits"])
    result = program(_head(Lambda(function))).run(pixels, ["embedding", "logits"])
    np.testing.assert_array_equal(result["embedding"], expected["embedding"])
    difference = result["logits"] - expected["logits"]
    np.testing.assert_allclose(difference, difference[:, :1].repeat(7, axis=1), atol=1e-5)


def test_softmax_of_attention_is_not_the_last_activation() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).flatten(2)
            return self.fc((x * x.softmax(2)).sum(2)).softmax(1)

    model = Attention()
    result = program(model).run(pixels_of(2, SIDE, SIDE), ["logits", "fc"])
    np.testing.assert_array_equal(result["logits"], result["fc"])


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: (x, [x], x.mean((2, 3))), ["output.0", "output.2", "embedding"]),
        (lambda x: {"map": x, "conv": x, "none": None}, ["map", "output.conv"]),
        (lambda x: NamedOutputs(x, x.mean((2, 3))), ["map", "logits", "embedding"]),
        (lambda x: x, ["output"]),
    ],
)
def test_outputs_of_the_model_are_layers(function: Any, expected: list[str]) -> None:
    run = program(Plain(Lambda(function)))
    outputs = [layer for layer in run.network.layers if layer not in ("normalize", "conv", "head")]
    assert outputs == expected
    result = run.run(pixels_of(3, SIDE, SIDE), expected)
    assert result[expected[0]].shape == (3, 14, 14, 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda _: None, "returned a NoneType"),
        (lambda x: x.argmax(1), r"a Tensor of shape \(2, 14, 14\) and dtype torch.int64"),
        (lambda x: x.sum(), r"of shape \(\)"),
        (lambda x: {"boxes": [x]}, r"a dict \('boxes': list\)"),
        (lambda _: (), "a tuple of nothing"),
    ],
)
def test_model_without_tensor_output_is_rejected(function: Any, message: str) -> None:
    model = Plain(Lambda(function))
    before = state_of(model)
    with pytest.raises(UnsupportedError, match=message):
        program(model)
    assert state_of(model) == before


def test_unsupported_image_size_is_rejected() -> None:
    model = Plain(nn.Sequential(nn.Flatten(), nn.Linear(4 * 14 * 14, 3)))
    run = program(model)
    assert run.run(pixels_of(1, SIDE, SIDE), ["logits"])["logits"].shape == (1, 3)
    for size in ((20, 16), (2, 2)):
        with pytest.raises(ShapeError, match=rf"{size[0]} x {size[1]}.*(mat1|[Kk]ernel size)"):
            run.run(pixels_of(1, *size), ["logits"])
    with pytest.raises(ShapeError, match=r"fails on images of 20 x 20: RuntimeError: mat1"):
        program(model, side=20)


def test_model_of_gray_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(SIDE, mean=(0.13,) * 3, std=(0.31,) * 3)
    pixels = pixels_of(3, SIDE, SIDE)
    gray = pixels @ np.float32([0.299, 0.587, 0.114])
    with torch.no_grad():
        expected = model(torch.from_numpy((gray[:, None] - np.float32(0.13)) / np.float32(0.31)))
    for order in ("rgb", "bgr"):
        wrapped = BACKEND.wrap(
            model,
            input_size=SIDE,
            mean=preprocessing.mean,
            std=preprocessing.std,
            channel_order=order,
        )
        run = Program(BACKEND, wrapped.network, {}, wrapped)
        result = run.run(pixels, ["embedding"])["embedding"]
        assert_close(result, expected.numpy(), ACTIVATION_TOLERANCE, "embedding")
    extractor = FeatureExtractor(model, preprocessing=preprocessing)
    assert extractor.transform(noise(2)).shape == (2, 4)
    with pytest.raises(UnsupportedError, match=r"takes gray images, but mean is .* three times"):
        program(model)
    with pytest.raises(UnsupportedError, match="takes images of 4 channels; expected 3"):
        program(nn.Conv2d(4, 2, 3))


@pytest.mark.parametrize(
    "last",
    [
        [],
        [nn.Sigmoid()],
        [nn.Flatten(0)],
        [Lambda(lambda x: x.sigmoid().squeeze(1))],
        [nn.Unflatten(1, (1, 1, 1)), nn.Sigmoid()],
    ],
)
def test_model_with_one_output_has_two_classes(last: list[nn.Module]) -> None:
    body = [nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1)]
    torch.manual_seed(0)
    model = nn.Sequential(*body, *last)
    run = program(model)
    pixels = pixels_of(3, SIDE, SIDE)
    result = run.run(pixels, ["embedding", "logits"])
    assert run.shapes(SIDE, SIDE)["logits"] == (2,)
    with torch.no_grad():
        logit = nn.Sequential(*body)(normalized_input(pixels)).numpy()
    expected = np.concatenate([np.zeros_like(logit), logit], axis=1)
    assert_close(result["logits"], expected, ACTIVATION_TOLERANCE, "logits")
    assert result["embedding"].shape == (3, 8)
    network = add_probabilities(run.network)
    probabilities = Program(BACKEND, network, {}, run.wrapped).run(pixels, ["probabilities"])
    expected = 1 / (1 + np.exp(-logit[:, 0]))
    assert_close(
        probabilities["probabilities"][:, 1], expected, ACTIVATION_TOLERANCE, "probabilities"
    )


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("convert", ["script", "trace", "freeze"])
def test_torchscript_model_has_only_outputs(convert: str) -> None:
    model = randomized(_head()).eval()
    script = {
        "script": lambda: torch.jit.script(model),
        "trace": lambda: torch.jit.trace(model, torch.zeros(1, 3, SIDE, SIDE)),
        "freeze": lambda: torch.jit.freeze(torch.jit.script(model)),
    }[convert]()
    run = program(script)
    assert run.network.layers == ("normalize", "output", "logits")
    pixels = pixels_of(2, SIDE, SIDE)
    expected = program(model).run(pixels, ["logits"])["logits"]
    result = run.run(pixels, ["logits"])["logits"]
    assert_close(result, expected, ACTIVATION_TOLERANCE, "logits")
    extractor = FeatureExtractor(script, preprocessing=PREPROCESSING)
    assert extractor.extract(noise(1), ["output"])["output"].shape == (1, 7)
    with pytest.raises(UnknownNameError, match=r"TorchScript .* with layer='output'"):
        extractor.transform(noise(1))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_model_in_training_mode_is_rejected() -> None:
    with pytest.raises(UnsupportedError, match=r"'Sequential' is in training mode; call its eval"):
        program(torch.jit.script(_head()))


def test_model_without_initialized_weights_is_rejected() -> None:
    model = Plain(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    with pytest.raises(UnsupportedError, match=r"'Plain' has lazy modules.* call it once"):
        program(model)
    model(torch.zeros(1, 3, SIDE, SIDE))
    assert program(model).shapes(SIDE, SIDE)["logits"] == (3,)


def test_compiled_modules_are_run_as_they_were_before_compilation() -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("compiled")

    model = _head()
    pixels = pixels_of(2, SIDE, SIDE)
    expected = program(model).run(pixels, ["logits", "1"])
    compiled = torch.compile(model, backend=fail)
    inner = nn.Sequential(torch.compile(model[:3], backend=fail), *model[3:])
    in_place = _head()
    in_place.compile(backend=fail)
    for other, name in ((compiled, "1"), (inner, "0.1"), (in_place, "1")):
        run = program(other)
        result = run.run(pixels, ["logits", name])
        np.testing.assert_array_equal(result["logits"], expected["logits"])
        np.testing.assert_array_equal(result[name], expected["1"])
        assert not any("_orig_mod" in layer for layer in run.network.layers)
        assert run.to_native() is other


def test_layers_that_are_not_called_at_another_size_are_reported() -> None:
    class Varying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.Conv2d(3, 4, 3)
            self.large = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            layer = self.small if x.shape[2] <= SIDE else self.large
            y: Tensor = layer(x)
            return y

    load = program(Varying()).load(["small", "output"])
    assert load(torch.zeros(1, SIDE, SIDE, 3))["small"].shape == (1, SIDE - 2, SIDE - 2, 4)
    with pytest.raises(UnsupportedError, match=r"'Varying' did not compute layers small for an"):
        load(torch.zeros(1, 20, 20, 3))


def test_model_that_flattens_with_view() -> None:
    model = Plain(Lambda(lambda x: x.view(len(x), -1)))
    pixels = pixels_of(2, SIDE, SIDE)
    result = program(model).run(pixels, ["output"])["output"]
    with torch.no_grad():
        expected = model(normalized_input(pixels)).numpy()
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_model_of_another_dtype(dtype: torch.dtype) -> None:
    model = Plain(Lambda(lambda x: x.mean((2, 3)))).to(dtype)
    pixels = pixels_of(2, SIDE, SIDE)
    result = program(model).run(pixels, ["output"])["output"]
    assert result.dtype == np.float32
    with torch.no_grad():
        expected = model(normalized_input(pixels).to(dtype)).float().numpy()
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")
    assert next(model.parameters()).dtype == dtype


def test_threads_get_the_same_results() -> None:
    model = in_training(randomized(Branched()))
    before = state_of(model)
    runs = [program(model), program(model)]
    inputs = [pixels_of(2, SIDE, SIDE, seed=seed) for seed in range(12)]
    expected = [runs[0].run(x, ["logits", "act"]) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        result = list(pool.map(lambda i: runs[i % 2].run(inputs[i], ["logits", "act"]), range(12)))
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(a["logits"], b["logits"])
        np.testing.assert_array_equal(a["act"], b["act"])
    assert state_of(model) == before


def test_model_is_not_touched_while_it_runs() -> None:
    seen: list[Any] = []

    def look(x: Tensor) -> Tensor:
        seen.append(state_of(models[0]))
        return x.mean((2, 3))

    model = Plain(Lambda(look))
    # In a list, since a module in the closure would be replaced by its copy.
    models = [model]
    in_training(model)
    before = state_of(model)
    program(model).run(pixels_of(1, SIDE, SIDE), ["conv", "output"])
    assert len(seen) > 1
    assert all(state == before for state in seen)


def test_models_run_at_the_same_time() -> None:
    barrier = threading.Barrier(2, timeout=20)
    waits = False

    def meet(x: Tensor) -> Tensor:
        if waits:
            barrier.wait()
        return x.mean((2, 3))

    run = program(Plain(Lambda(meet)))
    waits = True
    # Would time out if one run waited for the other to end.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: run.run(pixels_of(1, SIDE, SIDE, seed=i), ["output"]), range(2)))


def test_model_runs_while_it_is_trained() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    run = program(model)
    stop = threading.Event()

    def train() -> list[bool]:
        modes = []
        while not stop.is_set():
            model(torch.rand(4, 3, SIDE, SIDE)).sum().backward()
            modes.append(all(module.training for module in model.modules()))
        return modes

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        try:
            for seed in range(20):
                run.run(pixels_of(2, SIDE, SIDE, seed=seed), ["logits", "1"])
        finally:
            stop.set()
        assert all(training.result())
    # Every step of the training has updated the statistics, and no run has.
    assert model[1].num_batches_tracked == len(training.result())


def test_model_of_inference_tensors() -> None:
    with torch.inference_mode():
        model = _head()
        expected = model.eval()(normalized_input(pixels_of(2, SIDE, SIDE))).numpy()
    result = program(model).run(pixels_of(2, SIDE, SIDE), ["logits"])["logits"]
    assert_close(result, expected, ACTIVATION_TOLERANCE, "logits")
    with torch.inference_mode():
        assert "embedding" in program(_head().requires_grad_()).network.layers
    model = _head()
    with torch.inference_mode():
        assert "embedding" in program(model).network.layers


class Scaled(nn.Module):
    """Multiplies by a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((1, 3, 1, 1), 2.0)
        self.listed = [self.scale]

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.scale * self.listed[0]).exp()


def test_gradients_of_a_model_of_inference_tensors() -> None:
    results = []
    for is_inference in (False, True):
        with torch.inference_mode(is_inference):
            model = nn.Sequential(Scaled(), randomized(_head()))
        assert model[0].scale.is_inference() == is_inference
        optimizer = ImageOptimizer(
            model, preprocessing=PREPROCESSING, random_state=0, progress=False
        )
        results.append(optimizer.attack(noise(2), target=3, epsilon=0.1, steps=2))
        # The tensors of the model are unchanged, and may have been made in inference mode.
        assert all(tensor.is_inference() == is_inference for tensor in model.parameters())
    np.testing.assert_array_equal(results[0].images, results[1].images)


def test_gradients_of_a_torchscript_model_of_inference_tensors_are_rejected() -> None:
    with torch.inference_mode():
        model = torch.jit.trace(_head().eval(), torch.zeros(1, 3, SIDE, SIDE))
    fx = FeatureExtractor(model, preprocessing=PREPROCESSING, layer="output", progress=False)
    assert fx.transform(noise(2)).shape == (2, 7)
    optimizer = ImageOptimizer(model, preprocessing=PREPROCESSING, progress=False)
    with pytest.raises(UnsupportedError, match=r"outside torch\.inference_mode\(\)"):
        optimizer.visualize(Direction("output", np.ones(7)), steps=1)


def test_references_to_modules_refer_to_the_copy() -> None:
    class Referring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            norm = self.norm
            self.listed = [{"norm": (self.norm,)}]
            self.bound = self.norm.forward
            self.partial = functools.partial(self.apply_to, self.norm)
            self.closure = lambda x: norm(x + 0)

        def apply_to(self, module: nn.Module, x: Tensor) -> Tensor:
            y: Tensor = module(x)
            return y

        def forward(self, x: Tensor) -> Tensor:
            x = self.closure(self.partial(self.bound(self.conv(x))))
            y: Tensor = self.listed[0]["norm"][0](x)
            return y

    model = randomized(Referring())
    pixels = pixels_of(2, SIDE, SIDE)
    run = program(model.train())
    # Three calls with hooks: the bound method is of `forward`, which runs none.
    result = run.run(pixels, ["output", "norm_2"])
    np.testing.assert_array_equal(result["output"], result["norm_2"])
    with torch.no_grad():
        expected = model.eval()(normalized_input(pixels)).permute(0, 2, 3, 1).numpy()
    assert_close(result["output"], expected, ACTIVATION_TOLERANCE, "output")
    assert model.norm.num_batches_tracked == 0


class Recording(nn.Module):
    """Attributes that are changed by ``forward``, by a module inside and by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.log: list[int] = []
        self.recent: collections.deque[int] = collections.deque(maxlen=2)
        self.seen: set[int] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.nested: dict[str, Any] = {"log": [[]], "pair": ([],)}
        self.inner = Lambda(self.conv)
        self.inner.log = self.log
        self.inner.register_forward_pre_hook(functools.partial(self.record, into=self.log))
        kept: list[Tensor] = []
        self.kept = kept
        self.conv.register_forward_hook(lambda _, __, output: kept.append(output))

    @staticmethod
    def record(_: nn.Module, __: object, into: list[int]) -> None:
        into.append(0)

    def forward(self, x: Tensor) -> Tensor:
        self.inner(x)
        self.inner.log.append(1)
        self.log.append(2)
        assert self.log == self.inner.log
        for log in (self.recent, self.nested["log"][0], self.nested["pair"][0]):
            log.append(len(x))
        self.seen.add(len(x))
        self.counts["calls"] += 1
        return self.kept.pop().mean((2, 3)) * len(self.log)


def test_containers_in_attributes_are_unchanged_after_a_run() -> None:
    model = Recording()
    pixels = pixels_of(2, SIDE, SIDE)
    run = program(model)
    for _ in range(2):
        result = run.run(pixels, ["output"])["output"]
    attributes = (model.log, model.recent, model.seen, model.counts, model.kept)
    assert not any(map(len, attributes))
    assert model.nested == {"log": [[]], "pair": ([],)}
    with torch.no_grad():
        expected = model(normalized_input(pixels)).numpy()
    assert_close(result, expected, ACTIVATION_TOLERANCE, "output")
    assert model.log == [0, 1, 2]


def test_tensors_of_a_graph_are_accepted_for_arrays() -> None:
    weights = {name: torch.tensor(array, requires_grad=True) for name, array in WEIGHTS.items()}
    preprocessing = Preprocessing(NETWORK.input_size)
    images = colored([0, 1, 2] * 2)
    settings: dict[str, Any] = {"preprocessing": preprocessing, "progress": False}
    expected = FeatureExtractor(NETWORK, weights=WEIGHTS, **settings).transform(images)
    result = FeatureExtractor(NETWORK, weights=weights, **settings).transform(images)
    np.testing.assert_array_equal(result, expected)
    classifier = Classifier(NETWORK, weights=weights, C=1.0, **settings)
    classifier.fit(images, [0, 1, 2] * 2, sample_weight=torch.ones(6, requires_grad=True))
    optimizer = ImageOptimizer(NETWORK, weights=weights, **settings)
    epsilon = torch.tensor([0.1], requires_grad=True)
    adversarial = optimizer.attack(images, epsilon=epsilon, method="fgsm")
    assert adversarial.curve(epsilon).epsilons.tolist() == pytest.approx([0.1])
    Direction("embedding", torch.ones(3, requires_grad=True))


def test_bgr_channel_order() -> None:
    model = Plain(Lambda(lambda x: x))
    wrapped = BACKEND.wrap(model, input_size=SIDE, mean=MEAN, std=STD, channel_order="bgr")
    pixels = pixels_of(1, SIDE, SIDE)
    result = Program(BACKEND, wrapped.network, {}, wrapped).run(pixels, ["conv"])["conv"]
    with torch.no_grad():
        expected = model.conv(normalized_input(pixels).flip(1)).numpy().transpose(0, 2, 3, 1)
    assert_close(result, expected, ACTIVATION_TOLERANCE, "conv")


# ---- estimators ---------------------------------------------------------------------------


def classifying() -> nn.Module:
    return randomized(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 7),
        )
    )  # fmt: skip


def test_extractor() -> None:
    model = Branched()
    assert backend_of(model) == "torch"
    fx = FeatureExtractor(model, preprocessing=PREPROCESSING, batch_size=2)
    assert fx.to_native() is model
    layers: Mapping[str, tuple[int, ...]] = fx.layers()
    assert (layers["shared_1"], layers["embedding"], layers["logits"]) == ((16, 16, 8), (8,), (5,))
    images = noise(5)
    assert fx.transform(images).shape == (5, 8)
    assert clone(fx).transform(images).tolist() == fx.transform(images).tolist()


def test_classifier(tmp_path: Path) -> None:
    model = classifying()
    before = state_of(model)
    labels = [0, 1, 2] * 4
    classifier = Classifier(model, preprocessing=PREPROCESSING)
    classifier.fit(colored(labels), labels)
    images = colored(labels, seed=1)
    assert classifier.score(images, labels) == 1.0
    assert state_of(model) == before
    with pytest.raises(UnsupportedError, match="pickle the classifier"):
        classifier.save(tmp_path / "classifier.safetensors")
    assert list(tmp_path.iterdir()) == []
    expected = classifier.predict_proba(images)
    for other in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier)):
        np.testing.assert_array_equal(other.predict_proba(images), expected)
    other = clone(classifier)
    assert other.network is model
    other.fit(colored(labels), labels)
    np.testing.assert_allclose(other.predict_proba(images), expected, rtol=1e-5)


def test_extraction_to_a_file_is_rejected(tmp_path: Path) -> None:
    # After an interruption, the model could have other weights.
    fx = FeatureExtractor(_head(), preprocessing=PREPROCESSING, progress=False)
    files = write_images(tmp_path / "photos", noise(2))
    with pytest.raises(UnsupportedError, match="'Sequential' is a model of a framework"):
        extract_to_file(fx, files, ["embedding"], tmp_path / "features.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_classifier_without_embedding_is_rejected() -> None:
    model = Plain(Lambda(lambda x: x))
    with pytest.raises(UnknownNameError, match=r"'embedding'.*no vector for each image; choose"):
        Classifier(model, preprocessing=PREPROCESSING).fit(colored([0, 1] * 3), [0, 1] * 3)


@pytest.mark.parametrize("layer", ["2", "1", "output", "4", "logits"])
def test_classifier_is_trained_on_any_layer(layer: str) -> None:
    model = classifying()
    labels = [0, 1, 2] * 4
    images = colored(labels, seed=1)
    classifier = Classifier(model, preprocessing=PREPROCESSING, layer=layer)
    classifier.fit(colored(labels), labels)
    assert classifier.score(images, labels) == 1.0
    extractor = FeatureExtractor(model, preprocessing=PREPROCESSING, layer=layer)
    unit = l2_normalize(extractor.transform(images))
    assert_close(
        FeatureExtractor(classifier.model_, layer="unit_embedding").transform(images),
        unit, ACTIVATION_TOLERANCE, "unit_embedding",
    )  # fmt: skip
    assert FeatureExtractor(classifier.model_).transform(images).shape[0] == 12
    assert clone(classifier).layer == layer


def test_softmax_at_the_end_changes_no_result() -> None:
    images = np.stack(colored([0, 1, 2, 3]))
    results = []
    for last in ([], [nn.Softmax(dim=1)], [nn.LogSoftmax(dim=1)]):
        model = _head(*last)
        with torch.no_grad():
            # Confident, so that a softmax of probabilities would have almost no gradient.
            model[4].weight *= 40
        optimizer = ImageOptimizer(model, preprocessing=PREPROCESSING, random_state=0)
        ideal = optimizer.visualize(2, steps=4).images
        attack = optimizer.attack(images, epsilon=8 / 255, steps=5)
        probabilities = add_probabilities(optimizer._load()[1].network)
        wrapped = BACKEND.wrap(model, input_size=SIDE, mean=MEAN, std=STD)
        probabilities = Program(BACKEND, probabilities, {}, wrapped).run(
            pixels_of(4, SIDE, SIDE), ["probabilities"]
        )["probabilities"]
        results.append((ideal, attack.images, attack.success, probabilities))
    assert results[0][2].any()
    assert results[0][0].std() > 0.005
    for result in results[1:]:
        for array, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, expected)


def test_timm_model_needs_no_preprocessing() -> None:
    model = classifying()
    model.pretrained_cfg = {
        "input_size": (3, SIDE, SIDE), "crop_pct": 0.8, "interpolation": "bicubic", "mean": MEAN,
        "std": STD,
    }  # fmt: skip
    images = noise(3)
    preprocessing = Preprocessing(SIDE, resize=20, interpolation="bicubic", mean=MEAN, std=STD)
    expected = FeatureExtractor(model, preprocessing=preprocessing).transform(images)
    np.testing.assert_array_equal(FeatureExtractor(model).transform(images), expected)
    # Given explicitly, it takes precedence; without a normalization, that of the model is kept.
    given, other = Preprocessing(SIDE), dataclasses.replace(PREPROCESSING, mean=(0.1, 0.1, 0.1))
    found = FeatureExtractor(model, preprocessing=given).transform(images)
    result = FeatureExtractor(model, preprocessing=PREPROCESSING).transform(images)
    np.testing.assert_array_equal(found, result)
    assert not np.array_equal(result, expected)
    assert FeatureExtractor(model, preprocessing=other).model().preprocessing.mean == (0.1,) * 3


def test_a_module_that_normalizes_its_input_takes_no_other_normalization() -> None:
    native = FeatureExtractor("resnet18", weights="random", backend="torch").to_native()
    with pytest.raises(ParameterError, match="omit the three"):
        FeatureExtractor(native, preprocessing=PREPROCESSING).transform(noise(1))


def test_a_device_is_that_of_the_models_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier(classifying(), C=1.0, preprocessing=PREPROCESSING, device="cpu")
    images, labels = colored([0, 1, 0, 1]), [0, 1, 0, 1]
    expected = classifier.fit(images, labels).predict(images)
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "nope")
    classifier = Classifier(classifying(), C=1.0, preprocessing=PREPROCESSING)
    np.testing.assert_array_equal(classifier.fit(images, labels).predict(images), expected)


def test_conflicting_parameters_are_rejected() -> None:
    model = Branched()
    images = noise(1)
    with pytest.raises(UnsupportedError, match=r"[Oo]mit backend"):
        FeatureExtractor(model, preprocessing=PREPROCESSING, backend="onnxruntime").transform(
            images
        )
    with pytest.raises(UnsupportedError, match="pass preprocessing="):
        FeatureExtractor(model).transform(images)
    with pytest.raises(ArgumentTypeError, match=r"[Oo]mit weights"):
        FeatureExtractor(model, weights="x", preprocessing=PREPROCESSING).transform(images)
    with pytest.raises(UnsupportedError, match="not a dict"):
        BACKEND.wrap({}, mean=MEAN, std=STD)
