"""`FeatureExtractor`: what a layer gives, for any kind of input, is what the network computes."""

from __future__ import annotations

import copy
import gc
import logging
import os
import pickle
import sys
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import (
    DEMO,
    NETWORK,
    SIDE,
    WEIGHTS,
    colored,
    noise,
    tiny_extractor,
    write_images,
)
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Backend, Program, get_backend
from transferkit.errors import (
    DatasetError,
    FileFormatError,
    ImageError,
    ShapeError,
    UnknownNameError,
)
from transferkit.images import read_image

LAYERS = ["norm1", "conv2", "embedding", "logits"]


def prepared(
    pictures: list[npt.NDArray[np.uint8]], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """The pixels that a network gets, prepared one by one."""
    rows = [preprocessing.apply(read_image(picture, "picture")) for picture in pictures]
    return np.stack(rows).astype(np.float32) / np.float32(255)


# ------------------------------------------------------------------------- what is computed


def test_transform_and_extract_are_what_the_program_computes(backend: Backend) -> None:
    pictures = noise(5)
    extractor = tiny_extractor(backend=backend)
    found = extractor.extract(pictures, LAYERS)
    program = Program(backend, NETWORK, WEIGHTS)
    expected = program.run(prepared(pictures, Preprocessing(SIDE)), LAYERS)
    assert list(found) == LAYERS
    for layer in LAYERS:
        np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-6)
        assert found[layer].dtype == np.float32
        transformed = tiny_extractor(backend=backend, layer=layer).transform(pictures)
        np.testing.assert_allclose(transformed, found[layer].reshape(5, -1), rtol=1e-5, atol=1e-6)


@given(size=st.integers(8, 40))
def test_layers_tell_the_shapes_of_the_outputs(size: int) -> None:
    extractor = tiny_extractor(preprocessing=Preprocessing(size))
    found = extractor.extract(noise(2), list(NETWORK.layers))
    assert {name: array.shape[1:] for name, array in found.items()} == dict(extractor.layers())


def test_layers_of_the_real_network(backend: Backend) -> None:
    extractor = FeatureExtractor("mobilenet_v2", backend=backend)
    layers = extractor.layers()
    asked = ["features.0.0", "features.6", "features.18.1", "embedding", "logits"]
    found = extractor.extract(DEMO / "cat.jpg", asked)
    assert {name: found[name].shape for name in asked} == {
        name: (1, *layers[name]) for name in asked
    }
    assert layers["embedding"] == (1280,)
    assert layers["features.6"] == (28, 28, 32)


def test_a_layer_asked_for_twice_is_given_once() -> None:
    pictures = noise(9)
    extractor = tiny_extractor()
    twice = extractor.extract(pictures, ["embedding", "logits", "embedding"])
    once = extractor.extract(pictures, ["embedding", "logits"])
    assert list(twice) == ["embedding", "logits"]
    for layer in once:
        np.testing.assert_array_equal(twice[layer], once[layer])


def test_an_alias_and_its_node_are_the_same() -> None:
    found = tiny_extractor().extract(noise(3), ["pooled", "embedding"])
    np.testing.assert_array_equal(found["pooled"], found["embedding"])


@given(batch_size=st.integers(1, 12))
def test_batch_size_changes_no_number(batch_size: int) -> None:
    pictures = noise(9)
    expected = tiny_extractor(batch_size=9).extract(pictures, LAYERS)
    found = tiny_extractor(batch_size=batch_size).extract(pictures, LAYERS)
    for layer in LAYERS:
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-5 * scale)


def test_preprocessing_is_used() -> None:
    pictures = noise(3)
    preprocessing = Preprocessing(SIDE, resize=24, interpolation="bicubic")
    found = tiny_extractor(preprocessing=preprocessing).transform(pictures)
    program = Program(get_backend("onnxruntime"), NETWORK, WEIGHTS)
    expected = program.run(prepared(pictures, preprocessing), ["embedding"])["embedding"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - tiny_extractor().transform(pictures)).max() > 1e-3


# ----------------------------------------------------------------------------- what goes in


@pytest.fixture(scope="module")
def squares() -> npt.NDArray[np.uint8]:
    return np.stack(colored([0, 1, 2, 3, 4, 0, 1]))


