"""How the layers of wrapped models are called, and which backend a model belongs to."""

from __future__ import annotations

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
    find_producer,
    named_outputs,
)
from transferkit.errors import UnsupportedError
from transferkit.networks.graph import INPUT, WRAPPED, NetworkBuilder
from transferkit.networks.passes import add_probabilities, replace_head
from transferkit.testing import ReferenceTable


def names(
    calls: list[tuple[str, int]],
    outputs: list[str],
    embedding: TensorLocation | None = None,
    logits: TensorLocation | None = None,
) -> tuple[list[str], dict[str, str]]:
    places, aliases = assign_layer_names(calls, outputs, embedding=embedding, logits=logits)
    return list(places), aliases


def test_a_layer_that_runs_again_is_counted() -> None:
    assert names([("a", 0), ("b", 0), ("a", 1), ("a", 2)], ["output"]) == (
        ["a", "b", "a_1", "a_2", "output"],
        {},
    )


def test_counting_leaves_out_names_that_there_are() -> None:
    found, _ = names([("a", 0), ("a", 1), ("a_1", 0), ("a", 2)], [])
    assert found == ["a", "a_2", "a_1", "a_3"]


def test_names_that_mean_something() -> None:
    calls = [("pixels", 0), ("normalize", 0), ("embedding", 0), ("logits", 0), ("fc", 0)]
    embedding, logits = TensorLocation(LAYER_INPUT, "fc"), TensorLocation(OUTPUT, "output")
    found, aliases = names(calls, ["output"], embedding, logits)
    assert found == [
        "module.pixels", "module.normalize", "module.embedding", "module.logits", "embedding",
        "fc", "output",
    ]  # fmt: skip
    assert aliases == {"logits": "output"}
    # Without such a meaning they are names like others.
    assert names(calls[2:], ["x"])[0] == ["embedding", "logits", "fc", "x"]


def test_outputs_whose_names_are_taken() -> None:
    found, aliases = names([("fc", 0), ("logits", 0)], ["fc", "logits"], None,
                           TensorLocation(OUTPUT, "logits"))  # fmt: skip
    assert (found, aliases) == (["fc", "module.logits", "output.fc", "logits"], {})
    assert names([("output", 0)], ["output"])[0] == ["output", "output.output"]
    embedding = TensorLocation(LAYER_INPUT, "fc")
    assert names([("fc", 0)], ["embedding"], embedding)[0] == [
        "embedding", "fc", "output.embedding",
    ]  # fmt: skip


def test_places_are_where_the_names_say() -> None:
    places, _ = assign_layer_names([("a", 0), ("a", 1)], ["a"], embedding=None, logits=None)
    assert places == {
        "a": TensorLocation(LAYER, "a", 0), "a_1": TensorLocation(LAYER, "a", 1), "output.a": TensorLocation(OUTPUT, "a"),
    }  # fmt: skip


def test_own_outputs() -> None:
    def is_number(value: object) -> bool:
        return isinstance(value, float)

    assert named_outputs(1.0, is_number) == {"output": 1.0}
    assert named_outputs({"a": 1.0, "b": "no"}, is_number) == {"a": 1.0}
    assert named_outputs([None, 2.0], is_number) == {"output.1": 2.0}
    with pytest.raises(UnsupportedError, match=r"gives a dict \('a': str\); expected a tensor"):
        named_outputs({"a": "no"}, is_number)
    with pytest.raises(UnsupportedError, match=r"an? ndarray of shape \(3,\) and type int64"):
        named_outputs(np.zeros(3, np.int64), is_number)


def test_the_source_of_a_result() -> None:
    before = {
        "out": ["add"],
        "add": ["fc", "x"],
        "fc": ["early"],
        "x": [],
        "early": [],
        "y": ["fc"],
    }
    fc, early = TensorLocation(LAYER, "fc"), TensorLocation(LAYER, "early")
    sources = {"fc": fc, "early": early}
    assert find_producer("out", sources, before.__getitem__) == fc
    assert find_producer("out", {"early": early}, before.__getitem__) == early
    assert find_producer("out", {"fc": fc, "x": early}, before.__getitem__) is None
    assert find_producer("x", sources, before.__getitem__) is None
    assert find_producer(None, sources, before.__getitem__) is None


