"""PyTorch's files are read without PyTorch, and no code in them is executed."""

from __future__ import annotations

import argparse
import collections
import math
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from torch_writer import STORAGES, legacy, literal, mapping, tensor, zipped

from transferkit.errors import FileFormatError
from transferkit.weights.torch_file import read_torch

NUMBERS = np.arange(24, dtype=np.float32)
STATE = mapping({"weight": tensor("0", (4, 6)), "bias": tensor("1", (3,))})
DATA = {"0": NUMBERS.tobytes(), "1": NUMBERS[:3].tobytes()}
WRITERS = [zipped, legacy]

writers = pytest.mark.parametrize("write", WRITERS)
Writer = Callable[..., bytes]


def _read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    path = folder / "file.pth"
    path.write_bytes(content)
    return read_torch(path)


@st.composite
def _views(draw: st.DrawFn) -> tuple[np.ndarray, int, tuple[int, ...], tuple[int, ...]]:
    """Draw values and a view of them: start, shape and strides, possibly overlapping."""
    kind = draw(st.sampled_from(sorted(STORAGES)))
    shape = draw(from_numpy.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    strides = tuple(draw(st.integers(0, 5)) for _ in shape)
    start = draw(st.integers(0, 7))
    last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True) if length)
    length = start + last + 1 + draw(st.integers(0, 3))
    values = np.random.default_rng(draw(st.integers(0, 9))).normal(0, 9, length)
    return values.astype(f"<{kind}"), start, shape, strides


@writers
@given(drawn=_views())
def test_any_view_of_a_storage_is_read(
    write: Writer,
    drawn: tuple[np.ndarray, int, tuple[int, ...], tuple[int, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    values, start, shape, strides = drawn
    kind = values.dtype.str[1:]
    described = tensor("0", shape, strides, start=start, length=len(values), storage=STORAGES[kind])
    sizes = {} if write is zipped else {"size": values.itemsize}
    content = write(mapping({"a": described}), {"0": values.tobytes()}, **sizes)
    content += b" " * 4 * math.prod(shape)  # at least as large as the tensor
    if write is zipped:
        content = write(mapping({"a": described, "b": tensor("1", (256,))}),
                        {"0": values.tobytes(), "1": bytes(1024)})  # fmt: skip
    found = _read(tmp_path_factory.getbasetemp(), content)
    if kind == "i8":
        assert "a" not in found
        return
    steps = tuple(step * values.itemsize for step in strides)
    expected = np.ndarray(shape, values.dtype, values.tobytes(), start * values.itemsize, steps)
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], expected.astype(np.float32))


@writers
def test_float32_arrays_are_mapped(write: Writer, tmp_path: Path) -> None:
    numbers = np.ones(1_000_000, np.float32)
    (tmp_path / "file").write_bytes(
        write(mapping({"a": tensor("0", (1_000_000,))}), {"0": numbers.tobytes()})
    )
    tracemalloc.start()
    found = read_torch(tmp_path / "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < numbers.nbytes / 4
    assert not found["a"].flags.writeable
    np.testing.assert_array_equal(found["a"], numbers)


def test_bfloat16_is_converted(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, np.inf, 3e38], np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype("<u2")
    state = mapping({"a": tensor("0", (4,), storage="BFloat16Storage")})
    expected = (upper.astype(np.uint32) << 16).view(np.float32)
    for content in (
        zipped(state, {"0": upper.tobytes()}),
        legacy(state, {"0": upper.tobytes()}, 2),
    ):
        np.testing.assert_array_equal(_read(tmp_path, content)["a"], expected)


@writers
@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_checkpoints_are_read(write: Writer, key: str, tmp_path: Path) -> None:
    state = mapping({f"module.{name}": tensor("0", (4, 6)) for name in ("a", "module.b")})
    steps = mapping({"step": literal(3), "lr": literal(0.1), "groups": literal([{"b": (1, 2)}])})
    whole = mapping({"epoch": literal(7), "optimizer": steps, key: state, "best": literal(None)})
    found = _read(tmp_path, write(whole, {"0": DATA["0"]}))
    assert list(found) == ["a", "module.b"]
    np.testing.assert_array_equal(found["a"], NUMBERS.reshape(4, 6))


@writers
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_objects_in_a_checkpoint_are_ignored(
    write: Writer, protocol: int, tmp_path: Path
) -> None:
    objects = {
        "namespace": argparse.Namespace(lr=0.1, nested=argparse.Namespace(a=1)),
        "counter": collections.Counter("abca"),
        "default": collections.defaultdict(list, {"a": [1]}),
        "path": tmp_path,
        "scalar": np.float64(3),
        "array": np.arange(3),
        "floats": {0.5: 1, None: 2},
    } | ({"set": {1, 2}} if protocol == 2 else {})
    pickled = {name: pickle.dumps(value, protocol) for name, value in objects.items()}
    size = b"ctorch\nSize\n(" + literal((2, 3)) + b"tR"
    device = b"ctorch\ndevice\n(" + literal("cuda") + b"tR"
    rest = {"state_dict": STATE, "size": size, "device": device}
    for name, value in objects.items():
        # Without PROTO, FRAME and STOP; first, since protocol 4 counts the entries of the memo.
        pickled = pickle.dumps(value, protocol)[2:-1]
        pickled = pickled[9:] if pickled[:1] == b"\x95" else pickled
        first = b"X" + len(name).to_bytes(4, "little") + name.encode() + pickled
        items = b"".join(literal(key) + content for key, content in rest.items())
        found = _read(tmp_path, write(b"}(" + first + b"u(" + items + b"u", DATA))
        assert set(found) == {"weight", "bias"}, name


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "net.", "backbone.", "module._orig_mod.model."]
)
def test_a_prefix_of_all_names_is_removed(write: Writer, prefix: str, tmp_path: Path) -> None:
    state = mapping({prefix + name: tensor("1", (3,)) for name in ("a.b", "c")})
    assert list(_read(tmp_path, write(state, {"1": DATA["1"]}))) == ["a.b", "c"]


