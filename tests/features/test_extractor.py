"""`FeatureExtractor` returns what the network computes, for any kind of input."""

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

from transferkit import FeatureExtractor, Preprocessing
from transferkit.backends import Backend, Program, get_backend
from transferkit.errors import (
    ArgumentTypeError,
    DatasetError,
    FileFormatError,
    ImageError,
    ParameterError,
    ShapeError,
    UnknownNameError,
)
from transferkit.images import read_image

LAYERS = ["norm1", "conv2", "embedding", "logits"]


def prepared(
    images: list[npt.NDArray[np.uint8]], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """Return the pixels that a network receives, prepared one image at a time."""
    rows = [preprocessing.apply(read_image(image, "image")) for image in images]
    return np.stack(rows).astype(np.float32) / np.float32(255)


# ---- values ---------------------------------------------------------------------------------


def test_transform_and_extract_return_what_the_program_computes(backend: Backend) -> None:
    images = noise(5)
    extractor = tiny_extractor(backend=backend)
    found = extractor.extract(images, LAYERS)
    program = Program(backend, NETWORK, WEIGHTS)
    expected = program.run(prepared(images, Preprocessing(SIDE)), LAYERS)
    assert list(found) == LAYERS
    for layer in LAYERS:
        np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-6)
        assert found[layer].dtype == np.float32
        transformed = tiny_extractor(backend=backend, layer=layer).transform(images)
        np.testing.assert_allclose(transformed, found[layer].reshape(5, -1), rtol=1e-5, atol=1e-6)


@given(size=st.integers(8, 40))
def test_layers_lists_the_shapes_of_the_outputs(size: int) -> None:
    extractor = tiny_extractor(preprocessing=Preprocessing(size))
    found = extractor.extract(noise(2), list(NETWORK.layers))
    assert {name: array.shape[1:] for name, array in found.items()} == dict(extractor.layers())


def test_layers_of_mobilenet(backend: Backend) -> None:
    extractor = FeatureExtractor("mobilenet_v2", backend=backend)
    layers = extractor.layers()
    names = ["features.0.0", "features.6", "features.18.1", "embedding", "logits"]
    found = extractor.extract(DEMO / "cat.jpg", names)
    assert {name: found[name].shape for name in names} == {
        name: (1, *layers[name]) for name in names
    }
    assert layers["embedding"] == (1280,)
    assert layers["features.6"] == (28, 28, 32)


def test_a_layer_that_is_listed_twice_is_returned_once() -> None:
    images = noise(9)
    extractor = tiny_extractor()
    twice = extractor.extract(images, ["embedding", "logits", "embedding"])
    once = extractor.extract(images, ["embedding", "logits"])
    assert list(twice) == ["embedding", "logits"]
    for layer in once:
        np.testing.assert_array_equal(twice[layer], once[layer])


def test_an_alias_and_its_node_have_the_same_output() -> None:
    found = tiny_extractor().extract(noise(3), ["pooled", "embedding"])
    np.testing.assert_array_equal(found["pooled"], found["embedding"])


@given(batch_size=st.integers(1, 12))
def test_results_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    images = noise(9)
    expected = tiny_extractor(batch_size=9).extract(images, LAYERS)
    found = tiny_extractor(batch_size=batch_size).extract(images, LAYERS)
    for layer in LAYERS:
        scale = np.abs(expected[layer]).max()
        np.testing.assert_allclose(found[layer], expected[layer], rtol=1e-5, atol=1e-5 * scale)


def test_preprocessing_is_applied() -> None:
    images = noise(3)
    preprocessing = Preprocessing(SIDE, resize=24, interpolation="bicubic")
    found = tiny_extractor(preprocessing=preprocessing).transform(images)
    program = Program(get_backend("onnxruntime"), NETWORK, WEIGHTS)
    expected = program.run(prepared(images, preprocessing), ["embedding"])["embedding"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - tiny_extractor().transform(images)).max() > 1e-3


# ---- input ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squares() -> npt.NDArray[np.uint8]:
    return np.stack(colored([0, 1, 2, 3, 4, 0, 1]))


