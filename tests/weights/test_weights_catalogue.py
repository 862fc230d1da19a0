"""The table of weights is complete and agrees with Keras's package.

Against torchvision's it is held in ``tests/oracle``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from samples import DEMO

from transferkit.errors import UnknownNameError
from transferkit.images import list_images, read_image
from transferkit.networks import NETWORKS, build_network
from transferkit.weights import WEIGHTS, WeightsEntry, find_weights, read_safetensors

DATA = Path(str(resources.files("transferkit.weights") / "data"))
KERAS_ROWS = [row for row in WEIGHTS if row.source == "keras"]

# Run with the parity tests and with TensorFlow's, whose environments have Keras, by their names.
needs_keras = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="Keras is not installed"
)


def name_of(row: WeightsEntry) -> str:
    return f"{row.network}-{row.name}"


# ----------------------------------------------------------------------------- the table


def test_rows_have_unique_names() -> None:
    assert len({(row.network, row.name) for row in WEIGHTS}) == len(WEIGHTS)
    assert len({row.url for row in WEIGHTS}) == len(WEIGHTS)
    assert len({row.file for row in WEIGHTS}) == len(WEIGHTS)
    # A source that is also the name of a row refers to that row.
    assert all(row.source == row.name for row in WEIGHTS if row.name in ("keras", "torchvision"))


def test_every_variant_of_every_network_has_weights() -> None:
    for name, network in NETWORKS.items():
        rows = [row for row in WEIGHTS if row.network == name]
        assert {row.variant for row in rows} == set(network.variants)
        assert rows[0].variant == next(iter(network.variants))
    assert {row.network for row in WEIGHTS} == set(NETWORKS)


@pytest.mark.parametrize("row", WEIGHTS, ids=name_of)
def test_rows_are_consistent(row: WeightsEntry) -> None:
    assert row.url.startswith("https://")
    assert row.url.endswith(f"/{row.file}")
    assert row.variant == row.source in {"torchvision", "keras"}
    assert row.license in {"BSD-3-Clause", "CC-BY-4.0", "MIT", "Apache-2.0"}
    assert row.license_stated_at.startswith("https://")
    assert 0.5 < row.top1 < 0.9
    assert row.top1_stated_at
    if row.checksum is not None:
        length = {"sha256": (8, 64), "md5": (32,)}[row.checksum.algorithm]
        assert re.fullmatch("[0-9a-f]+", row.checksum.digits)
        assert len(row.checksum.digits) in length
    network = build_network(row.network, variant=row.variant)
    assert row.preprocessing.size == network.input_size
    if row.size is not None:
        # Four bytes per value, and a small header.
        assert row.size * 2**20 == pytest.approx(network.num_parameters * 4, rel=0.02)
    assert find_weights(row.network, row.name) is row
    first = next(
        found for found in WEIGHTS if (found.network, found.source) == (row.network, row.source)
    )
    assert find_weights(row.network, row.source) is first


def test_the_packaged_file_matches_its_row() -> None:
    rows = [row for row in WEIGHTS if row.packaged is not None]
    assert [name_of(row) for row in rows] == ["mobilenet_v2-imagenet1k_v1"]
    for row in rows:
        assert row.packaged is not None
        assert row.checksum is not None
        data = (DATA / row.packaged.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.packaged.checksum.digits
        assert row.packaged.source_checksum.digits.startswith(row.checksum.digits)
        _, metadata = read_safetensors(DATA / row.packaged.name)
        assert metadata["network"] == row.network
        assert metadata["licence"] == row.license
        assert metadata["source"] == row.url
        assert metadata["source_sha256"] == row.packaged.source_checksum.digits
        assert row.source in (DATA / "NOTICE.md").read_text()


def test_weights_are_found_by_name_or_source() -> None:
    assert find_weights("vgg16") is find_weights("vgg16", "torchvision")
    assert find_weights("mobilenet_v1") is find_weights("mobilenet_v1", "keras")
    with pytest.raises(
        UnknownNameError, match="vgg11 has no weights 'keras'; available: imagenet1k_v1"
    ):
        find_weights("vgg11", "keras")
    with pytest.raises(UnknownNameError, match="available: keras"):
        find_weights("mobilenet_v1", "torchvision")
    with pytest.raises(UnknownNameError, match="did you mean 'imagenet1k_v"):
        find_weights("resnet50", "imagenet1k")
    with pytest.raises(UnknownNameError, match="'mobilenet_v3_"):
        find_weights("mobilenet_v3")


# --------------------------------------------------------------------------- against Keras


class _AskedForError(Exception):
    """Raised instead of a download, with its arguments."""


def _what_keras_asks_for(row: WeightsEntry, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments with which Keras's model would download its weights."""
    import keras
    from keras.src.utils import file_utils

    asked: dict[str, Any] = {}

    def get_file(fname: str, origin: str, **others: Any) -> None:
        asked.update(fname=fname, origin=origin, **others)
        raise _AskedForError

    monkeypatch.setattr(file_utils, "get_file", get_file)
    name, _, alpha = row.published_as.removeprefix("keras.applications.").partition(" ")
    found = re.search(r"[\d.]+", alpha)
    options = {} if found is None else {"alpha": float(found[0])}
    with pytest.raises(_AskedForError):
        getattr(keras.applications, name)(weights="imagenet", input_shape=(224, 224, 3), **options)
    return asked


@needs_keras
@pytest.mark.parametrize("row", KERAS_ROWS, ids=lambda row: row.network)
def test_parity_with_the_table_of_keras_on_tensorflow(
    row: WeightsEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _what_keras_asks_for(row, monkeypatch)
    assert asked["origin"] == row.url
    assert asked["fname"] == row.file
    assert asked["cache_subdir"] == "models"
    assert asked.get("file_hash") == (None if row.checksum is None else row.checksum.digits)


def _first_node(pixels: npt.NDArray[np.float32], row: WeightsEntry) -> npt.NDArray[np.float32]:
    """Return the input of the network's first convolution for pixels in [0, 1]."""
    preprocessing = row.preprocessing
    normalized = (pixels - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    return normalized[..., ::-1] if preprocessing.channel_order == "bgr" else normalized


@needs_keras
@pytest.mark.parametrize("row", KERAS_ROWS, ids=lambda row: row.network)
def test_parity_with_the_preprocessing_of_keras_on_tensorflow(
    row: WeightsEntry, tmp_path: Path
) -> None:
    import keras

    module = {
        "vgg": keras.applications.vgg16,
        "resnet": keras.applications.resnet,
        "mobilenet_v1": keras.applications.mobilenet,
        "mobilenet_v2": keras.applications.mobilenet_v2,
        "mobilenet_v3": keras.applications.mobilenet_v3,
    }[re.match(r"mobilenet_v\d|[a-z]+", row.network)[0]]  # type: ignore[index]
    photos = [DEMO / "cat.jpg", *list_images(DEMO / "test")[:2]]
    tall = tmp_path / "tall.png"
    Image.open(DEMO / "cat.jpg").convert("RGB").resize((101, 333)).save(tall)
    for path in (*photos, tall):
        theirs = keras.utils.load_img(path, target_size=(224, 224))
        ours = row.preprocessing.apply(read_image(path, str(path)), str(path))
        np.testing.assert_array_equal(ours, np.asarray(theirs))
        expected = module.preprocess_input(keras.utils.img_to_array(theirs))
        if row.network.startswith("mobilenet_v3"):
            # Keras's function does nothing, because its model normalizes.
            expected = expected / 127.5 - 1
        found = _first_node(np.asarray(ours, np.float32) / 255, row)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
