"""From a row of the catalogue to weights, by way of a file on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from transferkit.errors import DownloadError, FileFormatError
from transferkit.networks import build_network, random_weights
from transferkit.weights import Checksum, WeightsEntry, find_weights, load_weights
from transferkit.weights.files import serialize


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, and no other."""
    for name in ("TRANSFERKIT_CACHE", "TORCH_HOME", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "TRANSFERKIT_CACHE").mkdir()
    return tmp_path / "TRANSFERKIT_CACHE"


def published(entry: WeightsEntry, data: bytes, cache: Path) -> WeightsEntry:
    """The entry as if ``data`` were its file, which has been downloaded."""
    (cache / entry.file).write_bytes(data)
    digits = hashlib.sha256(data).hexdigest()[:8]
    return dataclasses.replace(entry, checksum=Checksum("sha256", digits))


# What a file is, is told by its contents: any format does, under any name.
@pytest.mark.parametrize(
    ("network", "source"), [("mobilenet_v3_small", "torchvision"), ("resnet50", "keras")]
)
def test_weights_from_the_cache(cache: Path, network: str, source: str) -> None:
    entry = find_weights(network, source)
    arrays = random_weights(build_network(network, variant=entry.variant), 0)
    entry = published(entry, serialize(arrays, {}), cache)
    built, found = load_weights(entry)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    # The network is of the variant, and takes pixels in the way, that the weights are for.
    expected = entry.preprocessing
    assert built == build_network(
        network, variant=source, mean=expected.mean, std=expected.std,
        channel_order=expected.channel_order,
    )  # fmt: skip
    assert ("reverse_channels" in built.layers) == (source == "keras")


def test_weights_of_another_network(cache: Path) -> None:
    arrays = random_weights(build_network("mobilenet_v1_025"), 0)
    entry = published(find_weights("mobilenet_v3_small"), serialize(arrays, {}), cache)
    with pytest.raises(FileFormatError, match=r"missing: [\s\S]*unexpected: "):
        load_weights(entry)
    # It is what is said to be published, so it is nothing to remove.
    assert (cache / entry.file).exists()


def test_a_file_that_was_tampered_with_is_not_read(cache: Path) -> None:
    arrays = random_weights(build_network("mobilenet_v3_small"), 0)
    entry = published(find_weights("mobilenet_v3_small"), serialize(arrays, {}), cache)
    data = bytearray((cache / entry.file).read_bytes())
    data[-1] ^= 1
    (cache / entry.file).write_bytes(data)
    with pytest.warns(UserWarning, match="its digest is"), pytest.raises(DownloadError):
        load_weights(entry)
