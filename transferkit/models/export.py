"""A model as an ONNX file, for any program that runs ONNX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx

from transferkit.backends.base import INT8
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.onnx.quantization import run_quantized
from transferkit.backends.onnx.table import OnnxTable, placeholder, write_model
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ParameterError, ShapeError, UnsupportedError, shorten
from transferkit.images import Preprocessing
from transferkit.models.model import Model
from transferkit.networks import INPUT, Network, fold_batch_norm, keep_needed
from transferkit.support.atomic_write import check_writable, write_atomically
from transferkit.support.version import __version__

__all__ = ["export_onnx"]

# The limit of a protobuf message, less some space for the graph itself.
_MAX_WEIGHTS_BYTES = 2**31 - 2**24


def export_onnx(
    model: Model,
    layers: Sequence[str],
    path: Path,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a model to an ONNX file.

    The graph's input is ``pixels``, (batch, height, width, 3), RGB, float32 in [0, 1]; its
    outputs are named after the layers, its initializers after the parameters. Any batch size is
    accepted, and any image size that the network accepts. Batch norm is folded into
    convolutions. The metadata has the network's name, the preprocessing, the labels and the
    license of the weights, where known. A model with a calibration is written with 8-bit weights,
    in the QDQ format of ONNX Runtime.

    Parameters
    ----------
    model
        The model to write.
    layers
        The outputs: names of nodes or aliases.
    path
        The file to write.
    metadata
        Further metadata, name to text.

    Raises
    ------
    UnknownNameError
        If a layer is unknown.
    ParameterError
        If ``layers`` is empty or has duplicates.
    UnsupportedError
        If the model is an object of a framework, or has more than 2 GB of weights.
    OutputError
        If the file cannot be written; an existing file is left unchanged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import onnx
    >>> from transferkit.models import load_model
    >>> from transferkit.models.export import export_onnx
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "mobilenet_v2.onnx")
    ...     export_onnx(load_model("mobilenet_v2"), ["logits"], path)
    ...     onnx.load(path).graph.output[0].name
    'logits'
    """
    network = model.network
    if model.wrapped is not None:
        raise UnsupportedError(
            f"{network.name} is an object of a framework; export it with that framework: "
            "torch.onnx.export(model, ...) in PyTorch, model.export(path, format='onnx') in Keras"
        )
    check_writable(path)
    if not layers or len(set(layers)) != len(layers):
        raise ParameterError(
            f"layers is {shorten(list(layers))}; expected at least one, without duplicates"
        )
    targets = [network.resolve(layer) for layer in layers]
    pruned = keep_needed(network, targets)
    folded, weights = fold_batch_norm(pruned, model.weights, keep=targets)
    size = sum(array.nbytes for array in weights.values())
    if size > _MAX_WEIGHTS_BYTES:
        raise UnsupportedError(
            f"{network.name} has {size / 2**30:.1f} GB of weights for these layers; an ONNX file "
            "holds at most 2 GB. Export layers that need fewer weights"
        )
    table = OnnxTable()
    pixels = placeholder(4)
    if model.calibration is None:
        parameters = load_parameters(table, folded, weights)
        values = run_network(table, folded, parameters, pixels, targets)
    else:
        values, parameters = run_quantized(
            table, network, model.weights, model.calibration, pixels, targets
        )
    outputs = {layer: values[target] for layer, target in zip(layers, targets, strict=True)}
    graph = write_model({INPUT: pixels}, outputs, parameters)
    _describe(graph, model, metadata)
    _name_dimensions(graph, pruned)
    with write_atomically(path) as file:
        file.write(graph.SerializeToString(deterministic=True))


def _describe(graph: onnx.ModelProto, model: Model, others: Mapping[str, str]) -> None:
    """Add the metadata to the ONNX model."""
    name, preprocessing = model.network.name, model.preprocessing
    graph.producer_name = "transferkit"
    graph.producer_version = __version__
    graph.graph.name = name
    graph.doc_string = (
        f"{name}. Input: RGB pixels, batch x height x width x 3, float32 in [0, 1] (8-bit values "
        f"divided by 255); {_describe_preprocessing(preprocessing)}. The model itself subtracts "
        "the mean and divides by the standard deviation."
    )
    metadata = {
        **others,
        "network": name,
        "transferkit_version": __version__,
        "preprocessing": json.dumps(preprocessing.to_dict()),
    }
    if model.calibration is not None:
        metadata |= {"precision": INT8, "calibration": model.calibration.digest()}
    if model.labels is not None:
        metadata["labels"] = json.dumps(model.labels)
    if model.license is not None:
        metadata["license"] = model.license
    onnx.helper.set_model_props(graph, metadata)


def _describe_preprocessing(preprocessing: Preprocessing) -> str:
    size, interpolation = preprocessing.size, preprocessing.interpolation
    if interpolation != "nearest":
        interpolation += ", antialiased"
    if size is None:
        return "images upright, in their own size"
    if not preprocessing.crop:
        return f"images upright, stretched to {size} x {size} ({interpolation})"
    return (
        f"images upright, the shorter side resized to {preprocessing.resize or size} "
        f"({interpolation}), then a center crop of {size} x {size}"
    )


def _name_dimensions(graph: onnx.ModelProto, network: Network) -> None:
    """State the dimensions that are fixed, and name those that are not."""
    side = network.input_size
    usual = infer_shapes(network, side, side)
    others: list[Mapping[str, tuple[int, ...]]] = []
    try:
        # A network may pool slightly larger images to the same size, but not these.
        for size in ((2 * side, side), (side, 2 * side), (3 * side, 2 * side)):
            others.append(infer_shapes(network, *size))
    except ShapeError:
        others = []
    free = bool(others)
    _set_shape(
        graph.graph.input[0],
        ("batch", "height" if free else side, "width" if free else side, 3),
    )
    for output in graph.graph.output:
        shape = usual[output.name]
        alike = [
            all(other[output.name][axis] == length for other in others)
            for axis, length in enumerate(shape)
        ]
        lengths = [length if same else None for length, same in zip(shape, alike, strict=True)]
        _set_shape(output, ("batch", *lengths))


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[str | int | None]) -> None:
    tensor = onnx.TensorProto.FLOAT
    value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, tensor, shape))
