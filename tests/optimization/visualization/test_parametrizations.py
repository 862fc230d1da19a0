from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transferkit.backends import Backend
from transferkit.errors import UnknownNameError
from transferkit.optimization.visualization import (
    Fourier,
    Parametrization,
    Pixels,
    find_parametrization,
)
from transferkit.optimization.visualization.parametrizations import fourier_basis
from transferkit.testing import ReferenceTable
from transferkit.testing.conformance import ACTIVATION_TOLERANCE, GRADIENT_TOLERANCE, assert_close

PARAMETRIZATIONS = (
    Pixels(),
    Pixels(decorrelated=True),
    Fourier(),
    Fourier(decorrelated=False, decay=0.5),
)
SIZES = st.tuples(st.integers(2, 12), st.integers(2, 12))


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
@given(size=SIZES, seed=st.integers(0, 99))
def test_images_are_restored_from_their_parameters(
    parametrization: Parametrization, size: tuple[int, int], seed: int
) -> None:
    images = np.random.default_rng(seed).random((2, *size, 3), np.float32)
    images[0, 0, 0] = (0, 1, 0.5)
    parameters = parametrization.parameters(images)
    assert parameters.dtype == np.float32
    result = parametrization.synthesis(ReferenceTable(), *size)(parameters)
    # Less than half an 8-bit level apart.
    np.testing.assert_allclose(result, images, atol=1 / 509)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
@given(size=SIZES)
def test_noise_is_faint(parametrization: Parametrization, size: tuple[int, int]) -> None:
    noise = parametrization.noise(np.random.default_rng(0), *size)
    assert len(noise) == 1
    images = parametrization.synthesis(ReferenceTable(), *size)(noise)
    assert images.shape == (1, *size, 3)
    assert 0 < np.abs(images - 0.5).max() < 0.25
    same = parametrization.noise(np.random.default_rng(0), *size)
    np.testing.assert_array_equal(noise, same)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
def test_images_and_gradient_match_the_reference(
    differentiable: Backend, parametrization: Parametrization
) -> None:
    generator = np.random.default_rng(0)
    size = (7, 10)
    x = parametrization.parameters(generator.uniform(0.1, 0.9, (2, *size, 3)).astype(np.float32))
    weights = generator.normal(size=(2, *size, 3)).astype(np.float32)
    table = differentiable.table
    images = parametrization.synthesis(table, *size)
    compiled = differentiable.compile(
        differentiable.value_and_grad(lambda x, y: table.multiply(images(x), y))
    )
    result = compiled(x, weights)
    reference = parametrization.synthesis(ReferenceTable(), *size)
    doubles = x.astype(np.float64)
    assert_close(result["value"], reference(doubles) * weights, ACTIVATION_TOLERANCE, "value")
    direction = generator.normal(size=x.shape)
    above, below = (reference(doubles + sign * 1e-6 * direction) for sign in (1, -1))
    expected = ((above - below) / 2e-6 * weights).sum()
    products = result["gradient"] * direction
    assert abs(products.sum() - expected) < GRADIENT_TOLERANCE * np.abs(products).sum()


@given(st.integers(1, 40))
def test_fourier_basis_is_orthogonal(length: int) -> None:
    np.testing.assert_allclose(
        fourier_basis(length).T @ fourier_basis(length), np.eye(length), atol=1e-12
    )


@given(st.integers(2, 40))
def test_columns_of_the_fourier_basis_ascend_in_frequency(length: int) -> None:
    energy = np.abs(np.fft.rfft(fourier_basis(length), axis=0)) ** 2
    expected = (np.arange(length) + 1) // 2
    np.testing.assert_array_equal(energy.argmax(axis=0), expected)


def test_scales_decrease_with_frequency() -> None:
    for decay, ratio in ((0.0, 1.0), (1.0, 8.0), (1.5, 8**1.5)):
        scales = Fourier(decay=decay)._scales(32, 32)
        # Columns 4 and 31 have 2 and 16 cycles.
        np.testing.assert_allclose(scales[0, 4] / scales[0, 31], ratio)


def test_scales_along_both_axes() -> None:
    scales = Fourier(decay=2.0)._scales(8, 20)
    assert scales.shape == (8, 20)
    # A period of ten pixels; one cycle per eight pixels; both; the constant as the longest wave.
    np.testing.assert_allclose(scales[0, 4], 2.5)
    np.testing.assert_allclose(scales[2, 0], 2.5 * (0.1 * 8) ** 2)
    np.testing.assert_allclose(scales[2, 4], 2.5 * 0.01 / (0.125**2 + 0.1**2))
    np.testing.assert_allclose(scales[0, 0], 2.5 * (0.1 * 20) ** 2)
    np.testing.assert_allclose(scales[0, 0], scales[0, 1])


@pytest.mark.parametrize("parametrization", [Pixels(decorrelated=True), Fourier()], ids=str)
def test_color_axes_of_natural_photos(parametrization: Parametrization) -> None:
    """Lightness is first, then red to blue, then green to magenta."""
    colors = np.array([[0.6, 0.6, 0.6], [0.6, 0.5, 0.4], [0.45, 0.6, 0.45]], np.float32)
    images = np.broadcast_to(colors[:, None, None], (3, 2, 2, 3))
    parameters = parametrization.parameters(images)
    axes = (2, 3) if isinstance(parametrization, Fourier) else (1, 2)
    magnitudes = np.abs(parameters.sum(axis=axes))
    assert magnitudes[:2].argmax(axis=1).tolist() == [0, 1]
    assert magnitudes[0, 0] > 5 * magnitudes[0, 1:].max()
    assert magnitudes[1, 1] > 5 * magnitudes[1, 0]
    assert magnitudes[2, 2] > magnitudes[2, 1]


def test_pixels_are_clipped() -> None:
    table = ReferenceTable()
    x = np.array([[[[-0.5, 0.25, 1.5]]]])
    np.testing.assert_array_equal(Pixels().project(table, x), [[[[0, 0.25, 1]]]])
    np.testing.assert_array_equal(Pixels(decorrelated=True).project(table, x), x)


def test_parametrization_is_found_by_name() -> None:
    assert find_parametrization("pixels") == Pixels()
    assert find_parametrization("fourier") == Fourier()
    assert find_parametrization(PARAMETRIZATIONS[3]) is PARAMETRIZATIONS[3]
    with pytest.raises(UnknownNameError, match="'fourier'"):
        find_parametrization("furier")
    with pytest.raises(ValueError, match="decay"):
        Fourier(decay=-1)
