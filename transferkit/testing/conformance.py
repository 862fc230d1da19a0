"""The tests that every backend is held to, those that come with transferkit and any plugin.

A plugin's author writes this, and runs pytest::

    import pytest
    from transferkit.backends import get_backend
    from transferkit.testing.conformance import BackendConformance

    class TestMyBackend(BackendConformance):
        @pytest.fixture(scope="class")
        def backend(self):
            return get_backend("mine")

The examples are the same at every run, so that a backend passes, or fails, for good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from transferkit.backends.base import API_VERSION, GRADIENTS, INFERENCE, Backend, Table
from transferkit.backends.interpreter import load_parameters, run_network
from transferkit.backends.program import Program
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
from transferkit.testing.reference import (
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

__all__ = ["ACTIVATION_TOLERANCE", "GRADIENT_TOLERANCE", "BackendConformance", "assert_close"]

ACTIVATION_TOLERANCE = 1e-4
"""The largest difference of an activation, as a part of the layer's largest absolute value."""

GRADIENT_TOLERANCE = 1e-3
"""The largest difference of a derivative, as a part of the largest absolute one."""

Array: TypeAlias = npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float32]
Function: TypeAlias = Callable[..., Any]

# Batch, height and width: the smallest, odd, oblong, large.
_MOBILENET_SHAPES = ((1, 32, 32), (5, 33, 47), (2, 97, 64), (3, 129, 255), (1, 300, 299))
_MOBILENET_LAYERS = ("features.6", "features.9.conv.1.0", "features.18", "embedding", "logits")
# A network of each further family, in each variant that differs but for what only takes long.
_FAMILIES = (
    ("vgg11", "torchvision"),
    ("resnet18", "torchvision"),
    ("resnet50", "keras"),
    ("mobilenet_v1_025", "keras"),
    ("mobilenet_v2", "keras"),
    ("mobilenet_v3_small", "torchvision"),
    ("mobilenet_v3_small", "keras"),
)
_NUMBER_OF_THREADS = 10
# Smaller than any distance to a kink that the tests allow, larger than float64's noise.
_STEP = 1e-6
_MARGIN = 5e-6
_NUMBER_OF_DERIVATIVES = 12
# Where a sigmoid is nearly 1 its derivative, s (1 - s), is made of the last digits of a
# float32 number: of derivatives smaller than this, only that they are small is tested.
_SMALLEST_DERIVATIVE = 1e-4


def _examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


