"""Resizing and cropping, compared with a second implementation of torchvision's formulas."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from transferkit.errors import ImageError
from transferkit.images import MAX_PIXELS, ImageTypeError, Preprocessing, read_image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def photo_like(height, width, seed=0):
    """Smooth shapes with edges and noise, as uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / random.uniform(2, 30) + y / random.uniform(2, 30)) for _ in range(3)]
    image = 127 + 90 * np.stack(waves, axis=-1) + random.normal(0, 15, (height, width, 3))
    image[height // 3 : height // 2] = random.integers(0, 256, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def as_torchvision(image, resize, size, interpolation):
    """``CenterCrop(size)(Resize(resize)(image))`` of torchvision 0.2x, step by step."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), FILTERS[interpolation])
    top = round((new_height - size) / 2.0)
    left = round((new_width - size) / 2.0)
    return np.asarray(image.crop((left, top, left + size, top + size)))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.integers(1, 60),
    margin=st.integers(0, 30),
    interpolation=st.sampled_from(sorted(FILTERS)),
)
def test_equals_torchvision(height, width, size, margin, interpolation):
    image = Image.fromarray(photo_like(height, width))
    preprocessing = Preprocessing(size, size + margin, interpolation)
    expected = as_torchvision(image, size + margin, size, interpolation)
    got = preprocessing.apply(image)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


@pytest.mark.skipif("TRANSFERKIT_TEST_DATA" not in os.environ, reason="needs real photos")
def test_equals_torchvision_on_photos():
    paths = sorted(Path(os.environ["TRANSFERKIT_TEST_DATA"]).rglob("*.jpg"))[::20][:60]
    assert paths
    for path in paths:
        with Image.open(path) as opened:
            if opened.getexif().get(0x112, 1) != 1:
                continue
            expected = as_torchvision(opened.convert("RGB"), 232, 224, "bilinear")
        got = Preprocessing(224, 232).apply(read_image(path, str(path)))
        np.testing.assert_array_equal(got, expected, err_msg=str(path))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 40),
    interpolation=st.sampled_from(sorted(FILTERS)),
)
def test_floats_are_processed_like_bytes(height, width, size, interpolation):
    pixels = photo_like(height, width)
    preprocessing = Preprocessing(size, size + 3, interpolation)
    floats = preprocessing.apply((pixels / 255).astype(np.float32))
    assert floats.dtype == np.float32
    assert floats.min() >= 0
    assert floats.max() <= 1
    # Pillow rounds and clips bytes after each of its two passes, but not floats. The difference
    # is largest at edges, where bicubic interpolation overshoots.
    np.testing.assert_allclose(
        floats,
        preprocessing.apply(Image.fromarray(pixels)) / 255,
        atol={"nearest": 1e-3, "bilinear": 2, "bicubic": 20}[interpolation] / 255,
    )


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.integers(1, 40),
    interpolation=st.sampled_from(sorted(FILTERS)),
)
def test_without_a_crop_the_whole_image_is_stretched(height, width, size, interpolation):
    pixels = photo_like(height, width)
    preprocessing = Preprocessing(size, interpolation=interpolation, crop=False)
    got = preprocessing.apply(Image.fromarray(pixels))
    expected = Image.fromarray(pixels).resize((size, size), FILTERS[interpolation])
    np.testing.assert_array_equal(got, np.asarray(expected))
    floats = preprocessing.apply((pixels / 255).astype(np.float32))
    assert floats.shape == (size, size, 3)
    if interpolation == "nearest":
        np.testing.assert_allclose(floats, got / 255, atol=1e-6)


def test_overshoot_of_floats_is_clipped():
    edge = np.zeros((8, 8, 3), np.float32)
    edge[:, 4:] = 1
    got = Preprocessing(32, interpolation="bicubic").apply(edge)
    assert got.min() == 0.0
    assert got.max() == 1.0


def test_resize_defaults_to_size_and_size_none_leaves_the_image():
    image = Image.fromarray(photo_like(40, 60))
    np.testing.assert_array_equal(
        Preprocessing(24).apply(image), Preprocessing(24, 24).apply(image)
    )
    np.testing.assert_array_equal(Preprocessing(None).apply(image), np.asarray(image))


@pytest.mark.parametrize("size", [8, None])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((30, 30, 3), 128, np.uint8), "an array of uint8 of shape 30 x 30 x 3"),
        (np.zeros((30, 30, 3)), "an array of float64"),
        (np.zeros((30, 30), np.float32), "of shape 30 x 30;"),
        (np.zeros((30, 30, 4), np.float32), "of shape 30 x 30 x 4;"),
        (np.zeros((0, 30, 3), np.float32), "of shape 0 x 30 x 3;"),
        (Image.new("RGBA", (30, 20)), "a PIL image of mode 'RGBA', 30 x 20 pixels"),
        (Image.new("L", (30, 20)), "a PIL image of mode 'L'"),
        (Image.new("RGB", (0, 20)), "0 x 20 pixels"),
    ],
)
def test_images_that_were_not_read_are_rejected(image, message, size):
    with pytest.raises(ImageError, match=rf"photo: .*{message}.* pass read_image\(image\)"):
        Preprocessing(size).apply(image, "photo")


@pytest.mark.parametrize("size", [8, None])
def test_values_outside_0_to_1_are_not_clipped_silently(size):
    with pytest.raises(ImageError, match=r"photo: has the value 128\.0; .*divide by 255"):
        Preprocessing(size).apply(np.full((30, 30, 3), 128, np.float32), "photo")


@pytest.mark.parametrize("image", ["cat.jpg", Path("cat.jpg"), b"GIF89a", [1], None])
def test_paths_and_other_types_are_not_read(image):
    with pytest.raises(ImageTypeError, match=r"unsupported type .*; pass read_image\(image\)"):
        Preprocessing(8).apply(image)


@pytest.mark.parametrize("shape", [(1, 20_000), (20_000, 1)])
def test_a_line_is_rejected_before_it_fills_the_memory(shape):
    image = Image.new("RGB", shape)
    with pytest.raises(ImageError, match=r"line\.png: too long and narrow") as caught:
        Preprocessing(224).apply(image, "line.png")
    assert f"{MAX_PIXELS:,}" in str(caught.value)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 224, "resize": 200}, "resize is 200, less than size, which is 224"),
        ({"size": 0}, "size is 0"),
        ({"size": True}, "size is True"),
        ({"size": 2.5}, r"size is 2\.5"),
        ({"size": None, "resize": 256}, "size is None"),
        ({"interpolation": "box"}, "'box'; available: nearest, bilinear, bicubic"),
        ({"interpolation": ["bilinear"]}, "interpolation is"),
        ({"channel_order": "gbr"}, "channel_order is 'gbr'; available: rgb, bgr"),
        ({"crop": 1}, "crop is 1"),
        ({"crop": False, "resize": 256}, "resize is 256; set size, and leave out resize"),
        ({"crop": False, "size": None}, "size is None"),
        ({"bit_depth": 17}, "bit_depth is 17; expected an integer from 1 to 16"),
        ({"bit_depth": 0}, "bit_depth is 0"),
        ({"bit_depth": True}, "bit_depth is True"),
        ({"bit_depth": "12"}, "bit_depth is '12'"),
        ({"std": (1, 0, 1)}, "std"),
        ({"mean": (1, 2)}, "mean"),
        ({"mean": (123.7, 116.8, 103.9)}, "divide mean and std by 255"),
        ({"mean": (0, 0, math.nan)}, "mean"),
        ({"mean": "abc"}, "mean"),
        ({"mean": np.zeros(2)}, "mean"),
        ({"mean": np.zeros((3, 1))}, "mean"),
        ({"mean": np.array(0.5)}, "mean"),
        ({"mean": (True, False, True)}, "mean"),
        ({"std": np.ones(3, bool)}, "std"),
        ({"crop": None}, "crop is None"),
    ],
)
def test_invalid_settings_are_rejected(settings_, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**settings_)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(224, 232, "bicubic", (0.485, 0.456, 0.406), (0.2, 0.3, 0.4)),
        Preprocessing(224, interpolation="nearest", channel_order="bgr", crop=False),
        Preprocessing(224, bit_depth=12),
    ],
)
def test_settings_survive_json(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_numpy_values_are_stored_as_python_values():
    given = {
        "size": np.int64(224),
        "interpolation": np.str_("bicubic"),
        "mean": np.array([0.25, 0.5, 0.75], np.float32),
        "std": (np.float32(0.5), np.float64(0.25), np.int64(1)),
        "channel_order": np.str_("bgr"),
        "crop": np.bool_(False),
        "bit_depth": np.uint8(12),
    }
    plain = Preprocessing(
        224, None, "bicubic", (0.25, 0.5, 0.75), (0.5, 0.25, 1.0), "bgr", False, 12
    )
    preprocessing = Preprocessing(**given)
    assert preprocessing == plain
    assert hash(preprocessing) == hash(plain)
    assert repr(preprocessing) == repr(plain)
    assert json.dumps(preprocessing.to_dict()) == json.dumps(plain.to_dict())


def test_files_without_the_newer_entries_have_the_defaults():
    old = {
        "size": 64,
        "resize": 80,
        "interpolation": "bicubic",
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }
    assert Preprocessing.from_dict(old) == Preprocessing(64, 80, "bicubic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, r"unknown: \['extra'\]"),
        ({"size": "224"}, "size is '224'"),
        ({"std": [1, 1]}, "std"),
        ({"interpolation": 3}, "interpolation"),
        ({"channel_order": 3}, "channel_order"),
        ({"crop": "yes"}, "crop is 'yes'"),
        ({"bit_depth": 12.5}, "bit_depth is 12.5"),
    ],
)
def test_invalid_data_is_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_dict(Preprocessing().to_dict() | change)
    with pytest.raises(ValueError, match="missing entries: mean"):
        Preprocessing.from_dict({k: v for k, v in Preprocessing().to_dict().items() if k != "mean"})
