"""Color profiles: conversion to sRGB, and what stays as it is, pixel for pixel."""

from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from transferkit.images import read_image

COLORS = np.random.default_rng(1).integers(0, 256, (12, 17, 3)).astype(np.uint8)
RGB = Image.fromarray(COLORS)

# Chromaticities of red, green and blue.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def xyz(x, y):
    return np.array([x / y, 1, (1 - x - y) / y])


def to_xyz(primaries):
    """Return the matrix from linear RGB to XYZ under D50, as in profiles."""
    columns = np.stack([xyz(*primary) for primary in primaries], axis=1)
    matrix = columns * np.linalg.solve(columns, xyz(*D65))
    gains = (BRADFORD @ xyz(*D50)) / (BRADFORD @ xyz(*D65))
    return np.linalg.inv(BRADFORD) @ (gains[:, None] * BRADFORD) @ matrix


def icc_profile(space, tags):
    """Return an ICC profile of version 2 with the given tags."""
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78,
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(xyz(*D50)),
    } | tags
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", start + len(data))
    header[8:24] = b"\x02\x40\0\0mntr" + space + b"XYZ "
    header[36:40] = b"acsp"
    header[68:80] = fixed(xyz(*D50))
    return bytes(header) + table + data


def fixed(numbers):
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def srgb_curve():
    levels = np.linspace(0, 1, 1024)
    return (
        b"curv\0\0\0\0"
        + struct.pack(">I", 1024)
        + (np.round(linear(levels) * 65535).astype(">u2").tobytes())
    )


def rgb_profile(primaries, curve):
    matrix = to_xyz(primaries)
    tags = {}
    for channel, name in enumerate("rgb"):
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + fixed(matrix[:, channel])
        tags[f"{name}TRC".encode()] = curve
    return icc_profile(b"RGB ", tags)


def linear(levels):
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def encoded(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def expected_srgb(colors, primaries, decode):
    """Convert 8-bit colors to sRGB with the textbook formulas."""
    light = decode(colors / 255) @ to_xyz(primaries).T @ np.linalg.inv(to_xyz(SRGB)).T
    return encoded(light) * 255


PROFILES = {
    "Display P3": (DISPLAY_P3, srgb_curve(), linear),
    "Adobe RGB": (ADOBE_RGB, gamma_curve(563 / 256), lambda levels: levels ** (563 / 256)),
    "gamma 1.8": (SRGB, gamma_curve(1.8), lambda levels: levels**1.8),
}


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image):
    return np.asarray(read_image(image))


@pytest.mark.parametrize("name", PROFILES)
def test_colors_are_converted_to_srgb(name):
    primaries, curve, decode = PROFILES[name]
    profile = rgb_profile(primaries, curve)
    expected = expected_srgb(COLORS, primaries, decode)
    assert np.abs(expected - COLORS).max() > 15
    for content in (
        saved(RGB, "PNG", icc_profile=profile),
        saved(RGB, "TIFF", icc_profile=profile),
        saved(RGB, "WEBP", icc_profile=profile, lossless=True),
        Image.open(io.BytesIO(saved(RGB, "PNG", icc_profile=profile))),
    ):
        np.testing.assert_allclose(pixels(content), expected, rtol=0, atol=1.6)


def test_profiles_of_compressed_files_are_applied():
    primaries, curve, decode = PROFILES["Display P3"]
    image = Image.new("RGB", (16, 16), (200, 60, 40))
    expected = expected_srgb(np.array([200, 60, 40]), primaries, decode)
    for kind in ("JPEG", "WEBP", "AVIF"):
        content = saved(image, kind, icc_profile=rgb_profile(primaries, curve), quality=95)
        np.testing.assert_allclose(pixels(content)[8, 8], expected, atol=6)


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palettes_and_transparent_images_are_converted(mode):
    primaries, curve, decode = PROFILES["Adobe RGB"]
    image = Image.new("RGB", (2, 1), (20, 200, 90)).convert(mode)
    content = saved(image, "PNG", icc_profile=rgb_profile(primaries, curve))
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode == mode
    stored = np.asarray(image.convert("RGB"))
    np.testing.assert_allclose(pixels(content), expected_srgb(stored, primaries, decode), atol=1.6)


def test_white_behind_transparent_pixels_stays_white():
    profile = rgb_profile(*PROFILES["Display P3"][:2])
    content = saved(Image.new("RGBA", (2, 1)), "PNG", icc_profile=profile)
    assert pixels(content).tolist() == [[[255] * 3] * 2]


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_gray_images_are_converted(mode):
    curve = gamma_curve(1.8)
    profile = icc_profile(b"GRAY", {b"kTRC": curve})
    levels = np.arange(256, dtype=np.uint8)[None]
    image = Image.fromarray(levels.astype(np.uint16) * 257 if mode == "I;16" else levels)
    content = saved(image if mode == "I;16" else image.convert(mode), "PNG", icc_profile=profile)
    expected = np.repeat(encoded((levels / 255) ** 1.8)[..., None] * 255, 3, axis=2)
    np.testing.assert_allclose(pixels(content), expected, atol=1.6)


