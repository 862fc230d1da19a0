"""Keras's files are read without Keras; references to other files and false sizes are rejected."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy

from transferkit.errors import FileFormatError
from transferkit.networks import NETWORKS, Network, build_network
from transferkit.networks.graph import Node
from transferkit.testing.strategies import random_weights_and_statistics
from transferkit.weights.files import check_weights
from transferkit.weights.keras_file import read_keras
from transferkit.weights.keras_names import keras_layer_names, rename_keras

Layers = Mapping[str, Sequence[np.ndarray]]

LAYERS = {
    "Conv1": [np.arange(54, dtype=np.float32).reshape(3, 3, 3, 2), np.ones(2, np.float32)],
    "pool": [],
    "norm/BN": [np.full(2, value, np.float32) for value in range(4)],
}
LAYER_SETS = st.dictionaries(
    st.text("abc_/", min_size=1, max_size=6).filter(lambda name: not set(name) <= set("/")),
    st.lists(
        from_numpy.arrays(
            st.sampled_from([np.float32, np.float64, np.float16]),
            from_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
            elements=st.integers(-9, 9),
        ),
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


def _legacy(layers: Layers, *, nested: bool = False, parts: int = 1) -> bytes:
    """Write ``.h5`` like ``model.save_weights`` of Keras 1 and 2, or any ``model.save``."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        group = root.create_group("model_weights") if nested else root
        _write_names(group, "layer_names", list(layers), parts)
        for index, (layer, arrays) in enumerate(layers.items()):
            # A layer whose name is prefixed with another layer's is in that layer's group.
            folder = group.require_group(layer)
            names = [f"own{index}/weight_{number}:0" for number in range(len(arrays))]
            _write_names(folder, "weight_names", names, parts)
            for name, array in zip(names, arrays, strict=True):
                folder[name] = array
    return file.getvalue()


def _write_names(group: h5py.Group, attribute: str, names: list[str], parts: int) -> None:
    encoded = np.array([name.encode() for name in names], "S")
    if parts == 1:
        group.attrs[attribute] = encoded
    else:
        for number, part in enumerate(np.array_split(encoded, parts)):
            group.attrs[f"{attribute}{number}"] = part


def _keras3(layers: Layers, *, group: str = "layers", named: bool = True) -> bytes:
    """Write ``.weights.h5`` like ``model.save_weights`` of Keras 3."""
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root.create_group("vars")
        for index, (layer, arrays) in enumerate(layers.items()):
            key = f"layer_{index}" if index else "layer"
            variables = root.create_group(f"{group}/{key}/vars")
            if named:
                variables.attrs["name"] = layer
            for number, array in enumerate(arrays):
                variables[str(number)] = array
    return file.getvalue()


def _archive(layers: Layers, *, compression: int = zipfile.ZIP_STORED, named: bool = True) -> bytes:
    """Write ``.keras`` like ``model.save`` of Keras 3."""
    configuration = {
        "config": {"layers": [{"class_name": "Layer", "config": {"name": n}} for n in layers]}
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps(configuration))
        archive.writestr("model.weights.h5", _keras3(layers, named=named))
    return file.getvalue()