def assert_close(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Fail unless ``found`` is as near to ``expected`` as a contract asks.

    Parameters
    ----------
    found, expected
        Arrays, which must be of the same shape.
    tolerance
        The largest absolute difference, as a part of the largest absolute value of
        ``expected``.
    what
        Put into the message.

    Raises
    ------
    AssertionError
        If they differ in shape or by more, or ``found`` has a value that is no number.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.testing.conformance import assert_close
    >>> assert_close(np.array([1.0, 9.0]), np.array([1.0, 10.0]), 0.2, "a layer")
    """
    if found.shape != expected.shape:
        raise AssertionError(f"{what}: shape {found.shape}, expected {expected.shape}")
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    scale = float(np.abs(expected).max())
    # Not `difference > ...`, which is false for NaN.
    if not difference <= tolerance * scale:
        raise AssertionError(
            f"{what}: differs by {difference:.3g} where the largest value is {scale:.3g}; at most "
            f"{tolerance:g} of that is allowed"
        )


class BackendConformance:
    """What a backend must do. Subclasses provide a pytest fixture named ``backend``."""

    # ---- what it says of itself -------------------------------------------------------

    def test_declaration(self, backend: Backend) -> None:
        assert backend.api_version == API_VERSION
        assert backend.name
        assert isinstance(backend.name, str)
        assert INFERENCE in backend.capabilities
        assert backend.capabilities <= {INFERENCE, GRADIENTS}
        assert backend.version()
        assert isinstance(backend.version(), str)

    def test_devices(self, backend: Backend) -> None:
        create: Callable[[str], Backend] = type(backend)
        devices = backend.devices()
        assert devices
        assert all(isinstance(device, str) for device in devices)
        chosen = create(devices[0])
        assert chosen.compile(chosen.table.relu)(np.full(2, -1.0, np.float32)).tolist() == [0, 0]
        with pytest.raises(UnknownNameError, match="no such device"):
            create("no such device")

    # ---- primitives -------------------------------------------------------------------

    @pytest.mark.parametrize("operation", sorted(PRIMITIVE_CALLS))
    def test_primitive(self, backend: Backend, operation: str) -> None:
        @_examples(40)
        @given(PRIMITIVE_CALLS[operation])
        def agrees_with_reference(call: PrimitiveCall) -> None:
            found = backend.compile(_over(backend.table, call))(*call.arrays)
            table = ReferenceTable()
            expected = call.run(table, *map(table.asarray, call.arrays))
            _check_result(found)
            assert_close(found, expected, ACTIVATION_TOLERANCE, operation)

        agrees_with_reference()

    def test_convolution_follows_convolution(self, backend: Backend) -> None:
        # What follows a convolution is often computed together with it, and compilers that do
        # so have rules of their own for each kind of convolution, padding and neighbour.
        @_examples(30)
        @given(PRIMITIVE_CALLS["conv2d"], st.sampled_from(sorted(_NEIGHBOURS)))
        def agrees_with_reference(call: PrimitiveCall, neighbour: str) -> None:
            def function(table: Table[Any], x: Any) -> Any:
                return _NEIGHBOURS[neighbour](table, call.run(table, x))

            found = backend.compile(lambda x: function(backend.table, x))(*call.arrays)
            table = ReferenceTable()
            expected = function(table, table.asarray(call.arrays[0]))
            assert_close(found, expected, ACTIVATION_TOLERANCE, f"{neighbour} after conv2d")

        agrees_with_reference()

    def test_nothing_has_no_direction(self, backend: Backend) -> None:
        compiled = backend.compile(backend.table.l2_normalize)
        np.testing.assert_array_equal(compiled(np.zeros((2, 3), np.float32)), np.zeros((2, 3)))

    def test_arrays_become_tensors_and_back(self, backend: Backend) -> None:
        values = np.random.default_rng(0).normal(size=(2, 3, 5, 7))
        found = backend.table.to_numpy(backend.table.asarray(values))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values.astype(np.float32))

    # ---- compiled functions -----------------------------------------------------------

    def test_compiled_function_gives_a_mapping_by_any_names(self, backend: Backend) -> None:
        table = backend.table

        def function(x: Any, y: Any) -> Mapping[str, Any]:
            total = table.add(x, y)
            return {"features.0": total, "a b/ü": table.relu(x), "again": total, "as given": x}

        x, y = _arrays((2, 5, 3, 4), (2, 5, 3, 4))
        found = backend.compile(function)(x, y)
        assert list(found) == ["features.0", "a b/ü", "again", "as given"]
        for array in found.values():
            _check_result(array)
        np.testing.assert_allclose(found["features.0"], x + y, rtol=1e-6)
        np.testing.assert_array_equal(found["a b/ü"], np.maximum(x, 0))
        np.testing.assert_array_equal(found["again"], found["features.0"])
        np.testing.assert_array_equal(found["as given"], x)

    @pytest.mark.parametrize("name", ["given back", "flattened", "cropped", "not padded"])
    def test_results_can_be_written_to(self, backend: Backend, name: str) -> None:
        table = backend.table
        # These are views of their argument where a framework gives views.
        functions: Mapping[str, Function] = {
            "given back": lambda x: x,
            "flattened": table.flatten,
            "cropped": lambda x: table.crop(x, top=0, left=0, height=4, width=3),
            "not padded": lambda x: table.pad(x, padding=((0, 0), (0, 0))),
        }
        (x,) = _arrays((2, 4, 3, 5))
        before = x.copy()
        compiled = backend.compile(functions[name])
        first = compiled(x)
        second = compiled(x)
        second[...] = 7
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(first.ravel(), before.ravel())

    def test_results_do_not_change_at_later_calls(self, backend: Backend) -> None:
        table = backend.table
        compiled = backend.compile(lambda x: {"double": table.add(x, x), "flat": table.flatten(x)})
        x, y = _arrays((3, 4, 5, 6), (3, 4, 5, 6))
        first = compiled(x)
        kept = {name: array.copy() for name, array in first.items()}
        compiled(y)
        x[...] = 0
        for name, array in kept.items():
            np.testing.assert_array_equal(first[name], array)

    def test_any_layout_and_number_type_of_input(self, backend: Backend) -> None:
        table = backend.table
        (x,) = _arrays((4, 6, 8, 3))
        compiled = backend.compile(
            lambda x: table.max_pool2d(x, size=(2, 2), stride=(2, 2), padding=((1, 0), (0, 1)))
        )
        expected = compiled(x)
        read_only = x.copy()
        read_only.flags.writeable = False
        backwards = x[::-1, ::-1].copy()[::-1, ::-1]
        wide = np.repeat(x, 2, axis=2)[:, :, ::2]
        for given_array in (np.asfortranarray(x), read_only, backwards, wide, x.astype(np.float64)):
            before = given_array.copy()
            found = compiled(given_array)
            _check_result(found)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(given_array, before)

    def test_one_function_for_many_shapes(self, backend: Backend) -> None:
        table = backend.table
        compiled = backend.compile(
            lambda x: table.mean(table.flatten(table.resize(x, height=3, width=2)), axes=(1,))
        )
        reference = ReferenceTable()
        for x in _arrays((1, 4, 4, 3), (5, 4, 4, 3), (2, 9, 7, 2), (1, 1, 1, 1), (1, 4, 4, 3)):
            resized = reference.resize(reference.asarray(x), height=3, width=2)
            expected = resized.mean(axis=(1, 2, 3))
            assert_close(compiled(x), expected, ACTIVATION_TOLERANCE, f"shape {x.shape}")

    # ---- networks ---------------------------------------------------------------------

    def test_random_networks(self, backend: Backend) -> None:
        @_examples(15)
        @given(st.data(), networks())
        def agree_with_reference(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn)
            _check_network(backend, drawn.network, drawn.weights, pixels, drawn.network.layers)
            # Alone, a layer lets the rest be left out and batch norm be folded.
            layers = data.draw(st.lists(st.sampled_from(drawn.network.layers), min_size=1))
            _check_network(backend, drawn.network, drawn.weights, pixels, layers)

        agree_with_reference()

    def test_random_networks_on_larger_pictures(self, backend: Backend) -> None:
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

    def test_every_layer_of_mobilenet(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        network, weights = mobilenet
        program = Program(backend, network, weights)
        for shape in _MOBILENET_SHAPES:
            pixels = _pixels(shape)
            expected = reference_activations(network, weights, pixels, network.layers)
            _compare(program.run(pixels, network.layers), expected, f"mobilenet_v2 on {shape}")

    def test_folded_mobilenet(self, backend: Backend, mobilenet: tuple[Network, Weights]) -> None:
        network, weights = mobilenet
        program = Program(backend, network, weights)
        for shape in _MOBILENET_SHAPES[:3]:
            pixels = _pixels(shape)
            expected = reference_activations(network, weights, pixels, _MOBILENET_LAYERS)
            _compare(program.run(pixels, _MOBILENET_LAYERS), expected, f"mobilenet_v2 on {shape}")

    @pytest.mark.parametrize(("name", "variant"), _FAMILIES)
    def test_every_layer_of_family(self, backend: Backend, name: str, variant: str) -> None:
        network = build_network(name, variant=variant, channel_order="bgr")
        weights = random_weights_and_statistics(network, seed=0)
        pixels = _pixels((1, 32, 47))
        expected = reference_activations(network, weights, pixels, network.layers)
        found = Program(backend, network, weights).run(pixels, network.layers)
        _compare(found, expected, name)
        few = ("embedding", "logits")
        # VGG's matrices are half a gigabyte: they are loaded once.
        if not name.startswith("vgg"):
            found = Program(backend, network, weights).run(pixels, few)
            _compare(found, {layer: expected[layer] for layer in few}, name)

    def test_rows_do_not_depend_on_each_other(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        program = Program(backend, *mobilenet)
        pixels = _pixels((5, 32, 40))
        together = program.run(pixels, ["embedding"])["embedding"]
        for row, expected in enumerate(together):
            alone = program.run(pixels[row : row + 1], ["embedding"])["embedding"]
            assert_close(alone, expected[None], ACTIVATION_TOLERANCE, f"picture {row} alone")

    def test_arguments_stay_as_they_were(self, backend: Backend) -> None:
        @_examples(5)
        @given(st.data(), networks())
        def stay(data: st.DataObject, drawn: RandomNetwork) -> None:
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

        stay()

    def test_unknown_layer(self, backend: Backend, mobilenet: tuple[Network, Weights]) -> None:
        program = Program(backend, *mobilenet)
        with pytest.raises(UnknownNameError, match="embedding") as caught:
            program.run(_pixels((1, 32, 32)), ["embeding"])
        assert "embedding" in caught.value.close_matches

    def test_a_picture_too_small(self, backend: Backend) -> None:
        builder = NetworkBuilder("small", input_size=8)
        x = builder.conv2d("conv", INPUT, 3, 4, size=5)
        builder.add_node("embedding", "mean", x, axes=(1, 2))
        network = builder.build()
        program = Program(backend, network, random_weights(network, random_state=0))
        # Left to themselves, some frameworks raise, and some give zeros.
        with pytest.raises(ShapeError, match="small cannot take 4 x 9 pixels: layer 'conv'"):
            program.run(_pixels((1, 4, 9)), ["embedding"])
        assert program.run(_pixels((1, 5, 9)), ["embedding"])["embedding"].shape == (1, 4)

    def test_pixels_of_another_shape(
        self, backend: Backend, mobilenet: tuple[Network, Weights]
    ) -> None:
        program = Program(backend, *mobilenet)
        for shape in ((32, 32, 3), (1, 32, 32, 1), (0, 32, 32, 3)):
            with pytest.raises(ShapeError, match="expected"):
                program.run(np.zeros(shape, np.float32), ["embedding"])

    @pytest.mark.parametrize("channels", [4, 100_000])
    def test_weights_are_not_shared(self, backend: Backend, channels: int) -> None:
        builder = NetworkBuilder("wide", input_size=8)
        builder.conv2d("conv", INPUT, 3, channels, size=1)
        network = builder.build()
        weights = random_weights(network, random_state=0)
        program = Program(backend, network, weights)
        before = program.run(_pixels((1, 4, 4)), ["conv"])["conv"].copy()
        for array in weights.values():
            array[...] = 0
        np.testing.assert_array_equal(program.run(_pixels((1, 4, 4)), ["conv"])["conv"], before)

    # ---- threads ----------------------------------------------------------------------

    @pytest.mark.parametrize("shared", [True, False], ids=["one program", "a program each"])
    def test_ten_threads(
        self, backend: Backend, mobilenet: tuple[Network, Weights], *, shared: bool
    ) -> None:
        network, weights = mobilenet
        layers = ["features.3", "embedding"] if shared else ["features.1"]
        # Each thread has pictures of its own, of several sizes, so that compiling is shared too.
        batches = [
            _pixels((1, 32 + 8 * (index % 3), 32), seed=index)
            for index in range(_NUMBER_OF_THREADS)
        ]
        one = Program(backend, network, weights)
        programs = [
            one if shared else Program(backend, network, weights) for _ in range(_NUMBER_OF_THREADS)
        ]

        def work(program: Program, pixels: Floats) -> list[Mapping[str, Floats]]:
            return [program.run(pixels, layers) for _ in range(3)]

        with ThreadPoolExecutor(_NUMBER_OF_THREADS) as threads:
            results = list(threads.map(work, programs, batches))
        alone = Program(backend, network, weights)
        for pixels, repeats in zip(batches, results, strict=True):
            expected = alone.run(pixels, layers)
            for found in repeats:
                _compare(found, expected, "in a thread")

    # ---- gradients --------------------------------------------------------------------

    def test_without_gradients_it_says_so(self, backend: Backend) -> None:
        if GRADIENTS in backend.capabilities:
            pytest.skip("this backend has gradients")
        with pytest.raises(UnsupportedError, match=backend.name):
            backend.value_and_grad(lambda x: backend.table.sum(x, axes=(0,)))

    # The derivative of the sign is 0 and tested below: a finite difference could but jump.
    @pytest.mark.parametrize("operation", sorted(PRIMITIVE_CALLS.keys() - {"sign"}))
    def test_gradient_of_primitive(self, backend: Backend, operation: str) -> None:
        _need_gradients(backend)

        @_examples(12)
        @given(PRIMITIVE_CALLS[operation])
        def agrees_with_finite_differences(call: PrimitiveCall) -> None:
            def function(table: Table[Any], x: Any) -> list[Any]:
                others = [table.asarray(array) for array in call.arrays[1:]]
                return [call.run(table, x, *others)]

            _check_gradient_away_from_kinks(backend, function, call.arrays[0])

        agrees_with_finite_differences()

    def test_gradient_of_convolution_and_its_neighbour(self, backend: Backend) -> None:
        _need_gradients(backend)

        @_examples(20)
        @given(PRIMITIVE_CALLS["conv2d"], st.sampled_from(sorted(_NEIGHBOURS)))
        def agrees_with_finite_differences(call: PrimitiveCall, neighbour: str) -> None:
            def function(table: Table[Any], x: Any) -> list[Any]:
                return [_NEIGHBOURS[neighbour](table, call.run(table, x))]

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
    def test_derivative_at_a_kink(
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
        found = backend.compile(function)(np.array(points, np.float32))
        np.testing.assert_array_equal(found["gradient"], np.array(derivatives, np.float32))

    def test_gradient_of_random_networks(self, backend: Backend) -> None:
        _need_gradients(backend)

        @_examples(12)
        @given(st.data(), networks())
        def agrees_with_finite_differences(data: st.DataObject, drawn: RandomNetwork) -> None:
            pixels = _draw_pixels(data, drawn, most=2)
            layers = data.draw(
                st.lists(st.sampled_from(drawn.network.layers), min_size=1, max_size=3, unique=True)
            )
            assume(_distance_to_kink(drawn.network, drawn.weights, pixels) > _MARGIN)
            _check_network_gradient(backend, drawn.network, drawn.weights, pixels, layers)

        agrees_with_finite_differences()

    @pytest.mark.parametrize("shape", [(1, 32, 32), (2, 33, 47)])
    def test_gradient_of_mobilenet(
        self, backend: Backend, mobilenet: tuple[Network, Weights], shape: tuple[int, int, int]
    ) -> None:
        _need_gradients(backend)
        network, weights = mobilenet
        # Of a hundred thousand units some are often too near a kink; other pictures are tried.
        pixels = next(
            pixels
            for seed in range(100)
            if _distance_to_kink(network, weights, pixels := _pixels(shape, seed)) > _MARGIN
        )
        _check_network_gradient(backend, network, weights, pixels, ["features.4", "logits"])

    def test_gradient_of_hard_swish_and_attention_to_channels(self, backend: Backend) -> None:
        _need_gradients(backend)
        network = build_network("mobilenet_v3_small")
        weights = random_weights_and_statistics(network, seed=0)
        pixels = next(
            pixels
            for seed in range(100)
            if _distance_to_kink(network, weights, pixels := _pixels((1, 33, 32), seed)) > _MARGIN
        )
        _check_network_gradient(backend, network, weights, pixels, ["features.4", "logits"])

    def test_gradient_outside_of_compiled_functions(self, backend: Backend) -> None:
        _need_gradients(backend)
        table = backend.table
        x, y = (table.asarray(array) for array in _arrays((2, 3), (2, 3)))
        function = backend.value_and_grad(
            lambda x, y: table.sum(table.multiply(table.multiply(x, x), y), axes=(0, 1))
        )
        found = {name: table.to_numpy(tensor) for name, tensor in function(x, y).items()}
        x, y = table.to_numpy(x), table.to_numpy(y)
        assert found["value"].shape == ()
        assert_close(found["value"], np.asarray(np.sum(x * x * y)), ACTIVATION_TOLERANCE, "value")
        assert_close(found["gradient"], 2 * x * y, GRADIENT_TOLERANCE, "gradient")

    def test_no_gradient(self, backend: Backend) -> None:
        if GRADIENTS not in backend.capabilities:
            return
        table = backend.table
        function = backend.value_and_grad(
            lambda x, y: table.sum(table.multiply(y, y), axes=(1,))  # noqa: ARG005
        )
        with pytest.raises(NoGradientError, match="first argument"):
            function(*(table.asarray(array) for array in _arrays((2, 3), (2, 3))))

    def test_gradient_with_more_than_a_value(self, backend: Backend) -> None:
        if GRADIENTS not in backend.capabilities:
            return
        table = backend.table

        def function(x: Any, y: Any) -> dict[str, Any]:
            squares = table.multiply(x, x)
            return {"value": table.sum(squares, axes=(1,)), "product": table.multiply(x, y)}

        differentiated = backend.compile_tensors(backend.value_and_grad(function))
        # Batches of several lengths, since what is done is left out.
        for number in (3, 1, 2):
            x, y = np.random.default_rng(number).normal(size=(2, number, 4)).astype(np.float32)
            found = differentiated(table.asarray(x), table.asarray(y))
            expected = {"value": (x**2).sum(axis=1), "product": x * y, "gradient": 2 * x}
            assert sorted(found) == sorted(expected)
            for name, array in expected.items():
                assert_close(table.to_numpy(found[name]), array, GRADIENT_TOLERANCE, name)

    def test_gradient_within_a_compiled_function(self, backend: Backend) -> None:
        _need_gradients(backend)
        compiled = backend.compile(_descent(backend))
        _check_descent(compiled, lambda array: array, lambda array: array)

    def test_steps_that_keep_their_tensors(self, backend: Backend) -> None:
        _need_gradients(backend)
        compiled = backend.compile_tensors(_descent(backend))
        _check_descent(compiled, backend.table.asarray, backend.table.to_numpy)


# ---- what may follow a convolution in a network ------------------------------------------


def _shift(table: Table[Any], y: Any) -> Any:
    return table.add(y, table.asarray([0.25]))


def _relu6(table: Table[Any], y: Any) -> Any:
    return table.clip(y, low=0.0, high=6.0)


def _pad(table: Table[Any], y: Any) -> Any:
    return table.pad(y, padding=((1, 0), (2, 1)))


def _pool(table: Table[Any], y: Any) -> Any:
    padding = ((1, 1), (0, 1))
    return table.max_pool2d(table.relu(y), size=(2, 2), stride=(1, 1), padding=padding)


_NEIGHBOURS: Mapping[str, Callable[[Table[Any], Any], Any]] = {
    "relu": lambda table, y: table.relu(y),
    "relu6": _relu6,
    "add and relu": lambda table, y: table.relu(_shift(table, y)),
    "hard_swish": lambda table, y: table.hard_swish(y),
    "residual and relu6": lambda table, y: _relu6(table, table.add(y, table.tanh(y))),
    "sigmoid and multiply": lambda table, y: table.multiply(y, table.sigmoid(y)),
    "pad": _pad,
    "pad and relu": lambda table, y: table.relu(_pad(table, y)),
    "pool": _pool,
}


# ---- comparing ---------------------------------------------------------------------------


def _over(table: Table[Any], call: PrimitiveCall) -> Function:
    return lambda *tensors: call.run(table, *tensors)


def _arrays(*shapes: tuple[int, ...]) -> list[Floats]:
    generator = np.random.default_rng(0)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def _pixels(shape: tuple[int, int, int], seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((*shape, 3), np.float32)


def _draw_pixels(data: st.DataObject, drawn: RandomNetwork, most: int = 5) -> Floats:
    sides = (st.just(drawn.height), st.just(drawn.width))
    return data.draw(images(*sides, st.integers(1, most)))


def _check_result(found: Array) -> None:
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.flags.writeable


def _compare(found: Mapping[str, Array], expected: Mapping[str, Array], what: str) -> None:
    assert list(found) == list(expected)
    for layer, array in found.items():
        _check_result(array)
        assert_close(array, expected[layer], ACTIVATION_TOLERANCE, f"{what}, layer {layer}")


def _check_network(
    backend: Backend, network: Network, weights: Weights, pixels: Floats, layers: Sequence[str]
) -> None:
    expected = reference_activations(network, weights, pixels, layers)
    found = Program(backend, network, weights).run(pixels, layers)
    _compare(found, expected, "random network")


# ---- differentiating ---------------------------------------------------------------------


class _KinkTable(ReferenceTable):
    """The reference, which remembers how near to a kink of a primitive it has come.

    A derivative says nothing where a unit is so near to its kink that rounding, or the step
    of the finite difference, takes it to the other side. Exactly at a kink are the units that
    an earlier one holds there, such as the zeros of a relu under another relu: they do not
    move, and do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.distance = math.inf

    def relu(self, x: Array) -> Array:
        self._note(x)
        return super().relu(x)

    def absolute(self, x: Array) -> Array:
        self._note(x)
        return super().absolute(x)

    def clip(self, x: Array, *, low: float, high: float) -> Array:
        self._note(x - low)
        self._note(x - high)
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
                self._note(largest - pixels)
        return largest

    def max(self, x: Array, *, axes: tuple[int, ...], keepdims: bool = False) -> Array:
        self._note(super().max(x, axes=axes, keepdims=True) - x)
        return super().max(x, axes=axes, keepdims=keepdims)

    def _note(self, distances: Array) -> None:
        sizes = np.abs(distances)
        self.distance = min(self.distance, float(sizes[sizes > 0].min(initial=math.inf)))


def _distance_to_kink(network: Network, weights: Weights, pixels: Floats) -> float:
    table = _KinkTable()
    parameters = load_parameters(table, network, weights)
    run_network(table, network, parameters, table.asarray(pixels), [network.resolve("logits")])
    return table.distance


def _descent(backend: Backend) -> Callable[..., Mapping[str, Any]]:
    """One step of a descent; what is differentiated closes over an argument and a constant."""
    table = backend.table

    def step(x: Any, target: Any) -> Mapping[str, Any]:
        weight = table.asarray(3.0)

        def loss(x: Any) -> Any:
            difference = table.subtract(table.multiply(x, target), weight)
            return table.sum(table.multiply(difference, difference), axes=(0, 1))

        found = backend.value_and_grad(loss)(x)
        change = table.multiply(found["gradient"], table.asarray(0.1))
        return {"x": table.subtract(x, change), "loss": found["value"]}

    return step


def _check_descent(
    step: Callable[..., Mapping[str, Any]],
    give: Callable[[Floats], Any],
    take: Callable[[Any], Floats],
) -> None:
    """Two steps of `_descent`, the second from what the first gave."""
    x, target = _arrays((2, 3), (2, 3))
    given = give(x)
    for _ in range(2):
        found = step(given, give(target))
        residual = x.astype(np.float64) * target - 3
        expected = x - 0.1 * 2 * residual * target
        assert_close(
            take(found["loss"]), np.asarray(np.sum(residual**2)), ACTIVATION_TOLERANCE, "loss"
        )
        assert_close(take(found["x"]), expected, GRADIENT_TOLERANCE, "step")
        given, x = found["x"], take(found["x"])


def _need_gradients(backend: Backend) -> None:
    if GRADIENTS not in backend.capabilities:
        pytest.skip(f"backend {backend.name} has no gradients, and says so")


def _check_gradient_away_from_kinks(
    backend: Backend, function: Callable[[Table[Any], Any], Sequence[Any]], x: Floats
) -> None:
    table = _KinkTable()
    function(table, table.asarray(x))
    assume(table.distance > _MARGIN)
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
    """Compare the derivative of a smooth number made of a function's results.

    ``function``, over the backend's table, and ``reference``, over the reference's, take the
    same array and give the same list of tensors.
    """
    generator = np.random.default_rng(0)
    weights = [
        generator.uniform(0.5, 1.5, y.shape) * generator.choice([-1, 1], y.shape)
        for y in reference(x.astype(np.float64))
    ]

    def total(table: Table[Any], results: Sequence[Any]) -> Any:
        value = table.asarray(0.0)
        for y, weight in zip(results, weights, strict=True):
            product = table.multiply(y, table.asarray(weight))
            axes = tuple(range(weight.ndim))
            value = table.add(value, table.sum(product, axes=axes) if axes else product)
        return value

    def reference_total(x: npt.NDArray[np.float64]) -> Array:
        return np.asarray(total(ReferenceTable(), reference(x)))

    differentiated = backend.value_and_grad(lambda x: total(backend.table, function(x)))
    found = backend.compile(differentiated)(x)
    _check_result(found["gradient"])
    assert found["gradient"].shape == x.shape
    gradient = found["gradient"].ravel()
    # The largest of all, and others anywhere.
    chosen = generator.choice(x.size, min(x.size, _NUMBER_OF_DERIVATIVES), replace=False)
    chosen = np.append(chosen, np.abs(gradient).argmax())
    directions = np.zeros((len(chosen), x.size))
    directions[np.arange(len(chosen)), chosen] = 1
    expected = finite_differences(reference_total, x, directions.reshape(-1, *x.shape), _STEP)
    difference = float(np.abs(gradient[chosen] - expected).max())
    scale = max(float(np.abs(gradient).max()), _SMALLEST_DERIVATIVE)
    assert difference <= GRADIENT_TOLERANCE * scale, (
        f"the derivative differs by {difference:.3g} where the largest is {scale:.3g}"
    )


def _check_network_gradient(
    backend: Backend, network: Network, weights: Weights, pixels: Floats, layers: Sequence[str]
) -> None:
    """Compare the derivative of a random smooth function of ``layers``."""
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
