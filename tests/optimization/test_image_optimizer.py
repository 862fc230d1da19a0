from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import NETWORK, SIDE, WEIGHTS, colored, tiny_classifier, tiny_extractor
from scipy.ndimage import map_coordinates
from scipy.special import log_softmax, softmax

from transferkit import Classifier, ImageOptimizer
from transferkit.backends import Backend
from transferkit.backends.base import GRADIENTS
from transferkit.errors import (
    AmbiguousNameError,
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
    parameters = {"weights": WEIGHTS, "seed": 0, "progress": False, **parameters}
    return ImageOptimizer(NETWORK, backend=backend, **parameters)


def run(backend: Backend | str, objectives: Any = 1, **settings: Any) -> IdealImages:
    return tiny(backend).visualize(objectives, **{"steps": STEPS, **settings})


# ---- what comes out ----------------------------------------------------------------------


def test_a_picture_of_each(differentiable: Backend) -> None:
    wanted = [0, o.Channel("conv2", 3), o.Class(0) - 0.5 * o.Class(2)]
    found = run(differentiable, wanted)
    assert found.images.shape == (3, SIDE, SIDE, 3)
    assert found.images.dtype == np.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert found.history.shape == (STEPS, 3)
    assert found.labels == ("class 0", "conv2, 3", "class 0 - 0.5 class 2")
    assert found.targets == (0, None, 0)
    assert not found.interrupted
    assert found.seconds > 0
    assert found.frames.shape == (STEPS, 3, SIDE, SIDE, 3)
    np.testing.assert_array_equal(found.frames[-1], np.rint(found.images * 255))


@pytest.mark.parametrize("parametrization", ["pixels", "fourier", Pixels(decorrelated=True)])
@pytest.mark.parametrize(
    "optimizer", ["adam", "normalized_momentum", "normalized_gradient_descent"]
)
def test_the_objective_grows(differentiable: Backend, parametrization: Any, optimizer: str) -> None:
    found = run(
        differentiable,
        o.Class(1, "cross_entropy"),
        steps=30,
        octaves=1,
        parametrization=parametrization,
        optimizer=optimizer,
        transforms=(),
    )
    assert (found.history[-1] < found.history[0] - 0.05).all()


def test_history_is_the_loss(differentiable: Backend) -> None:
    """Without transforms the first is that of the start, by the network itself."""
    start = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)
    regularizers = [o.TotalVariation(0.01), o.DistanceToStart(1.0)]
    optimizer = tiny(differentiable)
    found = optimizer.visualize(
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
    np.testing.assert_allclose(found.history[0], expected, rtol=1e-4)


def test_a_batch_gives_what_its_pictures_give_alone(differentiable: Backend) -> None:
    wanted = [o.Class(2), o.Channel("conv2", 1), o.Class(2), o.Layer("conv1")]
    together = run(differentiable, wanted)
    in_twos = tiny(differentiable, batch_size=2).visualize(wanted, steps=STEPS)
    assert_close(in_twos.images, together.images, GRADIENT_TOLERANCE, "in twos")
    for place, objective in enumerate(wanted):
        alone = run(differentiable, objective)
        assert_close(alone.images[0], together.images[place], GRADIENT_TOLERANCE, str(objective))
        assert_close(alone.history[:, 0], together.history[:, place], 1e-4, str(objective))


def test_the_same_seed_gives_the_same(differentiable: Backend) -> None:
    first, second = run(differentiable), run(differentiable)
    np.testing.assert_array_equal(first.images, second.images)
    other = tiny(differentiable, random_state=1).visualize(1, steps=STEPS)
    assert not np.allclose(first.images, other.images)
    generator = np.random.default_rng(0)
    drawn_from = [
        tiny(differentiable, random_state=generator).visualize(1, steps=1) for _ in range(2)
    ]
    assert not np.allclose(drawn_from[0].images, drawn_from[1].images)


def test_global_randomness_is_left_alone(differentiable: Backend) -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    run(differentiable)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


# ---- from pictures, in sizes -------------------------------------------------------------


def test_from_pictures(differentiable: Backend, tmp_path: Path) -> None:
    photos = colored([0, 1, 2])
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    settings = {
        "steps": 1,
        "parametrization": "pixels",
        "optimizer": Adam(1e-6),
        "transforms": (),
    }
    found = run(differentiable, 1, start=photos, **settings)
    np.testing.assert_allclose(found.images, np.stack(photos) / 255, atol=1e-5)
    found = run(differentiable, [0, 1], start=tmp_path / "photo.png", **settings)
    np.testing.assert_allclose(found.images, np.stack([photos[0]] * 2) / 255, atol=1e-5)
    with pytest.raises(ShapeError, match="3 pictures to start from, for 2 objectives"):
        run(differentiable, [0, 1], start=photos, **settings)
    with pytest.raises(DatasetError, match=r"photo\.jpg"):
        run(differentiable, 1, start=tmp_path / "photo.jpg", **settings)


def test_sizes_and_octaves(differentiable: Backend) -> None:
    assert run(differentiable, size=23).images.shape == (1, 23, 23, 3)
    found = run(differentiable, o.Layer("conv2"), size=40, octaves=3, steps=7)
    assert found.images.shape == (1, 40, 40, 3)
    assert found.history.shape == (7, 1)
    assert found.frames.shape == (7, 1, 40, 40, 3)
    photo = np.random.default_rng(0).random((32, 48, 3), np.float32)
    settings = {"start": photo, "steps": 3, "octaves": 3, "parametrization": "pixels"}
    found = tiny(differentiable).visualize(
        o.Layer("conv2"), size=32, optimizer=Adam(1e-6), transforms=(), **settings
    )
    # What shrinking took away has come back.
    np.testing.assert_allclose(found.images[0], photo[:, 8:-8], atol=1e-4)
    with pytest.raises(ShapeError, match="use fewer octaves"):
        run(differentiable, octaves=4)
    with pytest.raises(ValueError, match="4 steps are not enough for 5 octaves"):
        run(differentiable, octaves=5, size=64)


def test_the_usual_octaves(differentiable: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three from noise, as far as there are steps, pixels and places; else one."""
    sizes = []
    parameters = Pixels.parameters
    monkeypatch.setattr(
        Pixels,
        "parameters",
        lambda self, images: (sizes.append(images.shape[1]), parameters(self, images))[1],
    )

    def seen(wanted: Any, **settings: Any) -> list[int]:
        sizes.clear()
        run(differentiable, wanted, parametrization="pixels", **{"size": 32, **settings})
        return list(sizes)

    assert seen([0, o.Class(1)]) == [23, 32]
    assert seen(0, octaves=1) == []
    assert seen(0, steps=2) == [32]
    assert seen(0, steps=1) == []
    assert seen(0, size=12) == [12]
    assert seen(0, size=10) == []
    assert seen([0, o.Layer("conv2")]) == [23, 32]
    assert seen(o.Neuron("conv2", 0, row=6)) == []
    assert seen(0, start=colored([0])[0]) == [32]


def test_a_size_goes_before_the_preprocessings_own(differentiable: Backend) -> None:
    photo = np.random.default_rng(0).random((40, 40, 3), np.float32)
    optimizer = tiny(differentiable, preprocessing=Preprocessing(SIDE, resize=24))
    found = optimizer.visualize(
        1,
        start=photo,
        size=40,
        steps=1,
        parametrization="pixels",
        optimizer=Adam(1e-6),
        transforms=(),
    )
    np.testing.assert_allclose(found.images[0], photo, atol=1e-5)


def test_a_network_of_a_fixed_size(differentiable: Backend) -> None:
    builder = NetworkBuilder("fixed", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 4, size=3)
    x = builder.add_node("embedding", "flatten", x)
    builder.linear("logits", x, 4 * 36, 3)
    network = builder.build()
    optimizer = ImageOptimizer(
        network, weights=random_weights(network, 0), backend=differentiable, progress=False
    )
    assert optimizer.visualize(1, steps=1, transforms=[Pad(2), Jitter(2)]).images.shape[1] == 8
    with pytest.raises(ShapeError, match="fixed accepts only 8 x 8 images, not 9 x 9"):
        optimizer.visualize(1, steps=1, size=9)
    # Layers before the one that fixes the size take any.
    assert optimizer.visualize(o.Layer("conv"), steps=1, size=9).images.shape[1] == 9


def test_a_fitted_classifier(differentiable: Backend) -> None:
    classifier = tiny_classifier(backend=differentiable, progress=False)
    classifier.fit(colored([0, 1] * 6), ["red", "green"] * 6)
    optimizer = ImageOptimizer(classifier, backend=differentiable, progress=False)
    found = optimizer.visualize(["green", "red"], steps=40)
    assert found.targets == (0, 1)
    images = np.rint(found.images * 255).astype(np.uint8)
    expected = np.diag(classifier.predict_proba(images))
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)
    assert (found.history[-1] < found.history[0]).all()
    classifier.fit(colored([0, 1] * 6), [7, 3] * 6)
    assert optimizer.resolve_class(7) == 1
    with pytest.raises(UnknownNameError, match="unknown class 1"):
        optimizer.visualize(1)
    with pytest.raises(TypeError, match="its own weights"):
        ImageOptimizer(classifier, weights="any", backend=differentiable).resolve_class(7)


def test_a_model_of_ones_own(differentiable: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    # The framework's own object says what runs it, whatever runs other networks.
    monkeypatch.setenv("TRANSFERKIT_BACKEND", "onnxruntime")
    theirs = tiny_extractor(backend=differentiable).to_native()
    as_it_is = Preprocessing(SIDE)
    if differentiable.name == "torch":
        theirs.eval()  # type: ignore[attr-defined]
    optimizer = ImageOptimizer(theirs, preprocessing=as_it_is, progress=False)
    found = optimizer.visualize([0, 2], steps=STEPS, transforms=())
    expected = run(differentiable, [0, 2], transforms=())
    assert_close(found.images, expected.images, GRADIENT_TOLERANCE, what="images")
    picture = colored([0])[0]
    attacked = optimizer.attack(picture, target=2, method="fmn", norm="l2")
    assert attacked.success.all()
    assert optimizer.transfer(attacked, differentiable.name).rate == 1
    classifier = Classifier(theirs, preprocessing=as_it_is, progress=False)
    classifier.fit(colored([0, 1] * 6), ["red", "green"] * 6)
    again = ImageOptimizer(classifier, progress=False).visualize("green", steps=STEPS)
    assert again.labels == ("green",)
    with pytest.raises(UnsupportedError, match="only"):
        optimizer.transfer(attacked, "onnxruntime")


# ---- what goes wrong ---------------------------------------------------------------------


def test_what_is_not_there_is_told_before_any_work(differentiable: Backend) -> None:
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
    with pytest.raises(TypeError, match="regularizers"):
        run(differentiable, regularizers=["total variation"])
    with pytest.raises(ValueError, match="empty"):
        run(differentiable, [])
    with pytest.raises(TypeError, match="a class is given by its name"):
        run(differentiable, None)
    with pytest.raises(ShapeError, match="7 x 7 are too small"):
        run(differentiable, size=7)


def test_classes_of_any_type(differentiable: Backend) -> None:
    assert run(differentiable, np.int64(2), steps=1).targets == (2,)
    assert run(differentiable, np.array([2, 0]), steps=1).targets == (2, 0)
    classifier = tiny_classifier(backend=differentiable, progress=False)
    classifier.fit(colored([0, 1] * 6), [0.5, 2.5] * 6)
    optimizer = ImageOptimizer(classifier, backend=differentiable, progress=False)
    assert optimizer.visualize(2.5, steps=1).targets == (1,)


def test_names_of_imagenet(differentiable: Backend) -> None:
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


def test_a_backend_without_gradients(backend: Backend) -> None:
    if GRADIENTS in backend.capabilities:
        assert tiny(backend).resolve_class(2) == 2
        return
    with pytest.raises(UnsupportedError, match=r"'torch' and 'tensorflow' can: pip install"):
        run(backend)


def test_no_number(differentiable: Backend) -> None:
    layer = o.Layer("conv2")
    usual = -run(differentiable, layer, steps=6, transforms=()).history[:, 0]
    assert (np.diff(usual) > 0).all()
    # Passed between the steps 3 and 4.
    bound = float(usual[3:5].mean())

    def left(table: Any, found: Any) -> Any:
        x = found["conv2"]
        gone = table.mean(table.multiply(x, x), axes=(1, 2, 3))
        return table.log(table.subtract(table.asarray(bound), gone))

    with pytest.raises(NotFiniteError, match=r"the loss of 'conv2.* at step 4"):
        run(differentiable, [1, layer + 1e-7 * o.Custom(left, ["conv2"])], steps=6, transforms=())


def test_no_derivative(differentiable: Backend) -> None:
    def root_of_nothing(table: Any, found: Any) -> Any:
        nothing = table.multiply(found["conv2"], table.asarray(0.0))
        return table.sqrt(table.sum(table.multiply(nothing, nothing), axes=(1, 2, 3)))

    with pytest.raises(NotFiniteError, match=r"the gradient of the loss of 'root_of.* at step 0"):
        run(differentiable, o.Custom(root_of_nothing, ["conv2"]), octaves=1)


def test_interrupted(differentiable: Backend) -> None:
    calls = itertools.count()

    class Interrupting(Jitter):
        def sample(self, generator: np.random.Generator) -> Any:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return super().sample(generator)

    found = run(differentiable, [0, 1], steps=9, transforms=[Interrupting(1)], octaves=1)
    assert found.interrupted
    assert "interrupted" in repr(found)
    assert found.history.shape == (2, 2)
    expected = tiny(differentiable).visualize(
        [0, 1], steps=9, transforms=[Jitter(1)], frames=9, octaves=1
    )
    np.testing.assert_array_equal(found.history, expected.history[:2])
    np.testing.assert_array_equal(np.rint(found.images * 255), expected.frames[1])


# ---- the result --------------------------------------------------------------------------


def robustness(backend: Backend, image: Any, target: int) -> float:
    """As the docstring has it, by SciPy's interpolation."""
    generator = np.random.default_rng(0)
    jitter, scale, rotate = Jitter(1), Scale(1 / 1.1, 1.1), Rotate(10)
    middle = (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(SIDE) - middle] * 2, [1.0], indexing="ij"))[..., 0]
    picture = np.rint(image.astype(np.float64) * 255) / 255
    views = []
    for _ in range(32):
        matrices = [part.sample(generator) for part in (jitter, scale, rotate)]
        rows, columns, _ = (
            np.tensordot(matrices[0] @ matrices[1] @ matrices[2], grid, axes=1) + middle
        )
        seen = [
            map_coordinates(picture[..., channel], [rows, columns], order=1, mode="nearest")
            for channel in range(3)
        ]
        views.append(np.stack(seen, axis=-1))
    program, _ = tiny(backend)._load()
    logits = program.run(np.stack(views).astype(np.float32), ["logits"])["logits"]
    return float(softmax(logits, axis=1)[:, target].mean())


