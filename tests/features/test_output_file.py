"""Files of features: complete, and the same after an interruption that is resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import SIDE, noise, tiny_extractor, write_images
from sklearn.base import clone

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Program
from transferkit.errors import (
    DatasetError,
    OutputError,
    ParameterError,
    UnknownNameError,
)
from transferkit.features.extraction import ExtractionInterrupted
from transferkit.features.output_file import extract_to_file
from transferkit.networks import INPUT, NetworkBuilder

LAYERS = ["conv2", "embedding"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = write_images(tmp_path / "photos", noise(9))
    (tmp_path / "photos" / "004b.png").write_text("not an image")
    return sorted([*paths, tmp_path / "photos" / "004b.png"])


def read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def extract_until(calls: int, extractor: FeatureExtractor, files: list[Path], output: Path) -> None:
    """Extract until Ctrl-C, which comes while the network runs for the ``calls``-th time."""
    run = Program.run
    remaining = calls

    def interrupted(
        self: Program, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        nonlocal remaining
        remaining -= 1
        if not remaining:
            raise KeyboardInterrupt
        return run(self, pixels, layers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "run", interrupted)
        extract_to_file(extractor, files, LAYERS, output)


@pytest.fixture
def tiny() -> FeatureExtractor:
    return tiny_extractor(batch_size=2)


def test_the_file_holds_what_was_extracted(
    tiny: FeatureExtractor, files: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "features.npz"
    found = extract_to_file(tiny, files, LAYERS, output)
    archive = read(output)
    expected = tiny.extract(files, LAYERS, on_error="skip")
    assert archive["sources"].tolist() == expected.sources == found.sources
    for layer in LAYERS:
        np.testing.assert_array_equal(archive[layer], expected[layer])
        assert archive[layer].dtype == np.float32
    assert [skipped.source for skipped in found.skipped] == [str(tmp_path / "photos" / "004b.png")]
    assert sorted(os.listdir(tmp_path)) == ["features.npz", "photos"]


@pytest.mark.parametrize("calls", [(1,), (2,), (5,), (1, 2), (2, 2), (3, 2), (2, 2, 2)])
def test_an_interrupted_run_is_resumed(
    tiny: FeatureExtractor,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    calls: tuple[int, ...],
) -> None:
    """After any number of interruptions, nothing is computed twice and nothing is missing."""
    output = tmp_path / "features.npz"
    partial = tmp_path / "features.npz.partial"
    rows_done = 0
    for number in calls:
        with pytest.raises(KeyboardInterrupt):
            extract_until(number, tiny, files, output)
        assert not output.exists()
        rows_done += 2 * (number - 1)
        assert partial.exists() == (rows_done > 0)
        if rows_done:
            assert len(read(partial)["sources"]) == rows_done
            assert set(os.listdir(tmp_path)) == {"photos", "features.npz.partial"}
    rows = 0
    run = Program.run

    def counting(
        self: Program, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        nonlocal rows
        rows += len(pixels)
        return run(self, pixels, layers)

    monkeypatch.setattr(Program, "run", counting)
    resumed = extract_to_file(tiny, files, LAYERS, output)
    assert rows == 9 - rows_done
    whole = extract_to_file(tiny, files, LAYERS, tmp_path / "whole.npz")
    assert resumed.sources == whole.sources
    assert resumed.indices.tolist() == whole.indices.tolist()
    assert resumed.skipped == whole.skipped
    archive, expected = read(output), read(tmp_path / "whole.npz")
    assert archive.keys() == expected.keys()
    assert archive["sources"].tolist() == expected["sources"].tolist()
    for layer in LAYERS:
        np.testing.assert_allclose(archive[layer], expected[layer], rtol=1e-5, atol=1e-6)
    assert not partial.exists()


def test_a_run_is_resumed_with_only_unreadable_images_left(
    tiny: FeatureExtractor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_images(tmp_path / "photos", noise(4))
    for path in files[2:]:
        path.write_text("not an image")
    output = tmp_path / "features.npz"
    extract = FeatureExtractor.extract

    def interrupted(self: FeatureExtractor, *arguments: Any, **options: Any) -> None:
        raise ExtractionInterrupted(extract(self, *arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractor, "extract", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_to_file(tiny, files, LAYERS, output)
    found = extract_to_file(tiny, files, LAYERS, output)
    assert found.sources == [str(path) for path in files[:2]]
    assert [skipped.source for skipped in found.skipped] == [str(path) for path in files[2:]]
    assert read(output)["sources"].tolist() == found.sources


def test_a_changed_preprocessing_or_image_is_extracted_again(
    tiny: FeatureExtractor, files: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "features.npz"
    other = clone(tiny).set_params(preprocessing=Preprocessing(SIDE + 4))
    with pytest.raises(KeyboardInterrupt):
        extract_until(3, tiny, files, output)
    found = extract_to_file(other, files, LAYERS, output)
    np.testing.assert_allclose(
        found["embedding"], other.extract(files, LAYERS, on_error="skip")["embedding"], atol=1e-5
    )
    with pytest.raises(KeyboardInterrupt):
        extract_until(3, tiny, files, output)
    shutil.copyfile(files[1], files[0])
    found = extract_to_file(tiny, files, LAYERS, output)
    np.testing.assert_allclose(
        found["embedding"], tiny.extract(files, LAYERS, on_error="skip")["embedding"], atol=1e-5
    )


def test_partial_results_of_another_run_are_not_mixed_in(
    tiny: FeatureExtractor, files: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "features.npz"
    for layers, chosen in ((["embedding"], files), (LAYERS, files[:1]), (LAYERS, files[::-1])):
        with pytest.raises(KeyboardInterrupt):
            extract_until(3, tiny, files, output)
        found = extract_to_file(tiny, chosen, layers, output)
        expected = tiny.extract(chosen, layers, on_error="skip")
        assert found.sources == expected.sources
        assert set(read(output)) == {*layers, "sources"}
        for layer in layers:
            np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-6)
        assert not (tmp_path / "features.npz.partial").exists()


@pytest.mark.parametrize("content", ["", "text", "pickle", "array", "zip", "rows"])
def test_an_invalid_partial_file_is_ignored(
    tiny: FeatureExtractor, files: list[Path], tmp_path: Path, content: str
) -> None:
    output = tmp_path / "features.npz"
    partial = tmp_path / "features.npz.partial"
    if content == "array":
        with partial.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "pickle":
        with partial.open("wb") as file:
            np.savez(file, sources=np.array([{}], object))
    elif content == "rows":
        with partial.open("wb") as file:
            np.savez(
                file,
                conv2=np.zeros((1, 2)),
                embedding=np.zeros((1, 2)),
                sources=np.array(["a", "b"]),
                network=np.array(str(tiny.network)),
            )
    else:
        partial.write_bytes(b"PK\x03\x04 cut short" if content == "zip" else content.encode())
    found = extract_to_file(tiny, files, LAYERS, output)
    assert len(found.sources) == 9
    assert not partial.exists()


def test_a_file_that_is_listed_twice_has_two_rows(tiny: FeatureExtractor, tmp_path: Path) -> None:
    files = write_images(tmp_path / "photos", noise(2))
    output = tmp_path / "features.npz"
    found = extract_to_file(tiny, [*files, files[0]], ["embedding"], output)
    assert found.sources == [str(files[0]), str(files[1]), str(files[0])]
    np.testing.assert_array_equal(found["embedding"][0], found["embedding"][2])


@pytest.mark.parametrize("name", ["sources", "made_by", "modified"])
def test_a_layer_with_the_name_of_another_array_is_rejected(name: str, tmp_path: Path) -> None:
    builder = NetworkBuilder("named", input_size=SIDE)
    x = builder.add_node(name, "relu", INPUT)
    builder.add_node("embedding", "mean", x, axes=(1, 2))
    named = FeatureExtractor(
        builder.build(), weights={}, preprocessing=Preprocessing(SIDE), progress=False
    )
    files = write_images(tmp_path / "photos", noise(2))
    with pytest.raises(ParameterError, match=f"layer '{name}' has the name of another array"):
        extract_to_file(named, files, ["embedding", name], tmp_path / "features.npz")
    assert os.listdir(tmp_path) == ["photos"]


def test_errors_are_raised_before_the_extraction(
    tiny: FeatureExtractor, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Program, "run", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(OutputError, match=r"expected a file name that ends in \.npz"):
        extract_to_file(tiny, files, LAYERS, tmp_path / "features.npy")
    with pytest.raises(OutputError, match="does not exist"):
        extract_to_file(tiny, files, LAYERS, tmp_path / "missing" / "features.npz")
    with pytest.raises(UnknownNameError, match="'embedding'"):
        extract_to_file(tiny, files, ["embeding"], tmp_path / "features.npz")
    with pytest.raises(DatasetError, match="the image cannot be read"):
        extract_to_file(tiny, [tmp_path / "missing.png"], LAYERS, tmp_path / "features.npz")
    assert os.listdir(tmp_path) == ["photos"]
