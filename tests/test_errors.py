"""The messages of errors, and errors that cross process boundaries."""

from __future__ import annotations

import pickle

import pytest

from transferkit.errors import (
    AmbiguousNameError,
    ImageError,
    UnknownNameError,
    shorten,
    shorten_path,
)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnknownNameError("network", "x", ["a", "b"]), "unknown network 'x'; available: a, b"),
        (UnknownNameError("network", "x", []), "unknown network 'x'"),
        (
            UnknownNameError("network", "vgg61", ["vgg16", "resnet18"]),
            "unknown network 'vgg61'; did you mean 'vgg16'?",
        ),
        (
            UnknownNameError("layer", "conv", ["conv1", "conv2", "logits"], of="tiny"),
            "tiny has no layer 'conv'; did you mean 'conv2' or 'conv1'?",
        ),
        (
            UnknownNameError("class", "CAT", ["crate", "tiger cat", "Egyptian cat", "cat flap"]),
            "unknown class 'CAT'; did you mean 'tiger cat', 'Egyptian cat' or 'cat flap'?",
        ),
        (
            UnknownNameError("channel", 6, ["0 to 5"], of="conv2"),
            "conv2 has no channel 6; available: 0 to 5",
        ),
        (
            UnknownNameError("norm", "l0", ["linf", "l2"], of="pgd", hint="l0 works with fmn"),
            "pgd has no norm 'l0'; available: linf, l2; l0 works with fmn",
        ),
        (
            UnknownNameError("norm", "lin", ["linf", "l2"], of="pgd", hint="see the guide"),
            "pgd has no norm 'lin'; did you mean 'linf'? (see the guide)",
        ),
        (
            AmbiguousNameError("class", "crane", ["a bird", "a machine"], "give the index"),
            "class 'crane' is ambiguous: a bird or a machine; give the index",
        ),
        (
            AmbiguousNameError("class", "x", ["a", "b", "c"], "give the index"),
            "class 'x' is ambiguous: a, b or c; give the index",
        ),
    ],
)
def test_messages(error: Exception, message: str) -> None:
    assert str(error) == message


def test_only_the_first_12_names_are_listed() -> None:
    error = UnknownNameError("network", "?", [f"n{index}" for index in range(30)])
    assert str(error).endswith("; available: " + "".join(f"n{i}, " for i in range(12)) + "...")
    error = UnknownNameError("network", "?", [f"n{index}" for index in range(12)])
    assert str(error).endswith(", n11")


@pytest.mark.parametrize("value", ["x" * 10**6, b"x" * 10**6, ["x"] * 1000, 10**150])
def test_long_values_are_cut(value: object) -> None:
    assert len(shorten(value)) == 100
    assert shorten(value).endswith("...")
    assert shorten(value)[:97] == repr(value)[:97]
    assert len(str(UnknownNameError("class", value, ["zebra"]))) < 150
    assert len(str(AmbiguousNameError("class", value, ["a", "b"], "give the index"))) < 160


def test_a_path_is_shown_whole_unless_it_cannot_be_one() -> None:
    path = "folder/" * 35 + "cat.jpg"
    assert str(ImageError(path, "the file is empty")) == f"{path}: the file is empty"
    assert len(shorten_path("x" * 256)) == 100
    error = ImageError("x" * 10**6, "no such file")
    assert len(str(error)) < 120
    assert len(error.source) == 10**6


def test_short_values_are_shown_whole() -> None:
    assert shorten("a'b") == repr("a'b")
    assert shorten("x" * 98) == repr("x" * 98)
    assert shorten(None) == "None"


@pytest.mark.parametrize(
    "error",
    [
        UnknownNameError("layer", "imag", ["image"], of="tiny"),
        AmbiguousNameError("class", "crane", ["a bird", "a machine"], "give the index"),
        ImageError("cat.jpg", "the file is empty"),
    ],
)
def test_errors_can_be_pickled(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
