"""`ImageOptimizer`: ideal images, objectives, starts, classes, and invalid input."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops
from samples import NETWORK, SIDE, WEIGHTS, colored, tiny_classifier, tiny_extractor
from scipy.ndimage import map_coordinates
from scipy.special import log_softmax, softmax

from transferkit import Classifier, ImageOptimizer
from transferkit.backends import Backend
from transferkit.backends.base import GRADIENTS
from transferkit.errors import (
    AmbiguousNameError,
    ArgumentTypeError,
    DatasetError,
    NotFiniteError,
    OutputError,
    ParameterError,
    ShapeError,
    UnknownNameError,
    UnsupportedError,
)
from transferkit.images import Preprocessing
from transferkit.networks import INPUT, NetworkBuilder, random_weights
from transferkit.optimization import objectives as o
from transferkit.optimization.visualization import (
    Fourier,
    IdealImages,
    Jitter,
    Pad,
    Pixels,
    Rotate,
    Scale,
)
from transferkit.testing.conformance import GRADIENT_TOLERANCE, assert_close
from transferkit.training import Adam

STEPS = 4


def tiny(backend: Backend | str, **parameters: Any) -> ImageOptimizer:
    parameters = {
        "weights": WEIGHTS,
        "preprocessing": Preprocessing(SIDE),
        "random_state": 0,
        "progress": False,
        **parameters,
    }
    return ImageOptimizer(NETWORK, backend=backend, **parameters)


def run(backend: Backend | str, objectives: Any = 1, **settings: Any) -> IdealImages:
    return tiny(backend).visualize(objectives, **{"steps": STEPS, **settings})


# ---- values ---------------------------------------------------------------------------------


def test_each_objective_has_an_image(differentiable: Backend) -> None:
    objectives = [0, o.Channel("conv2", 3), o.Class(0) - 0.5 * o.Class(2)]
    result = run(differentiable, objectives)
    assert result.images.shape == (3, SIDE, SIDE, 3)
    assert result.images.dtype == np.float32
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert result.history.shape == (STEPS, 3)
    assert result.labels == ("class 0", "conv2, 3", "class 0 - 0.5 class 2")
    assert result.targets == (0, None, 0)
    assert not result.interrupted
    assert result.seconds > 0
    assert result.frames.shape == (STEPS, 3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(result.frames[-1], np.rint(result.images * 255))


@pytest.mark.parametrize("parametrization", ["pixels", "fourier", Pixels(decorrelated=True)])
@pytest.mark.parametrize(
    "optimizer", ["adam", "normalized_momentum", "normalized_gradient_descent"]
)
def test_the_loss_decreases(differentiable: Backend, parametrization: Any, optimizer: str) -> None:
    result = run(
        differentiable,
        o.Class(1, "cross_entropy"),
        steps=30,
        octaves=1,
        parametrization=parametrization,
        optimizer=optimizer,
        transforms=(),
    )
    assert (result.history[-1] < result.history[0] - 0.05).all()


def test_the_history_is_the_loss(differentiable: Backend) -> None:
    """Without transforms, its first value is the loss of the start."""
    start = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)
    regularizers = [o.TotalVariation(0.01), o.DistanceToStart(1.0)]
    optimizer = tiny(differentiable)
    result = optimizer.visualize(
        [o.Class(1), 1],
        start=start,
        steps=2,
        parametrization="pixels",
        transforms=(),
        regularizers=regularizers,
    )
    program, _ = optimizer._load()
    logits = program.run(start[None], ["logits"])["logits"][0]
    variation = sum(float(np.abs(np.diff(start, axis=axis)).sum()) for axis in (0, 1))
    expected = 0.01 * variation - np.array([logits[1], logits[1] + 300 * log_softmax(logits)[1]])
    np.testing.assert_allclose(result.history[0], expected, rtol=1e-4)


def test_a_batch_has_the_same_results_as_its_images_alone(differentiable: Backend) -> None:
    objectives = [o.Class(2), o.Channel("conv2", 1), o.Class(2), o.Layer("conv1")]
    together = run(differentiable, objectives)
    in_twos = tiny(differentiable, batch_size=2).visualize(objectives, steps=STEPS)
    assert_close(in_twos.images, together.images, GRADIENT_TOLERANCE, "in twos")
    for index, objective in enumerate(objectives):
        alone = run(differentiable, objective)
        assert_close(alone.images[0], together.images[index], GRADIENT_TOLERANCE, str(objective))
        assert_close(alone.history[:, 0], together.history[:, index], 1e-4, str(objective))


def test_equal_random_states_give_equal_images(differentiable: Backend) -> None:
    first, second = run(differentiable), run(differentiable)
    np.testing.assert_array_equal(first.images, second.images)
    other = tiny(differentiable, random_state=1).visualize(1, steps=STEPS)
    assert not np.allclose(first.images, other.images)
    generator = np.random.default_rng(0)
    successive = [
        tiny(differentiable, random_state=generator).visualize(1, steps=1) for _ in range(2)
    ]
    assert not np.allclose(successive[0].images, successive[1].images)


def test_the_global_random_state_is_not_changed(differentiable: Backend) -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    run(differentiable)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# ---- starts and sizes -----------------------------------------------------------------------


def test_optimization_starts_from_images(differentiable: Backend, tmp_path: Path) -> None:
    photos = colored([0, 1, 2])
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    settings = {
        "steps": 1,
        "parametrization": "pixels",
        "optimizer": Adam(1e-6),
        "transforms": (),
    }
    result = run(differentiable, 1, start=photos, **settings)
    np.testing.assert_allclose(result.images, np.stack(photos) / 255, atol=1e-5)
    result = run(differentiable, [0, 1], start=tmp_path / "photo.png", **settings)
    np.testing.assert_allclose(result.images, np.stack([photos[0]] * 2) / 255, atol=1e-5)
    with pytest.raises(ShapeError, match="start has 3 images for 2 objectives"):
        run(differentiable, [0, 1], start=photos, **settings)
    with pytest.raises(DatasetError, match=r"photo\.jpg"):
        run(differentiable, 1, start=tmp_path / "photo.jpg", **settings)


def test_sizes_and_octaves(differentiable: Backend) -> None:
    assert run(differentiable, size=23).images.shape == (1, 23, 23, 3)
    result = run(differentiable, o.Layer("conv2"), size=40, octaves=3, steps=7)
    assert result.images.shape == (1, 40, 40, 3)
    assert result.history.shape == (7, 1)
    assert result.frames.shape == (7, 1, 40, 40, 3)
    photo = np.random.default_rng(0).random((32, 48, 3), np.float32)
    settings = {"start": photo, "steps": 3, "octaves": 3, "parametrization": "pixels"}
    result = tiny(differentiable).visualize(
        o.Layer("conv2"), size=32, optimizer=Adam(1e-6), transforms=(), **settings
    )
    # The details that shrinking removed are restored.
    np.testing.assert_allclose(result.images[0], photo[:, 8:-8], atol=1e-4)
    with pytest.raises(ShapeError, match="use fewer octaves"):
        run(differentiable, octaves=4)
    with pytest.raises(ValueError, match="steps is 4, but octaves is 5; each octave needs a step"):
        run(differentiable, octaves=5, size=64)


def test_the_default_number_of_octaves(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three from noise, or as many as steps, size and objectives allow; one from an image."""
    sizes = []
    parameters = Pixels.parameters
    monkeypatch.setattr(
        Pixels,
        "parameters",
        lambda self, images: (sizes.append(images.shape[1]), parameters(self, images))[1],
    )

    def sizes_of(objectives: Any, **settings: Any) -> list[int]:
        sizes.clear()
        run(differentiable, objectives, parametrization="pixels", **{"size": 32, **settings})
        return list(sizes)

    assert sizes_of([0, o.Class(1)]) == [23, 32]
    assert sizes_of(0, octaves=1) == []
    assert sizes_of(0, steps=2) == [32]
    assert sizes_of(0, steps=1) == []
    assert sizes_of(0, size=12) == [12]
    assert sizes_of(0, size=10) == []
    assert sizes_of([0, o.Layer("conv2")]) == [23, 32]
    assert sizes_of(o.Neuron("conv2", 0, row=6)) == []
    assert sizes_of(0, start=colored([0])[0]) == [32]


