from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from transferkit.backends import Backend
from transferkit.optimization.visualization import Affine, Jitter, Pad, Rotate, Scale, Transform
from transferkit.optimization.visualization.transforms import TransformChain
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, assert_close

SIZE = (9, 12)
IMAGES = np.random.default_rng(0).random((2, *SIZE, 3), np.float32)
CHAINS: dict[str, list[Transform]] = {
    "none": [],
    "jitter": [Jitter(3)],
    "all": [Pad(2, 0.25), Jitter(3), Scale(0.8, 1.25), Rotate(20), Jitter(1)],
    "padded late": [Rotate(20), Pad(3), Scale(0.5, 0.6)],
}


class Fixed(Affine):
    """Always the same."""

    def __init__(self, matrix: npt.ArrayLike) -> None:
        self.matrix = np.asarray(matrix, np.float64)

    def draw(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:  # noqa: ARG002
        return self.matrix


def run(transforms: list[Transform], images: Any = IMAGES, seed: int = 0) -> npt.NDArray[Any]:
    chain = TransformChain(transforms)
    drawn = chain.draw(np.random.default_rng(seed))
    return np.asarray(chain.bind(ReferenceTable(), *SIZE)(images, drawn))


@pytest.mark.parametrize("name", CHAINS)
def test_the_same_everywhere(backend: Backend, name: str) -> None:
    chain = TransformChain(CHAINS[name])
    change = chain.bind(backend.table, *SIZE)
    compiled = backend.compile(lambda images, *drawn: change(images, drawn))
    for seed in range(3):
        drawn = chain.draw(np.random.default_rng(seed))
        assert len(drawn) == chain.number
        found = compiled(IMAGES, *(numbers.astype(np.float32) for numbers in drawn))
        expected = run(CHAINS[name], seed=seed)
        assert found.shape == IMAGES.shape
        # Positions in float32 are off by less than a millionth of the picture.
        assert_close(found, expected, ACTIVATION_TOLERANCE, name)


def test_jitter_shifts_by_whole_pixels() -> None:
    shift = [[1, 0, 2], [0, 1, -3], [0, 0, 1]]
    found = run([Fixed(shift)])
    np.testing.assert_allclose(found[:, :-2, 3:], IMAGES[:, 2:, :-3], atol=1e-7)
    np.testing.assert_allclose(found[:, -1, 3:], IMAGES[:, -1, :-3], atol=1e-7)
    drawn = np.array([Jitter(2).draw(np.random.default_rng(seed))[:2, 2] for seed in range(200)])
    assert set(drawn.ravel().tolist()) == {-2, -1, 0, 1, 2}
    assert not np.array_equal(drawn[:, 0], drawn[:, 1])


def test_a_quarter_turn() -> None:
    square = IMAGES[:, :, :9]
    chain = TransformChain([Fixed([[0, -1, 0], [1, 0, 0], [0, 0, 1]])])
    found = chain.bind(ReferenceTable(), 9, 9)(square, chain.draw(np.random.default_rng(0)))
    np.testing.assert_allclose(found, np.rot90(square, -1, axes=(1, 2)), atol=1e-7)


def test_magnifying_looks_at_the_middle() -> None:
    ramp = np.broadcast_to(np.arange(9.0)[:, None, None], (1, *SIZE, 3))
    found = run([Scale(2.0, 2.0)], ramp)
    np.testing.assert_allclose(found[0, :, 0, 0], 4 + (np.arange(9) - 4) / 2)


def test_rotations_fill_their_range() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([Rotate(30).draw(generator) for _ in range(2000)])
    turns = drawn[:, :2, :2]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), [np.eye(2)] * 2000, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    np.testing.assert_array_equal(drawn[:, 2], [[0, 0, 1]] * 2000)
    np.testing.assert_array_equal(drawn[:, :2, 2], 0)
    degrees = np.rad2deg(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
    np.testing.assert_allclose(np.quantile(degrees, [0, 0.5, 1]), [-30, 0, 30], atol=3)


def test_scales_fill_their_range() -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([Scale(0.5, 8).draw(generator) for _ in range(2000)])
    np.testing.assert_array_equal(drawn[:, 0, 0], drawn[:, 1, 1])
    # Alike on a scale of logarithms: as often below 2 as above.
    found = np.quantile(-np.log2(drawn[:, 0, 0]), [0, 0.5, 1])
    np.testing.assert_allclose(found, [-1, 1, 3], atol=0.2)


def test_successive_ones_are_one() -> None:
    """As if the picture were sampled after each, on a picture that sampling does not blur."""
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(12.0), indexing="ij")
    plane = np.repeat((0.3 * rows + 0.7 * columns)[None, ..., None], 3, axis=3)
    parts = [Jitter(1), Rotate(5), Scale(1.2, 1.3), Jitter(1)]
    found = run(parts, plane)
    generator = np.random.default_rng(0)
    expected = plane
    for part in parts:
        matrix = part.draw(generator)
        expected = TransformChain([Fixed(matrix)]).bind(ReferenceTable(), *SIZE)(expected, [matrix])
    # Away from the edge, where the picture goes on as it is not.
    inside = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-9)


def test_a_border_is_looked_into() -> None:
    shift = Fixed([[1, 0, -2], [0, 1, 0], [0, 0, 1]])
    found = run([Pad(2, 0.25), shift])
    np.testing.assert_allclose(found[:, :2], 0.25)
    np.testing.assert_allclose(found[:, 2:], IMAGES[:, :-2], atol=1e-7)
    np.testing.assert_array_equal(run([Pad(3)]), IMAGES)


def test_nothing_to_draw_changes_nothing() -> None:
    np.testing.assert_allclose(run([Jitter(0), Rotate(0), Scale(1, 1)]), IMAGES, atol=1e-7)
    np.testing.assert_array_equal(run([]), IMAGES)


def test_a_seed_gives_the_same_draws() -> None:
    chain = TransformChain(CHAINS["all"])
    first, second, other = (chain.draw(np.random.default_rng(seed)) for seed in (5, 5, 6))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Jitter(-1),
        lambda: Jitter(2.5),  # type: ignore[arg-type]
        lambda: Jitter("2"),  # type: ignore[arg-type]
        lambda: Rotate(-1),
        lambda: Pad(2.5),  # type: ignore[arg-type]
        lambda: Rotate(float("nan")),
        lambda: Scale(0.0, 1.0),
        lambda: Scale(1.2, 1.0),
        lambda: Pad(-1),
        lambda: Pad(1, 1.5),
    ],
)
def test_numbers_that_make_no_sense(make: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|must be"):
        make()
