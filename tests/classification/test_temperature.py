"""Temperature scaling: its minimum, what it does to a network, and what it may never do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NETWORK, WEIGHTS
from scipy.special import softmax
from sklearn.metrics import log_loss

from transferkit import Preprocessing
from transferkit.classification.temperature import (
    best_temperature,
    cross_entropies,
    fit_temperature,
    temperature_of,
    with_temperature,
)
from transferkit.models import Model
from transferkit.networks import add_probabilities
from transferkit.testing.reference import reference_activations

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.floats(-2, 2), st.integers(2, 6))
def test_the_temperature_of_the_labels_is_found(seed: int, log: float, classes: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (4000, classes))
    truth = math.exp(log)
    # Sampled by the Gumbel-max method from the softmax of the scaled logits.
    labels = (logits / truth + generator.gumbel(size=logits.shape)).argmax(axis=1)
    found = best_temperature(logits, labels, np.ones(4000))
    assert abs(math.log(found / truth)) < 0.2
    scale = best_temperature(10 * logits, labels, np.ones(4000))
    np.testing.assert_allclose(scale, 10 * found, rtol=1e-5)
    best = cross_entropies(logits, labels, found).mean()
    for factor in (0.98, 1.02):
        assert best < cross_entropies(logits, labels, factor * found).mean()


@given(SEEDS, st.integers(2, 6))
def test_cross_entropies_are_the_log_loss_of_scikit_learn(seed: int, classes: int) -> None:
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 3, (20, classes)), generator.integers(0, classes, 20)
    expected = log_loss(labels, softmax(logits / 1.5, axis=1), labels=range(classes))
    np.testing.assert_allclose(cross_entropies(logits, labels, 1.5).mean(), expected)


@given(SEEDS, st.integers(3, 200), st.floats(0.1, 10))
def test_a_temperature_never_increases_the_loss_of_the_images(
    seed: int, number: int, scale: float
) -> None:
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(0, 3, (number, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    weights = generator.uniform(0.1, 2, number)
    temperature = fit_temperature(logits, labels, weights)
    before = np.average(cross_entropies(logits, labels), weights=weights)
    after = np.average(cross_entropies(logits, labels, temperature), weights=weights)
    assert after <= before


def test_without_a_mistake_probabilities_do_not_become_1() -> None:
    logits = np.array([[1.0, -1.0]] * 20)
    temperature = fit_temperature(logits, np.zeros(20, np.intp))
    probability = softmax(logits / temperature, axis=1)[0, 0]
    # Of 21 images, of which one is of either class with equal probability.
    np.testing.assert_allclose(probability, 1 - 0.5 / 21, atol=1e-4)


def test_weights_count_as_images() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 3, (50, 3)), generator.integers(0, 3, 50)
    counts = generator.integers(1, 4, 50)
    weighted = best_temperature(logits, labels, counts.astype(float))
    repeated = best_temperature(
        np.repeat(logits, counts, axis=0), np.repeat(labels, counts), np.ones(counts.sum())
    )
    np.testing.assert_allclose(weighted, repeated, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_the_network_divides_its_logits(temperature: float) -> None:
    network = add_probabilities(NETWORK)
    model = Model(network, WEIGHTS, Preprocessing(16))
    assert temperature_of(model) == 1
    # Twice: the second temperature replaces the first.
    scaled = with_temperature(with_temperature(model, 3.0), temperature)
    assert temperature_of(scaled) == temperature
    pixels = np.random.default_rng(0).random((3, 16, 16, 3))
    outputs = reference_activations(
        scaled.network, scaled.weights, pixels, ["logits", "probabilities"]
    )
    plain = reference_activations(network, WEIGHTS, pixels, ["logits"])
    np.testing.assert_array_equal(outputs["logits"], plain["logits"])
    np.testing.assert_allclose(
        outputs["probabilities"], softmax(outputs["logits"] / temperature, axis=1), rtol=1e-6
    )
    assert dataclasses.replace(model) is not scaled
    assert "head.temperature" not in model.weights
