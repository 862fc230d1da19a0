"""The steps of a run, compared with the same computation in NumPy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import NETWORK, SIDE, WEIGHTS

from transferkit import ImageOptimizer, Preprocessing
from transferkit.backends import Backend, Program
from transferkit.errors import NoGradientError, NotFiniteError, ShapeError
from transferkit.optimization import objectives as o
from transferkit.optimization.visualization import Fourier, IdealImages, Jitter, Pixels
from transferkit.testing.conformance import assert_close
from transferkit.training import Adam, NormalizedGradientDescent, NormalizedMomentum, Optimizer

ZERO = 0.0 * o.Class(0)
STEPS = 4
IMAGE = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)


class PixelSum(o.Regularizer):
    """The sum of the pixels, whose gradient is 1 everywhere."""

    def evaluate(self, table: Any, images: Any, start: Any) -> Any:  # noqa: ARG002
        return table.sum(images, axes=(1, 2, 3))


class InterruptedPixels(Pixels):
    """Raises KeyboardInterrupt the second time that images are converted to parameters."""

    def __init__(self) -> None:
        object.__setattr__(self, "calls", itertools.count(1))
        super().__init__()

    def parameters(self, images: Any) -> Any:
        if next(self.calls) == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return super().parameters(images)


def visualize(backend: Backend, objectives: Any = ZERO, **settings: Any) -> IdealImages:
    batch_size = settings.pop("batch_size", 32)
    optimizer = ImageOptimizer(
        NETWORK,
        weights=WEIGHTS,
        preprocessing=Preprocessing(NETWORK.input_size),
        backend=backend,
        batch_size=batch_size,
        progress=False,
    )
    settings = {"parametrization": "pixels", "transforms": (), "steps": STEPS, **settings}
    return optimizer.visualize(objectives, **settings)


# ---- the steps ---------------------------------------------------------------------------


def optimize_in_numpy(
    backend: Backend, optimizer: Optimizer, translations: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Maximize the logit of class 1 from IMAGE with translations; return the image and losses."""
    load = Program(backend, NETWORK, WEIGHTS).load(["logits"])
    table = backend.table
    gradient_of = backend.compile(
        backend.value_and_grad(
            lambda x: table.sum(table.slice(load(x)["logits"], axis=1, start=1, stop=2), axes=(1,))
        )
    )
    x = IMAGE.astype(np.float64)
    velocity, mean, square = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    losses = []
    for step, translation in enumerate(translations):
        rows, columns = (np.clip(np.arange(SIDE) + pixels, 0, SIDE - 1) for pixels in translation)
        indices = np.ix_(rows, columns)
        result = gradient_of(x[indices][None].astype(np.float32))
        losses.append(-float(result["value"][0]))
        gradient = np.zeros_like(x)
        np.add.at(gradient, indices, -result["gradient"][0].astype(np.float64))
        learning_rate = optimizer.learning_rate_at(step, len(translations))
        if isinstance(optimizer, Adam):
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            x = x - learning_rate * mean / (1 - 0.9 ** (step + 1)) / root
        else:
            momentum = optimizer.momentum if isinstance(optimizer, NormalizedMomentum) else 0.0
            velocity = momentum * velocity + gradient / np.sqrt((gradient**2).mean())
            x = x - learning_rate * velocity
        x = np.clip(x, 0, 1)
    return x, losses


@pytest.mark.parametrize(
    "optimizer",
    [NormalizedGradientDescent(0.05), NormalizedMomentum(0.05, "cosine"), Adam(0.05, "linear")],
    ids=["gradient descent", "momentum", "adam"],
)
def test_run_matches_numpy(differentiable: Backend, optimizer: Optimizer) -> None:
    translations: list[npt.NDArray[np.int64]] = []

    class RecordedJitter(Jitter):
        def sample(self, generator: np.random.Generator) -> Any:
            matrix = super().sample(generator)
            translations.append(matrix[:2, 2].astype(np.int64))
            return matrix

    ideal = visualize(
        differentiable, o.Class(1), start=IMAGE, optimizer=optimizer, transforms=[RecordedJitter(3)]
    )
    assert len(translations) == STEPS
    assert len(set(map(tuple, translations))) > 1
    image, losses = optimize_in_numpy(differentiable, optimizer, np.array(translations))
    assert_close(ideal.history[:, 0], np.array(losses), 1e-4, "losses")
    np.testing.assert_allclose(ideal.images[0], image, atol=2e-4)