@pytest.mark.parametrize(
    "kind", ["folder", "paths", "texts", "generator", "array", "pil", "floats"]
)
def test_rows_are_in_the_order_of_the_input(
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


def test_paths_and_images_can_be_mixed(tmp_path: Path) -> None:
    images = colored([0, 1, 2, 3])
    paths = write_images(tmp_path / "photos", images)
    mixed = [paths[0], str(paths[1]), Image.fromarray(images[2]), images[3]]
    extractor = tiny_extractor()
    found = extractor.extract(mixed)
    np.testing.assert_allclose(
        found["embedding"], extractor.transform(images), rtol=1e-5, atol=1e-6
    )
    assert found.sources == [str(paths[0]), str(paths[1]), "images[2]", "images[3]"]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_images_that_are_not_resized_may_differ_in_size(backend: Backend, batch_size: int) -> None:
    sides = [(40, 30), (32, 32), (40, 30), (33, 50), (32, 32), (40, 30), (40, 30), (33, 50)]
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*side, 3)).astype(np.uint8) for side in sides]
    extractor = tiny_extractor(
        backend=backend, preprocessing=Preprocessing(None), batch_size=batch_size
    )
    expected = np.concatenate([extractor.transform([image]) for image in images])
    np.testing.assert_allclose(extractor.transform(images), expected, rtol=1e-4, atol=1e-5)
    features = extractor.extract([*images[:4], "missing.png", *images[4:]], on_error="skip")
    np.testing.assert_allclose(features["embedding"], expected, rtol=1e-4, atol=1e-5)
    assert features.indices.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert features.sources == [f"images[{index}]" for index in features.indices]


def test_one_image_is_one_row() -> None:
    image = colored([0])[0]
    for images in (image, Image.fromarray(image), [image], image[None]):
        assert tiny_extractor().transform(images).shape == (1, 6)


def test_unreadable_images_raise_or_are_skipped(tmp_path: Path) -> None:
    good = write_images(tmp_path / "good", colored([0, 1, 2]))
    text, empty, missing = (tmp_path / name for name in ("text.png", "empty.png", "missing.png"))
    text.write_text("not an image")
    empty.touch()
    bad = np.full((SIDE, SIDE, 3), np.nan, np.float32)
    images = [text, good[0], empty, good[1], bad, missing, good[2]]
    extractor = tiny_extractor(batch_size=2)
    found = extractor.extract(images, on_error="skip")
    assert found.sources == [str(path) for path in good]
    assert found.indices.tolist() == [1, 3, 6]
    assert [skipped.source for skipped in found.skipped] == [
        str(text),
        str(empty),
        "images[4]",
        str(missing),
    ]
    assert all(skipped.reason for skipped in found.skipped)
    np.testing.assert_allclose(found["embedding"], extractor.transform(good), rtol=1e-5, atol=1e-6)
    with pytest.raises(ImageError, match=r"text\.png"):
        extractor.extract(images)
    with pytest.raises(ImageError, match=r"empty\.png"):
        extractor.transform(images[1:])


def test_no_readable_images_is_an_error() -> None:
    bad = np.full((4, SIDE, SIDE, 3), 7.0, np.float32)
    with pytest.raises(DatasetError, match=r"none of 4 images can be read: images\[0\]"):
        tiny_extractor().extract(bad, on_error="skip")
    for nothing in ([], iter([]), np.empty((0, 8, 8, 3), np.uint8)):
        with pytest.raises(DatasetError, match="no images"):
            tiny_extractor().extract(nothing)


# ---- parameters -----------------------------------------------------------------------------


def test_errors_show_only_the_beginning_of_what_is_not_a_path() -> None:
    text = "A" * 1_000_000
    for arguments in ({}, {"on_error": "skip"}):
        with pytest.raises(ValueError, match=r"^(the image cannot be read: )?A+\.\.\.: ") as caught:
            tiny_extractor().extract([text], **arguments)
        assert len(str(caught.value)) < 200