def test_size_overrides_that_of_the_preprocessing(differentiable: Backend) -> None:
    photo = np.random.default_rng(0).random((40, 40, 3), np.float32)
    optimizer = tiny(differentiable, preprocessing=Preprocessing(SIDE, resize=24))
    result = optimizer.visualize(
        1,
        start=photo,
        size=40,
        steps=1,
        parametrization="pixels",
        optimizer=Adam(1e-6),
        transforms=(),
    )
    np.testing.assert_allclose(result.images[0], photo, atol=1e-5)


def test_a_network_of_a_fixed_size_rejects_other_sizes(differentiable: Backend) -> None:
    builder = NetworkBuilder("fixed", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 4, size=3)
    x = builder.add_node("embedding", "flatten", x)
    builder.linear("logits", x, 4 * 36, 3)
    network = builder.build()
    optimizer = ImageOptimizer(
        network,
        weights=random_weights(network, 0),
        preprocessing=Preprocessing(8),
        backend=differentiable,
        progress=False,
    )
    assert optimizer.visualize(1, steps=1, transforms=[Pad(2), Jitter(2)]).images.shape[1] == 8
    with pytest.raises(ShapeError, match="fixed accepts only 8 x 8 images, not 9 x 9"):
        optimizer.visualize(1, steps=1, size=9)
    # Layers before the one that fixes the size accept any.
    assert optimizer.visualize(o.Layer("conv"), steps=1, size=9).images.shape[1] == 9