def test_a_prefix_of_some_names_only_is_kept(tmp_path: Path) -> None:
    state = mapping({"module.a": tensor("1", (3,)), "b": tensor("1", (3,))})
    assert list(_read(tmp_path, zipped(state, DATA))) == ["module.a", "b"]


def test_parameters_of_all_versions_are_read(tmp_path: Path) -> None:
    parameter = b"ctorch.nn.parameter\nParameter\n"
    old_tensor = (
        tensor("1", (3,)).replace(b"_v2", b"").replace(b"\x89ccollections\nOrderedDict\n)R", b"")
    )
    storage = tensor("1", (3,)).split(b"rebuild_tensor_v2\n(")[1].split(b"tQ")[0] + b"tQ"
    vector = literal((3,)) + literal((1,))
    state = {
        "rebuilt": b"ctorch._utils\n_rebuild_parameter\n(" + tensor("1", (3,)) + b"\x88Nt" + b"R",
        "made": parameter + tensor("1", (3,)) + b"\x85R",
        "state of four": parameter + b")\x81(" + storage + literal(0) + vector + b"tb",
        "state of five": parameter + b")\x81(" + tensor("1", (3,)) + b"\x88NNNtb",
        "old": old_tensor,
    }  # fmt: skip
    found = _read(tmp_path, zipped(mapping(state), DATA))
    assert list(found) == list(state)
    for array in found.values():
        np.testing.assert_array_equal(array, NUMBERS[:3])


# ------------------------------------------------------------------------------- hostile files


class _Runs:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


@writers
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["whole", "in the dictionary", "beside the weights", "a key"])
def test_no_code_is_executed(write: Writer, protocol: int, place: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    code = pickle.dumps(_Runs(proof), protocol)
    pickle.loads(code)
    assert proof.exists()  # the code works
    proof.unlink()
    code = code[2:-1]
    content = {
        "whole": code,
        "in the dictionary": mapping({"weight": tensor("0", (4, 6)), "bias": code}),
        "beside the weights": mapping({"state_dict": STATE, "extra": code}),
        "a key": b"}(" + code + literal(1) + b"u",
    }[place]
    if place == "beside the weights":
        assert set(_read(tmp_path, write(content, DATA))) == {"weight", "bias"}
        assert not proof.exists()
        return
    with pytest.raises(FileFormatError, match=r"pickled object \(\w+\.eval\).*state_dict"):
        _read(tmp_path, write(content, DATA))
    assert not proof.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"ctorch.nn.modules.linear\nLinear\n)\x81}b",
        b"cposix\nsystem\n(Vtrue\ntR",
        b"(Vtrue\niposix\nsystem\n",
        b"(cposix\nsystem\nVtrue\no",
        b"cbuiltins\ngetattr\n",
        b"ctorch\nFloatStorage\n)R",
        b"ctorch.jit._pickle\nFloatStorage\n)R",
        b"\x82\x01",
        literal("torch._utils") + literal("os.system") + b"\x93",
        literal("os") + literal("system") + b"\x93",
        b"ctorch._utils _rebuild_tensor\nv2\n",
    ],
)
def test_other_objects_are_rejected(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="pickled object"):
        _read(tmp_path, zipped(content, DATA))


