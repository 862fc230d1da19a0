"""The names of the layers of wrapped models, and the backend that a model belongs to."""

from __future__ import annotations

import collections
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from samples import NETWORK, WEIGHTS, tiny_extractor

from transferkit.backends import Backend, Program, WrappedModel, backend_of, get_backend
from transferkit.backends.interpreter import run_network
from transferkit.backends.wrapping import (
    LAYER,
    LAYER_INPUT,
    OUTPUT,
    ShapeCache,
    TensorLocation,
    assign_layer_names,
    named_outputs,
)
from transferkit.errors import ArgumentTypeError, BackendNotInstalledError, UnsupportedError
from transferkit.images import Preprocessing
from transferkit.models import load_model
from transferkit.networks.graph import INPUT, WRAPPED, NetworkBuilder
from transferkit.networks.passes import add_probabilities, replace_head
from transferkit.testing import ReferenceTable


def names(
    calls: list[tuple[str, int]],
    outputs: list[str],
    embedding: TensorLocation | None = None,
    logits: TensorLocation | None = None,
) -> tuple[list[str], dict[str, str]]:
    locations, aliases = assign_layer_names(calls, outputs, embedding=embedding, logits=logits)
    return list(locations), aliases


def test_repeated_calls_of_a_layer_are_numbered() -> None:
    assert names([("a", 0), ("b", 0), ("a", 1), ("a", 2)], ["output"]) == (
        ["a", "b", "a_1", "a_2", "output"],
        {},
    )


def test_numbered_names_do_not_collide_with_layer_names() -> None:
    labels, _ = names([("a", 0), ("a", 1), ("a_1", 0), ("a", 2)], [])
    assert labels == ["a", "a_2", "a_1", "a_3"]


def test_layers_with_reserved_names_are_renamed() -> None:
    calls = [("pixels", 0), ("normalize", 0), ("embedding", 0), ("logits", 0), ("fc", 0)]
    embedding, logits = TensorLocation(LAYER_INPUT, "fc"), TensorLocation(OUTPUT, "output")
    labels, aliases = names(calls, ["output"], embedding, logits)
    assert labels == [
        "module.pixels", "module.normalize", "module.embedding", "module.logits", "embedding",
        "fc", "output",
    ]  # fmt: skip
    assert aliases == {"logits": "output"}
    # Without a known embedding and logits, these names are not reserved.
    assert names(calls[2:], ["x"])[0] == ["embedding", "logits", "fc", "x"]


def test_outputs_with_the_name_of_a_layer_are_renamed() -> None:
    labels, aliases = names(
        [("fc", 0), ("logits", 0)], ["fc", "logits"], None, TensorLocation(OUTPUT, "logits")
    )
    assert (labels, aliases) == (["fc", "module.logits", "output.fc", "logits"], {})
    assert names([("output", 0)], ["output"])[0] == ["output", "output.output"]
    embedding = TensorLocation(LAYER_INPUT, "fc")
    assert names([("fc", 0)], ["embedding"], embedding)[0] == [
        "embedding", "fc", "output.embedding",
    ]  # fmt: skip


def test_locations_belong_to_the_names() -> None:
    locations, _ = assign_layer_names([("a", 0), ("a", 1)], ["a"], embedding=None, logits=None)
    assert locations == {
        "a": TensorLocation(LAYER, "a", 0),
        "a_1": TensorLocation(LAYER, "a", 1),
        "output.a": TensorLocation(OUTPUT, "a"),
    }


def test_tensors_in_an_output_are_named() -> None:
    def is_number(value: object) -> bool:
        return isinstance(value, float)

    assert named_outputs(1.0, is_number) == {"output": 1.0}
    assert named_outputs({"a": 1.0, "b": "no"}, is_number) == {"a": 1.0}
    assert named_outputs([None, 2.0], is_number) == {"output.1": 2.0}
    pair = collections.namedtuple("pair", ("logits", "other"))
    assert named_outputs(pair(1.0, "no"), is_number) == {"logits": 1.0}
    with pytest.raises(
        UnsupportedError, match=r"returned a dict \('a': str\); expected a floating-"
    ):
        named_outputs({"a": "no"}, is_number)
    with pytest.raises(UnsupportedError, match=r"a ndarray of shape \(3,\) and dtype int64"):
        named_outputs(np.zeros(3, np.int64), is_number)


def test_shapes_are_computed_once_per_size() -> None:
    cache = ShapeCache()
    computed = []

    def compute(side: int) -> dict[str, tuple[int, ...]]:
        computed.append(side)
        return {"a": (side,)}

    for side in (*range(1, 70), 69, 1):
        assert cache.get((side, side), lambda side=side: compute(side)) == {"a": (side,)}  # type: ignore[misc]
    # The first size has been removed from the cache.
    assert computed == [*range(1, 70), 1]


