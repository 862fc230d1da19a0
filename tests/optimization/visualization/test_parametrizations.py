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
from transferkit.optimization.visualization.parametrizations import waves
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
def test_pictures_come_back(
    parametrization: Parametrization, size: tuple[int, int], seed: int
) -> None:
    images = np.random.default_rng(seed).random((2, *size, 3), np.float32)
    images[0, 0, 0] = (0, 1, 0.5)
    parameters = parametrization.parameters(images)
    assert parameters.dtype == np.float32
    found = parametrization.synthesis(ReferenceTable(), *size)(parameters)
    # The same in eight bits.
    np.testing.assert_allclose(found, images, atol=1 / 509)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
@given(size=SIZES)
def test_noise_is_hardly_visible(parametrization: Parametrization, size: tuple[int, int]) -> None:
    noise = parametrization.noise(np.random.default_rng(0), *size)
    assert len(noise) == 1
    found = parametrization.synthesis(ReferenceTable(), *size)(noise)
    assert found.shape == (1, *size, 3)
    assert 0 < np.abs(found - 0.5).max() < 0.25
    again = parametrization.noise(np.random.default_rng(0), *size)
    np.testing.assert_array_equal(noise, again)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS, ids=str)
def test_value_and_derivative(differentiable: Backend, parametrization: Parametrization) -> None:
    """Against the reference; the derivative against the adjoint of its differences."""
    generator = np.random.default_rng(0)
    size = (7, 10)
    x = parametrization.parameters(generator.uniform(0.1, 0.9, (2, *size, 3)).astype(np.float32))
    along = generator.normal(size=(2, *size, 3)).astype(np.float32)
    table = differentiable.table
    images = parametrization.synthesis(table, *size)
    compiled = differentiable.compile(
        differentiable.value_and_grad(lambda x, y: table.multiply(images(x), y))
    )
    found = compiled(x, along)
    reference = parametrization.synthesis(ReferenceTable(), *size)
    doubles = x.astype(np.float64)
    assert_close(found["value"], reference(doubles) * along, ACTIVATION_TOLERANCE, "value")
    change = generator.normal(size=x.shape)
    ahead, behind = (reference(doubles + way * 1e-6 * change) for way in (1, -1))
    expected = ((ahead - behind) / 2e-6 * along).sum()
    size_of_it = np.abs(found["gradient"] * change).sum()
    assert abs((found["gradient"] * change).sum() - expected) < GRADIENT_TOLERANCE * size_of_it


@given(st.integers(1, 40))
def test_waves_are_orthogonal(length: int) -> None:
    np.testing.assert_allclose(waves(length).T @ waves(length), np.eye(length), atol=1e-12)


@given(st.integers(2, 40))
def test_waves_have_the_frequencies_of_their_columns(length: int) -> None:
    energy = np.abs(np.fft.rfft(waves(length), axis=0)) ** 2
    expected = (np.arange(length) + 1) // 2
    np.testing.assert_array_equal(energy.argmax(axis=0), expected)


def test_long_waves_are_large() -> None:
    for decay, ratio in ((0.0, 1.0), (1.0, 8.0), (1.5, 8**1.5)):
        sizes = Fourier(decay=decay)._sizes(32, 32)
        # Columns 4 and 32 / 2 * 2 - 1: two cycles and sixteen.
        np.testing.assert_allclose(sizes[0, 4] / sizes[0, 31], ratio)


def test_sizes_of_waves_along_both_axes() -> None:
    sizes = Fourier(decay=2.0)._sizes(8, 20)
    assert sizes.shape == (8, 20)
    # Ten pixels long, upright and lying; then both at once; then the mean, as the longest wave.
    np.testing.assert_allclose(sizes[0, 4], 2.5)
    np.testing.assert_allclose(sizes[2, 0], 2.5 * (0.1 * 8) ** 2)
    np.testing.assert_allclose(sizes[2, 4], 2.5 * 0.01 / (0.125**2 + 0.1**2))
    np.testing.assert_allclose(sizes[0, 0], 2.5 * (0.1 * 20) ** 2)
    np.testing.assert_allclose(sizes[0, 0], sizes[0, 1])


@pytest.mark.parametrize("parametrization", [Pixels(decorrelated=True), Fourier()], ids=str)
def test_colours_as_photos_have_them(parametrization: Parametrization) -> None:
    """Light and dark first, then red against blue, then green against both."""
    colours = np.array([[0.6, 0.6, 0.6], [0.6, 0.5, 0.4], [0.45, 0.6, 0.45]], np.float32)
    images = np.broadcast_to(colours[:, None, None], (3, 2, 2, 3))
    parameters = parametrization.parameters(images)
    axes = (2, 3) if isinstance(parametrization, Fourier) else (1, 2)
    weight = np.abs(parameters.sum(axis=axes))
    assert weight[:2].argmax(axis=1).tolist() == [0, 1]
    assert weight[0, 0] > 5 * weight[0, 1:].max()
    assert weight[1, 1] > 5 * weight[1, 0]
    assert weight[2, 2] > weight[2, 1]


def test_pixels_are_cut_off() -> None:
    table = ReferenceTable()
    x = np.array([[[[-0.5, 0.25, 1.5]]]])
    np.testing.assert_array_equal(Pixels().project(table, x), [[[[0, 0.25, 1]]]])
    np.testing.assert_array_equal(Pixels(decorrelated=True).project(table, x), x)


def test_found_by_name() -> None:
    assert find_parametrization("pixels") == Pixels()
    assert find_parametrization("fourier") == Fourier()
    assert find_parametrization(PARAMETRIZATIONS[3]) is PARAMETRIZATIONS[3]
    with pytest.raises(UnknownNameError, match="'fourier'"):
        find_parametrization("furier")
    with pytest.raises(ValueError, match="decay"):
        Fourier(decay=-1)