def test_parameters_set_after_use_take_effect() -> None:
    images = noise(3)
    extractor = tiny_extractor()
    before = extractor.transform(images)
    extractor.set_params(layer="logits")
    assert extractor.transform(images).shape == (3, 3)
    extractor.set_params(layer="embedding", preprocessing=Preprocessing(32))
    assert np.abs(extractor.transform(images) - before).max() > 1e-4
    other = {**WEIGHTS, "conv2.weight": WEIGHTS["conv2.weight"] + np.float32(1)}
    extractor.set_params(preprocessing=Preprocessing(SIDE), weights=other)
    assert np.abs(extractor.transform(images) - before).max() > 1e-4
    extractor.set_params(weights=WEIGHTS)
    np.testing.assert_array_equal(extractor.transform(images), before)


def test_parity_after_a_change_of_backend(backend_pair: tuple[Backend, Backend]) -> None:
    first, second = backend_pair
    images = noise(3)
    extractor = tiny_extractor(backend=first)
    extractor.transform(images)
    extractor.set_params(backend=second)
    changed = extractor.transform(images)
    fresh = tiny_extractor(backend=second).transform(images)
    np.testing.assert_array_equal(changed, fresh)
    np.testing.assert_allclose(
        changed, tiny_extractor(backend=first).transform(images), rtol=1e-4, atol=1e-5
    )


def test_a_backend_that_is_set_after_use_runs(
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


def test_copies_and_pickles_compute_the_same(backend: Backend) -> None:
    images = noise(3)
    extractor = tiny_extractor(backend=backend.name)
    expected = extractor.transform(images)
    for other in (
        pickle.loads(pickle.dumps(extractor)),
        copy.deepcopy(extractor),
        clone(extractor),
    ):
        np.testing.assert_array_equal(other.transform(images), expected)


def test_an_extractor_runs_in_two_processes() -> None:
    extractor = tiny_extractor(backend="onnxruntime")
    halves = noise(4)[:2], noise(4)[2:]
    expected = [extractor.transform(half) for half in halves]
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(extractor.transform)(h) for h in halves)
    np.testing.assert_array_equal(found, expected)


# ---- threads and processes ------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "one each"])
def test_ten_threads_get_the_same_results_as_one(backend: Backend, shared: bool) -> None:
    inputs = [noise(7, seed=seed) for seed in range(10)]
    one = tiny_extractor(backend=backend)
    expected = [one.transform(images) for images in inputs]
    fresh = tiny_extractor(backend=backend)
    extractors = [fresh if shared else tiny_extractor(backend=backend) for _ in inputs]
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda pair: pair[0].transform(pair[1]),
                              zip(extractors, inputs, strict=True)))  # fmt: skip
    for rows, expected_rows in zip(found, expected, strict=True):
        np.testing.assert_allclose(rows, expected_rows, rtol=1e-6, atol=1e-7)


def test_threads_create_the_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[int] = []
    init = Program.__init__

    def counting(self: Program, *arguments: object) -> None:
        created.append(1)
        init(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Program, "__init__", counting)
    extractor = tiny_extractor()
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda _: extractor.transform(noise(2)), range(10)))
    assert len(created) == 1


# ---- side effects ---------------------------------------------------------------------------


def test_memory_is_bounded_for_a_long_generator() -> None:
    alive = 0
    most = 0

    def freed() -> None:
        nonlocal alive
        alive -= 1

    def images() -> Iterator[Image.Image]:
        nonlocal alive, most
        for index in range(500):
            image = Image.new("RGB", (SIDE, SIDE), (index % 256, 0, 0))
            weakref.finalize(image, freed)
            alive += 1
            most = max(most, alive)
            yield image

    batch_size = 8
    found = tiny_extractor(batch_size=batch_size).transform(images())
    assert found.shape == (500, 6)
    gc.collect()
    assert alive <= 1
    assert most <= 4 * batch_size + 2 * (os.cpu_count() or 1)


def test_arguments_are_not_changed(backend: Backend) -> None:
    images = [*noise(3), Image.new("P", (20, 30))]
    layers = list(LAYERS)
    weights = {name: array.copy() for name, array in WEIGHTS.items()}
    before = copy.deepcopy((images, layers, weights))
    found = tiny_extractor(backend=backend, weights=weights).extract(images, layers)
    for array in found.values():
        array[...] = 0  # Results share no memory with the input.
    for now, earlier in zip(images, before[0], strict=True):
        np.testing.assert_array_equal(np.asarray(now), np.asarray(earlier))
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
        "random": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "floating point": np.geterr(),
        "pixels": Image.MAX_IMAGE_PIXELS,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["threads"] = torch.get_num_threads(), torch.get_num_interop_threads()
        state["gradients"] = torch.is_grad_enabled()
        state["torch random"] = torch.get_rng_state().tolist()
    return state