def test_how_good_it_is(differentiable: Backend) -> None:
    found = run(differentiable, [1, o.Layer("conv2")], steps=20)
    assert 0 < found.probability[0] <= 1
    assert 0 < found.robustness[0] <= 1
    assert np.isnan(found.probability[1])
    assert np.isnan(found.robustness[1])
    assert found.robustness[0] != found.probability[0]
    np.testing.assert_allclose(
        found.robustness[0], robustness(differentiable, found.images[0], 1), rtol=1e-4
    )
    again = run(differentiable, [1, o.Layer("conv2")], steps=20)
    np.testing.assert_array_equal(found.robustness, again.robustness)
    differences = [np.abs(np.diff(found.images[0], axis=axis)).ravel() for axis in (0, 1)]
    expected = np.concatenate(differences).mean()
    np.testing.assert_allclose(found.total_variation[0], expected, rtol=1e-5)


def test_files(differentiable: Backend, tmp_path: Path) -> None:
    found = run(differentiable, [0, 1, 2])
    assert not list(tmp_path.iterdir())
    found.save(tmp_path / "grid.png")
    found.animation(tmp_path / "way.gif")
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "way.gif"}
    with Image.open(tmp_path / "way.gif") as animation:
        assert animation.n_frames == STEPS
        durations = []
        for frame in range(STEPS):
            animation.seek(frame)
            durations.append(animation.info["duration"])
        # Four seconds for all, and the last one more.
        assert durations == [1000, 1000, 1000, 2000]
    one = run(differentiable, 0)
    one.save(tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.rint(one.images[0] * 255))
    with pytest.raises(OutputError, match=r"\.png"):
        found.save(tmp_path / "grid.bmp2")
    with pytest.raises(OutputError, match="gif"):
        found.animation(tmp_path / "way.png")
    with pytest.raises(ValueError, match="frames=24"):
        run(differentiable, frames=0).animation(tmp_path / "none.gif")


