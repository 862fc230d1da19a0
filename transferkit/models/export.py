"""A network with its weights as an ONNX file, for any program that runs those."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.onnx.table import OnnxTable, placeholder, write_model
from transferkit.backends.shapes import infer_shapes
from transferkit.errors import ParameterError, ShapeError, UnsupportedError
from transferkit.images import Preprocessing
from transferkit.networks import INPUT, Network, Weights, fold_batch_norm, keep_needed
from transferkit.support.atomic_write import check_writable, write_atomically
from transferkit.support.version import __version__

__all__ = ["export_onnx"]

# What a protobuf message may hold, less some room for the graph itself.
_MOST_BYTES = 2**31 - 2**24


def export_onnx(
    network: Network,
    weights: Weights,
    layers: Sequence[str],
    path: Path,
    *,
    preprocessing: Preprocessing,
) -> None:
    """Write a network to an ONNX file.

    The file's input is ``pixels``, (batch, height, width, 3), RGB, float32 in [0, 1]; its
    outputs have the names of the layers, its initializers those of the parameters. Batches may
    be of any size, and pictures too, where the network takes others than its own. Batch norm is
    folded into convolutions. The file's metadata tell the network's name and how pictures are
    to be read.

    Parameters
    ----------
    network, weights
        What to write.
    layers
        The outputs: nodes' names or aliases.
    path
        The file.
    preprocessing
        How pictures are resized and cropped before; for the metadata. The network itself
        normalises pixels.

    Raises
    ------
    UnknownNameError
        If there is no such layer.
    ParameterError
        If ``layers`` is empty, or names a layer twice.
    UnsupportedError
        If the weights do not fit into one file, which may have 2 GB.
    OutputError
        If the file cannot be written; what was there before is still there.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import onnx
    >>> from transferkit import Preprocessing
    >>> from transferkit.models.export import export_onnx
    >>> from transferkit.networks import build_network, random_weights
    >>> network = build_network("mobilenet_v2")
    >>> weights = random_weights(network, random_state=0)
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "mobilenet_v2.onnx")
    ...     export_onnx(network, weights, ["logits"], path, preprocessing=Preprocessing(224))
    ...     onnx.load(path).graph.output[0].name
    'logits'
    """
    check_writable(path)
    if not layers or len(set(layers)) != len(layers):
        raise ParameterError(f"layers is {list(layers)}; name at least one, and none of them twice")
    targets = [network.resolve(layer) for layer in layers]
    pruned = keep_needed(network, targets)
    folded, weights = fold_batch_norm(pruned, weights, keep=targets)
    size = sum(array.nbytes for array in weights.values())
    if size > _MOST_BYTES:
        raise UnsupportedError(
            f"{network.name} has {size / 2**30:.1f} GB of weights for these layers; an ONNX file "
            "holds at most 2 GB. Export layers that need fewer of them"
        )
    table = OnnxTable()
    parameters = load_parameters(table, folded, weights)
    pixels = placeholder(4)
    found = run_network(table, folded, parameters, pixels, targets)
    outputs = {layer: found[target] for layer, target in zip(layers, targets, strict=True)}
    model = write_model({INPUT: pixels}, outputs, parameters)
    _describe(model, network.name, preprocessing)
    _name_dimensions(model, pruned)
    with write_atomically(path) as file:
        file.write(model.SerializeToString(deterministic=True))


def _describe(model: onnx.ModelProto, name: str, preprocessing: Preprocessing) -> None:
    """Say in the model what it is and what it wants."""
    model.producer_name = "transferkit"
    model.producer_version = __version__
    model.graph.name = name
    size, how = preprocessing.size, preprocessing.interpolation
    if how != "nearest":
        how += ", antialiased"
    if size is None:
        steps = "left in their own size"
    elif not preprocessing.crop:
        steps = f"stretched to {size} x {size} ({how})"
    else:
        steps = (
            f"with the shorter side resized to {preprocessing.resize or size} ({how}) and a square "
            f"of {size} cut from the centre"
        )
    model.doc_string = (
        f"{name}. Pixels: RGB, batch x height x width x 3, float32 in [0, 1] (bytes divided by "
        f"255); pictures upright, {steps}. The model itself subtracts the mean and divides by the "
        "deviation."
    )
    onnx.helper.set_model_props(
        model,
        {
            "network": name,
            "transferkit_version": __version__,
            "preprocessing": json.dumps(preprocessing.to_dict()),
        },
    )


def _name_dimensions(model: onnx.ModelProto, network: Network) -> None:
    """Say which sizes are given, and name those that are free."""
    side = network.input_size
    usual = infer_shapes(network, side, side)
    others: list[Mapping[str, tuple[int, ...]]] = []
    try:
        # A network may pool what is a little larger to the same size; not what is this much so.
        for size in ((2 * side, side), (side, 2 * side), (3 * side, 2 * side)):
            others.append(infer_shapes(network, *size))
    except ShapeError:
        others = []
    free = bool(others)
    _set_shape(
        model.graph.input[0],
        ("batch", "height" if free else side, "width" if free else side, 3),
    )
    for output in model.graph.output:
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
