"""Loading of a catalog row from a file on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.errors import DownloadError, FileFormatError
from transferkit.networks import Network, build_network, random_weights
from transferkit.weights import Checksum, WeightsEntry, find_weights, load_weights
from transferkit.weights.files import serialize

Floats = npt.NDArray[np.float32]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache folder; other caches do not exist."""
    for name in ("TRANSFERKIT_CACHE", "TORCH_HOME", "KERAS_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "TRANSFERKIT_CACHE").mkdir()
    return tmp_path / "TRANSFERKIT_CACHE"


def published(entry: WeightsEntry, data: bytes, cache: Path) -> WeightsEntry:
    """Return the entry as if ``data`` were its file, and put that into the cache."""
    (cache / entry.file).write_bytes(data)
    digits = hashlib.sha256(data).hexdigest()[:8]
    return dataclasses.replace(entry, checksum=Checksum("sha256", digits))


# The format is detected from the contents, so any file name will do.
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
    # The network has the variant and the normalization that the weights are for.
    expected = entry.preprocessing
    assert built == build_network(
        network, variant=source, mean=expected.mean, std=expected.std,
        channel_order=expected.channel_order,
    )  # fmt: skip
    assert ("reverse_channels" in built.layers) == (source == "keras")


def test_weights_of_another_network_are_rejected(cache: Path) -> None:
    arrays = random_weights(build_network("mobilenet_v1_025"), 0)
    entry = published(find_weights("mobilenet_v3_small"), serialize(arrays, {}), cache)
    with pytest.raises(FileFormatError, match=r"missing: [\s\S]*unexpected: "):
        load_weights(entry)
    # The file is the published one, so it stays.
    assert (cache / entry.file).exists()


def test_a_manipulated_file_is_not_read(cache: Path) -> None:
    arrays = random_weights(build_network("mobilenet_v3_small"), 0)
    entry = published(find_weights("mobilenet_v3_small"), serialize(arrays, {}), cache)
    data = bytearray((cache / entry.file).read_bytes())
    data[-1] ^= 1
    (cache / entry.file).write_bytes(data)
    with (
        pytest.warns(UserWarning, match="its digest is") as seen,
        pytest.raises(DownloadError),
    ):
        load_weights(entry)
    assert [warning.filename for warning in seen] == [__file__]


def test_a_source_with_other_names_needs_only_a_function_to_rename_them(cache: Path) -> None:
    row = find_weights("mobilenet_v2", "imagenet1k_v2")
    weights = random_weights(row.build(), random_state=0)
    renamed = {f"net/{name}": array for name, array in weights.items()}
    entry = dataclasses.replace(row, source="other", url="https://example.org/other.safetensors")
    entry = published(entry, serialize(renamed, {}), cache)
    with pytest.raises(FileFormatError, match=r"unexpected: net/features\.0\.0\.weight"):
        load_weights(entry)

    def rename(arrays: Mapping[str, Floats], network: Network) -> dict[str, Floats]:
        assert network == entry.build()
        return {name.removeprefix("net/"): array for name, array in arrays.items()}

    _, loaded = load_weights(dataclasses.replace(entry, rename=rename))
    assert loaded.keys() == weights.keys()
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, weights[name])
