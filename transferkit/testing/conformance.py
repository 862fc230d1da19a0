"""The conformance tests, which every backend has to pass: built-in ones and plugins.

The author of a plugin adds this test file and runs pytest::

    import pytest
    from transferkit.backends import get_backend
    from transferkit.testing.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture(scope="class")
        def backend(self):
            return get_backend("mine")

Tests of gradients and of training are skipped for a backend without these capabilities. The
examples are the same in every run, so results are reproducible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from transferkit.backends.base import (
    API_VERSION,
    GRADIENTS,
    INFERENCE,
    INT8,
    TRAINING,
    Backend,
    Table,
)
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.program import Program
from transferkit.backends.stateless import apply_network
from transferkit.errors import NoGradientError, ShapeError, UnknownNameError, UnsupportedError
from transferkit.networks import (
    INPUT,
    Network,
    NetworkBuilder,
    Weights,
    build_network,
    random_weights,
)
from transferkit.networks.graph import Padding
from transferkit.networks.training import (
    add_dropout,
    add_stochastic_depth,
    fuse_batch_norm,
    update_batch_norm,
)
from transferkit.testing.reference import (
    FiniteDifferencesBackend,
    ReferenceTable,
    finite_differences,
    reference_activations,
)
from transferkit.testing.strategies import (
    PRIMITIVE_CALLS,
    PrimitiveCall,
    RandomNetwork,
    images,
    networks,
    random_weights_and_statistics,
)
from transferkit.training.optimizers import SGD, AdamW, Optimizer
from transferkit.training.step import ParameterGroups, TrainingBatch, TrainingStep

__all__ = ["ACTIVATION_TOLERANCE", "GRADIENT_TOLERANCE", "BackendConformance", "assert_close"]

ACTIVATION_TOLERANCE = 1e-4
"""The largest permitted error of an activation, relative to the layer's largest absolute value."""

GRADIENT_TOLERANCE = 1e-3
"""The largest permitted error of a derivative, relative to the largest absolute derivative."""

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Function: TypeAlias = Callable[..., Any]
Tensors: TypeAlias = Mapping[str, Any]

# Batch size, height and width: the smallest, odd, elongated and large sizes.
_MOBILENET_SHAPES = ((1, 32, 32), (5, 33, 47), (2, 97, 64), (3, 129, 255), (1, 300, 299))
_MOBILENET_LAYERS = ("features.6", "features.9.conv.1.0", "features.18", "embedding", "logits")
# One network of each other family and variant; the smallest one, to save time.
_FAMILIES = (
    ("vgg11", "torchvision"),
    ("resnet18", "torchvision"),
    ("resnet50", "keras"),
    ("mobilenet_v1_025", "keras"),
    ("mobilenet_v2", "keras"),
    ("mobilenet_v3_small", "torchvision"),
    ("mobilenet_v3_small", "keras"),
)
_THREADS = 10
# The step of finite differences: larger than rounding errors of float64, and smaller than the
# smallest permitted distance of a unit to a kink, a point where its function is not differentiable.
_STEP = 1e-6
_MIN_KINK_DISTANCE = 5e-6
_DERIVATIVES_COMPARED = 12
# The derivative of a saturated sigmoid or softmax is a difference of float32 numbers whose size is
# that of the weights of the sum, at most 1.5. Even a derivative of 0 may be off by two units in
# their last place.
_ROUNDING_ERROR = 2 * float(np.finfo(np.float32).eps)
_MIN_PIXELS = 8
# Names of tensors, not in alphabetical order.
_NAMES = ("features.0.weight", "a b/ü", "0", "")


