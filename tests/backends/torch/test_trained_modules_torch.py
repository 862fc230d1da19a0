"""Training of a user's ``torch.nn.Module``."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from samples import SIDE, colored
from torch import nn

from transferkit import Classifier, FineTuning, Preprocessing
from transferkit.backends import get_backend
from transferkit.backends.base import WrappedModel
from transferkit.errors import UnknownNameError, UnsupportedError
from transferkit.testing.conformance import (
    ACTIVATION_TOLERANCE,
    GRADIENT_TOLERANCE,
    assert_close,
)
from transferkit.training import SGD

NUMBERS = [0, 1, 2] * 6
IMAGES = colored(NUMBERS, spread=120)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
BACKEND = get_backend("torch")
LAYERS = ("stem", "depthwise", "embedding", "logits")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give modules the same random weights, whichever tests ran before."""
    torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.drop(self.depthwise(x).mean((2, 3)))
        return self.fc(x)


class Tied(nn.Module):
    """Two layers with one kernel, and a parameter that is also in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)
        self.second = nn.Conv2d(3, 3, 3)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.full((3,), 1.5))
        self.scales = [self.scale]
        self.fc = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.second(self.first(x)).mean((2, 3)) * self.scales[0])


class Recomputed(nn.Module):
    """A part that is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Conv2d(6, 6, 3), nn.Tanh())
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
        return self.fc(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A module that keeps its parameters in a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(SIDE * 3, 6, batch_first=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, _ = self.rnn(x.permute(0, 2, 3, 1).flatten(2))
        return self.fc(rows[:, -1])


def net(dropout: float = 0.0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net(dropout)
        module.norm.running_mean.uniform_(-0.2, 0.2)
        module.norm.running_var.uniform_(0.5, 1.5)
    return module.eval()


def parametrized() -> nn.Module:
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
    linear = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)


def compiled_inside() -> nn.Module:
    module = net()
    module.stem = torch.compile(module.stem, backend="eager")
    return module


def tuned(module: nn.Module, **settings: Any) -> Classifier:
    fine_tuning = FineTuning(
        **{
            "epochs": 1,
            "learning_rate": 0.1,
            "batch_size": len(NUMBERS),
            "augmentation": (),
            "validation": None,
            "average_decay": None,
            "optimizer": "sgd",
            "warmup": 0.0,
            "schedule": "constant",
            "layer_decay": 1.0,
            "clip_norm": None,
            **settings,
        }
    )
    classifier = Classifier(
        module,
        preprocessing=Preprocessing(SIDE, mean=MEAN, std=STD),
        C=1.0,
        fine_tuning=fine_tuning,
    )
    return classifier.fit(IMAGES, NUMBERS)


def pixels() -> npt.NDArray[np.float32]:
    return (np.stack(IMAGES).astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)


def wrapped(module: nn.Module) -> WrappedModel:
    return BACKEND.wrap(module, input_size=SIDE, mean=MEAN, std=STD)


def differentiated(
    model: WrappedModel, layers: tuple[str, ...] = ("logits",), *, seed: int | None = None
) -> dict[str, Any]:
    """Return the value, the gradient and the outputs of the sum of squares of some layers."""
    nodes = {layer: model.network.resolve(layer) for layer in layers}
    function = model.stateless(list(nodes.values()), update_batch_norm=seed is not None)
    parameters = {name: torch.tensor(array) for name, array in model.parameters().items()}
    statistics = {name: torch.tensor(array) for name, array in model.statistics().items()}

    def value(trained: dict[str, Any], x: torch.Tensor) -> dict[str, Any]:
        draws = None if seed is None else torch.full((len(x),), float(seed))
        outputs, updates = function({**statistics, **trained}, x, seed is not None, draws)
        sums = [outputs[node].square().sum() for node in nodes.values()]
        return {"value": torch.stack(sums), "updates": updates, "outputs": outputs}

    return BACKEND.value_and_grad(value)(parameters, torch.tensor(pixels()))


def own_gradient(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the gradient of the sum of squares of the output, by the module's own means."""
    reference = copy.deepcopy(module).eval()
    reference(torch.tensor(pixels()).permute(0, 3, 1, 2)).square().sum().backward()
    return {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("batch_norm", ["frozen", "update"])
def test_a_step_equals_that_of_the_framework(batch_norm: str) -> None:
    module = net()
    start = Classifier(module, preprocessing=Preprocessing(SIDE, mean=MEAN, std=STD), C=1.0).fit(
        IMAGES, NUMBERS
    )
    head = {name: torch.tensor(array) for name, array in start.model_.weights.items()}
    reference = copy.deepcopy(module)
    reference.norm.train(batch_norm == "update")
    x = torch.tensor(pixels()).permute(0, 3, 1, 2)
    features = reference.depthwise(torch.relu(reference.norm(reference.stem(x)))).mean((2, 3))
    unit = features / features.norm(dim=1, keepdim=True)
    logits = unit @ head["head.weight"].T + head["head.bias"]
    loss = nn.functional.cross_entropy(logits, torch.tensor(NUMBERS))
    loss.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    result = tuned(module, batch_norm=batch_norm)
    assert result.history_ is not None
    np.testing.assert_allclose(result.history_.steps[0].loss, loss.item(), rtol=1e-5)
    native = result.to_native()
    assert isinstance(native, Net)
    for name, expected in reference.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(
                native.state_dict()[name], expected, rtol=1e-4, atol=1e-6, err_msg=name
            )


def test_the_module_and_the_global_state_are_unchanged() -> None:
    module = net(dropout=0.5).train()
    before = copy.deepcopy(module.state_dict())
    random_state = torch.get_rng_state()
    result = tuned(module, epochs=2, batch_size=5, batch_norm="update")
    assert torch.equal(random_state, torch.get_rng_state())
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert result.to_native() is not module


def test_dropout_is_active_and_repeatable() -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 6}
    one, two = (tuned(net(dropout=0.5), **settings).to_native() for _ in range(2))
    without: Any = tuned(net(), **settings).to_native()
    assert isinstance(one, Net)
    assert isinstance(two, Net)
    assert torch.equal(one.stem.weight, two.stem.weight)
    assert not torch.equal(one.stem.weight, without.stem.weight)


def test_only_the_chosen_parameters_are_trained() -> None:
    module = net()
    native: Any = tuned(module, trainable="depthwise").to_native()
    assert torch.equal(native.stem.weight, module.stem.weight)
    assert not torch.equal(native.depthwise.weight, module.depthwise.weight)
    only: Any = tuned(module, trainable=lambda name: name == "stem.bias").to_native()
    assert torch.equal(only.stem.weight, module.stem.weight)
    assert not torch.equal(only.stem.bias, module.stem.bias)
    result = tuned(module, trainable="head", optimizer=SGD(0.1, momentum=0.9))
    assert result.to_native() is module
    with pytest.raises(UnknownNameError, match=r"no trainable layer 'depthwize'.* 'depthwise'"):
        tuned(module, trainable="depthwize")
    with pytest.raises(UnknownNameError, match=r"available: head, all, stem, norm, depthwise, fc$"):
        tuned(module, trainable="drop")


def test_modules_that_cannot_be_trained() -> None:
    with pytest.raises(UnsupportedError, match=r"no parameter .* has requires_grad=True"):
        tuned(net().requires_grad_(False))
    scripted = torch.jit.script(net())
    model = BACKEND.wrap(scripted, input_size=SIDE, mean=MEAN, std=STD)
    with pytest.raises(UnsupportedError, match=r"TorchScript model .* cannot be trained further"):
        model.stateless([])


@pytest.mark.parametrize(
    "make",
    [net, Tied, Recomputed, Recurrent, parametrized, compiled_inside],
    ids=lambda make: make.__name__,
)
def test_gradients_equal_those_of_autograd(make: Callable[[], nn.Module]) -> None:
    # Parameters other than those of the module that is wrapped.
    module = make().eval()
    model = wrapped(module)
    moved = {name: array * 1.1 for name, array in model.parameters().items()}
    other = model.with_parameters(moved)
    assert isinstance(other.model, nn.Module)
    expected = {n.replace("_orig_mod.", ""): g for n, g in own_gradient(other.model).items()}
    function = model.stateless([model.network.resolve("logits")])
    statistics = {name: torch.tensor(array) for name, array in model.statistics().items()}

    def value(trained: dict[str, Any], x: torch.Tensor) -> Any:
        outputs, _ = function({**statistics, **trained}, x, False, None)
        return next(iter(outputs.values())).square()

    parameters = {name: torch.tensor(array) for name, array in moved.items()}
    gradient = BACKEND.value_and_grad(value)(parameters, torch.tensor(pixels()))["gradient"]
    assert gradient.keys() == expected.keys()
    for name, slope in gradient.items():
        assert slope.abs().max() > 0, name
        assert_close(slope.numpy(), expected[name].numpy(), GRADIENT_TOLERANCE, name)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_of_layers(layer: str) -> None:
    module = net()
    result = differentiated(wrapped(module), (layer,))
    reference = copy.deepcopy(module)
    x = torch.tensor(pixels()).permute(0, 3, 1, 2)
    stem = reference.stem(x)
    depthwise = reference.depthwise(torch.relu(reference.norm(stem)))
    embedding = depthwise.mean((2, 3))
    outputs = [stem, depthwise, embedding, reference.fc(embedding)]
    output = outputs[LAYERS.index(layer)]
    output.square().sum().backward()
    (found,) = result["outputs"].values()
    expected = output.permute(0, 2, 3, 1) if output.ndim == 4 else output
    assert found.dtype == torch.float32
    assert_close(found.numpy(), expected.detach().numpy(), ACTIVATION_TOLERANCE, layer)
    for name, parameter in reference.named_parameters():
        slope = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert_close(result["gradient"][name].numpy(), slope.numpy(), GRADIENT_TOLERANCE, name)


def test_a_module_in_half_precision_has_float32_gradients() -> None:
    model = wrapped(net().to(torch.bfloat16))
    result = differentiated(model)
    assert all(array.dtype == np.float32 for array in model.parameters().values())
    assert all(slope.dtype == torch.float32 for slope in result["gradient"].values())
    assert all(output.dtype == torch.float32 for output in result["outputs"].values())
    other = model.with_parameters({"fc.bias": np.ones(4, np.float32)})
    assert isinstance(other.model, Net)
    assert other.model.fc.bias.dtype == torch.bfloat16
    assert torch.equal(other.model.fc.bias.float(), torch.ones(4))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_equal_those_of_the_framework(momentum: float | None) -> None:
    module = net()
    module.norm.momentum = momentum
    model = wrapped(module)
    reference = copy.deepcopy(module).train()
    x = torch.tensor(pixels()).permute(0, 3, 1, 2)
    # Twice: without a momentum, statistics depend on the number of batches.
    for _ in range(2):
        updates = differentiated(model, seed=0)["updates"]
        reference(x)
        state = reference.norm.state_dict(prefix="norm.")
        assert updates.keys() == state.keys() - {"norm.weight", "norm.bias"}
        for name, found in updates.items():
            np.testing.assert_allclose(found, state[name], rtol=1e-6, atol=1e-7, err_msg=name)
        model = model.with_parameters({name: found.numpy() for name, found in updates.items()})
    assert isinstance(model.model, Net)
    assert model.model.norm.num_batches_tracked == 2
    assert module.norm.num_batches_tracked == 0


def test_norms_are_frozen_unless_they_are_updated() -> None:
    module = net()
    instance = nn.InstanceNorm2d(6, track_running_stats=True)
    module.depthwise = nn.Sequential(instance, nn.BatchNorm2d(6, track_running_stats=False))
    model = wrapped(module)
    node = model.network.resolve("logits")
    tensors = {
        name: torch.tensor(array)
        for name, array in {**model.parameters(), **model.statistics()}.items()
    }
    x, seed = torch.tensor(pixels()), torch.zeros(len(IMAGES))
    frozen, updates = model.stateless([node])(tensors, x, True, seed)
    inference, _ = model.stateless([node])(tensors, x, False, None)
    assert torch.equal(frozen[node], inference[node])
    assert not updates
    _, updates = model.stateless([node], update_batch_norm=True)(tensors, x, True, seed)
    tracked = {"running_mean", "running_var", "num_batches_tracked"}
    assert updates.keys() == {f"{m}.{n}" for m in ("norm", "depthwise.0") for n in tracked}
    assert all(torch.equal(tensors[n], torch.tensor(a)) for n, a in model.statistics().items())


def test_dropout_depends_on_the_seed_and_on_nothing_else() -> None:
    model = wrapped(net(dropout=0.5))

    def run(seed: int | None) -> npt.NDArray[np.float32]:
        (output,) = differentiated(model, seed=seed)["outputs"].values()
        return np.array(output)

    state = torch.get_rng_state()
    one = run(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(5)
    np.testing.assert_array_equal(run(1), one)
    assert not np.array_equal(run(2), one)
    # The same masks as after torch.manual_seed.
    reference = net(dropout=0.5).train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        output = reference(torch.tensor(pixels()).permute(0, 3, 1, 2))
    assert_close(one, output.detach().numpy(), ACTIVATION_TOLERANCE, "logits")
    # Two calls without the seed are equal: dropout is not active.
    np.testing.assert_array_equal(run(None), run(None))
    assert not np.array_equal(run(None), one)


def test_a_user_may_be_in_inference_mode() -> None:
    with torch.inference_mode():
        result = tuned(net())
    native = result.to_native()
    assert isinstance(native, Net)
    assert not any(tensor.is_inference() for tensor in native.state_dict().values())


def test_a_layer_with_the_name_of_the_head() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3)
            self.head = nn.Linear(6, 8)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(torch.relu(self.head(self.stem(x).mean((2, 3)))))

    module = Headed()
    result = tuned(module, learning_rate_factors={"model.head.weight": 2.0})
    native: Any = result.to_native()
    assert not torch.equal(native.head.weight, module.head.weight)
    assert result.model_.weights["head.weight"].shape == (3, 8)


def test_the_head_of_a_frozen_module_is_trained() -> None:
    module = net().requires_grad_(False)
    result = tuned(module, trainable="head", epochs=3)
    assert result.to_native() is module
    assert result.history_ is not None
    assert result.history_.epochs[-1].loss < result.history_.epochs[0].loss


def test_a_module_that_cannot_be_copied_is_rejected_before_training() -> None:
    module = net()
    module.lock = threading.Lock()
    with pytest.raises(UnsupportedError, match=r"copy\.deepcopy\(model\) fails: TypeError"):
        wrapped(module).stateless([])
    # A hook is user code that observes the module: it is kept, and the copy has it too.
    calls: list[int] = []
    hooked = net()
    hooked.fc.register_forward_hook(lambda *_: calls.append(1))
    native = wrapped(hooked).with_parameters({}).model
    assert isinstance(native, Net)
    assert len(hooked.fc._forward_hooks) == len(native.fc._forward_hooks) == 1


def test_a_module_that_was_called_with_gradients_is_copied() -> None:
    class Keeping(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last = super().forward(x)
            return self.last

    module = Keeping()
    # It computes the weight before each call, and leaves it in an attribute.
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(module.fc)
    module(torch.tensor(pixels()).permute(0, 3, 1, 2))
    model = wrapped(module)
    other: Any = model.with_parameters(
        {name: 1.1 * array for name, array in model.parameters().items()}
    ).model
    expected = own_gradient(other)
    assert {"fc.weight_g", "fc.weight_v"} <= expected.keys()
    parameters = dict(other.named_parameters())
    found = wrapped(other).parameters()
    assert all(np.array_equal(found[n], p.detach()) for n, p in parameters.items())
    result = differentiated(wrapped(other))
    for name, slope in expected.items():
        assert_close(result["gradient"][name].numpy(), slope.numpy(), GRADIENT_TOLERANCE, name)


def test_train_of_a_module_is_not_called() -> None:
    class Merging(nn.Linear):
        """Changes its weight when its mode changes, as low-rank adapters do."""

        def train(self, mode: bool = True) -> Any:
            if mode:
                self.weight.data.add_(1.0)
            return super().train(mode)

    module = net(dropout=0.5)
    module.fc = Merging(6, 4).requires_grad_(False)
    weight = module.fc.weight.clone()
    model = wrapped(module)
    results = [differentiated(model, seed=seed)["outputs"] for seed in (1, None)]
    (training,), (inference,) = (outputs.values() for outputs in results)
    assert not torch.equal(training, inference)
    assert torch.equal(module.fc.weight, weight)