@pytest.mark.parametrize(
    "kind", ["folder", "paths", "texts", "generator", "array", "pil", "floats"]
)
def test_rows_come_in_the_order_of_the_input(
    kind: str, squares: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    paths = write_images(tmp_path / "photos", list(squares))
    images = {
        "folder": tmp_path / "photos",
        "paths": paths,
        "texts": np.asarray([str(path) for path in paths]),
        "generator": (path for path in paths),
        "array": squares,
        "pil": [Image.fromarray(square) for square in squares],
        "floats": squares.astype(np.float32) / 255,
    }[kind]
    extractor = tiny_extractor(batch_size=3)
    expected = np.concatenate([extractor.transform(square) for square in squares])
    found = extractor.extract(images)
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-5, atol=1e-5)
    assert found.indices.tolist() == list(range(7))
    from_files = kind in ("folder", "paths", "texts", "generator")
    names = [str(path) for path in paths] if from_files else [f"images[{i}]" for i in range(7)]
    assert found.sources == names


def test_mixed_inputs(tmp_path: Path) -> None:
    pictures = colored([0, 1, 2, 3])
    paths = write_images(tmp_path / "photos", pictures)
    mixed = [paths[0], str(paths[1]), Image.fromarray(pictures[2]), pictures[3]]
    extractor = tiny_extractor()
    found = extractor.extract(mixed)
    np.testing.assert_allclose(
        found["embedding"], extractor.transform(pictures), rtol=1e-5, atol=1e-6
    )
    assert found.sources == [str(paths[0]), str(paths[1]), "images[2]", "images[3]"]


def test_one_picture_is_one_row() -> None:
    picture = colored([0])[0]
    for images in (picture, Image.fromarray(picture), [picture], picture[None]):
        assert tiny_extractor().transform(images).shape == (1, 6)


def test_broken_pictures_are_skipped_or_raise(tmp_path: Path) -> None:
    good = write_images(tmp_path / "good", colored([0, 1, 2]))
    text, empty, missing = (tmp_path / name for name in ("text.png", "empty.png", "missing.png"))
    text.write_text("no picture")
    empty.touch()
    bad = np.full((SIDE, SIDE, 3), np.nan, np.float32)
    images = [text, good[0], empty, good[1], bad, missing, good[2]]
    extractor = tiny_extractor(batch_size=2)
    found = extractor.extract(images, on_error="skip")
    assert found.sources == [str(path) for path in good]
    assert found.indices.tolist() == [1, 3, 6]
    assert [left.source for left in found.skipped] == [
        str(text),
        str(empty),
        "images[4]",
        str(missing),
    ]
    assert all(left.reason for left in found.skipped)
    np.testing.assert_allclose(found["embedding"], extractor.transform(good), rtol=1e-5, atol=1e-6)
    with pytest.raises(ImageError, match=r"text\.png"):
        extractor.extract(images)
    with pytest.raises(ImageError, match=r"empty\.png"):
        extractor.transform(images[1:])


def test_nothing_left_is_an_error() -> None:
    bad = np.full((4, SIDE, SIDE, 3), 7.0, np.float32)
    with pytest.raises(DatasetError, match=r"none of 4 images can be read: images\[0\]"):
        tiny_extractor().extract(bad, on_error="skip")
    for nothing in ([], iter([]), np.empty((0, 8, 8, 3), np.uint8)):
        with pytest.raises(DatasetError, match="no images"):
            tiny_extractor().extract(nothing)


# ----------------------------------------------------------------------------- scikit-learn


def test_parameters_are_those_of_scikit_learn() -> None:
    extractor = tiny_extractor(backend="onnxruntime", layer="conv2")
    assert set(extractor.get_params()) == {
        "network", "weights", "backend", "device", "layer", "preprocessing", "batch_size",
        "progress", "initialization", "random_state",
    }  # fmt: skip
    extractor.transform(noise(1))
    cloned = clone(extractor)
    assert cloned is not extractor
    assert cloned.get_params()["layer"] == "conv2"
    np.testing.assert_array_equal(cloned.transform(noise(2)), extractor.transform(noise(2)))
    assert extractor.fit(noise(1)) is extractor
    assert extractor.get_feature_names_out().shape == extractor.transform(noise(1))[0].shape