def test_a_fitted_classifier_has_its_classes(differentiable: Backend) -> None:
    classifier = tiny_classifier(backend=differentiable, progress=False)
    classifier.fit(colored([0, 1] * 6), ["red", "green"] * 6)
    optimizer = ImageOptimizer(classifier, backend=differentiable, progress=False)
    result = optimizer.visualize(["green", "red"], steps=40)
    assert result.targets == (0, 1)
    images = np.rint(result.images * 255).astype(np.uint8)
    expected = np.diag(classifier.predict_proba(images))
    np.testing.assert_allclose(result.probability, expected, atol=1e-5)
    assert (result.history[-1] < result.history[0]).all()
    classifier.fit(colored([0, 1] * 6), [7, 3] * 6)
    assert optimizer.resolve_class(7) == 1
    with pytest.raises(UnknownNameError, match="unknown class 1"):
        optimizer.visualize(1)
    with pytest.raises(ArgumentTypeError, match="its own weights"):
        ImageOptimizer(classifier, weights="any", backend=differentiable).resolve_class(7)


def test_the_model_of_a_classifier_can_be_optimized_for(differentiable: Backend) -> None:
    classifier = tiny_classifier(C=10.0, preprocessing=Preprocessing(SIDE, resize=20))
    classifier.fit(colored([0, 1, 2] * 3), ["red", "green", "blue"] * 3)
    of_classifier, of_model = (
        ImageOptimizer(network, backend=differentiable, progress=False)
        for network in (classifier, classifier.model_)
    )
    assert of_model.class_names() == of_classifier.class_names()
    assert of_model.resolve_class("red") == 2
    first, second = (
        optimizer.visualize(["green", "red"], start=colored([3])[0], steps=STEPS)
        for optimizer in (of_classifier, of_model)
    )
    assert first.labels == second.labels == ("green", "red")
    assert first.targets == second.targets == (1, 2)
    np.testing.assert_array_equal(first.images, second.images)


def test_copies_have_the_same_results(differentiable: Backend) -> None:
    optimizer = tiny(differentiable.name, random_state=3)
    expected = optimizer.visualize(1, steps=1)
    optimizer.attack(colored([0])[0], epsilon=0.1, steps=1)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        np.testing.assert_array_equal(copied.visualize(1, steps=1).images, expected.images)


