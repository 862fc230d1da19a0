"""Step by step: what a run does, against the same written out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from samples import NETWORK, SIDE, WEIGHTS

from transferkit import ImageOptimizer
from transferkit.backends import Backend, Program
from transferkit.errors import NoGradientError, NotFiniteError, ShapeError
from transferkit.optimization import objectives as o
from transferkit.optimization.visualization import Fourier, IdealImages, Jitter, Pixels
from transferkit.testing.conformance import assert_close
from transferkit.training import Adam, NormalizedGradientDescent, NormalizedMomentum, Optimizer

NOTHING = 0.0 * o.Class(0)
STEPS = 4
PHOTO = np.random.default_rng(0).random((SIDE, SIDE, 3), np.float32)


class Slope(o.Regularizer):
    """Its derivative is 1 everywhere."""

    def evaluate(self, table: Any, images: Any, start: Any) -> Any:  # noqa: ARG002
        return table.sum(images, axes=(1, 2, 3))


class Interrupting(Pixels):
    """Ctrl-C comes when pictures are made parameters for the second time."""

    def __init__(self) -> None:
        object.__setattr__(self, "calls", itertools.count(1))
        super().__init__()

    def parameters(self, images: Any) -> Any:
        if next(self.calls) == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return super().parameters(images)


def visualize(backend: Backend, objectives: Any = NOTHING, **settings: Any) -> IdealImages:
    batch_size = settings.pop("batch_size", 32)
    optimizer = ImageOptimizer(
        NETWORK, weights=WEIGHTS, backend=backend, batch_size=batch_size, progress=False
    )
    settings = {"parametrization": "pixels", "transforms": (), "steps": STEPS, **settings}
    return optimizer.visualize(objectives, **settings)


# ---- the steps ---------------------------------------------------------------------------


def written_out(
    backend: Backend, optimizer: Optimizer, shifts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Pictures and losses of a run for the logit of class 1 from PHOTO, each step shifted."""
    load = Program(backend, NETWORK, WEIGHTS).load(["logits"])
    table = backend.table
    gradient_of = backend.compile(
        backend.value_and_grad(
            lambda x: table.sum(table.slice(load(x)["logits"], axis=1, start=1, stop=2), axes=(1,))
        )
    )
    x = PHOTO.astype(np.float64)
    velocity, mean, square = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    losses = []
    for step, shift in enumerate(shifts):
        rows, columns = (np.clip(np.arange(SIDE) + by, 0, SIDE - 1) for by in shift)
        place = np.ix_(rows, columns)
        found = gradient_of(x[place][None].astype(np.float32))
        losses.append(-float(found["value"][0]))
        gradient = np.zeros_like(x)
        np.add.at(gradient, place, -found["gradient"][0].astype(np.float64))
        rate = optimizer.learning_rate_at(step, len(shifts))
        if isinstance(optimizer, Adam):
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            root = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
            x = x - rate * mean / (1 - 0.9 ** (step + 1)) / root
        else:
            keep = optimizer.momentum if isinstance(optimizer, NormalizedMomentum) else 0.0
            velocity = keep * velocity + gradient / np.sqrt((gradient**2).mean())
            x = x - rate * velocity
        x = np.clip(x, 0, 1)
    return x, losses


@pytest.mark.parametrize(
    "optimizer",
    [NormalizedGradientDescent(0.05), NormalizedMomentum(0.05, "cosine"), Adam(0.05, "linear")],
    ids=["gradient descent", "momentum", "adam"],
)
def test_as_written_out(differentiable: Backend, optimizer: Optimizer) -> None:
    drawn: list[npt.NDArray[np.int64]] = []

    class Noted(Jitter):
        def draw(self, generator: np.random.Generator) -> Any:
            found = super().draw(generator)
            drawn.append(found[:2, 2].astype(np.int64))
            return found

    found = visualize(
        differentiable, o.Class(1), start=PHOTO, optimizer=optimizer, transforms=[Noted(3)]
    )
    assert len(drawn) == STEPS
    assert len({tuple(shift) for shift in drawn}) > 1
    images, losses = written_out(differentiable, optimizer, np.array(drawn))
    assert_close(found.history[:, 0], np.array(losses), 1e-4, "losses")
    np.testing.assert_allclose(found.images[0], images, atol=2e-4)


def test_a_seed_gives_other_draws(differentiable: Backend) -> None:
    """Of the noise to begin with, and of the transforms."""
    first, second = (
        ImageOptimizer(NETWORK, weights=WEIGHTS, backend=differentiable, seed=seed, progress=False)
        for seed in (0, 1)
    )
    noise = [optimizer.visualize(NOTHING, steps=1).images for optimizer in (first, second)]
    assert not np.allclose(noise[0], noise[1], atol=1e-3)
    settings: dict[str, Any] = {"start": PHOTO, "steps": 1, "transforms": [Jitter(4)]}
    losses = [optimizer.visualize(1, **settings).history for optimizer in (first, second)]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_octaves_take_steps_of_the_same_size(differentiable: Backend) -> None:
    """What Adam keeps begins anew in each octave; the schedule goes on."""
    grey = np.full((32, 32, 3), 0.5, np.float32)
    settings: dict[str, Any] = {"start": grey, "size": 32, "regularizers": [Slope()]}
    for octaves in (1, 3):
        for schedule, rates in (("constant", 9.0), ("linear", 5.0)):
            found = visualize(
                differentiable,
                optimizer=Adam(0.01, schedule),
                steps=9,
                octaves=octaves,
                **settings,
            )
            np.testing.assert_allclose(found.images, 0.5 - 0.01 * rates, atol=1e-5)