WRITERS: dict[str, Callable[[Layers], bytes]] = {
    "legacy": _legacy,
    "legacy, whole model": lambda layers: _legacy(layers, nested=True),
    "legacy, long": lambda layers: _legacy(layers, parts=3),
    "weights.h5": _keras3,
    "weights.h5 of 2.12": lambda layers: _keras3(layers, group="_layer_checkpoint_dependencies"),
    "keras": _archive,
    "keras of 3.0": lambda layers: _archive(layers, named=False),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


def _read(folder: Path, content: bytes) -> dict[str, list[np.ndarray]]:
    path = folder / "file"
    path.write_bytes(content)
    return read_keras(path)


@writers
@given(layers=LAYER_SETS)
def test_any_layers_are_read(
    write: Callable[[Layers], bytes],
    layers: dict[str, list[np.ndarray]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Keras has no two names that are the same path.
    layers = {"x" + name.replace("/", "-"): arrays for name, arrays in layers.items()}
    found = _read(tmp_path_factory.getbasetemp(), write(layers))
    assert set(found) == {name for name, arrays in layers.items() if arrays}
    for name, arrays in found.items():
        assert len(arrays) == len(layers[name])
        for array, expected in zip(arrays, layers[name], strict=True):
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected.astype(np.float32))


@writers
def test_names_can_have_slashes(write: Callable[[Layers], bytes], tmp_path: Path) -> None:
    found = _read(tmp_path, write(LAYERS))
    assert list(found) == ["Conv1", "norm/BN"]
    np.testing.assert_array_equal(found["norm/BN"][3], [3, 3])


def test_more_than_ten_layers_are_in_order(tmp_path: Path) -> None:
    layers = {f"layer{index}": [np.full(1, index, np.float32)] for index in range(12)}
    layers["many"] = [np.full(1, index, np.float32) for index in range(12)]
    found = _read(tmp_path, _keras3(layers))
    assert list(found) == list(layers)
    assert [array[0] for array in found["many"]] == list(range(12))


@pytest.mark.parametrize("write", [_legacy, _keras3, _archive])
def test_float32_arrays_are_mapped(write: Callable[[Layers], bytes], tmp_path: Path) -> None:
    numbers = np.ones(1_000_000, np.float32)
    (tmp_path / "file").write_bytes(write({"a": [numbers]}))
    tracemalloc.start()
    found = read_keras(tmp_path / "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < numbers.nbytes / 4
    np.testing.assert_array_equal(found["a"][0], numbers)


@pytest.mark.parametrize("is_legacy", [True, False])
def test_a_model_inside_a_model_is_rejected_with_the_remedy(
    is_legacy: bool, tmp_path: Path
) -> None:
    if is_legacy:
        content = _legacy({"mobilenet": [np.ones(2, np.float32)] * 20, "dense": []})
    else:
        content = _keras3(LAYERS, group="layers/functional/layers")
    with pytest.raises(FileFormatError, match=r"model as one of its layers.*load_model"):
        _read(tmp_path, content)


def test_bfloat16_is_converted(tmp_path: Path) -> None:
    file = io.BytesIO(_keras3({"a": [np.zeros(2, np.float32)]}))
    with h5py.File(file, "a") as root:
        variables = root["layers/layer/vars"]
        del variables["0"]
        variables["0"] = np.array([0x3F80, 0xC020], "<u2").view("V2")
        variables["0"].attrs["dtype"] = "bfloat16"
    np.testing.assert_array_equal(_read(tmp_path, file.getvalue())["a"][0], [1.0, -2.5])


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_chunked_tensors_are_read(compression: str | None, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    file = io.BytesIO(_keras3({"a": []}))
    with h5py.File(file, "a") as root:
        root["layers/layer/vars"].create_dataset(
            "0", data=numbers, chunks=(7, 9), compression=compression
        )
    np.testing.assert_array_equal(_read(tmp_path, file.getvalue())["a"][0], numbers)


# ------------------------------------------------------------------------------- hostile files


def _external_link(variables: h5py.Group, other: Path) -> None:
    variables["0"] = h5py.ExternalLink(str(other), "secret")


def _soft_link(variables: h5py.Group, other: Path) -> None:
    del other
    variables["0"] = h5py.SoftLink("/layers/layer/vars/1")


def _external_storage(variables: h5py.Group, other: Path) -> None:
    variables.create_dataset("0", (4,), np.float32, external=[(str(other), 0, 16)])


def _virtual(variables: h5py.Group, other: Path) -> None:
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "secret", (4,))
    variables.create_virtual_dataset("0", layout)


def _bomb(variables: h5py.Group, other: Path) -> None:
    del other
    variables.create_dataset(
        "0", (30_000_000,), np.float32, chunks=(1_000_000,), compression="gzip", fillvalue=0
    )[:3_000_000] = 1


def _never_written(variables: h5py.Group, other: Path) -> None:
    del other
    variables.create_dataset("0", (2**40,), np.float32, chunks=(2**20,))


def _little_written(variables: h5py.Group, other: Path) -> None:
    del other
    variables.create_dataset("0", (100,), np.float32, chunks=(100,))


def _text(variables: h5py.Group, other: Path) -> None:
    del other
    variables["0"] = np.array([b"text"])


def _integers(variables: h5py.Group, other: Path) -> None:
    del other
    variables["0"] = np.arange(4)


def _folder(variables: h5py.Group, other: Path) -> None:
    del other
    variables.create_group("0")


@pytest.mark.parametrize(
    "put",
    [
        _external_link, _soft_link, _external_storage, _virtual, _bomb, _never_written,
        _little_written, _text, _integers, _folder,
    ],
)  # fmt: skip
def test_unsafe_tensors_are_rejected(
    put: Callable[[h5py.Group, Path], None], tmp_path: Path
) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.full(4, 7, np.float32)
    with h5py.File(tmp_path / "file", "w") as root:
        variables = root.create_group("layers/layer/vars")
        variables["1"] = np.zeros(4, np.float32)
        put(variables, other)
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        read_keras(tmp_path / "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_groups_that_are_links_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(_keras3(LAYERS))
    for path in ("layers", "layers/layer", "layers/layer/vars"):
        with h5py.File(tmp_path / "file", "w") as root:
            root[path] = h5py.ExternalLink(str(tmp_path / "other"), path)
        with pytest.raises(FileFormatError, match="is a link"):
            read_keras(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"no HDF5", "not a weights file of Keras"),
        (_archive(LAYERS, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (_archive(LAYERS).replace(b"model.weights.h5", b"model.weights.xx"), "not a Keras file"),
        (_keras3(LAYERS, group="somewhere"), "without Keras's structure"),
    ],
)
def test_other_files_are_rejected(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=message):
        _read(tmp_path, content)


@writers
def test_truncated_files_are_rejected(write: Callable[[Layers], bytes], tmp_path: Path) -> None:
    content = write(LAYERS)
    for end in range(0, len(content) - 8, len(content) // 60):
        with pytest.raises(FileFormatError):
            _read(tmp_path, content[:end])


@pytest.mark.parametrize("write", [_legacy, _keras3, _archive])
@given(data=st.data())
def test_flipped_bits_do_no_harm(
    write: Callable[[Layers], bytes],
    data: st.DataObject,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = bytearray(write(LAYERS))
    for _ in range(10):
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        damaged = content.copy()
        damaged[place // 8] ^= 1 << place % 8
        try:
            found = _read(tmp_path_factory.getbasetemp(), bytes(damaged))
        except FileFormatError:
            continue
        size = sum(array.nbytes for arrays in found.values() for array in arrays)
        assert size <= 4 * len(content)


# ------------------------------------------------------------------------------------ the names

KERAS_NETWORKS = [name for name, entry in NETWORKS.items() if "keras" in entry.variants]


def _as_keras(node: Node, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the arrays of a node in Keras's shapes, computed in another way than the reader."""
    arrays = [np.asarray(weights[name]) for name in node.parameters]
    if node.operation == "conv2d":
        kernel = "ochw->hwoc" if node.attributes.get("groups", 1) != 1 else "oihw->hwio"
        arrays[0] = np.einsum(kernel, arrays[0])
    elif node.operation == "linear":
        arrays[0] = np.einsum("oi->io", arrays[0])
    return arrays


def _keras_layers(
    network: Network, weights: Mapping[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    return {
        layer: _as_keras(network.node(name), weights)
        for layer, name in keras_layer_names(network).items()
    }


@pytest.mark.parametrize("name", [name for name in KERAS_NETWORKS if not name.startswith("vgg")])
def test_every_parameter_of_a_network_has_a_layer(name: str) -> None:
    network = build_network(name, variant="keras", classes=3)
    weights = random_weights_and_statistics(network, seed=0)
    layers = _keras_layers(network, weights)
    old = {layer.replace("_bn", "/BatchNorm"): arrays for layer, arrays in layers.items()}
    for given_layers in (layers, old):
        found = rename_keras(given_layers, network)
        check_weights("here", found, network)
        for parameter, array in found.items():
            np.testing.assert_array_equal(array, weights[parameter])


def test_layers_of_another_network_are_listed() -> None:
    network = build_network("mobilenet_v2", variant="keras", classes=3)
    layers = _keras_layers(network, random_weights_and_statistics(network, seed=0))
    layers["my_dense"] = [np.zeros((2, 2), np.float32)]
    layers["Conv1"].append(np.zeros(32, np.float32))
    del layers["bn_Conv1"]
    with pytest.raises(FileFormatError) as caught:
        check_weights("here", rename_keras(layers, network), network)
    for line in ("4 missing, 2 unexpected, 0 of another shape", "unexpected: my_dense/0",
                 "unexpected: Conv1/1", "missing: features.0.1.running_var"):  # fmt: skip
        assert line in str(caught.value)


def test_networks_without_a_keras_version_are_rejected() -> None:
    network = Network("tiny", (), {}, {}, 8)
    with pytest.raises(FileFormatError, match="Keras does not publish 'tiny'"):
        rename_keras({}, network)