def test_an_object_of_a_framework_is_optimized_for(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The object determines the backend, whatever the environment variable says.
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "onnxruntime")
    native = tiny_extractor(backend=differentiable).to_native()
    preprocessing = Preprocessing(SIDE)
    if differentiable.name == "torch":
        native.eval()  # type: ignore[attr-defined]
    optimizer = ImageOptimizer(native, preprocessing=preprocessing, progress=False)
    result = optimizer.visualize([0, 2], steps=STEPS, transforms=())
    expected = run(differentiable, [0, 2], transforms=())
    assert_close(result.images, expected.images, GRADIENT_TOLERANCE, "images")
    image = colored([0])[0]
    attacked = optimizer.attack(image, target=2, method="fmn", norm="l2")
    assert attacked.success.all()
    assert optimizer.transfer(attacked, differentiable.name).rate == 1
    classifier = Classifier(native, preprocessing=preprocessing, progress=False)
    classifier.fit(colored([0, 1] * 6), ["red", "green"] * 6)
    again = ImageOptimizer(classifier, progress=False).visualize("green", steps=STEPS)
    assert again.labels == ("green",)
    with pytest.raises(UnsupportedError, match="only"):
        optimizer.transfer(attacked, "onnxruntime")


# ---- invalid input, interruption ------------------------------------------------------------


def test_errors_are_raised_before_the_first_step(differentiable: Backend) -> None:
    for wrong in (
        o.Layer("conv3"),
        o.Channel("conv2", 6),
        o.Neuron("conv2", 0, row=9),
        3,
        [0, o.Layer("cnv2")],
    ):
        with pytest.raises(UnknownNameError):
            run(differentiable, wrong)
    for setting in ("parametrization", "optimizer"):
        with pytest.raises(UnknownNameError, match=setting):
            run(differentiable, **{setting: "none"})
    for setting, value in {"steps": 0, "octaves": 0, "frames": -1}.items():
        with pytest.raises(ParameterError, match=setting):
            run(differentiable, **{setting: value})
    with pytest.raises(ArgumentTypeError, match="regularizers"):
        run(differentiable, regularizers=["total variation"])
    with pytest.raises(ValueError, match="empty"):
        run(differentiable, [])
    with pytest.raises(ArgumentTypeError, match="a class is given by its name"):
        run(differentiable, None)
    with pytest.raises(ShapeError, match="7 x 7 are too small"):
        run(differentiable, size=7)


def test_classes_can_be_of_any_type(differentiable: Backend) -> None:
    assert run(differentiable, np.int64(2), steps=1).targets == (2,)
    assert run(differentiable, np.array([2, 0]), steps=1).targets == (2, 0)
    classifier = tiny_classifier(backend=differentiable, progress=False)
    classifier.fit(colored([0, 1] * 6), [0.5, 2.5] * 6)
    optimizer = ImageOptimizer(classifier, backend=differentiable, progress=False)
    assert optimizer.visualize(2.5, steps=1).targets == (1,)


def test_classes_of_imagenet_are_resolved(differentiable: Backend) -> None:
    optimizer = ImageOptimizer("mobilenet_v2", backend=differentiable)
    assert optimizer.resolve_class("Siamese cat") == 284
    assert optimizer.resolve_class("siamese cat") == 284
    assert optimizer.resolve_class("n02123597") == 284
    assert optimizer.resolve_class(284) == 284
    assert optimizer.resolve_class("crane bird") == 134
    assert optimizer.resolve_class("Cardigan") == 264
    assert optimizer.resolve_class("cardigan") == 474
    with pytest.raises(AmbiguousNameError, match=r"'crane bird' \(index 134, n02012849\) or"):
        optimizer.visualize("crane")
    with pytest.raises(AmbiguousNameError, match="Cardigan"):
        optimizer.visualize("CARDIGAN")
    with pytest.raises(UnknownNameError, match="'Siamese cat'"):
        optimizer.visualize("Siamese kat")
    with pytest.raises(UnknownNameError, match="0 to 999"):
        optimizer.visualize(1000)


def test_a_backend_without_gradients_is_rejected(backend: Backend) -> None:
    if GRADIENTS in backend.capabilities:
        assert tiny(backend).resolve_class(2) == 2
        return
    with pytest.raises(UnsupportedError, match=r"'torch' and 'tensorflow' do: pip install"):
        run(backend)