def test_shapes_are_found_once() -> None:
    cache = ShapeCache()
    asked = []

    def find(side: int) -> dict[str, tuple[int, ...]]:
        asked.append(side)
        return {"a": (side,)}

    for side in (*range(1, 70), 69, 1):
        assert cache.get((side, side), lambda side=side: find(side)) == {"a": (side,)}  # type: ignore[misc]
    # The first was let go.
    assert asked == [*range(1, 70), 1]


def test_what_belongs_to_no_framework() -> None:
    for model in (3, "mobilenet_v2", None, NETWORK, torch_like()):
        with pytest.raises(TypeError, match=f"a {type(model).__name__} is no model"):
            backend_of(model)


def torch_like() -> object:
    """Its class is from a package whose name begins like a framework's."""
    return type("Module", (), {"__module__": "torch_nn.modules"})()


@pytest.mark.parametrize(
    ("module", "expected"),
    [("torch.nn.modules.module", "torch"), ("keras.src.models.model", "tensorflow")],
)
def test_a_model_belongs_to_the_framework_of_its_class(module: str, expected: str) -> None:
    base = type("Model", (), {"__module__": module})
    assert backend_of(type("Mine", (base,), {})()) == expected
    other = type("Module", (), {"__module__": "torch.nn.modules.module"})
    # Keras's models are modules of PyTorch too where it computes with that.
    assert backend_of(type("Both", (base, other), {})()) == expected


def wrapped_network() -> NetworkBuilder:
    builder = NetworkBuilder("mine", input_size=4)
    x = builder.normalize((0.5,) * 3, (0.5,) * 3)
    builder.add_node("features", WRAPPED, x)
    builder.add_node("embedding", WRAPPED, x)
    return builder


def test_heads_go_onto_what_a_model_gives() -> None:
    network = replace_head(wrapped_network().build(), 2, embedding_size=3, name="head")
    assert [node.name for node in network.nodes][:2] == ["normalize", "embedding"]
    taken = []

    def run_wrapped(x: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        taken.append(x)
        return {"embedding": x.mean((1, 2))}

    weights = {"head.weight": np.ones((2, 3)), "head.bias": np.zeros(2)}
    pixels = np.full((1, 4, 4, 3), 0.75)
    layers = ["normalize", "logits", "probabilities"]
    found = run_network(ReferenceTable(), network, weights, pixels, layers, run_wrapped)
    # What the model is given is what was made of the pixels, once.
    assert len(taken) == 1
    np.testing.assert_allclose(taken[0], 0.5)
    np.testing.assert_allclose(found["logits"], [[np.sqrt(3), np.sqrt(3)]])
    np.testing.assert_allclose(found["probabilities"], [[0.5, 0.5]])


def test_without_its_model_a_network_cannot_be_run() -> None:
    network = wrapped_network().build()
    with pytest.raises(UnsupportedError, match="'features' of mine is computed by"):
        run_network(ReferenceTable(), network, {}, np.zeros((1, 4, 4, 3)), ["features"])


def test_probabilities_of_a_model(backend: Backend) -> None:
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
    found = backend.compile(load)(np.ones((2, 4, 4, 3), np.float32))["probabilities"]
    np.testing.assert_allclose(found, np.full((2, 3), 1 / 3), rtol=1e-6)


def test_a_backend_without_models() -> None:
    backend = get_backend("onnxruntime")
    with pytest.raises(UnsupportedError, match="'onnxruntime' cannot run a dict; 'torch' takes"):
        backend.wrap({})
    with pytest.raises(UnsupportedError, match="'onnxruntime' has no models of its own"):
        backend.to_native(NETWORK, WEIGHTS)
    with pytest.raises(UnsupportedError, match="no models of its own"):
        _ = tiny_extractor(backend="onnxruntime").native