@pytest.mark.parametrize("start", [0.25 + 0.5 * PHOTO, None], ids=["photo", "noise"])
def test_octaves_go_on_with_the_pictures_before(differentiable: Backend, start: Any) -> None:
    """And the second knows where the first began, which one step has left by 0.01."""
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
        for regularizers in ([Slope()], [Slope(), o.DistanceToStart(100.0)])
    ]
    expected = 100 * SIDE * SIDE * 3 * 0.01**2
    np.testing.assert_allclose(histories[1] - histories[0], [[0], [expected]], rtol=1e-3, atol=1e-3)


def test_batches_share_what_is_compiled(
    differentiable: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    compile_tensors = differentiable.compile_tensors

    def counted(function: Any) -> Any:
        compiled.append(function)
        return compile_tensors(function)

    monkeypatch.setattr(differentiable, "compile_tensors", counted)
    visualize(differentiable, o.Class(1), start=[PHOTO] * 7, batch_size=2, steps=2)
    # The step, and the pictures made of parameters.
    assert len(compiled) == 2


# ---- what goes wrong ---------------------------------------------------------------------


def test_values_that_are_not_one_for_each_picture(differentiable: Backend) -> None:
    for axes in ((0, 1, 2, 3), (1, 2), (0, 2, 3)):

        def wrong(table: Any, found: Any, axes: Any = axes) -> Any:
            return table.sum(found["conv2"], axes=axes)

        class Wrong(o.Regularizer):
            def evaluate(self, table: Any, images: Any, start: Any, axes: Any = axes) -> Any:  # noqa: ARG002
                return table.sum(images, axes=axes)

        for number in (1, 5):
            custom = [o.Custom(wrong, ["conv2"])] * number
            with pytest.raises(ShapeError, match="objective wrong gives shape"):
                visualize(differentiable, custom)
            with pytest.raises(ShapeError, match="objective wrong gives shape"):
                visualize(differentiable, [1, o.Layer("conv1") + 0.5 * custom[0]])
            with pytest.raises(ShapeError, match="regularizer Wrong gives shape"):
                visualize(differentiable, [1] * number, regularizers=[Wrong()])


def test_no_gradient(differentiable: Backend) -> None:
    def cut_off(_: Any, found: Any) -> Any:
        x = found["embedding"]
        if differentiable.name == "torch":
            return x.detach()[:, 0]
        import tensorflow as tf

        return tf.stop_gradient(x)[:, 0]

    with pytest.raises(NoGradientError, match="'cut_off': nothing of this has a derivative"):
        visualize(differentiable, o.Custom(cut_off, ["embedding"]))


def test_a_rate_that_is_no_number(differentiable: Backend) -> None:
    optimizer = Adam(0.1, lambda done: float("nan") if done > 0.7 else 1.0)
    with pytest.raises(NotFiniteError, match="the schedule makes the learning rate nan at step 3"):
        visualize(differentiable, 1, optimizer=optimizer)


def test_pictures_that_are_no_numbers(differentiable: Backend) -> None:
    """The last step's no loss tells of."""
    for steps in (1, 2):
        with pytest.raises(NotFiniteError, match=r"step \d.*'class 1'"):
            visualize(
                differentiable,
                1,
                steps=steps,
                optimizer=Adam(3e38),
                parametrization=Fourier(),
            )


def test_interrupted_between_octaves(differentiable: Backend) -> None:
    settings: dict[str, Any] = {"start": PHOTO, "size": SIDE, "steps": 6, "frames": 2}
    found = visualize(differentiable, 1, octaves=2, parametrization=Interrupting(), **settings)
    assert found.interrupted
    assert found.history.shape == (3, 1)
    assert found.images.shape == (1, SIDE, SIDE, 3)
    assert len(found.frames) == 1
    np.testing.assert_array_equal(found.frames[-1], np.rint(found.images * 255))


def test_interrupted_before_there_is_anything(differentiable: Backend) -> None:
    class AtOnce(Pixels):
        def parameters(self, images: Any) -> Any:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        visualize(differentiable, 1, start=PHOTO, parametrization=AtOnce())


def test_an_interrupted_dream_is_as_sharp_as_the_photo(differentiable: Backend) -> None:
    calls = itertools.count(1)

    class Late(Jitter):
        def draw(self, generator: np.random.Generator) -> Any:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return super().draw(generator)

    found = visualize(
        differentiable,
        o.Layer("conv2"),
        start=PHOTO,
        steps=30,
        octaves=2,
        optimizer=Adam(1e-6),
        transforms=[Late(1)],
        frames=3,
    )
    assert found.interrupted
    np.testing.assert_allclose(found.images[0], PHOTO, atol=1e-4)
    # Few frames were asked for, and none was due; the last is the result all the same.
    assert len(found.frames) == 1
    np.testing.assert_array_equal(found.frames[-1], np.rint(found.images * 255))