def test_srgb_profiles_change_no_pixel():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gray = icc_profile(b"GRAY", {b"kTRC": srgb_curve()})
    for image, profile in (
        (RGB, own),
        (RGB, rgb_profile(SRGB, srgb_curve())),
        (RGB.convert("L"), gray),
    ):
        content = saved(image, "PNG", icc_profile=profile)
        np.testing.assert_array_equal(pixels(content), np.asarray(image.convert("RGB")))


def test_profiles_that_do_not_fit_or_are_damaged_are_ignored():
    valid = rgb_profile(*PROFILES["Adobe RGB"][:2])
    rng = np.random.default_rng(0)
    for profile in (
        b"x",
        b"\0" * 500,
        valid[:200],
        valid[:128] + rng.bytes(2000),
        valid[:16] + b"CMYK" + valid[20:],
        valid[:16] + b"GRAY" + valid[20:],
        valid[:16] + b"\xff\xfe\xfd\xfc" + valid[20:],
    ):
        np.testing.assert_array_equal(pixels(saved(RGB, "PNG", icc_profile=profile)), COLORS)
    image = RGB.copy()
    image.info["icc_profile"] = "not bytes"
    np.testing.assert_array_equal(pixels(image), COLORS)


def test_damaged_profiles_give_an_image():
    valid = rgb_profile(*PROFILES["Display P3"][:2])
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(valid)
        for place in rng.integers(0, 300, 3):
            damaged[place] = rng.integers(256)
        image = RGB.copy()
        image.info["icc_profile"] = bytes(damaged)
        assert pixels(image).shape == COLORS.shape


def test_the_given_image_is_not_converted_in_place():
    image = RGB.copy()
    image.info["icc_profile"] = rgb_profile(*PROFILES["Adobe RGB"][:2])
    converted = pixels(image)
    np.testing.assert_array_equal(np.asarray(image), COLORS)
    np.testing.assert_array_equal(pixels(image), converted)
    # How to ignore a profile.
    del image.info["icc_profile"]
    np.testing.assert_array_equal(pixels(image), COLORS)


def cmyk_profile():
    """Return a CMYK profile with a table of 2 points per axis: light is (1 - ink) (1 - black)."""
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    # Lab of paper and ink: only the lightness differs, by the inks' mean.
    lightness = 100 * (1 - np.clip(corners[:, :3].mean(axis=1) + corners[:, 3], 0, 1))
    lab = np.stack([lightness * 65280 / 100, *[np.full(16, 32768.0)] * 2], axis=1)
    table = (
        b"mft2\0\0\0\0" + bytes([4, 3, 2, 0]) + fixed(np.eye(3).ravel()) + struct.pack(">HH", 2, 2)
        + np.tile([0, 65535], 4).astype(">u2").tobytes()
        + np.round(lab).astype(">u2").tobytes()
        + np.tile([0, 65535], 3).astype(">u2").tobytes()
    )  # fmt: skip
    profile = bytearray(icc_profile(b"CMYK", {b"A2B0": table, b"A2B1": table}))
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    return bytes(profile)


def test_cmyk_is_converted_by_its_profile():
    inks = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in ("TIFF", "JPEG"):
        with_profile = pixels(saved(inks, kind, icc_profile=cmyk_profile()))[4, 4].astype(int)
        without = pixels(saved(inks, kind))[4, 4].astype(int)
        # Cyan by Pillow's formula, but a gray of two thirds of the lightness by the profile.
        np.testing.assert_allclose(without, [0, 255, 255], atol=3)
        assert np.ptp(with_profile) <= 3
        assert 130 < with_profile.mean() < 190
    for inks, expected in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)):
        image = Image.new("CMYK", (8, 8), inks)
        content = saved(image, "TIFF", icc_profile=cmyk_profile())
        np.testing.assert_allclose(pixels(content)[4, 4], expected, atol=3)
    # Converted to RGB by the user: Pillow leaves the profile of CMYK in the image.
    image.info["icc_profile"] = cmyk_profile()
    assert pixels(image.convert("RGB"))[0, 0].tolist() == [0, 0, 0]


def test_threads_share_a_conversion():
    content = saved(RGB, "PNG", icc_profile=rgb_profile(*PROFILES["Display P3"][:2]))
    expected = pixels(content)
    with ThreadPoolExecutor(8) as executor:
        for image in executor.map(pixels, [content] * 100):
            np.testing.assert_array_equal(image, expected)


def test_profiles_of_real_files(data_folder):
    path = data_folder / "odd_files" / "avif" / "icc_profile.avif"  # sRGB
    with Image.open(path) as opened:
        np.testing.assert_array_equal(pixels(path), np.asarray(opened.convert("RGB")))
    path = data_folder / "odd_files" / "avif" / "xmp_tags_orientation.avif"  # ColorMatch RGB
    with Image.open(path) as opened:
        stored = np.asarray(opened.convert("RGB").transpose(Image.Transpose.ROTATE_180))
    assert np.abs(pixels(path).astype(int) - stored).mean() > 3