def test_global_state_is_not_changed(backend: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    before = global_state()
    tiny_extractor(backend=backend).transform(noise(6))
    assert global_state() == before
    found = capfd.readouterr()
    # Progress bars are shown only on a terminal.
    assert (found.out, found.err) == ("", "")


def test_progress_is_shown_on_request(capfd: pytest.CaptureFixture[str]) -> None:
    tiny_extractor(progress=True).transform(noise(6))
    assert "6/6" in capfd.readouterr().err


# ---- invalid input --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "layers", "message"),
    [
        ({"network": "mobilenetv2", "weights": None}, None, "'mobilenet_v2'"),
        ({"layer": "embeding"}, None, "'embedding'"),
        ({}, ["conv1", "logit"], "'logits'"),
        ({"backend": "onnx_runtime"}, None, "'onnxruntime'"),
        ({"backend": "onnxruntime", "device": "gpu"}, None, "CPUExecutionProvider"),
        ({"network": "mobilenet_v2", "weights": "imagenet1k"}, None, "'imagenet1k_v1'"),
    ],
)
def test_errors_about_unknown_names_list_close_matches(
    parameters: dict[str, object], layers: list[str] | None, message: str
) -> None:
    with pytest.raises(UnknownNameError, match=message):
        tiny_extractor(**parameters).extract(noise(1), layers)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"network": 7}, ArgumentTypeError, "int"),
        ({"weights": None}, ArgumentTypeError, "mapping"),
        ({"weights": {}}, FileFormatError, "missing: conv1.weight"),
        (
            {"weights": {**WEIGHTS, "logits.bias": np.zeros(4, np.float32)}},
            FileFormatError,
            r"logits.bias has shape \(4,\)",
        ),
        ({"network": "mobilenet_v2"}, ArgumentTypeError, "name of published weights"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, ValueError, "batch_size"),
        (
            {"preprocessing": Preprocessing(None), "layer": "conv2"},
            ShapeError,
            r"layer 'conv2' is .* for images\[0\] but .* for images\[1\], because the "
            "images differ in size; extract a layer with one vector",
        ),
    ],
)
def test_invalid_parameters_are_rejected(
    parameters: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tiny_extractor(**parameters).transform(noise(2))


def test_invalid_arguments_are_rejected() -> None:
    extractor = tiny_extractor()
    for layers in ("embedding", 3):
        with pytest.raises(ArgumentTypeError, match="expected a list of names of layers"):
            extractor.extract(noise(1), layers)
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
def test_listing_attributes_loads_no_network(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: FeatureExtractor) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(FeatureExtractor, "_load", load)
    extractor = FeatureExtractor(network, backend="onnxruntime")
    for name in dir(extractor):
        getattr(extractor, name)
    assert repr(extractor)
    assert network in extractor._repr_html_()


def test_outputs_that_are_not_finite_cause_a_warning() -> None:
    weights = {**WEIGHTS, "norm1.bias": np.full(4, np.nan, np.float32)}
    with pytest.warns(UserWarning, match="'embedding' has values that are NaN.*check the weights"):
        assert np.isnan(tiny_extractor(weights=weights).transform(noise(2))).all()


def test_a_file_is_not_the_name_of_a_network() -> None:
    for work in (FeatureExtractor("c.safetensors").layers, FeatureExtractor("c.pth").model):
        with pytest.raises(ParameterError, match=r"network is the file c\..*Classifier\.load"):
            work()
    with pytest.raises(ArgumentTypeError, match=r"the class Preprocessing, not an instance"):
        FeatureExtractor(Preprocessing).transform(noise(1))
    with pytest.raises(ArgumentTypeError, match=r"a mapping of type dict, such as weights"):
        FeatureExtractor({}).transform(noise(1))
