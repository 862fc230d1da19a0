"""The ONNX file of a network is valid and complete, and computes the same values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from samples import NETWORK, WEIGHTS, tiny_extractor

import transferkit
from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import WrappedModel
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ArgumentTypeError, OutputError, UnknownNameError, UnsupportedError
from transferkit.models import export
from transferkit.models.export import export_onnx
from transferkit.models.model import Model
from transferkit.networks import INPUT, Network, NetworkBuilder, Weights, build_network
from transferkit.testing import reference_activations
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close
from transferkit.testing.strategies import RandomNetwork, networks, random_weights_and_statistics


def _check(
    path: Path, network: Network, weights: Weights, layers: Sequence[str], *sizes: tuple[int, ...]
) -> None:
    """Check that a file is valid and computes the values of the reference."""
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["pixels"]
    assert [value.name for value in session.get_outputs()] == list(layers)
    for size in sizes:
        pixels = np.random.default_rng(0).random((*size, 3), np.float32)
        expected = reference_activations(network, weights, pixels, layers)
        outputs = session.run(None, {"pixels": pixels})
        for layer, array in zip(layers, outputs, strict=True):
            assert_close(np.asarray(array), expected[layer], ACTIVATION_TOLERANCE, layer)
        for value, array in zip(session.get_outputs(), outputs, strict=True):
            assert value.shape[0] == "batch"
            declared = [length for length in value.shape[1:] if isinstance(length, int)]
            assert set(declared) <= set(np.shape(array)[1:])


@settings(max_examples=15)
@given(networks())
def test_files_of_random_networks_are_valid(drawn: RandomNetwork) -> None:
    side = drawn.network.input_size
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        layers = drawn.network.layers
        export_onnx(Model(drawn.network, drawn.weights, Preprocessing()), layers, path)
        _check(path, drawn.network, drawn.weights, layers, (1, side, side), (7, side, side))


def test_the_file_of_mobilenet_is_valid(tmp_path: Path) -> None:
    network = build_network("mobilenet_v2")
    weights = random_weights_and_statistics(network, seed=0)
    path = tmp_path / "mobilenet.onnx"
    layers = ["features.6", "features.18", "embedding", "logits"]
    export_onnx(Model(network, weights, Preprocessing()), layers, path)
    _check(path, network, weights, layers, (1, 64, 64), (7, 33, 65))
    model = onnx.load(path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"classifier.1.weight", "classifier.1.bias"} <= names
    assert "features.0.1.folded_weight" in names
    assert _shape(model.graph.input[0]) == ["batch", "height", "width", 3]
    assert [_shape(value) for value in model.graph.output] == [
        ["batch", None, None, 32],
        ["batch", None, None, 1280],
        ["batch", 1280],
        ["batch", 1000],
    ]


def _shape(value: onnx.ValueInfoProto) -> list[Any]:
    return [
        getattr(dim, dim.WhichOneof("value")) if dim.WhichOneof("value") else None
        for dim in value.type.tensor_type.shape.dim
    ]


def test_a_fixed_input_size_is_stated(tmp_path: Path) -> None:
    builder = NetworkBuilder("fixed", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 2, size=3, stride=2, padding=1)
    x = builder.add_node("embedding", "flatten", x)
    builder.linear("logits", x, 32, 3)
    network = builder.build()
    weights = random_weights_and_statistics(network, seed=0)
    for layers, shape in ((["logits"], ["batch", 8, 8, 3]),
                          (["conv", "embedding"], ["batch", "height", "width", 3])):  # fmt: skip
        path = tmp_path / "fixed.onnx"
        export_onnx(Model(network, weights, Preprocessing()), layers, path)
        assert _shape(onnx.load(path).graph.input[0]) == shape
        _check(path, network, weights, layers, (1, 8, 8), (7, 8, 8))
    assert infer_shapes(network, 8, 8)["conv"] == (4, 4, 2)


def test_an_extractor_exports_what_it_computes(tmp_path: Path) -> None:
    extractor = tiny_extractor(backend="onnxruntime", layer="norm1")
    extractor.export(tmp_path / "tiny.onnx", ["conv2", "logits"])
    _check(tmp_path / "tiny.onnx", NETWORK, WEIGHTS, ["conv2", "logits"], (1, 16, 16), (7, 19, 16))
    extractor.export(str(tmp_path / "tiny.onnx"))
    _check(tmp_path / "tiny.onnx", NETWORK, WEIGHTS, ["norm1"], (2, 16, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_metadata_describes_the_network(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet.onnx"
    extractor = FeatureExtractor("mobilenet_v2")
    extractor.export(path, ["logits"])
    first = path.read_bytes()
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["network"] == model.graph.name == "mobilenet_v2"
    assert metadata["transferkit_version"] == model.producer_version == transferkit.__version__
    preprocessing = Preprocessing.from_dict(json.loads(metadata["preprocessing"]))
    assert preprocessing == extractor.model().preprocessing
    assert "shorter side resized to 256" in model.doc_string
    extractor.export(path, ["logits"])
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        (
            Preprocessing(16, 20, "bicubic"),
            "shorter side resized to 20 (bicubic, antialiased), then",
        ),
        (Preprocessing(16, interpolation="nearest", crop=False), "stretched to 16 x 16 (nearest)"),
        (Preprocessing(None), "in their own size"),
    ],
)
def test_the_metadata_describes_the_preprocessing(
    tmp_path: Path, preprocessing: Preprocessing, expected: str
) -> None:
    path = tmp_path / "tiny.onnx"
    export_onnx(Model(NETWORK, WEIGHTS, preprocessing), ["logits"], path)
    assert expected in onnx.load(path).doc_string


def test_an_object_of_a_framework_is_not_exported(tmp_path: Path) -> None:
    class Wrapping(FeatureExtractor):  # type: ignore[misc]
        def model(self) -> Model:
            return Model(NETWORK, {}, Preprocessing(), None, wrapped=cast(WrappedModel, object()))

    extractor = Wrapping(object())
    with pytest.raises(UnsupportedError, match=r"torch\.onnx\.export.*model\.export"):
        extractor.export(tmp_path / "model.onnx")


def test_invalid_input_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = tiny_extractor()
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"before")
    with pytest.raises(UnknownNameError, match="did you mean 'logits'"):
        extractor.export(path, ["logit"])
    with pytest.raises(ArgumentTypeError, match="expected a list of names of layers"):
        extractor.export(path, "logits")
    for layers in ([], ["logits", "logits"]):
        with pytest.raises(ValueError, match="expected at least one, without duplicates"):
            extractor.export(path, layers)
    with pytest.raises(OutputError, match="does not exist"):
        extractor.export(tmp_path / "missing" / "tiny.onnx")
    monkeypatch.setattr(export, "_MAX_WEIGHTS_BYTES", 10)
    with pytest.raises(UnsupportedError, match="at most 2 GB"):
        extractor.export(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