def test_shapes_are_cached_in_several_threads() -> None:
    cache = pickle.loads(pickle.dumps(ShapeCache()))

    def is_right(side: int) -> bool:
        return bool(cache.get((side, side), lambda: {"a": (side,)}) == {"a": (side,)})

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(is_right, [*range(300)] * 3))
    assert len(cache._shapes) <= 64


def test_object_of_no_framework_is_rejected() -> None:
    for model in (3, "mobilenet_v2", None, NETWORK, torch_like()):
        with pytest.raises(ArgumentTypeError, match=f"model is a {type(model).__name__}; expected"):
            backend_of(model)


def torch_like() -> object:
    """Return an object of a class whose package has a name that starts like a framework's."""
    return type("Module", (), {"__module__": "torch_nn.modules"})()


@pytest.mark.parametrize(
    ("module", "expected"),
    [("torch.nn.modules.module", "torch"), ("keras.src.models.model", "tensorflow")],
)
def test_a_model_belongs_to_its_framework_even_if_that_cannot_be_imported(
    module: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "tensorflow"):
        monkeypatch.setitem(sys.modules, f"transferkit.backends.{name}.backend", None)
    base = type("Model", (), {"__module__": module})
    assert backend_of(type("Mine", (base,), {})()) == expected
    other = type("Module", (), {"__module__": "torch.nn.modules.module"})
    # If Keras uses PyTorch, its models are also torch modules.
    assert backend_of(type("Both", (base, other), {})()) == expected
    with pytest.raises(BackendNotInstalledError, match=rf"transferkit\[{expected}\]"):
        load_model(type("Mine", (base,), {})(), preprocessing=Preprocessing())


def test_an_object_of_a_framework_that_is_no_model_is_rejected(backend: Backend) -> None:
    module = {"torch": "torch.nn.modules.module", "tensorflow": "keras.src.models.model"}
    if backend.name not in module:
        pytest.skip("it has no model objects")
    with pytest.raises(ArgumentTypeError, match="model is a Mine"):
        backend_of(type("Mine", (), {"__module__": module[backend.name]})())


def wrapped_network() -> NetworkBuilder:
    builder = NetworkBuilder("mine", input_size=4)
    x = builder.normalize((0.5,) * 3, (0.5,) * 3)
    builder.add_node("features", WRAPPED, x)
    builder.add_node("embedding", WRAPPED, x)
    return builder


def test_a_new_head_uses_the_embedding_of_a_wrapped_model() -> None:
    network = replace_head(wrapped_network().build(), 2, embedding_size=3, name="head")
    assert [node.name for node in network.nodes][:2] == ["normalize", "embedding"]
    inputs = []

    def run_wrapped(x: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        inputs.append(x)
        return {"embedding": x.mean((1, 2))}

    weights = {"head.weight": np.ones((2, 3)), "head.bias": np.zeros(2)}
    pixels = np.full((1, 4, 4, 3), 0.75)
    layers = ["normalize", "logits", "probabilities"]
    outputs = run_network(ReferenceTable(), network, weights, pixels, layers, run_wrapped)
    # The model is called once, with normalized pixels.
    assert len(inputs) == 1
    np.testing.assert_allclose(inputs[0], 0.5)
    np.testing.assert_allclose(outputs["logits"], [[np.sqrt(3), np.sqrt(3)]])
    np.testing.assert_allclose(outputs["probabilities"], [[0.5, 0.5]])


def test_a_wrapped_network_without_its_model_is_rejected() -> None:
    network = wrapped_network().build()
    with pytest.raises(UnsupportedError, match="'features' of mine is computed by"):
        run_network(ReferenceTable(), network, {}, np.zeros((1, 4, 4, 3)), ["features"])


def test_probabilities_can_be_added_to_a_wrapped_model(backend: Backend) -> None:
    class Constant(WrappedModel):
        def __init__(self) -> None:
            builder = NetworkBuilder("constant", input_size=4)
            builder.add_node("logits", WRAPPED, INPUT)
            self.backend, self.network = backend, builder.build()

        def load(self, layers):  # type: ignore[no-untyped-def]
            assert layers == ["logits"]
            return lambda x: {"logits": backend.table.mean(x, axes=(1, 2))}

        def shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
            return {"logits": (3,)}

    model = Constant()
    load = Program(backend, add_probabilities(model.network), {}, model).load(["probabilities"])
    probabilities = backend.compile(load)(np.ones((2, 4, 4, 3), np.float32))["probabilities"]
    np.testing.assert_allclose(probabilities, np.full((2, 3), 1 / 3), rtol=1e-6)


def test_a_backend_without_model_objects_says_so() -> None:
    backend = get_backend("onnxruntime")
    with pytest.raises(UnsupportedError, match="'onnxruntime' cannot run a dict; 'torch' runs"):
        backend.wrap({})
    with pytest.raises(
        UnsupportedError,
        match="'onnxruntime' has no model objects to return; choose backend='torch'",
    ):
        backend.to_native(NETWORK, WEIGHTS)
    with pytest.raises(UnsupportedError, match="no model objects"):
        _ = tiny_extractor(backend="onnxruntime").to_native()