def test_a_loss_that_is_not_finite_is_an_error(differentiable: Backend) -> None:
    layer = o.Layer("conv2")
    usual = -run(differentiable, layer, steps=6, transforms=()).history[:, 0]
    assert (np.diff(usual) > 0).all()
    # Exceeded between steps 3 and 4.
    bound = float(usual[3:5].mean())

    def difference(table: Any, outputs: Any) -> Any:
        x = outputs["conv2"]
        mean_square = table.mean(table.multiply(x, x), axes=(1, 2, 3))
        return table.log(table.subtract(table.asarray(bound), mean_square))

    with pytest.raises(NotFiniteError, match=r"the loss of 'conv2.* at step 4"):
        run(
            differentiable,
            [1, layer + 1e-7 * o.Custom(difference, ["conv2"])],
            steps=6,
            transforms=(),
        )


def test_a_gradient_that_is_not_finite_is_an_error(differentiable: Backend) -> None:
    def root_of_zero(table: Any, outputs: Any) -> Any:
        zero = table.multiply(outputs["conv2"], table.asarray(0.0))
        return table.sqrt(table.sum(table.multiply(zero, zero), axes=(1, 2, 3)))

    with pytest.raises(NotFiniteError, match=r"the gradient of the loss of 'root_of.* at step 0"):
        run(differentiable, o.Custom(root_of_zero, ["conv2"]), octaves=1)


def test_an_interruption_returns_the_images_so_far(differentiable: Backend) -> None:
    calls = itertools.count()

    class Interrupting(Jitter):
        def sample(self, generator: np.random.Generator) -> Any:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return super().sample(generator)

    result = run(differentiable, [0, 1], steps=9, transforms=[Interrupting(1)], octaves=1)
    assert result.interrupted
    assert "interrupted" in repr(result)
    assert result.history.shape == (2, 2)
    expected = tiny(differentiable).visualize(
        [0, 1], steps=9, transforms=[Jitter(1)], frames=9, octaves=1
    )
    np.testing.assert_array_equal(result.history, expected.history[:2])
    np.testing.assert_array_equal(np.rint(result.images * 255), expected.frames[1])


# ---- results --------------------------------------------------------------------------------


def robustness(backend: Backend, image: Any, target: int) -> float:
    """Compute the robustness as documented, with SciPy's interpolation."""
    generator = np.random.default_rng(0)
    jitter, scale, rotate = Jitter(1), Scale(1 / 1.1, 1.1), Rotate(10)
    middle = (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(SIDE) - middle] * 2, [1.0], indexing="ij"))[..., 0]
    rounded = np.rint(image.astype(np.float64) * 255) / 255
    views = []
    for _ in range(32):
        matrices = [part.sample(generator) for part in (jitter, scale, rotate)]
        rows, columns, _ = (
            np.tensordot(matrices[0] @ matrices[1] @ matrices[2], grid, axes=1) + middle
        )
        view = [
            map_coordinates(rounded[..., channel], [rows, columns], order=1, mode="nearest")
            for channel in range(3)
        ]
        views.append(np.stack(view, axis=-1))
    program, _ = tiny(backend)._load()
    logits = program.run(np.stack(views).astype(np.float32), ["logits"])["logits"]
    return float(softmax(logits, axis=1)[:, target].mean())


def test_probability_robustness_and_total_variation(differentiable: Backend) -> None:
    result = run(differentiable, [1, o.Layer("conv2")], steps=20)
    assert 0 < result.probability[0] <= 1
    assert 0 < result.robustness[0] <= 1
    assert np.isnan(result.probability[1])
    assert np.isnan(result.robustness[1])
    assert result.robustness[0] != result.probability[0]
    np.testing.assert_allclose(
        result.robustness[0], robustness(differentiable, result.images[0], 1), rtol=1e-4
    )
    again = run(differentiable, [1, o.Layer("conv2")], steps=20)
    np.testing.assert_array_equal(result.robustness, again.robustness)
    differences = [np.abs(np.diff(result.images[0], axis=axis)).ravel() for axis in (0, 1)]
    expected = np.concatenate(differences).mean()
    np.testing.assert_allclose(result.total_variation[0], expected, rtol=1e-5)


