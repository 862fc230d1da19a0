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
    """A transform with a given matrix."""

    def __init__(self, matrix: npt.ArrayLike) -> None:
        self.matrix = np.asarray(matrix, np.float64)

    def sample(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:  # noqa: ARG002
        return self.matrix


def transform(transforms: list[Transform], images: Any = IMAGES, seed: int = 0) -> npt.NDArray[Any]:
    chain = TransformChain(transforms)
    parameters = chain.sample(np.random.default_rng(seed))
    return np.asarray(chain.bind(ReferenceTable(), *SIZE)(images, parameters))


@pytest.mark.parametrize("name", CHAINS)
def test_transforms_match_the_reference(backend: Backend, name: str) -> None:
    chain = TransformChain(CHAINS[name])
    apply = chain.bind(backend.table, *SIZE)
    compiled = backend.compile(lambda images, *parameters: apply(images, parameters))
    for seed in range(3):
        parameters = chain.sample(np.random.default_rng(seed))
        assert len(parameters) == len(chain)
        result = compiled(IMAGES, *(values.astype(np.float32) for values in parameters))
        expected = transform(CHAINS[name], seed=seed)
        assert result.shape == IMAGES.shape
        # The error of positions in float32 is less than a millionth of the image.
        assert_close(result, expected, ACTIVATION_TOLERANCE, name)


def test_jitter_translates_by_whole_pixels() -> None:
    translation = [[1, 0, 2], [0, 1, -3], [0, 0, 1]]
    result = transform([Fixed(translation)])
    np.testing.assert_allclose(result[:, :-2, 3:], IMAGES[:, 2:, :-3], atol=1e-7)
    np.testing.assert_allclose(result[:, -1, 3:], IMAGES[:, -1, :-3], atol=1e-7)
    pixels = np.array([Jitter(2).sample(np.random.default_rng(seed))[:2, 2] for seed in range(200)])
    assert set(pixels.ravel().tolist()) == {-2, -1, 0, 1, 2}
    assert not np.array_equal(pixels[:, 0], pixels[:, 1])


def test_rotation_by_90_degrees() -> None:
    square = IMAGES[:, :, :9]
    chain = TransformChain([Fixed([[0, -1, 0], [1, 0, 0], [0, 0, 1]])])
    result = chain.bind(ReferenceTable(), 9, 9)(square, chain.sample(np.random.default_rng(0)))
    np.testing.assert_allclose(result, np.rot90(square, -1, axes=(1, 2)), atol=1e-7)


def test_scaling_up_magnifies_the_center() -> None:
    ramp = np.broadcast_to(np.arange(9.0)[:, None, None], (1, *SIZE, 3))
    result = transform([Scale(2.0, 2.0)], ramp)
    np.testing.assert_allclose(result[0, :, 0, 0], 4 + (np.arange(9) - 4) / 2)


def test_rotations_cover_their_range() -> None:
    generator = np.random.default_rng(0)
    matrices = np.array([Rotate(30).sample(generator) for _ in range(2000)])
    rotations = matrices[:, :2, :2]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), [np.eye(2)] * 2000, atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1)
    np.testing.assert_array_equal(matrices[:, 2], [[0, 0, 1]] * 2000)
    np.testing.assert_array_equal(matrices[:, :2, 2], 0)
    degrees = np.rad2deg(np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    np.testing.assert_allclose(np.quantile(degrees, [0, 0.5, 1]), [-30, 0, 30], atol=3)


def test_scale_factors_cover_their_range() -> None:
    generator = np.random.default_rng(0)
    matrices = np.array([Scale(0.5, 8).sample(generator) for _ in range(2000)])
    np.testing.assert_array_equal(matrices[:, 0, 0], matrices[:, 1, 1])
    # Log-uniform: as often below 2 as above.
    quantiles = np.quantile(-np.log2(matrices[:, 0, 0]), [0, 0.5, 1])
    np.testing.assert_allclose(quantiles, [-1, 1, 3], atol=0.2)


def test_successive_affine_transforms_are_combined() -> None:
    """The result equals interpolation after each one, for an image that this does not blur."""
    rows, columns = np.meshgrid(np.arange(9.0), np.arange(12.0), indexing="ij")
    plane = np.repeat((0.3 * rows + 0.7 * columns)[None, ..., None], 3, axis=3)
    parts = [Jitter(1), Rotate(5), Scale(1.2, 1.3), Jitter(1)]
    result = transform(parts, plane)
    generator = np.random.default_rng(0)
    expected = plane
    for part in parts:
        matrix = part.sample(generator)
        expected = TransformChain([Fixed(matrix)]).bind(ReferenceTable(), *SIZE)(expected, [matrix])
    # Not at the edge, where pixels are repeated.
    inside = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(result[inside], expected[inside], atol=1e-9)


def test_translation_moves_the_padding_into_view() -> None:
    translation = Fixed([[1, 0, -2], [0, 1, 0], [0, 0, 1]])
    result = transform([Pad(2, 0.25), translation])
    np.testing.assert_allclose(result[:, :2], 0.25)
    np.testing.assert_allclose(result[:, 2:], IMAGES[:, :-2], atol=1e-7)
    np.testing.assert_array_equal(transform([Pad(3)]), IMAGES)


def test_transforms_with_an_empty_range_change_nothing() -> None:
    np.testing.assert_allclose(transform([Jitter(0), Rotate(0), Scale(1, 1)]), IMAGES, atol=1e-7)
    np.testing.assert_array_equal(transform([]), IMAGES)


def test_random_parameters_depend_only_on_the_seed() -> None:
    chain = TransformChain(CHAINS["all"])
    first, second, other = (chain.sample(np.random.default_rng(seed)) for seed in (5, 5, 6))
    for array, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(array, same)
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
def test_parameters_out_of_range_are_rejected(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