@writers
@pytest.mark.parametrize(
    "lie",
    [
        tensor("0", (4, 7), length=24),
        tensor("0", (4, 6), start=1, length=24),
        tensor("0", (4, 6), start=-1, length=24),
        tensor("0", (4, 6), (6, 2), length=24),
        tensor("0", (4, 6), (-6, 1), start=18, length=24),
        tensor("0", (-4, -6), length=24),
        tensor("0", (4, 6), (6,), length=24),
        tensor("0", (25,), length=25),
        tensor("0", (1,), length=2**40),
        tensor("0", (1,), length=-1),
        tensor("0", (1,), start=2**70, length=24),
        tensor("0", (2**31, 2**31), (0, 0), length=24),
        tensor("0", (1_000_000,), (0,), length=24),
        tensor("0", (2**40, 0), length=24),
        tensor("0", (1,) * 100, length=24),
        tensor("nowhere", (1,)),
        tensor("../../data.pkl", (1,)),
        tensor("0", (3.0,), length=24),  # type: ignore[arg-type]
        tensor(0, (3,), length=24),  # type: ignore[arg-type]
        tensor("0", (3,), length=24, storage="ComplexFloatStorage"),
        literal(7),
    ],
)
def test_false_sizes_are_rejected(write: Writer, lie: bytes, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        _read(tmp_path, write(mapping({"a": lie}), {"0": DATA["0"]}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"(" * 210_000,  # too many operations
        b"]" * 90_000 + b"a" * 89_999,  # too deep for a recursive reader
        b")" + b"\x85" * 180_000,
        b"]r\xff\xff\xff\x7f",  # a memo of two billion entries
        b"X\xff\xff\xff\x7fabc",  # a string of two gigabytes
        b"\x8b\xff\xff\xff\x7fabc",
        b"0", b"a", b"u", b"R", b"b", b"\x81", b"\x85", b"Q", b"t", b"h\x09", b"q\x00", b"\x93",
        b"})R", b"]}b", b"]}s", literal((1, 2)) + b"Q", b")Q", b"",
        b")" + b"2\x86" * 40 + b"}" + literal(1) + b"s",
    ],
)  # fmt: skip
@writers
def test_invalid_pickles_are_rejected(write: Writer, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        _read(tmp_path, write(content, DATA))


def test_a_key_that_takes_exponential_time_to_hash_is_rejected(tmp_path: Path) -> None:
    doubled = b")" + b"".join(
        b"q" + bytes([place]) + b"h" + bytes([place]) + b"\x86" for place in range(60)
    )
    with pytest.raises(FileFormatError, match="a key that is neither"):
        _read(tmp_path, zipped(b"}" + doubled + literal(1) + b"s", DATA))


@writers
def test_truncated_files_are_rejected(write: Writer, tmp_path: Path) -> None:
    content = write(STATE, DATA)
    assert set(_read(tmp_path, content)) == {"weight", "bias"}
    for end in range(0, len(content), 3):
        with pytest.raises(FileFormatError):
            _read(tmp_path, content[:end])


@writers
@given(data=st.data())
def test_flipped_bits_do_no_harm(
    write: Writer, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(write(STATE, DATA))
    for _ in range(20):
        place = data.draw(st.integers(0, 8 * len(content) - 1))
        damaged = content.copy()
        damaged[place // 8] ^= 1 << place % 8
        try:
            found = _read(tmp_path_factory.getbasetemp(), bytes(damaged))
        except FileFormatError:
            continue
        assert sum(array.size for array in found.values()) <= len(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(STATE, DATA, zipfile.ZIP_DEFLATED), "compressed"),
        (zipped(literal([1, 2]), DATA), "does not contain a state dictionary"),
        (
            zipped(mapping({"net": STATE, "epoch": literal(3)}), DATA),
            "the value of 'net' is not a tensor",
        ),
        (zipped(STATE, DATA).replace(b"byteorder", b"other-end"), None),
        (zipped(STATE, DATA).replace(b"data.pkl", b"data.abc"), "without data.pkl"),
        (zipped(STATE, {**DATA, "2": b""}).replace(b"data/2", b"data/1"), "occurs twice"),
        (b"", "empty"),
        (b"PK\x03\x04", "truncated"),
        (pickle.dumps(7, 2), "not a weights file"),
        (b"no weights at all", "not a weights file"),
    ],
)
def test_other_files_are_rejected(content: bytes, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert len(_read(tmp_path, content)) == 2
        return
    with pytest.raises(FileFormatError, match=message):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    "content",
    [
        zipped(STATE, DATA).replace(b"little", b"bigend"),
        legacy(STATE, DATA).replace(literal("little_endian")[:18] + b"q\x02\x88", b"", 1),
    ],
)
def test_big_endian_files_are_rejected(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        _read(tmp_path, content)


def test_folders_and_missing_files_are_errors(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "x", "no such file")):
        with pytest.raises(FileFormatError, match=message):
            read_torch(path)