def test_images_and_animations_are_saved(differentiable: Backend, tmp_path: Path) -> None:
    result = run(differentiable, [0, 1, 2])
    assert not list(tmp_path.iterdir())
    result.save(tmp_path / "grid.png")
    result.animation(tmp_path / "animation.gif")
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "animation.gif"}
    with Image.open(tmp_path / "animation.gif") as animation:
        assert animation.n_frames == STEPS
        durations = []
        for frame in range(STEPS):
            animation.seek(frame)
            durations.append(animation.info["duration"])
        # Four seconds in total, and one more for the last frame.
        assert durations == [1000, 1000, 1000, 2000]
    one = run(differentiable, 0)
    one.save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.rint(one.images[0] * 255))
    with pytest.raises(OutputError, match=r"\.png"):
        result.save(tmp_path / "grid.bmp2")
    with pytest.raises(OutputError, match="gif"):
        result.animation(tmp_path / "animation.png")
    with pytest.raises(ValueError, match="frames=24"):
        run(differentiable, frames=0).animation(tmp_path / "none.gif")


def test_progress_is_shown_on_request(
    differentiable: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(differentiable, progress=True).visualize(1, steps=STEPS)
    assert "4/4" in capsys.readouterr().err
    run(differentiable)
    assert capsys.readouterr() == ("", "")


def test_an_objective_can_use_the_tensors_of_the_framework(differentiable: Backend) -> None:
    native = o.Custom(lambda _, outputs: (outputs["embedding"] ** 2)[:, 0], ["embedding"])
    over_table = o.Custom(
        lambda table, outputs: table.mean(
            table.slice(
                table.multiply(outputs["embedding"], outputs["embedding"]), axis=1, start=0, stop=1
            ),
            axes=(1,),
        ),
        ["embedding"],
    )
    result = run(differentiable, [native, over_table], parametrization=Fourier(decorrelated=False))
    assert_close(result.images[:1], result.images[1:], GRADIENT_TOLERANCE, "two implementations")


def test_an_ideal_zebra_is_classified_as_a_zebra(differentiable: Backend) -> None:
    """End to end with real weights, but fewer steps than by default."""
    optimizer = ImageOptimizer(
        "mobilenet_v2", backend=differentiable, random_state=0, progress=False
    )
    result = optimizer.visualize("zebra", steps=180, size=128)
    assert result.labels == ("zebra",)
    assert result.probability[0] > 0.5


def test_the_representation_shows_changed_parameters() -> None:
    assert repr(ImageOptimizer()) == "ImageOptimizer()"
    optimizer = ImageOptimizer("vgg16", backend="torch", batch_size=8)
    assert repr(optimizer) == "ImageOptimizer(backend='torch', batch_size=8, network='vgg16')"


def test_ideal_images_can_be_pickled(differentiable: Backend, tmp_path: Path) -> None:
    ideal = run(differentiable, [1, o.Channel("relu1", 0)])
    unpickled = pickle.loads(pickle.dumps(ideal))
    for name in ("images", "history", "frames", "probability", "robustness", "total_variation"):
        np.testing.assert_array_equal(getattr(unpickled, name), getattr(ideal, name))
    assert repr(unpickled) == repr(ideal)
    # Notebooks display the file that `save` writes.
    ideal.save(tmp_path / "ideal.png")
    shown = Image.open(io.BytesIO(unpickled._repr_png_()))
    assert ImageChops.difference(shown, Image.open(tmp_path / "ideal.png")).getbbox() is None


def test_a_saved_classifier_is_given_by_its_path(differentiable: Backend, tmp_path: Path) -> None:
    classifier = tiny_classifier(C=1.0).fit(colored([0, 0, 1, 1]), ["a", "a", "b", "b"])
    path = tmp_path / "own.safetensors"
    classifier.save(path)
    settings: dict[str, Any] = {"backend": differentiable, "progress": False}
    expected = ImageOptimizer(classifier, **settings).visualize("b", steps=2)
    for network in (path, str(path)):
        optimizer = ImageOptimizer(network, **settings)
        np.testing.assert_array_equal(optimizer.visualize("b", steps=2).images, expected.images)
    with pytest.raises(ArgumentTypeError, match="omit weights"):
        ImageOptimizer(path, weights="random").class_names()


def test_ideal_images_are_returned_as_pil_images(differentiable: Backend) -> None:
    ideal = run(differentiable, [0, 1])
    for image, pil_image in zip(ideal.images, ideal.to_pil(), strict=True):
        assert pil_image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(pil_image), np.rint(image * 255))