def _examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def assert_close(actual: Array, expected: Array, tolerance: float, name: str) -> None:
    """Fail unless ``actual`` equals ``expected`` up to a relative tolerance.

    Parameters
    ----------
    actual, expected
        Arrays of the same shape.
    tolerance
        The largest permitted absolute difference, relative to the largest absolute value of
        ``expected``.
    name
        The name of the value, for the message.

    Raises
    ------
    AssertionError
        If the shapes differ, a difference is larger, or ``actual`` has a NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing.conformance import assert_close
    >>> assert_close(np.array([1.0, 9.0]), np.array([1.0, 10.0]), 0.2, "a layer")
    """
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}: shape {actual.shape}, expected {expected.shape}")
    difference = float(np.abs(actual.astype(np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    # `difference > ...` would be false for NaN.
    if not difference <= tolerance * scale:
        raise AssertionError(
            f"{name}: difference {difference:.3g}, expected at most {tolerance:g} times the "
            f"largest value, {scale:.3g}"
        )


class BackendConformance:
    """The tests of a backend. A subclass provides a pytest fixture named ``backend``."""

    # ---- declaration --------------------------------------------------------------------

    def test_declaration_is_valid(self, backend: Backend) -> None:
        assert backend.api_version == API_VERSION
        assert backend.name
        assert isinstance(backend.name, str)
        assert INFERENCE in backend.capabilities
        assert backend.capabilities <= {INFERENCE, GRADIENTS, TRAINING, INT8}
        assert GRADIENTS in backend.capabilities or TRAINING not in backend.capabilities
        assert backend.version()
        assert isinstance(backend.version(), str)

    def test_devices_can_be_chosen_and_unknown_ones_are_rejected(self, backend: Backend) -> None:
        create: Callable[[str], Backend] = type(backend)
        devices = backend.devices()
        assert devices
        assert all(isinstance(device, str) for device in devices)
        chosen = create(devices[0])
        assert chosen.compile(chosen.table.relu)(np.full(2, -1.0, np.float32)).tolist() == [0, 0]
        assert create("cpu").device == devices[0]
        with pytest.raises(UnknownNameError, match="no such device"):
            create("no such device")

    # ---- primitives ---------------------------------------------------------------------

    @pytest.mark.parametrize("operation", sorted(PRIMITIVE_CALLS))
    def test_primitive_agrees_with_the_reference(self, backend: Backend, operation: str) -> None:
        @_examples(40)
        @given(PRIMITIVE_CALLS[operation])
        def agrees_with_reference(call: PrimitiveCall) -> None:
            actual = backend.compile(lambda *x: call.run(backend.table, *x))(*call.arrays)
            table = ReferenceTable()
            expected = call.run(table, *map(table.asarray, call.arrays))
            _check_result(actual)
            assert_close(actual, expected, ACTIVATION_TOLERANCE, operation)

        agrees_with_reference()

    def test_fused_convolution_agrees_with_the_reference(self, backend: Backend) -> None:
        # Compilers fuse a convolution with the operations after it, with special cases for each
        # kind of convolution, padding and operation.
        @_examples(30)
        @given(PRIMITIVE_CALLS["conv2d"], st.sampled_from(sorted(_AFTER_CONVOLUTION)))
        def agrees_with_reference(call: PrimitiveCall, following: str) -> None:
            def function(table: Table[Any], x: Any) -> Any:
                return _AFTER_CONVOLUTION[following](table, call.run(table, x))

            actual = backend.compile(lambda x: function(backend.table, x))(*call.arrays)
            table = ReferenceTable()
            expected = function(table, table.asarray(call.arrays[0]))
            assert_close(actual, expected, ACTIVATION_TOLERANCE, f"conv2d and {following}")

        agrees_with_reference()

    def test_l2_normalize_gives_rows_of_any_scale_length_one(self, backend: Backend) -> None:
        compiled = backend.compile(backend.table.l2_normalize)
        scales = np.array([[1e30], [1.0], [1e-7], [1e-20], [0.0]], np.float32)
        expected = np.array([[0.6, 0.0, -0.8]] * 4 + [[0.0, 0.0, 0.0]])
        actual = compiled(scales * np.array([[3.0, 0.0, -4.0]], np.float32))
        assert_close(actual, expected, ACTIVATION_TOLERANCE, "l2_normalize")

    @pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4,), ()])
    def test_arrays_convert_to_tensors_and_back(
        self, backend: Backend, shape: tuple[int, ...]
    ) -> None:
        array = np.asarray(np.random.default_rng(0).normal(size=shape))
        converted = backend.table.to_numpy(backend.table.asarray(array))
        assert isinstance(converted, np.ndarray)
        assert converted.dtype == np.float32
        np.testing.assert_array_equal(converted, array.astype(np.float32), strict=True)

    # ---- compiled functions -------------------------------------------------------------

    def test_result_has_the_names_of_the_mapping_in_its_order(self, backend: Backend) -> None:
        table = backend.table

        # Not in alphabetical order, with a tensor that is returned twice, and an argument.
        def function(x: Any, y: Any) -> Mapping[str, Any]:
            total = table.add(x, y)
            return {"features.0": total, "a b/ü": table.relu(x), "again": total, "argument": x}

        x, y = _arrays((2, 5, 3, 4), (2, 5, 3, 4))
        results = backend.compile(function)(x, y)
        assert isinstance(results, dict)
        assert list(results) == ["features.0", "a b/ü", "again", "argument"]
        for array in results.values():
            _check_result(array)
        np.testing.assert_allclose(results["features.0"], x + y, rtol=1e-6)
        np.testing.assert_array_equal(results["a b/ü"], np.maximum(x, 0))
        np.testing.assert_array_equal(results["again"], results["features.0"])
        np.testing.assert_array_equal(results["argument"], x)

    def test_results_in_a_mapping_are_writable_and_share_no_memory(self, backend: Backend) -> None:
        table = backend.table

        def function(x: Any) -> Mapping[str, Any]:
            return {"x": x, "again": x, "flat": table.flatten(x), "double": table.add(x, x)}

        (x,) = _arrays((2, 4, 3, 5))
        before = x.copy()
        results = backend.compile(function)(x)
        for value, array in enumerate(results.values()):
            array[...] = value
        np.testing.assert_array_equal(x, before)
        for value, array in enumerate(results.values()):
            np.testing.assert_array_equal(array, value)

    @pytest.mark.parametrize("name", ["argument", "flattened", "cropped", "padded by 0"])
    def test_results_are_writable_and_share_no_memory(self, backend: Backend, name: str) -> None:
        table = backend.table
        # In some frameworks, these are views of the argument.
        functions: Mapping[str, Function] = {
            "argument": lambda x: x,
            "flattened": table.flatten,
            "cropped": lambda x: table.crop(x, top=0, left=0, height=4, width=3),
            "padded by 0": lambda x: table.pad(x, padding=((0, 0), (0, 0))),
        }
        (x,) = _arrays((2, 4, 3, 5))
        before = x.copy()
        compiled = backend.compile(functions[name])
        first = compiled(x)
        second = compiled(x)
        second[...] = 7
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(first.ravel(), before.ravel())

    def test_results_do_not_change_in_later_calls(self, backend: Backend) -> None:
        table = backend.table
        compiled = backend.compile(lambda x: {"double": table.add(x, x), "flat": table.flatten(x)})
        x, y = _arrays((3, 4, 5, 6), (3, 4, 5, 6))
        first = compiled(x)
        copies = {name: array.copy() for name, array in first.items()}
        compiled(y)
        x[...] = 0
        for name, array in copies.items():
            np.testing.assert_array_equal(first[name], array)

    def test_arguments_may_have_any_layout_and_dtype(self, backend: Backend) -> None:
        table = backend.table
        (x,) = _arrays((4, 6, 8, 3))
        compiled = backend.compile(
            lambda x: table.max_pool2d(x, size=(2, 2), stride=(2, 2), padding=((1, 0), (0, 1)))
        )
        expected = compiled(x)
        read_only = x.copy()
        read_only.flags.writeable = False
        reversed_strides = x[::-1, ::-1].copy()[::-1, ::-1]
        strided = np.repeat(x, 2, axis=2)[:, :, ::2]
        double = x.astype(np.float64)
        for argument in (np.asfortranarray(x), read_only, reversed_strides, strided, double):
            before = argument.copy()
            actual = compiled(argument)
            _check_result(actual)
            np.testing.assert_array_equal(actual, expected)
            np.testing.assert_array_equal(argument, before)

    def test_compiled_function_accepts_different_shapes(self, backend: Backend) -> None:
        table = backend.table
        compiled = backend.compile(
            lambda x: table.mean(table.flatten(table.resize(x, height=3, width=2)), axes=(1,))
        )
        reference = ReferenceTable()
        for x in _arrays((1, 4, 4, 3), (5, 4, 4, 3), (2, 9, 7, 2), (1, 1, 1, 1), (1, 4, 4, 3)):
            resized = reference.resize(reference.asarray(x), height=3, width=2)
            expected = resized.mean(axis=(1, 2, 3))
            assert_close(compiled(x), expected, ACTIVATION_TOLERANCE, f"shape {x.shape}")

    # ---- networks -----------------------------------------------------------------------

    def test_random_networks_agree_with_the_reference(self, backend: Backend) -> None:
        @_examples(15)
        @given(st.data(), networks())
        def agree_with_reference(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn)
            _check_network(backend, drawn.network, drawn.weights, pixels, drawn.network.layers)
            # With few layers, other nodes are removed and batch normalization is folded.
            layers = data.draw(st.lists(st.sampled_from(drawn.network.layers), min_size=1))
            _check_network(backend, drawn.network, drawn.weights, pixels, layers)

        agree_with_reference()

    def test_random_networks_on_large_images_agree_with_the_reference(
        self, backend: Backend
    ) -> None:
        @_examples(6)
        @given(st.data(), networks(st.integers(32, 300)))
        def agree_with_reference(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn, most=2)
            _check_network(backend, drawn.network, drawn.weights, pixels, drawn.network.layers)

        agree_with_reference()

    @pytest.fixture
    def mobilenet(self) -> tuple[Network, Weights]:
        network = build_network("mobilenet_v2")
        return network, random_weights_and_statistics(network, seed=0)

    def test_all_layers_of_mobilenet_agree_with_the_reference(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        network, weights = mobilenet
        program = Program(backend, network, weights)
        for shape in _MOBILENET_SHAPES:
            pixels = _pixels(shape)
            expected = reference_activations(network, weights, pixels, network.layers)
            _compare(program.run(pixels, network.layers), expected, f"mobilenet_v2 on {shape}")

    def test_folded_mobilenet_agrees_with_the_reference(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        network, weights = mobilenet
        program = Program(backend, network, weights)
        for shape in _MOBILENET_SHAPES[:3]:
            pixels = _pixels(shape)
            expected = reference_activations(network, weights, pixels, _MOBILENET_LAYERS)
            _compare(program.run(pixels, _MOBILENET_LAYERS), expected, f"mobilenet_v2 on {shape}")

    @pytest.mark.parametrize(("name", "variant"), _FAMILIES)
    def test_all_layers_of_family_agree_with_the_reference(
        self, backend: Backend, name: str, variant: str
    ) -> None:
        network = build_network(name, variant=variant, channel_order="bgr")
        weights = random_weights_and_statistics(network, seed=0)
        pixels = _pixels((1, 32, 47))
        expected = reference_activations(network, weights, pixels, network.layers)
        actual = Program(backend, network, weights).run(pixels, network.layers)
        _compare(actual, expected, name)
        few = ("embedding", "logits")
        # The weights of VGG are half a gigabyte, so they are loaded only once.
        if not name.startswith("vgg"):
            actual = Program(backend, network, weights).run(pixels, few)
            _compare(actual, {layer: expected[layer] for layer in few}, name)

    def test_images_in_a_batch_are_independent(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        program = Program(backend, *mobilenet)
        pixels = _pixels((5, 32, 40))
        together = program.run(pixels, ["embedding"])["embedding"]
        for row, expected in enumerate(together):
            alone = program.run(pixels[row : row + 1], ["embedding"])["embedding"]
            assert_close(alone, expected[None], ACTIVATION_TOLERANCE, f"image {row} alone")

    def test_arguments_are_not_changed(self, backend: Backend) -> None:
        @_examples(5)
        @given(st.data(), networks())
        def are_not_changed(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn)
            pixels_before = pixels.copy()
            weights_before = {name: array.copy() for name, array in drawn.weights.items()}
            pixels.flags.writeable = False
            for array in drawn.weights.values():
                array.flags.writeable = False
            program = Program(backend, drawn.network, drawn.weights)
            program.run(pixels, ["logits"])
            program.run(pixels, drawn.network.layers)
            np.testing.assert_array_equal(pixels, pixels_before)
            assert drawn.weights.keys() == weights_before.keys()
            for name, array in drawn.weights.items():
                np.testing.assert_array_equal(array, weights_before[name])

        are_not_changed()

    def test_unknown_layer_is_rejected(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        program = Program(backend, *mobilenet)
        with pytest.raises(UnknownNameError, match="embedding") as caught:
            program.run(_pixels((1, 32, 32)), ["embeding"])
        assert "embedding" in caught.value.close_matches

    def test_too_small_image_is_rejected(self, backend: Backend) -> None:
        builder = NetworkBuilder("small", input_size=8)
        x = builder.conv2d("conv", INPUT, 3, 4, size=5)
        builder.add_node("embedding", "mean", x, axes=(1, 2))
        network = builder.build()
        program = Program(backend, network, random_weights(network, random_state=0))
        # Without a check, some frameworks raise an error and some return zeros.
        with pytest.raises(ShapeError, match="small does not accept 4 x 9 images: layer 'conv'"):
            program.run(_pixels((1, 4, 9)), ["embedding"])
        assert program.run(_pixels((1, 5, 9)), ["embedding"])["embedding"].shape == (1, 4)

    def test_pixels_of_another_shape_are_rejected(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        program = Program(backend, *mobilenet)
        for shape in ((32, 32, 3), (1, 32, 32, 1), (0, 32, 32, 3)):
            with pytest.raises(ShapeError, match="expected"):
                program.run(np.zeros(shape, np.float32), ["embedding"])

    @pytest.mark.parametrize("channels", [4, 100_000])
    def test_later_changes_to_weights_have_no_effect(self, backend: Backend, channels: int) -> None:
        builder = NetworkBuilder("wide", input_size=8)
        builder.conv2d("conv", INPUT, 3, channels, size=1)
        network = builder.build()
        weights = random_weights(network, random_state=0)
        program = Program(backend, network, weights)
        before = program.run(_pixels((1, 4, 4)), ["conv"])["conv"].copy()
        for array in weights.values():
            array[...] = 0
        np.testing.assert_array_equal(program.run(_pixels((1, 4, 4)), ["conv"])["conv"], before)

    # ---- threads ------------------------------------------------------------------------

    @pytest.mark.parametrize("shared", [True, False], ids=["shared", "one each"])
    def test_programs_can_run_in_ten_threads(
        self, backend: Backend, mobilenet: tuple[Network, Weights], *, shared: bool
    ) -> None:
        network, weights = mobilenet
        layers = ["features.3", "embedding"] if shared else ["features.1"]
        # Image sizes differ between threads, so that threads compile at the same time.
        batches = [_pixels((1, 32 + 8 * (index % 3), 32), seed=index) for index in range(_THREADS)]
        program = Program(backend, network, weights)
        programs = [
            program if shared else Program(backend, network, weights) for _ in range(_THREADS)
        ]

        def work(program: Program, pixels: Floats) -> list[Mapping[str, Floats]]:
            return [program.run(pixels, layers) for _ in range(3)]

        with ThreadPoolExecutor(_THREADS) as threads:
            results = list(threads.map(work, programs, batches))
        single_threaded = Program(backend, network, weights)
        for pixels, runs in zip(batches, results, strict=True):
            expected = single_threaded.run(pixels, layers)
            for outputs in runs:
                _compare(outputs, expected, "in a thread")

    # ---- gradients ----------------------------------------------------------------------

    def test_missing_gradients_raise_an_error(self, backend: Backend) -> None:
        if GRADIENTS in backend.capabilities:
            pytest.skip("this backend has gradients")
        for transform in (backend.value_and_grad, backend.compile_tensors):
            with pytest.raises(UnsupportedError, match=backend.name):
                transform(lambda x: backend.table.sum(x, axes=(0,)))

    # The derivative of the sign is 0 and tested below; it has no useful finite differences.
    @pytest.mark.parametrize("operation", sorted(PRIMITIVE_CALLS.keys() - {"sign"}))
    def test_gradient_of_primitive_agrees_with_finite_differences(
        self, backend: Backend, operation: str
    ) -> None:
        _need_gradients(backend)

        @_examples(12)
        @given(PRIMITIVE_CALLS[operation])
        def agrees_with_finite_differences(call: PrimitiveCall) -> None:
            def function(table: Table[Any], x: Any) -> list[Any]:
                others = [table.asarray(array) for array in call.arrays[1:]]
                return [call.run(table, x, *others)]

            _check_gradient_away_from_kinks(backend, function, call.arrays[0])

        agrees_with_finite_differences()

    def test_gradient_of_fused_convolution_agrees_with_finite_differences(
        self, backend: Backend
    ) -> None:
        _need_gradients(backend)

        @_examples(20)
        @given(PRIMITIVE_CALLS["conv2d"], st.sampled_from(sorted(_AFTER_CONVOLUTION)))
        def agrees_with_finite_differences(call: PrimitiveCall, following: str) -> None:
            def function(table: Table[Any], x: Any) -> list[Any]:
                return [_AFTER_CONVOLUTION[following](table, call.run(table, x))]

            _check_gradient_away_from_kinks(backend, function, call.arrays[0])

        agrees_with_finite_differences()

    @pytest.mark.parametrize(
        ("operation", "attributes", "points", "derivatives"),
        [
            ("relu", {}, (-1, 0, 1), (0, 0, 1)),
            ("absolute", {}, (-1, 0, 1), (-1, 0, 1)),
            ("sign", {}, (-1, 0, 1), (0, 0, 0)),
            ("clip", {"low": 0.0, "high": 6.0}, (-1, 0, 1, 6, 7), (0, 0, 1, 0, 0)),
            ("clip", {"low": -1.0, "high": 1.0}, (-2, -1, 0, 1, 2), (0, 0, 1, 0, 0)),
            ("hard_sigmoid", {}, (-4, -3, 3, 4), (0, 0, 0, 0)),
            ("hard_swish", {}, (-4, -3, 0, 3, 4), (0, 0, 0.5, 1, 1)),
        ],
    )
    def test_derivative_at_a_kink_is_the_documented_one(
        self,
        backend: Backend,
        operation: str,
        attributes: Mapping[str, float],
        points: Sequence[float],
        derivatives: Sequence[float],
    ) -> None:
        _need_gradients(backend)
        table = backend.table
        function = backend.value_and_grad(
            lambda x: table.sum(getattr(table, operation)(x, **attributes), axes=(0,))
        )
        results = backend.compile(function)(np.array(points, np.float32))
        np.testing.assert_array_equal(results["gradient"], np.array(derivatives, np.float32))

    def test_gradient_of_random_networks_agrees_with_finite_differences(
        self, backend: Backend
    ) -> None:
        _need_gradients(backend)

        @_examples(12)
        @given(st.data(), networks())
        def agrees_with_finite_differences(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn, most=2)
            layers = data.draw(
                st.lists(st.sampled_from(drawn.network.layers), min_size=1, max_size=3, unique=True)
            )
            assume(_distance_to_kink(drawn.network, drawn.weights, pixels) > _MIN_KINK_DISTANCE)
            _check_network_gradient(backend, drawn.network, drawn.weights, pixels, layers)

        agrees_with_finite_differences()

    @pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 47)])
    def test_gradient_of_mobilenet_agrees_with_finite_differences(
        self, backend: Backend, mobilenet: tuple[Network, Weights], shape: tuple[int, int, int]
    ) -> None:
        _need_gradients(backend)
        network, weights = mobilenet
        # Of a hundred thousand units, some are often too close to a kink: try several images.
        pixels = next(
            pixels
            for seed in range(100)
            if _distance_to_kink(network, weights, pixels := _pixels(shape, seed))
            > _MIN_KINK_DISTANCE
        )
        _check_network_gradient(backend, network, weights, pixels, ["features.4", "logits"])

    def test_gradient_of_squeeze_and_excitation_agrees_with_finite_differences(
        self, backend: Backend
    ) -> None:
        _need_gradients(backend)
        network = build_network("mobilenet_v3_small")
        weights = random_weights_and_statistics(network, seed=0)
        pixels = next(
            pixels
            for seed in range(100)
            if _distance_to_kink(network, weights, pixels := _pixels((1, 33, 32), seed))
            > _MIN_KINK_DISTANCE
        )
        _check_network_gradient(backend, network, weights, pixels, ["features.4", "logits"])

    def test_gradient_can_be_computed_outside_a_compiled_function(self, backend: Backend) -> None:
        _need_gradients(backend)
        table = backend.table
        x, y = (table.asarray(array) for array in _arrays((2, 3), (2, 3)))
        function = backend.value_and_grad(
            lambda x, y: table.sum(table.multiply(table.multiply(x, x), y), axes=(0, 1))
        )
        results = {name: table.to_numpy(tensor) for name, tensor in function(x, y).items()}
        x, y = table.to_numpy(x), table.to_numpy(y)
        assert results["value"].shape == ()
        assert_close(results["value"], np.asarray(np.sum(x * x * y)), ACTIVATION_TOLERANCE, "value")
        assert_close(results["gradient"], 2 * x * y, GRADIENT_TOLERANCE, "gradient")

    def test_value_independent_of_the_first_argument_is_rejected(self, backend: Backend) -> None:
        _need_gradients(backend)
        table = backend.table
        function = backend.value_and_grad(
            lambda x, y: table.sum(table.multiply(y, y), axes=(1,))  # noqa: ARG005
        )
        with pytest.raises(NoGradientError, match="first argument"):
            function(*(table.asarray(array) for array in _arrays((2, 3), (2, 3))))

    def test_gradient_keeps_the_other_entries_of_a_mapping(self, backend: Backend) -> None:
        _need_gradients(backend)
        table = backend.table

        def function(x: Any, y: Any) -> dict[str, Any]:
            squares = table.multiply(x, x)
            return {"value": table.sum(squares, axes=(1,)), "product": table.multiply(x, y)}

        differentiated = backend.compile_tensors(backend.value_and_grad(function))
        # Batch sizes vary, since attacks leave out the images that are finished.
        for batch_size in (3, 1, 2):
            generator = np.random.default_rng(batch_size)
            x, y = generator.normal(size=(2, batch_size, 4)).astype(np.float32)
            results = differentiated(table.asarray(x), table.asarray(y))
            expected = {"value": (x**2).sum(axis=1), "product": x * y, "gradient": 2 * x}
            assert sorted(results) == sorted(expected)
            for name, array in expected.items():
                assert_close(table.to_numpy(results[name]), array, GRADIENT_TOLERANCE, name)

    def test_gradient_can_be_computed_in_a_compiled_function(self, backend: Backend) -> None:
        _need_gradients(backend)
        compiled = backend.compile(_gradient_descent_step(backend))
        _check_gradient_descent(compiled, lambda array: array, lambda array: array)

    def test_tensors_can_be_passed_to_the_next_step(self, backend: Backend) -> None:
        _need_gradients(backend)
        compiled = backend.compile_tensors(_gradient_descent_step(backend))
        _check_gradient_descent(compiled, backend.table.asarray, backend.table.to_numpy)

    # ---- training -----------------------------------------------------------------------

    def test_tensors_may_be_in_nested_mappings_with_any_names(self, backend: Backend) -> None:
        _need_training(backend)
        table = backend.table

        def function(x: Any, tensors: Tensors, groups: Mapping[str, Tensors]) -> dict[str, Any]:
            products = {name: table.multiply(tensor, x) for name, tensor in tensors.items()}
            doubles = {
                group: {name: table.add(tensor, tensor) for name, tensor in inner.items()}
                for group, inner in groups.items()
            }
            return {"products": products, "doubles": doubles, "x": x}

        compiled = backend.compile_tensors(function)
        # Names and shapes may differ from call to call.
        for names, length in ((_NAMES, 2), (_NAMES[:2], 3), (_NAMES, 4), ((), 2), (_NAMES, 2)):
            x, *arrays = _arrays(*[(length,)] * (len(names) + 1))
            tensors = {n: table.asarray(array) for n, array in zip(names, arrays, strict=True)}
            groups: dict[str, Tensors] = {group: dict(tensors) for group in names}
            results = compiled(table.asarray(x), tensors, {**groups, "empty": {}})
            assert results.keys() == {"products", "doubles", "x"}
            assert results["products"].keys() == set(names)
            assert results["doubles"].keys() == {*names, "empty"}
            assert not results["doubles"]["empty"]
            np.testing.assert_array_equal(table.to_numpy(results["x"]), x)
            for name, array in zip(names, arrays, strict=True):
                product = table.to_numpy(results["products"][name])
                assert_close(product, array * x, ACTIVATION_TOLERANCE, name)
                assert results["doubles"][name].keys() == set(names)
                double = table.to_numpy(results["doubles"][_NAMES[1]][name])
                np.testing.assert_array_equal(double, 2 * array)

    def test_gradient_of_a_mapping_has_its_names_and_zeros_for_unused_tensors(
        self, backend: Backend
    ) -> None:
        _need_training(backend)
        table = backend.table
        used, unused, *others = _NAMES

        def function(tensors: Tensors, x: Any) -> dict[str, Any]:
            product = table.multiply(tensors[used], table.multiply(x, tensors[used]))
            for name in others:
                product = table.add(product, table.multiply(tensors[name], x))
            return {"value": table.sum(product, axes=(1,)), "nested": {"product": product}}

        shapes = {used: (2, 3), unused: (4, 1, 2), **dict.fromkeys(others, (2, 3))}
        *arrays, x = _arrays(*shapes.values(), (2, 3))
        parameters = dict(zip(shapes, arrays, strict=True))
        tensors = {name: table.asarray(array) for name, array in parameters.items()}
        expected = dict.fromkeys(others, x)
        expected |= {used: 2 * x * parameters[used], unused: np.zeros((4, 1, 2), np.float32)}
        differentiated = backend.value_and_grad(function)
        for call in (differentiated, backend.compile_tensors(differentiated)):
            results = call(tensors, table.asarray(x))
            assert results.keys() == {"value", "nested", "gradient"}
            assert results["nested"].keys() == {"product"}
            assert results["gradient"].keys() == expected.keys()
            for name, array in expected.items():
                gradient = table.to_numpy(results["gradient"][name])
                assert gradient.dtype == np.float32
                assert_close(gradient, array, GRADIENT_TOLERANCE, name)

    def test_value_independent_of_a_mapping_is_rejected(self, backend: Backend) -> None:
        _need_training(backend)
        table = backend.table
        function = backend.value_and_grad(
            lambda tensors, x: table.multiply(x, x)  # noqa: ARG005
        )
        tensors = dict(zip(_NAMES, map(table.asarray, _arrays((2, 3), (4,))), strict=False))
        for call in (function, backend.compile_tensors(function)):
            with pytest.raises(NoGradientError, match="first argument"):
                call(tensors, table.asarray(1.0))

    def test_kernels_of_tensors_agree_with_the_reference(self, backend: Backend) -> None:
        _need_training(backend)

        @_examples(30)
        @given(PRIMITIVE_CALLS["conv2d"])
        def agree_with_reference(call: PrimitiveCall) -> None:
            def function(table: Table[Any], parameters: Tensors, x: Any) -> list[Any]:
                kernel = table.kernel_of_tensor(parameters["weight"], call.attributes["groups"])
                return [table.conv2d(x, kernel, parameters.get("bias"), **call.attributes)]

            parameters = dict(zip(("weight", "bias"), call.constants, strict=False))
            _check_parameter_gradient(backend, function, parameters, call.arrays[0])

        agree_with_reference()

    @pytest.mark.parametrize("shape", [(24,), (4, 6), (3, 1, 2, 4)], ids=str)
    def test_reshaped_tensors_and_their_derivative_are_in_row_major_order(
        self, backend: Backend, shape: tuple[int, ...]
    ) -> None:
        _need_training(backend)
        table = backend.table
        x, weights = _arrays((2, 3, 4), shape)

        def function(tensors: Tensors, weights: Any) -> dict[str, Any]:
            y = table.reshape(table.transpose(tensors["x"], axes=(0, 2, 1)), shape=shape)
            axes = tuple(range(len(shape)))
            return {"value": table.sum(table.multiply(y, weights), axes=axes), "y": y}

        result = backend.compile_tensors(backend.value_and_grad(function))(
            {"x": table.asarray(x)}, table.asarray(weights)
        )
        np.testing.assert_array_equal(
            table.to_numpy(result["y"]), x.transpose(0, 2, 1).reshape(shape)
        )
        np.testing.assert_array_equal(
            table.to_numpy(result["gradient"]["x"]), weights.reshape(2, 4, 3).transpose(0, 2, 1)
        )

    def test_batch_norm_by_the_batch_has_the_documented_values(self, backend: Backend) -> None:
        _need_training(backend)

        @_examples(30)
        @given(PRIMITIVE_CALLS["batch_norm"], st.sampled_from([0.01, 0.1, 1.0]))
        def has_the_documented_values(call: PrimitiveCall, momentum: float) -> None:
            (x,), (scale, shift, mean, variance) = call.arrays, call.constants
            count = math.prod(x.shape[:3])
            assume(count > 1)
            epsilon = call.attributes["epsilon"]
            arguments = [backend.table.asarray(array) for array in (x, *call.constants)]
            results = backend.compile_tensors(
                lambda *tensors: {
                    str(index): tensor
                    for index, tensor in enumerate(
                        backend.table.batch_norm_training(
                            *tensors, epsilon=epsilon, momentum=momentum
                        )
                    )
                }
            )(*arguments)
            batch = x.astype(np.float64).reshape(count, -1)
            deviation = np.sqrt(batch.var(axis=0) + epsilon)
            expected = {
                "normalized": (x - batch.mean(axis=0)) / deviation * scale + shift,
                "mean": (1 - momentum) * mean + momentum * batch.mean(axis=0),
                "variance": (1 - momentum) * variance + momentum * batch.var(axis=0, ddof=1),
            }
            for tensor, (name, array) in zip(results.values(), expected.items(), strict=True):
                assert_close(backend.table.to_numpy(tensor), array, ACTIVATION_TOLERANCE, name)

        has_the_documented_values()

    def test_gradient_of_batch_norm_by_the_batch_agrees_with_finite_differences(
        self, backend: Backend
    ) -> None:
        _need_training(backend)

        @_examples(30)
        @given(PRIMITIVE_CALLS["batch_norm"])
        def agrees_with_finite_differences(call: PrimitiveCall) -> None:
            (x,), (scale, shift, *statistics) = call.arrays, call.constants
            # With few pixels, the derivatives with respect to them are only rounding errors: two
            # are normalized to 1 and -1, whatever they are.
            assume(math.prod(x.shape[:3]) >= _MIN_PIXELS)

            def function(table: Table[Any], tensors: Tensors, _: Any) -> list[Any]:
                arguments = [*tensors.values(), *map(table.asarray, statistics)]
                y, *_ = table.batch_norm_training(*arguments, momentum=0.1, **call.attributes)
                return [y]

            tensors = {"1": x, "2": scale, "3": shift}
            _check_parameter_gradient(backend, function, tensors, x)

        agrees_with_finite_differences()

    @pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
    def test_gradient_of_parameters_of_random_networks_agrees_with_finite_differences(
        self, backend: Backend, *, fused: bool
    ) -> None:
        _need_training(backend)

        @_examples(12)
        @given(st.data(), networks(), st.integers(0, 1000))
        def agrees_with_finite_differences(
            data: st.DataObject, drawn: RandomNetwork, seed: int
        ) -> None:
            pixels = _draw_pixels(data, drawn, most=3)
            network, shapes = _with_masks(drawn.network, drawn.weights, pixels)
            if fused:
                network = fuse_batch_norm(network, [])
            draws = _masks(shapes, seed)
            _check_network_parameters(
                backend, network, drawn.weights, drawn.network.statistics, pixels, draws
            )

        agrees_with_finite_differences()

    @pytest.mark.parametrize("updates", [False, True], ids=["frozen", "updated"])
    def test_steps_of_training_agree_with_the_reference(
        self, backend: Backend, *, updates: bool
    ) -> None:
        _need_training(backend)
        network = _network_to_train()
        weights = random_weights_and_statistics(network, seed=0)
        statistics = network.statistics
        shapes = {
            name: shape for name, shape in network.parameters.items() if name not in statistics
        }
        groups = ParameterGroups(
            {**dict.fromkeys(shapes, 1.0), "conv.weight": 0.5},
            frozenset(name for name, shape in shapes.items() if len(shape) > 1),
            statistics if updates else frozenset(),
        )
        optimizer: Optimizer = (
            SGD(0.3, momentum=0.9, nesterov=True, weight_decay=0.1)
            if updates
            else AdamW(0.05, epsilon=1e-2, weight_decay=0.1)
        )
        network, mask_shapes = _with_masks(network, weights, _pixels((1, 6, 5)))
        network = update_batch_norm(network) if updates else fuse_batch_norm(network, [])
        # More images than backends differentiate at a time.
        count = 17
        generator = np.random.default_rng(0)
        batch = TrainingBatch(
            _pixels((count, 6, 5)),
            generator.dirichlet(np.ones(3), count).astype(np.float32),
            generator.uniform(0.5, 1.5, count).astype(np.float32),
            _masks({name: (count, *shape[1:]) for name, shape in mask_shapes.items()}, seed=0),
        )
        actual, expected = (
            _take_steps(
                TrainingStep(
                    one,
                    network,
                    groups,
                    optimizer,
                    clip_norm=0.7,
                    l2_sp=0.2,
                    average_decay=0.8,
                    anchors={name: weights[name] + np.float32(0.1) for name in groups.decayed},
                ),
                weights,
                batch,
            )
            for one in (backend, FiniteDifferencesBackend())
        )
        assert actual.keys() == expected.keys()
        for name, array in expected.items():
            assert_close(actual[name], array, GRADIENT_TOLERANCE, name)


# ---- operations after a convolution ----------------------------------------------------


def _add_constant(table: Table[Any], y: Any) -> Any:
    return table.add(y, table.asarray([0.25]))


def _relu6(table: Table[Any], y: Any) -> Any:
    return table.clip(y, low=0.0, high=6.0)


def _pad(table: Table[Any], y: Any) -> Any:
    return table.pad(y, padding=((1, 0), (2, 1)))


def _pool(table: Table[Any], y: Any) -> Any:
    padding = ((1, 1), (0, 1))
    return table.max_pool2d(table.relu(y), size=(2, 2), stride=(1, 1), padding=padding)


_AFTER_CONVOLUTION: Mapping[str, Callable[[Table[Any], Any], Any]] = {
    "relu": lambda table, y: table.relu(y),
    "relu6": _relu6,
    "add and relu": lambda table, y: table.relu(_add_constant(table, y)),
    "hard_swish": lambda table, y: table.hard_swish(y),
    "residual and relu6": lambda table, y: _relu6(table, table.add(y, table.tanh(y))),
    "sigmoid and multiply": lambda table, y: table.multiply(y, table.sigmoid(y)),
    "pad": _pad,
    "pad and relu": lambda table, y: table.relu(_pad(table, y)),
    "pool": _pool,
}


# ---- comparisons -----------------------------------------------------------------------


def _arrays(*shapes: tuple[int, ...]) -> list[Floats]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def _pixels(shape: tuple[int, int, int], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _draw_pixels(data: st.DataObject, drawn: RandomNetwork, most: int = 5) -> Floats:
    sides = (st.just(drawn.height), st.just(drawn.width))
    return data.draw(images(*sides, st.integers(1, most)))


def _check_result(array: Array) -> None:
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert array.flags.writeable


def _compare(actual: Mapping[str, Array], expected: Mapping[str, Array], name: str) -> None:
    assert list(actual) == list(expected)
    for layer, array in actual.items():
        _check_result(array)
        assert_close(array, expected[layer], ACTIVATION_TOLERANCE, f"{name}, layer {layer}")


def _check_network(
    backend: Backend, network: Network, weights: Weights, pixels: Floats, layers: Sequence[str]
) -> None:
    expected = reference_activations(network, weights, pixels, layers)
    actual = Program(backend, network, weights).run(pixels, layers)
    _compare(actual, expected, "random network")


# ---- gradients -------------------------------------------------------------------------


class _KinkTable(ReferenceTable):
    """The reference, which records the smallest distance of any unit to a kink.

    A kink is a point where a primitive is not differentiable. If a unit is so close to a kink
    that rounding or the step of the finite difference moves it to the other side, its derivative
    cannot be compared. Units exactly at a kink are not counted: they stay there for any small
    change of the input, such as the zeros of a relu that is followed by another relu.
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance = math.inf

    def relu(self, x: Array) -> Array:
        self._record(x)
        return super().relu(x)

    def absolute(self, x: Array) -> Array:
        self._record(x)
        return super().absolute(x)

    def clip(self, x: Array, *, low: float, high: float) -> Array:
        self._record(x - low)
        self._record(x - high)
        return super().clip(x, low=low, high=high)

    def max_pool2d(
        self, x: Array, *, size: tuple[int, int], stride: tuple[int, int], padding: Padding
    ) -> Array:
        largest = super().max_pool2d(x, size=size, stride=stride, padding=padding)
        padded = self.pad(x, padding=padding, value=-np.inf)
        _, h, w, _ = largest.shape
        for row in range(size[0]):
            for column in range(size[1]):
                pixels = padded[:, row :: stride[0], column :: stride[1]][:, :h, :w]
                self._record(largest - pixels)
        return largest

    def max(self, x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        self._record(super().max(x, axes=axes, keepdims=True) - x)
        return super().max(x, axes=axes, keepdims=keepdims)

    def _record(self, distances: Array) -> None:
        distances = np.abs(distances)
        self.distance = min(self.distance, float(distances[distances > 0].min(initial=math.inf)))


def _distance_to_kink(network: Network, weights: Weights, pixels: Floats) -> float:
    table = _KinkTable()
    parameters = load_parameters(table, network, weights)
    run_network(table, network, parameters, table.asarray(pixels), [network.resolve("logits")])
    return table.distance


def _gradient_descent_step(backend: Backend) -> Callable[..., Mapping[str, Any]]:
    """Return a step of gradient descent, whose loss uses an outer argument and a constant."""
    table = backend.table

    def step(x: Any, target: Any) -> Mapping[str, Any]:
        weight = table.asarray(3.0)

        def loss(x: Any) -> Any:
            difference = table.subtract(table.multiply(x, target), weight)
            return table.sum(table.multiply(difference, difference), axes=(0, 1))

        results = backend.value_and_grad(loss)(x)
        update = table.multiply(results["gradient"], table.asarray(0.1))
        return {"x": table.subtract(x, update), "loss": results["value"]}

    return step


def _check_gradient_descent(
    step: Callable[..., Mapping[str, Any]],
    from_array: Callable[[Floats], Any],
    to_array: Callable[[Any], Floats],
) -> None:
    """Check two steps of `_gradient_descent_step`, the second with the results of the first."""
    x, target = _arrays((2, 3), (2, 3))
    tensor = from_array(x)
    for _ in range(2):
        results = step(tensor, from_array(target))
        residual = x.astype(np.float64) * target - 3
        expected_loss = np.asarray(np.sum(residual**2))
        expected_x = x - 0.1 * 2 * residual * target
        assert_close(to_array(results["loss"]), expected_loss, ACTIVATION_TOLERANCE, "loss")
        assert_close(to_array(results["x"]), expected_x, GRADIENT_TOLERANCE, "step")
        tensor, x = results["x"], to_array(results["x"])


def _need_gradients(backend: Backend) -> None:
    if GRADIENTS not in backend.capabilities:
        pytest.skip(f"backend {backend.name!r} does not declare gradients")


def _check_gradient_away_from_kinks(
    backend: Backend, function: Callable[[Table[Any], Any], Sequence[Any]], x: Floats
) -> None:
    table = _KinkTable()
    function(table, table.asarray(x))
    assume(table.distance > _MIN_KINK_DISTANCE)
    _check_gradient(
        backend,
        lambda x: function(backend.table, x),
        lambda x: function(ReferenceTable(), x),
        x,
    )


def _check_gradient(
    backend: Backend,
    function: Callable[[Any], Sequence[Any]],
    reference: Callable[[Array], Sequence[Array]],
    x: Floats,
) -> None:
    """Compare the gradient of a weighted sum of a function's results with finite differences.

    ``function`` uses the table of the backend and ``reference`` that of the reference; both
    compute the same list of tensors from an array.
    """
    generator = np.random.default_rng(0)
    weights = [_random_weights(generator, y.shape) for y in reference(x.astype(np.float64))]

    def reference_total(x: npt.NDArray[np.float64]) -> Array:
        return np.asarray(_weighted_sum(ReferenceTable(), reference(x), weights))

    differentiated = backend.value_and_grad(
        lambda x: _weighted_sum(backend.table, function(x), weights)
    )
    results = backend.compile(differentiated)(x)
    _check_result(results["gradient"])
    assert results["gradient"].shape == x.shape
    gradient = results["gradient"].ravel()
    # Random components of the gradient, and the largest one.
    chosen = generator.choice(x.size, min(x.size, _DERIVATIVES_COMPARED), replace=False)
    chosen = np.append(chosen, np.abs(gradient).argmax())
    directions = np.zeros((len(chosen), x.size))
    directions[np.arange(len(chosen)), chosen] = 1
    expected = finite_differences(reference_total, x, directions.reshape(-1, *x.shape), _STEP)
    difference = float(np.abs(gradient[chosen] - expected).max())
    scale = float(np.abs(gradient).max())
    assert difference <= max(GRADIENT_TOLERANCE * scale, _ROUNDING_ERROR), (
        f"gradient: difference {difference:.3g}, expected at most {GRADIENT_TOLERANCE:g} times the "
        f"largest derivative, {scale:.3g}"
    )


def _random_weights(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(generator.uniform(0.5, 1.5, shape) * generator.choice([-1, 1], shape))


def _weighted_sum(table: Table[Any], tensors: Sequence[Any], weights: Sequence[Array]) -> Any:
    value = table.asarray(0.0)
    for tensor, weight in zip(tensors, weights, strict=True):
        product = table.multiply(tensor, table.asarray(weight))
        value = table.add(value, table.sum(product, axes=tuple(range(weight.ndim))))
    return value


def _check_network_gradient(
    backend: Backend, network: Network, weights: Weights, pixels: Floats, layers: Sequence[str]
) -> None:
    """Compare the gradient of a random smooth function of the outputs of ``layers``."""
    activations = reference_activations(network, weights, pixels, layers)
    scales = [float(np.abs(array).max()) or 1.0 for array in activations.values()]

    def smooth(table: Table[Any], outputs: Mapping[str, Any]) -> list[Any]:
        return [
            table.tanh(table.divide(outputs[layer], table.asarray(scale)))
            for layer, scale in zip(layers, scales, strict=True)
        ]

    loaded = Program(backend, network, weights).load(layers)
    _check_gradient(
        backend,
        lambda x: smooth(backend.table, loaded(x)),
        lambda x: smooth(ReferenceTable(), reference_activations(network, weights, x, layers)),
        pixels,
    )


# ---- training --------------------------------------------------------------------------


def _need_training(backend: Backend) -> None:
    if TRAINING not in backend.capabilities:
        pytest.skip(f"backend {backend.name!r} does not declare training")


def _masks(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Floats]:
    """Return a mask of each shape, in which a third of the values are 0."""
    generator = np.random.default_rng(seed)
    return {
        name: (generator.choice([0, 1, 1], shape) * 1.5).astype(np.float32)
        for name, shape in shapes.items()
    }


def _with_masks(
    network: Network, weights: Weights, pixels: Floats
) -> tuple[Network, dict[str, tuple[int, ...]]]:
    """Return a network with dropout and, if it has residual blocks, stochastic depth.

    Also the shape of each mask.
    """
    (before_logits,) = network.node("logits").inputs
    features = reference_activations(network, weights, pixels, [before_logits])[before_logits]
    network, name = add_dropout(network)
    shapes: dict[str, tuple[int, ...]] = {name: features.shape}
    if any(node.operation == "add" and len(set(node.inputs)) == 2 for node in network.nodes):
        network, names = add_stochastic_depth(network)
        shapes |= dict.fromkeys(names, (len(pixels), 1, 1, 1))
    return network, shapes


def _check_network_parameters(
    backend: Backend,
    network: Network,
    weights: Weights,
    statistics: Collection[str],
    pixels: Floats,
    draws: Mapping[str, Floats],
) -> None:
    """Compare the logits of a network in training, and the gradient of its parameters.

    Those named in ``statistics`` are not differentiated.
    """
    logits = network.resolve("logits")

    def function(table: Table[Any], parameters: Tensors, x: Any) -> list[Any]:
        masks, others = (
            {name: table.asarray(array) for name, array in arrays.items()}
            for arrays in (draws, fixed)
        )
        outputs, _ = apply_network(
            table, network, {**parameters, **others}, x, [logits], training=True, draws=masks
        )
        return [outputs[logits]]

    fixed = {name: weights[name] for name in statistics}
    parameters = {name: weights[name] for name in network.parameters if name not in fixed}
    table = _KinkTable()
    function(table, {n: table.asarray(array) for n, array in parameters.items()}, pixels)
    assume(table.distance > _MIN_KINK_DISTANCE)
    _check_parameter_gradient(backend, function, parameters, pixels)


def _check_parameter_gradient(
    backend: Backend,
    function: Callable[[Table[Any], Tensors, Any], Sequence[Any]],
    parameters: Mapping[str, Floats],
    x: Floats,
) -> None:
    """Compare a function of named parameters, and its gradient, with the reference.

    ``function`` computes a list of tensors. The gradient is that of a weighted sum of them, and
    compared along one random direction in each parameter.
    """
    table, reference = backend.table, ReferenceTable()
    doubles = {name: reference.asarray(array) for name, array in parameters.items()}
    expected = function(reference, doubles, reference.asarray(x))
    generator = np.random.default_rng(0)
    weights = [_random_weights(generator, y.shape) for y in expected]

    def value_and_outputs(parameters: Tensors, x: Any) -> dict[str, Any]:
        outputs = function(table, parameters, x)
        total = _weighted_sum(table, outputs, weights)
        return {"value": total, **{str(index): y for index, y in enumerate(outputs)}}

    def reference_total(array: Array, *, name: str) -> Array:
        outputs = function(reference, {**doubles, name: array}, reference.asarray(x))
        return np.asarray(_weighted_sum(reference, outputs, weights))

    compiled = backend.compile_tensors(backend.value_and_grad(value_and_outputs))
    tensors = {name: table.asarray(array.copy()) for name, array in parameters.items()}
    results = compiled(tensors, table.asarray(x.copy()))
    for index, y in enumerate(expected):
        actual = table.to_numpy(results[str(index)])
        assert_close(actual, y, ACTIVATION_TOLERANCE, f"output {index}")
    gradients = {name: table.to_numpy(slope) for name, slope in results["gradient"].items()}
    assert gradients.keys() == parameters.keys()
    # As precise as the largest derivatives: a small one may be their difference.
    largest = max(float(np.abs(gradient).max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert gradient.shape == parameters[name].shape
        direction = generator.normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        (derivative,) = finite_differences(
            partial(reference_total, name=name), doubles[name], [direction], _STEP
        )
        difference = abs(float((gradient * direction).sum()) - derivative)
        limit = max(
            GRADIENT_TOLERANCE * float(np.abs(gradient).max()), _ROUNDING_ERROR * max(1.0, largest)
        )
        assert difference <= limit, f"{name}: difference {difference:.3g}, at most {limit:.3g}"


def _network_to_train() -> Network:
    """Return a network of each kind of convolution, with batch norms and a residual block."""
    builder = NetworkBuilder("small", input_size=8)
    x = builder.conv2d("conv", INPUT, 3, 4, size=2, padding=((0, 1), (1, 0)), bias=False)
    x = builder.batch_norm("norm", x, 4, epsilon=1e-3)
    shortcut = builder.add_node("sigmoid", "sigmoid", x)
    x = builder.conv2d("grouped", shortcut, 4, 4, size=2, padding=((1, 0), (1, 0)), groups=2)
    x = builder.add_node("tanh", "tanh", x)
    x = builder.conv2d("depthwise", x, 4, 4, size=3, padding=1, groups=4, bias=False)
    x = builder.batch_norm("last_norm", x, 4, epsilon=1e-5)
    x = builder.add_node("add", "add", x, shortcut)
    x = builder.add_node("embedding", "mean", x, axes=(1, 2))
    builder.linear("logits", x, 4, 3)
    return builder.build()


def _take_steps(step: TrainingStep, weights: Weights, batch: TrainingBatch) -> dict[str, Array]:
    """Return the results of three steps, and by how much they changed each part of the state."""
    state = step.initial_state(weights)
    before = step.state_to_numpy(state)
    found: dict[str, Array] = {}
    for index in range(3):
        state, result = step.run(state, batch, step.optimizer.coefficients(index, 3))
        found[f"step {index}"] = np.array([result.loss, result.accuracy, result.gradient_norm])
    for group, arrays in step.state_to_numpy(state).items():
        for name, array in arrays.items():
            found[f"{group} {name}"] = array - before[group][name]
    found["logits"] = step.logits({**state.fixed, **state.trained}, batch.x)
    return found