def test_parameters_set_after_use_take_effect() -> None:
    pictures = noise(3)
    extractor = tiny_extractor()
    before = extractor.transform(pictures)
    extractor.set_params(layer="logits")
    assert extractor.transform(pictures).shape == (3, 3)
    extractor.set_params(layer="embedding", preprocessing=Preprocessing(32))
    assert np.abs(extractor.transform(pictures) - before).max() > 1e-4
    other = {**WEIGHTS, "conv2.weight": WEIGHTS["conv2.weight"] + np.float32(1)}
    extractor.set_params(preprocessing=None, weights=other)
    assert np.abs(extractor.transform(pictures) - before).max() > 1e-4
    extractor.set_params(weights=WEIGHTS)
    np.testing.assert_array_equal(extractor.transform(pictures), before)


def test_parity_after_a_change_of_backend(backend_pair: tuple[Backend, Backend]) -> None:
    first, second = backend_pair
    pictures = noise(3)
    extractor = tiny_extractor(backend=first)
    extractor.transform(pictures)
    extractor.set_params(backend=second)
    changed = extractor.transform(pictures)
    fresh = tiny_extractor(backend=second).transform(pictures)
    np.testing.assert_array_equal(changed, fresh)
    np.testing.assert_allclose(
        changed, tiny_extractor(backend=first).transform(pictures), rtol=1e-4, atol=1e-5
    )


def test_a_backend_set_after_use_is_the_one_that_runs(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Backend] = []
    run = Program.run

    def recording(
        self: Program, pixels: npt.NDArray[np.float32], layers: Sequence[str]
    ) -> Mapping[str, npt.NDArray[np.float32]]:
        ran.append(self.backend)
        return run(self, pixels, layers)

    extractor = tiny_extractor(backend=get_backend("onnxruntime"))
    extractor.transform(noise(1))
    monkeypatch.setattr(Program, "run", recording)
    other = get_backend(backend.name)
    extractor.set_params(backend=other)
    extractor.transform(noise(1))
    assert len(ran) == 1
    assert ran[0] is other


def test_a_pipeline_from_pictures_to_classes() -> None:
    numbers = [0, 1] * 8
    pipeline = make_pipeline(tiny_extractor(), LogisticRegression(C=100))
    pipeline.fit(colored(numbers), numbers)
    assert pipeline.score(colored(numbers, seed=1), numbers) == 1.0


def test_copies_and_pickles_compute_the_same(backend: Backend) -> None:
    pictures = noise(3)
    extractor = tiny_extractor(backend=backend.name)
    expected = extractor.transform(pictures)
    for other in (
        pickle.loads(pickle.dumps(extractor)),
        copy.deepcopy(extractor),
        clone(extractor),
    ):
        np.testing.assert_array_equal(other.transform(pictures), expected)


def test_used_in_two_processes() -> None:
    extractor = tiny_extractor(backend="onnxruntime")
    halves = noise(4)[:2], noise(4)[2:]
    expected = [extractor.transform(half) for half in halves]
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(extractor.transform)(h) for h in halves)
    np.testing.assert_array_equal(found, expected)


# ---------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("shared", [True, False], ids=["one", "one each"])
def test_ten_threads_get_what_one_gets(backend: Backend, shared: bool) -> None:
    inputs = [noise(7, seed=seed) for seed in range(10)]
    one = tiny_extractor(backend=backend)
    expected = [one.transform(pictures) for pictures in inputs]
    fresh = tiny_extractor(backend=backend)
    extractors = [fresh if shared else tiny_extractor(backend=backend) for _ in inputs]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda pair: pair[0].transform(pair[1]),
                              zip(extractors, inputs, strict=True)))  # fmt: skip
    for row, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(row, wanted, rtol=1e-6, atol=1e-7)


def test_threads_make_the_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    init = Program.__init__

    def counting(self: Program, *arguments: object) -> None:
        made.append(1)
        init(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "__init__", counting)
    extractor = tiny_extractor()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: extractor.transform(noise(2)), range(10)))
    assert len(made) == 1


# --------------------------------------------------------------------------- what is left be


def test_memory_is_bounded_for_a_long_generator() -> None:
    alive = 0
    most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def pictures() -> Iterator[Image.Image]:
        nonlocal alive, most
        for index in range(500):
            picture = Image.new("RGB", (SIDE, SIDE), (index % 256, 0, 0))
            weakref.finalize(picture, gone)
            alive += 1
            most = max(most, alive)
            yield picture

    batch_size = 8
    found = tiny_extractor(batch_size=batch_size).transform(pictures())
    assert found.shape == (500, 6)
    gc.collect()
    assert alive <= 1
    assert most <= 4 * batch_size + 2 * (os.cpu_count() or 1)