def test_noise_and_transforms_depend_on_the_seed(differentiable: Backend) -> None:
    first, second = (
        ImageOptimizer(
            NETWORK,
            weights=WEIGHTS,
            preprocessing=Preprocessing(NETWORK.input_size),
            backend=differentiable,
            random_state=seed,
            progress=False,
        )
        for seed in (0, 1)
    )
    noise = [optimizer.visualize(ZERO, steps=1).images for optimizer in (first, second)]
    assert not np.allclose(noise[0], noise[1], atol=1e-3)
    settings: dict[str, Any] = {"start": IMAGE, "steps": 1, "transforms": [Jitter(4)]}
    losses = [optimizer.visualize(1, **settings).history for optimizer in (first, second)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_octaves_reset_the_slots_but_not_the_schedule(differentiable: Backend) -> None:
    """Each step of Adam has the size of the learning rate, also in later octaves."""
    gray = np.full((32, 32, 3), 0.5, np.float32)
    settings: dict[str, Any] = {"start": gray, "size": 32, "regularizers": [PixelSum()]}
    for octaves in (1, 3):
        for schedule, total in (("constant", 9.0), ("linear", 5.0)):
            ideal = visualize(
                differentiable,
                optimizer=Adam(0.01, schedule),
                steps=9,
                octaves=octaves,
                **settings,
            )
            np.testing.assert_allclose(ideal.images, 0.5 - 0.01 * total, atol=1e-5)


@pytest.mark.parametrize("start", [0.25 + 0.5 * IMAGE, None], ids=["image", "noise"])
def test_octaves_continue_from_the_images_before(differentiable: Backend, start: Any) -> None:
    """After one step the distance to the start of the first octave is 0.01 per pixel."""
    histories = [
        visualize(
            differentiable,
            start=start,
            size=SIDE,
            regularizers=regularizers,
            optimizer=NormalizedGradientDescent(0.01),
            steps=2,
            octaves=2,
        ).history
        for regularizers in ([PixelSum()], [PixelSum(), o.DistanceToStart(100.0)])
    ]
    expected = 100 * SIDE * SIDE * 3 * 0.01**2
    np.testing.assert_allclose(histories[1] - histories[0], [[0], [expected]], rtol=1e-3, atol=1e-3)


def test_batches_share_one_compiled_step(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    compile_tensors = differentiable.compile_tensors

    def counted(function: Any) -> Any:
        compiled.append(function)
        return compile_tensors(function)

    monkeypatch.setattr(differentiable, "compile_tensors", counted)
    visualize(differentiable, o.Class(1), start=[IMAGE] * 7, batch_size=2, steps=2)
    # The step, and the function from parameters to images.
    assert len(compiled) == 2


# ---- errors ---------------------------------------------------------------------


def test_values_that_are_not_one_per_image_are_rejected(differentiable: Backend) -> None:
    for axes in ((0, 1, 2, 3), (1, 2), (0, 2, 3)):

        def wrong(table: Any, activations: Any, axes: Any = axes) -> Any:
            return table.sum(activations["conv2"], axes=axes)

        class Wrong(o.Regularizer):
            def evaluate(self, table: Any, images: Any, start: Any, axes: Any = axes) -> Any:  # noqa: ARG002
                return table.sum(images, axes=axes)

        for number in (1, 5):
            custom = [o.Custom(wrong, ["conv2"])] * number
            with pytest.raises(ShapeError, match="objective wrong returned shape"):
                visualize(differentiable, custom)
            with pytest.raises(ShapeError, match="objective wrong returned shape"):
                visualize(differentiable, [1, o.Layer("conv1") + 0.5 * custom[0]])
            with pytest.raises(ShapeError, match="regularizer Wrong returned shape"):
                visualize(differentiable, [1] * number, regularizers=[Wrong()])


def test_objective_without_gradient_is_rejected(differentiable: Backend) -> None:
    def detached(_: Any, activations: Any) -> Any:
        x = activations["embedding"]
        if differentiable.name == "torch":
            return x.detach()[:, 0]
        import tensorflow as tf

        return tf.stop_gradient(x)[:, 0]

    with pytest.raises(NoGradientError, match="'detached': the loss has no gradient"):
        visualize(differentiable, o.Custom(detached, ["embedding"]))


def test_learning_rate_that_is_not_finite_is_rejected(differentiable: Backend) -> None:
    optimizer = Adam(0.1, lambda fraction: float("nan") if fraction > 0.7 else 1.0)
    with pytest.raises(NotFiniteError, match="the schedule makes the learning rate nan at step 3"):
        visualize(differentiable, 1, optimizer=optimizer)


def test_images_that_are_not_finite_are_rejected(differentiable: Backend) -> None:
    """Also after the last step, which no loss follows."""
    for steps in (1, 2):
        with pytest.raises(NotFiniteError, match=r"of 'class 1' is .*step \d"):
            visualize(
                differentiable,
                1,
                steps=steps,
                optimizer=Adam(3e38),
                parametrization=Fourier(),
            )


def test_interruption_between_octaves(differentiable: Backend) -> None:
    settings: dict[str, Any] = {"start": IMAGE, "size": SIDE, "steps": 6, "frames": 2}
    ideal = visualize(differentiable, 1, octaves=2, parametrization=InterruptedPixels(), **settings)
    assert ideal.interrupted
    assert ideal.history.shape == (3, 1)
    assert ideal.images.shape == (1, SIDE, SIDE, 3)
    assert len(ideal.frames) == 1
    np.testing.assert_array_equal(ideal.frames[-1], np.rint(ideal.images * 255))


def test_interruption_before_the_first_octave_is_raised(differentiable: Backend) -> None:
    class InterruptedAtOnce(Pixels):
        def parameters(self, images: Any) -> Any:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        visualize(differentiable, 1, start=IMAGE, parametrization=InterruptedAtOnce())


def test_interruption_in_a_smaller_octave_restores_lost_detail(differentiable: Backend) -> None:
    calls = itertools.count(1)

    class InterruptedJitter(Jitter):
        def sample(self, generator: np.random.Generator) -> Any:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return super().sample(generator)

    ideal = visualize(
        differentiable,
        o.Layer("conv2"),
        start=IMAGE,
        steps=30,
        octaves=2,
        optimizer=Adam(1e-6),
        transforms=[InterruptedJitter(1)],
        frames=3,
    )
    assert ideal.interrupted
    np.testing.assert_allclose(ideal.images[0], IMAGE, atol=1e-4)
    # No frame was due yet, but the result is always recorded as the last one.
    assert len(ideal.frames) == 1
    np.testing.assert_array_equal(ideal.frames[-1], np.rint(ideal.images * 255))