def test_it_is_seen_that_something_goes_on(
    differentiable: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny(differentiable, progress=True).visualize(1, steps=STEPS)
    assert "4/4" in capsys.readouterr().err
    run(differentiable)
    assert capsys.readouterr() == ("", "")


def test_with_the_frameworks_own_tensors(differentiable: Backend) -> None:
    """An objective may use what tensors can do by themselves."""
    own = o.Custom(lambda _, found: (found["embedding"] ** 2)[:, 0], ["embedding"])
    over_table = o.Custom(
        lambda table, found: table.mean(
            table.slice(
                table.multiply(found["embedding"], found["embedding"]), axis=1, start=0, stop=1
            ),
            axes=(1,),
        ),
        ["embedding"],
    )
    found = run(differentiable, [own, over_table], parametrization=Fourier(decorrelated=False))
    assert_close(found.images[:1], found.images[1:], GRADIENT_TOLERANCE, "written in two ways")


def test_zebra(differentiable: Backend) -> None:
    """End to end with real weights; the full number of steps is for the documentation."""
    optimizer = ImageOptimizer("mobilenet_v2", backend=differentiable, progress=False)
    found = optimizer.visualize("zebra", steps=90, size=128)
    assert found.labels == ("zebra",)
    assert found.probability[0] > 0.5