def test_arguments_are_not_changed(backend: Backend) -> None:
    pictures = [*noise(3), Image.new("P", (20, 30))]
    layers = list(LAYERS)
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    before = copy.deepcopy((pictures, layers, weights))
    found = tiny_extractor(backend=backend, weights=weights).extract(pictures, layers)
    for array in found.values():
        array[...] = 0  # the results are the caller's own
    for is_now, was in zip(pictures, before[0], strict=True):
        np.testing.assert_array_equal(np.asarray(is_now), np.asarray(was))
    assert layers == before[1]
    assert weights.keys() == before[2].keys()
    for name, array in before[2].items():
        np.testing.assert_array_equal(weights[name], array)


def global_state() -> dict[str, object]:
    state: dict[str, object] = {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
        "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "random": np.random.get_state()[1].tolist(),  # noqa: NPY002 - others use it
        "floating point": np.geterr(),
        "pixels": Image.MAX_IMAGE_PIXELS,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["threads"] = torch.get_num_threads(), torch.get_num_interop_threads()
        state["gradients"] = torch.is_grad_enabled()
        state["torch random"] = torch.get_rng_state().tolist()
    return state


def test_global_state_is_left_alone(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    before = global_state()
    tiny_extractor(backend=backend).transform(noise(6))
    assert global_state() == before
    found = capfd.readouterr()
    # Not on a terminal, so nothing is shown.
    assert (found.out, found.err) == ("", "")


def test_progress_is_shown_when_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    tiny_extractor(progress=True).transform(noise(6))
    assert "6/6" in capfd.readouterr().err


# -------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("parameters", "layers", "message"),
    [
        ({"network": "mobilenetv2", "weights": None}, None, "'mobilenet_v2'"),
        ({"layer": "embeding"}, None, "'embedding'"),
        ({}, ["conv1", "logit"], "'logits'"),
        ({"backend": "onnx_runtime"}, None, "'onnxruntime'"),
        ({"backend": "onnxruntime", "device": "cpu"}, None, "CPUExecutionProvider"),
        ({"network": "mobilenet_v2", "weights": "imagenet1k"}, None, "'imagenet1k_v1'"),
    ],
)
def test_unknown_names_are_told_with_close_matches(
    parameters: dict[str, object], layers: list[str] | None, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        tiny_extractor(**parameters).extract(noise(1), layers)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"network": 7}, TypeError, "int"),
        ({"weights": None}, TypeError, "mapping"),
        ({"weights": {}}, FileFormatError, "missing: conv1.weight"),
        (
            {"weights": {**WEIGHTS, "logits.bias": np.zeros(4, np.float32)}},
            FileFormatError,
            r"logits.bias has shape \(4,\)",
        ),
        ({"network": "mobilenet_v2"}, TypeError, "name of published weights"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, ValueError, "batch_size"),
        ({"preprocessing": Preprocessing(None)}, ShapeError, "must have the same size"),
    ],
)
def test_bad_parameters(
    parameters: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_extractor(**parameters).transform(noise(2))


def test_bad_arguments() -> None:
    extractor = tiny_extractor()
    with pytest.raises(TypeError, match=r"\['embedding'\]"):
        extractor.extract(noise(1), "embedding")
    with pytest.raises(ValueError, match="empty"):
        extractor.extract(noise(1), [])
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        extractor.extract(noise(1), on_error="ignore")
    with pytest.raises(DatasetError, match="no such"):
        extractor.transform("nowhere/at/all.png")
    with pytest.raises(ImageError):
        extractor.transform(7)
    with pytest.raises(ImageError, match=r"images\[1\]"):
        extractor.transform([noise(1)[0], None])


@pytest.mark.parametrize("network", ["mobilenet_v2", "vgg16"])
def test_listing_its_names_loads_nothing(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: FeatureExtractor) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(FeatureExtractor, "_load", load)
    extractor = FeatureExtractor(network, backend="onnxruntime")
    for name in dir(extractor):
        getattr(extractor, name)
    assert repr(extractor)
    assert network in extractor._repr_html_()
