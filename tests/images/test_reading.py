"""Reading of one image: modes, formats, orientations, arrays, and damaged files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from transferkit.errors import ImageError, ParameterError
from transferkit.images import MAX_PIXELS, ImageTypeError, read_image

COLORS = np.random.default_rng(1).integers(0, 256, (12, 17, 3)).astype(np.uint8)
RGB = Image.fromarray(COLORS)
GRAY = RGB.convert("L")
# The formats that Pillow can write.
KINDS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF"]


def pixels(image):
    got = read_image(image, "image")
    assert isinstance(got, Image.Image)
    assert got.mode == "RGB"
    return np.asarray(got)


def gray_pixels(values):
    return np.repeat(np.asarray(values, np.uint8)[:, :, None], 3, axis=2)


def over_white(colors, alpha):
    alpha = alpha[..., None] / 255
    return colors * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_opaque_modes_are_read_as_pillow_converts_them(mode):
    image = RGB.convert("RGB").convert(mode)
    np.testing.assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))


def test_transparency_is_blended_with_white():
    alpha = np.tile(np.linspace(0, 255, 17).astype(np.uint8), (12, 1))
    rgba = np.dstack([COLORS, alpha])
    expected = over_white(COLORS, alpha)
    np.testing.assert_allclose(pixels(Image.fromarray(rgba)), expected, atol=1)
    np.testing.assert_allclose(pixels(rgba), expected, atol=1)
    premultiplied = Image.fromarray(rgba).convert("RGBa")
    strong = alpha > 60  # where premultiplied colors have enough bits
    np.testing.assert_allclose(pixels(premultiplied)[strong], expected[strong], atol=4)

    expected = over_white(gray_pixels(GRAY), alpha)
    la = Image.merge("LA", [GRAY, Image.fromarray(alpha)])
    np.testing.assert_allclose(pixels(la), expected, atol=1)
    np.testing.assert_allclose(pixels(la.convert("La"))[strong], expected[strong], atol=4)
    # From RGBA, because Pillow loses the alpha when it converts LA to PA.
    one_color = Image.new("RGBA", (1, 1), (9, 8, 7, 51)).convert("PA")
    np.testing.assert_allclose(pixels(one_color)[0, 0], [206, 206, 205], atol=1)


def test_a_transparent_color_of_a_palette_or_a_png_is_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    assert pixels(palette).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    for image, transparency in ((palette, 1), (palette, b"\xff\x00")):
        image.save(tmp_path / "p.png", transparency=transparency)
        got = pixels(tmp_path / "p.png")
        assert got.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    key = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    key.save(tmp_path / "key.png", transparency=(4, 5, 6))
    assert pixels(tmp_path / "key.png").tolist() == [[[1, 2, 3], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
@pytest.mark.filterwarnings("error")
def test_16_bits_are_scaled_not_clipped(mode):
    values = np.array([[0, 128, 129, 257, 256 * 100, 65535]])
    image = Image.new(mode, (6, 1))
    for column, value in enumerate(values[0]):
        image.putpixel((column, 0), int(value))
    np.testing.assert_array_equal(pixels(image), gray_pixels(np.round(values / 257)))


def test_16_bit_files(tmp_path):
    values = np.arange(0, 65536, 700, np.uint16).reshape(2, -1)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(pixels(tmp_path / name), gray_pixels(np.round(values / 257)))


@pytest.mark.parametrize("bits", range(1, 17))
def test_fewer_bits_are_scaled_to_their_largest_value(bits):
    largest = 2**bits - 1
    values = np.unique(np.linspace(0, largest, 500).round().astype(np.uint16))[None]
    got = read_image(Image.fromarray(values), bit_depth=bits)
    # Halves are rounded up.
    expected = np.floor(values * 255.0 / largest + 0.5)
    np.testing.assert_array_equal(np.asarray(got), gray_pixels(expected))


@pytest.mark.parametrize(("highest", "bits"), [(3, 8), (255, 8), (900, 10), (4095, 12)])
def test_an_image_that_uses_few_of_16_bits_is_warned_of(highest, bits):
    image = Image.fromarray(np.array([[0, highest]], np.uint16))
    message = rf"has a value above {highest} .*bit_depth={bits}\)"
    with pytest.warns(UserWarning, match=message) as seen:
        read_image(image)
    assert [warning.filename for warning in seen] == [__file__]


@pytest.mark.filterwarnings("error")
def test_the_bits_that_a_tiff_file_states_are_used():
    packed = tiff(4, 1, t258=12, t279=6)[:300] + bytes.fromhex("000 800 fff 001".replace(" ", ""))
    assert pixels(packed)[0, :, 0].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("bit_depth", [20, 0, True, 12.0, "x"])
def test_an_invalid_bit_depth_is_rejected(bit_depth):
    # Of any image, not only of those of 16 bits.
    with pytest.raises(ParameterError, match=r"bit_depth is .*; expected an integer from 1 to 16"):
        read_image(RGB, bit_depth=bit_depth)


@pytest.mark.parametrize(
    ("values", "bit_depth", "message"),
    [
        ([0, 70000], None, r"from 0 to 70000; .*to 65535 \(white\); scale the values to floats"),
        ([-5, 100], None, r"from -5 to 100; .*; scale the values to floats in \[0, 1\]"),
        ([-5, 100], 12, r"from -5 to 100; .*; scale the values to floats in \[0, 1\]"),
        ([0, 5000], 12, r"to 4095 \(.*bit_depth=12\); pass a larger bit_depth, at most 16"),
    ],
)
def test_integers_out_of_range_are_rejected(values, bit_depth, message):
    with pytest.raises(ImageError, match=message):
        read_image(Image.fromarray(np.array([values], np.int32)), "x", bit_depth=bit_depth)


def test_mode_f_is_floats():
    got = read_image(Image.fromarray(np.array([[0.0, 0.3]], np.float32)), "x")
    np.testing.assert_array_equal(got, np.array([[[0.0] * 3, [0.3] * 3]], np.float32))
    with pytest.raises(ImageError, match=r"200.*divide by 255"):
        read_image(Image.fromarray(np.array([[0.0, 200]], np.float32)), "x")


@pytest.mark.parametrize(
    ("suffix", "exact"),
    [
        ("png", True),
        ("bmp", True),
        ("tiff", True),
        ("jp2", True),
        ("ppm", True),
        ("jpg", False),
        ("gif", False),
        ("webp", False),
        ("avif", False),
    ],
)
def test_the_first_frame_of_every_format_is_read(tmp_path, suffix, exact):
    path = tmp_path / f"a.{suffix}"
    others = (
        {}
        if suffix in ("bmp", "jpg", "jp2", "ppm")
        else {"save_all": True, "append_images": [GRAY]}
    )
    RGB.save(path, **others)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    np.testing.assert_array_equal(pixels(path), expected)
    np.testing.assert_array_equal(pixels(str(path)), expected)
    if exact:
        np.testing.assert_array_equal(expected, COLORS)


def test_cmyk_jpeg_mpo_and_compressed_tiff_are_read(tmp_path):
    for name, image, options in (
        ("cmyk.jpg", RGB.convert("CMYK"), {}),
        ("a.mpo", RGB, {"save_all": True, "append_images": [GRAY.convert("RGB")]}),
        ("a.tif", RGB, {"compression": "tiff_lzw"}),
        ("j.tif", RGB, {"compression": "jpeg"}),
    ):
        image.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(pixels(tmp_path / name), opened.convert("RGB"))


# The transformation of the stored pixels for each orientation of the EXIF standard.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


@pytest.mark.parametrize("suffix", ["png", "tiff", "jpg", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x112] = orientation
    blocks = RGB.resize((64, 48), Image.Resampling.NEAREST)
    path = tmp_path / f"a.{suffix}"
    plain = tmp_path / f"plain.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    blocks.save(plain, **lossless)
    blocks.save(path, exif=exif, **lossless)
    with Image.open(plain) as opened:
        expected = UPRIGHT[orientation](np.asarray(opened.convert("RGB")))
    np.testing.assert_array_equal(pixels(path), expected)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(pixels(opened), expected)
    with Image.open(path) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert opened.getexif().get(0x112, orientation) in (orientation, 1)


def test_the_orientation_is_removed_before_an_image_is_rotated():
    exif = Image.Exif()
    exif[0x112] = 6
    file = io.BytesIO()
    Image.fromarray(COLORS).save(file, "PNG", exif=exif)
    with Image.open(file) as opened:
        upright = UPRIGHT[6](COLORS)
        np.testing.assert_array_equal(pixels(opened), upright)
        # As documented: Pillow keeps the entry, so a rotated image is turned once more.
        rotated = opened.rotate(-90, expand=True)
        np.testing.assert_array_equal(pixels(rotated), UPRIGHT[6](upright))
        rotated = ImageOps.exif_transpose(opened).rotate(-90, expand=True)
        np.testing.assert_array_equal(pixels(rotated), np.rot90(upright, -1))


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\xff\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_ignored(tmp_path, exif):
    RGB.save(tmp_path / "a.jpg", exif=exif)
    RGB.save(tmp_path / "b.jpg")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "b.jpg"))


def test_exif_that_raises_an_error_in_pillow_is_ignored(tmp_path):
    info = PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 8\nno digits")
    RGB.save(tmp_path / "a.png", pnginfo=info)
    with Image.open(tmp_path / "a.png") as opened:
        opened.load()
        with pytest.raises(ValueError, match="hexadecimal"):
            opened.getexif()
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), COLORS)


def test_the_given_image_is_not_changed():
    image = RGB.convert("RGBA")
    image.info["transparency"] = 0
    before = (image.tobytes(), dict(image.info), image.mode)
    read_image(image, "x")
    assert (image.tobytes(), dict(image.info), image.mode) == before
    array = COLORS.copy()
    floats = (COLORS / 255).astype(np.float32)
    floats_before = floats.copy()
    read_image(array, "x")
    read_image(floats, "x")
    np.testing.assert_array_equal(array, COLORS)
    np.testing.assert_array_equal(floats, floats_before)


def test_arrays_are_read():
    gray = np.asarray(GRAY)
    np.testing.assert_array_equal(pixels(COLORS), COLORS)
    np.testing.assert_array_equal(pixels(COLORS[::-1, ::2]), COLORS[::-1, ::2])
    np.testing.assert_array_equal(pixels(gray), gray_pixels(gray))
    np.testing.assert_array_equal(pixels(gray[:, :, None]), gray_pixels(gray))
    for dtype in (np.float16, np.float32, np.float64):
        floats = (COLORS / 255).astype(dtype)
        got = read_image(floats, "x")
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, floats.astype(np.float32))
        np.testing.assert_array_equal(read_image(floats[..., :1], "x")[..., 2], got[..., 0])
    rgba = np.dstack([COLORS / 255, np.full((12, 17), 0.25)])
    np.testing.assert_allclose(read_image(rgba, "x"), 0.75 + 0.25 * COLORS / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), "shape 4 x 4 x 2"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape 1 x 4 x 4 x 3; .*pass array\[0\]"),
        (np.zeros((5, 4, 4, 3), np.uint8), "shape 5 x 4 x 4 x 3; .*or this array alone"),
        (np.zeros((3, 8, 9), np.uint8), r"shape 3 x 8 x 9; .*pass array\.transpose\(1, 2, 0\)"),
        (np.zeros((1, 8, 9)), r"shape 1 x 8 x 9; .*pass array\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 8, 9)), r"shape 4 x 8 x 9; .*pass array\.transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 7)), "shape 4 x 4 x 7; expected a path.*if the first axis holds"),
        (np.zeros(4, np.uint8), "shape 4;"),
        (np.zeros((0, 4, 3), np.uint8), "empty: an array of shape 0 x 4 x 3"),
        (np.array(3.0), r"shape \(\)"),
        (np.zeros((4, 4), bool), "dtype bool"),
        (np.zeros((4, 4), np.uint16), "dtype uint16.*65535"),
        (np.zeros((4, 4), np.int64), "dtype int64.*uint8"),
        (np.full((4, 4), -1), "dtype int64.*negative values: scale them to floats"),
        (np.zeros((4, 4), complex), "dtype complex128"),
        (np.full((4, 4), np.nan), "value nan"),
        (np.array([[0.5, np.inf]]), "value inf"),
        (np.array([[0.5, -np.inf]]), "value -inf"),
        (np.array([[0.5, 2.5]]), "value 2.5.*divide by 255"),
        (np.array([[0.5, 254.0]]), "value 254.*divide by 255"),
        (np.array([[0.5, -1.0]]), "value -1.*the network does it"),
    ],
)
def test_invalid_arrays_are_rejected(array, message):
    with pytest.raises(ImageError, match=rf"images\[3\]: .*{message}"):
        read_image(array, "images[3]")


@pytest.mark.parametrize("thing", [None, 7, {"a": 1}, [1], object(), float("nan")])
def test_other_types_are_rejected(thing):
    with pytest.raises(ImageTypeError, match=r"images\[0\]: unsupported type ") as caught:
        read_image(thing, "images[0]")
    assert isinstance(caught.value, TypeError)


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, data=None):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = zlib.compress(b"\0" * 52) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND")


def gif(screen, frame, before=b""):
    image = b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x4c\x01\0;"
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + before + image


def bmp(width, height, bits=24, compression=0, data=b""):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + header + data


def webp(kind, data):
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + b"\0" * 500
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width, height, compression=1, following=0, **tags):
    tags = (
        {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: 300, 277: 1}
        | {278: height, 279: 100}
        | {int(tag[1:]): value for tag, value in tags.items()}
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)
    return head.ljust(300, b"\0") + b"\0" * 100


def saved(suffix, **options):
    file = io.BytesIO()
    RGB.resize((200, 150)).save(file, suffix, **options)
    return file.getvalue()


def jpeg_of_many_scans():
    file = io.BytesIO()
    Image.new("L", (2000, 2000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")) : -2]
    return data[:-2] + scan * 3000 + b"\xff\xd9"


def as_bytes(data, _path):
    return data


def as_bytearray(data, _path):
    return bytearray(data)


def as_memoryview(data, _path):
    return memoryview(data)


def as_bytes_io_at_its_end(data, _path):
    file = io.BytesIO()
    file.write(data)
    return file


def as_open_file(data, path):
    path.write_bytes(data)
    return path.open("rb")


def as_unbuffered_file(data, path):
    path.write_bytes(data)
    return path.open("rb", buffering=0)


def as_temporary_file(data, _path):
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115
    file.write(data)
    return file


def as_member_of_a_zip_file(data, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return zipfile.ZipFile(path).open("a")


class Stream:
    """A stream that cannot seek, and returns few bytes at a time, as sockets do."""

    def __init__(self, data, step=7):
        self.parts = (data[start : start + step] for start in range(0, len(data), step))
        self.num_reads = 0

    def read(self, _size=-1):
        self.num_reads += 1
        return next(self.parts, b"")


def as_stream(data, _path):
    return Stream(data)


CONTENTS = [
    as_bytes,
    as_bytearray,
    as_memoryview,
    as_bytes_io_at_its_end,
    as_open_file,
    as_unbuffered_file,
    as_temporary_file,
    as_member_of_a_zip_file,
    as_stream,
]


@pytest.mark.parametrize("make", CONTENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_content_of_a_file_is_read_like_the_file(tmp_path, kind, make):
    (tmp_path / "a").write_bytes(saved(kind))
    content = make(saved(kind), tmp_path / "b")
    np.testing.assert_array_equal(pixels(content), pixels(tmp_path / "a"))


def test_a_file_object_is_read_from_its_start_and_left_where_it_was(tmp_path):
    for make in (as_bytes_io_at_its_end, as_open_file, as_temporary_file):
        with make(saved("PNG"), tmp_path / "a") as file:
            file.seek(11)
            for _ in range(2):
                np.testing.assert_array_equal(pixels(file), pixels(saved("PNG")))
                assert file.tell() == 11
            assert not file.closed


def test_content_in_other_formats_never_reaches_their_reader(monkeypatch):
    """Pillow starts Ghostscript for an EPS file."""

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("PIL.Image.open", never)
    monkeypatch.setattr("subprocess.Popen", never)
    file = io.BytesIO()
    RGB.save(file, "EPS")
    for content in (file, file.getvalue(), Stream(file.getvalue())):
        with pytest.raises(ImageError, match=r"^image: not an image in a supported format"):
            read_image(content)


def test_all_pages_of_a_tiff_in_memory_can_be_longer_than_its_first(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3)).astype(np.uint8)
    pages = [Image.fromarray(noise)] * 6
    RGB.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=pages)
    content = (tmp_path / "a.tif").read_bytes()
    assert len(content) > 16e6
    np.testing.assert_array_equal(pixels(content), COLORS)


@pytest.mark.filterwarnings("error")
def test_file_objects_that_cannot_be_read_are_rejected(tmp_path):
    def error_of(image, match):
        with pytest.raises(ImageError, match=match) as caught:
            read_image(image, "images[2]")
        assert caught.value.source == "images[2]"
        return caught.value

    closed = io.BytesIO(saved("PNG"))
    closed.close()
    error_of(closed, "cannot be read: I/O operation on closed file")
    (tmp_path / "a").write_bytes(saved("PNG"))
    with open(tmp_path / "a", encoding="latin-1") as file:
        text = error_of(file, "TextIOWrapper returned str, not bytes; open the file in binary mode")
    assert isinstance(text, ImageTypeError)
    with open(tmp_path / "b", "wb") as file:
        error_of(file, "cannot be read")

    class Upload:
        async def read(self, _size=-1):
            return b""

    error_of(Upload(), r"returned coroutine, not bytes; .*upload\.file")
    error_of(b"", "the file is empty")
    error_of(io.BytesIO(), "the file is empty")
    error_of(Stream(b""), "the file is empty")


def test_an_endless_stream_is_not_read_on(monkeypatch):
    text = Stream(b"not an image " * 10_000, step=100)
    with pytest.raises(ImageError, match="not an image in a supported format"):
        read_image(text)
    assert text.num_reads == 1
    monkeypatch.setattr("transferkit.images.reading.MAX_CONTENT", 5000)
    begins_like_one = Stream(b"GIF89a" * 100_000, step=600)
    with pytest.raises(ImageError, match="too long: more than 5,000 bytes"):
        read_image(begins_like_one)
    assert begins_like_one.num_reads < 10


JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"


def jpeg_2000(width, height, tile=None, channels=3):
    """Return a file of 200 x 150 pixels with another size in both of its headers."""
    data = bytearray(saved("JPEG2000"))
    box = data.index(b"ihdr") + 4
    data[box : box + 8] = struct.pack(">II", height, width)
    size = data.index(b"\xff\x4f\xff\x51") + 8
    data[size : size + 8] = struct.pack(">II", width, height)
    tiles = (tile, tile) if tile else (width, height)
    data[size + 16 : size + 24] = struct.pack(">II", *tiles)
    data[size + 32 : size + 34] = struct.pack(">H", channels)
    return bytes(data)


SIDE_24 = struct.pack("<I", 0xFFFFFF)[:3]
BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"Dear diary,", "not an image in a supported format (JPEG, PNG, "),
    "half a magic": (b"\xff\xd8", "not an image in a supported format"),
    "jpeg header only": (saved("JPEG")[:40], ""),
    "png claims": (png(65000, 65000), "too large: 65,000 x 65,000 pixels; expected at most"),
    "png iccp": (png(4, 4, chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 99_000_000))), ""),
    "png ztxt": (
        png(4, 4, *[chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 1_000_000))] * 200),
        "",
    ),
    "png chunks": (png(4, 4, chunk(b"abCd", b"x" * 1000) * 10_000), "too much data besides"),
    "gif screen": (gif((65000, 65000), (0, 0, 1, 1)), "too large: 65,000 x 65,000"),
    "gif frame": (
        gif((1, 1), (60000, 60000, 60000, 60000)),
        "a part of the image has too many pixels",
    ),
    "gif comment": (
        gif((1, 1), (0, 0, 1, 1), b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0"),
        "too much data besides",
    ),
    "bmp huge": (bmp(2**31 - 1, 2**31 - 1), "too large: 2,147,483,647 x"),
    "bmp negative": (bmp(-5, -5), "too large: 4,294,967,291 x 5"),
    "bmp large and short": (bmp(11000, 11000), "the file is truncated"),
    "bmp rle": (bmp(65000, 1900, 8, 1, b"\x01\x07\0\0" * 2000), "run-length"),
    "webp lossless": (webp(b"VP8L", b"\x2f" + b"\xff" * 4), "too large: 16,384 x 16,384"),
    "webp lossy": (webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + b"\xff\x3f" * 2), "too large: 16,383 x"),
    "webp extended": (webp(b"VP8X", b"\0" * 4 + SIDE_24 * 2), "too large: 16,777,216 x"),
    "webp cut in header": (saved("WEBP")[:25], "the file is truncated"),
    "tiff huge": (tiff(65000, 65000), "too large: 65,000 x 65,000"),
    "tiff wraps": (tiff(2**32 - 1, 2**32 - 1), "too large: 4,294,967,295 x"),
    "tiff large and short": (tiff(9000, 9000), "the file is truncated"),
    "tiff strip": (tiff(9000, 9000, 8), "damaged"),
    "tiff tile": (tiff(10, 10, 8, t322=30000, t323=30000, t324=300, t325=99), "too large: 30,000"),
    "tiff samples": (tiff(10, 10, 8, t277=65535), ""),
    "jpeg app": (
        saved("JPEG")[:2] + (b"\xff\xe1\xff\xff" + b"Exif\0\0" + b"\0" * 65527) * 200,
        "too much data besides",
    ),
    "ppm claims": (b"P6 65000 65000 255\n" + b"\0" * 1000, "too large: 65,000 x 65,000"),
    "ppm text": (b"P3 9000 9000 255\n" + b"7 " * 1000, "too large: a PPM in plain text of 81,0"),
    "ppm 12 bits": (b"P5 9000 9000 4095\n" + b"\0\7" * 1000, "too large: a PPM whose maximum"),
    "ppm comment": (b"P6 #" + b"x" * 10_000_000, "too much data besides"),
    "ppm zero": (b"P6 0 5 255\n", "damaged"),
    "ppm large and short": (b"P6 11000 11000 255\n" + b"\0" * 1000, "the file is truncated"),
    "jpeg 2000 claims": (jpeg_2000(65000, 65000), "too large: 65,000 x 65,000 pixels"),
    "jpeg 2000 tile": (jpeg_2000(11000, 11000), "too large: a JPEG 2000 with a tile of 121,000,0"),
    "jpeg 2000 tiles": (jpeg_2000(200, 150, tile=1), "a JPEG 2000 with 30,000 tiles"),
    "jpeg 2000 large and short": (jpeg_2000(5000, 5000), None),
    "jpeg 2000 channels": (jpeg_2000(200, 150, channels=16_384), "damaged"),
    "jpeg 2000 sizes differ": (
        jpeg_2000(200, 150).replace(struct.pack(">II", 200, 150), struct.pack(">II", 9000, 9000)),
        "damaged: (200, 150) pixels in the header but (9000, 9000) in the data",
    ),
    "jpeg 2000 boxes": (JP2 + b"\0\0\0\x08free" * 400_000, "too much data besides"),
    "avif claims": (
        saved("AVIF").replace(struct.pack(">II", 200, 150), struct.pack(">II", 16000, 16000)),
        "too large: 16,000 x 16,000 pixels; expected at most",
    ),
    "avif large": (
        saved("AVIF").replace(struct.pack(">II", 200, 150), struct.pack(">II", 8000, 8000)),
        None,
    ),
    "video": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0" * 100, "not an image in a supp"),
    "jpeg scans": (jpeg_of_many_scans(), "a JPEG with 3,006 scans"),
}
for kind in KINDS:
    complete = saved(kind)
    reason = "damaged" if kind in ("JPEG2000", "AVIF") else "the file is truncated"
    BROKEN[f"half a {kind}"] = (complete[: len(complete) // 2], reason)
    BROKEN[f"start of a {kind}"] = (complete[:25], "")
for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\0\0\0WEBPVP8 ", b"BM", b"GIF89a"):
    noise = np.random.default_rng(0).bytes(3000)
    BROKEN[f"noise after {magic[:4]!r}"] = (magic + noise, "")

PROGRAM = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore", UserWarning)
warnings.simplefilter("error", RuntimeWarning)  # the type of the warning of a decompression bomb
from transferkit.errors import ImageError
from transferkit.images import read_image
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
report = {}
for path in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        read_image(path, "F")
        reason = None
    except ImageError as error:
        reason = error.reason
    try:
        with open(path, "rb") as file:
            read_image(file.read(), "F")
        in_memory = None
    except ImageError as error:
        in_memory = error.reason
    report[path] = reason, in_memory, (peak() - before) // 1024, time.process_time() - start
print(json.dumps(report))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_damaged_files_are_rejected_with_little_time_and_memory(tmp_path):
    paths = {}
    for number, (name, (data, _)) in enumerate(BROKEN.items()):
        paths[name] = tmp_path / f"{number}.bin"
        paths[name].write_bytes(data)
    # Files named large, and the strip, may use as much memory as an image of their stated size.
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths.values())],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    report = json.loads(program.stdout)
    for name, (_, message) in BROKEN.items():
        reason, in_memory, megabytes, seconds = report[str(paths[name])]
        # Their content is read with the same checks.
        assert in_memory == reason, name
        # Some are read: their missing data is gray.
        assert (reason is None) == (message is None), (name, reason)
        assert message is None or message in reason, (name, reason)
        assert seconds < 5, (name, seconds)
        assert megabytes < (600 if "large" in name or "strip" in name else 100), (name, megabytes)


def test_harmless_decompression_bombs_are_read(tmp_path):
    """More compressed data than pixels, or a cyclic directory, are not errors."""
    (tmp_path / "a.png").write_bytes(png(4, 4, data=zlib.compress(b"\0" * 50_000_000)))
    assert pixels(tmp_path / "a.png").shape == (4, 4, 3)
    (tmp_path / "b.tif").write_bytes(tiff(10, 10, following=8))
    assert pixels(tmp_path / "b.tif").shape == (10, 10, 3)


def test_a_video_after_the_image_is_not_a_scan(tmp_path):
    """Phones append a video, which contains the bytes of a marker by chance."""
    data = saved("JPEG", progressive=True) + b"\xff\xda\0\x02" * 200_000
    (tmp_path / "a.jpg").write_bytes(data)
    assert pixels(tmp_path / "a.jpg").shape == (150, 200, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Path.exists, "no such file"),
        (Path.mkdir, "a folder, not a file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
    ],
)
def test_paths_other_than_files_are_rejected(tmp_path, make, message):
    path = tmp_path / "a.jpg"
    make(path)
    got = []
    thread = threading.Thread(target=lambda: got.append(error_of(path)), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert got, "read_image hangs"
    assert message in got[0].reason


def error_of(path):
    with pytest.raises(ImageError) as caught:
        read_image(path, "F")
    return caught.value


def test_invalid_paths_are_rejected():
    assert "not a valid path" in error_of("a\0b").reason
    assert "cannot be opened" in error_of("a" * 5000).reason


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can read everything"
)
def test_an_unreadable_file_is_an_error(tmp_path):
    RGB.save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert error_of(tmp_path / "a.png").reason == "permission denied"


def test_missing_memory_is_an_image_error(tmp_path, monkeypatch):
    RGB.save(tmp_path / "a.png")

    def load(_):
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert "not enough memory" in error_of(tmp_path / "a.png").reason


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(KINDS),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.floats(0.02, 1),
)
def test_flipped_and_missing_bytes_give_an_image_or_an_image_error(tmp_path, kind, places, length):
    data = bytearray(saved(kind))
    for place, value in places:
        data[int(place**3 * (len(data) - 1))] = value
    path = tmp_path / "a.bin"
    path.write_bytes(data[: max(1, int(length * len(data)))])
    # Any other error fails the test.
    with contextlib.suppress(ImageError):
        read_image(path, "F")


def test_large_images_cause_no_warning_and_change_no_global_state(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    filters = list(warnings.filters)
    Image.new("L", (10_000, 9_500)).save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(tmp_path / "a.png", "F").size == (10_000, 9_500)
    assert (limit, filters) == (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    assert limit < 10_000 * 9_500 < MAX_PIXELS


def test_ten_threads_can_load_one_opened_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    for _ in range(5):
        with Image.open(tmp_path / "a.png") as opened, ThreadPoolExecutor(10) as threads:
            for got in threads.map(pixels, [opened] * 10):
                np.testing.assert_array_equal(got, noise)


def test_pnm_files_of_every_kind_are_read():
    values = np.arange(12).reshape(3, 4)
    gray = gray_pixels(np.round(values * 255 / 11))
    text = " ".join(map(str, values.ravel())).encode()
    for content in (
        b"P2\n# a comment\n4 3\n11\n" + text,
        b"P5 4 3 11\n" + values.astype(np.uint8).tobytes(),
        b"P5\t4 3 4095\n" + (values * 4095 // 11).astype(">u2").tobytes(),
        b"P5\r4 3 65535\n" + (values * 65535 // 11).astype(">u2").tobytes(),
        b"P3 4 3 11\n" + " ".join(map(str, np.repeat(values, 3).ravel())).encode(),
        b"P6 4 3 11\n" + np.repeat(values, 3).astype(np.uint8).tobytes(),
    ):
        np.testing.assert_allclose(pixels(content).astype(int), gray, atol=1)
    assert pixels(b"P1 2 1 1 0")[0, :, 0].tolist() == [0, 255]
    assert pixels(b"P4 2 1 \x80")[0, :, 0].tolist() == [0, 255]


def test_avif_files_are_read_upright(data_folder):
    images = [
        pixels(data_folder / "odd_files" / "avif" / f"rot{rotation}mir{mirror}.avif").astype(int)
        for rotation in range(4)
        for mirror in range(2)
    ]
    for image in images:
        assert image.shape == (427, 640, 3)
        # They were compressed after the rotation.
        assert np.abs(image - images[0]).mean() < 12
    assert pixels(data_folder / "odd_files" / "avif" / "star.avifs").shape == (159, 159, 3)


def test_heic_files_are_read(data_folder):
    pytest.importorskip("pillow_heif")
    path = data_folder / "odd_files" / "heic" / "samplefilehub.heif"
    image = pixels(path)
    assert image.shape == (426, 640, 3)
    np.testing.assert_allclose(image.mean((0, 1)), [62.8, 51.1, 43.6], atol=2)
    np.testing.assert_array_equal(pixels(path.read_bytes()), image)
    with pytest.raises(ImageError, match=r"damaged|truncated"):
        read_image(path.read_bytes()[:9000])


def test_written_heic_files_are_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    colors = RGB.resize((64, 48), Image.Resampling.BICUBIC)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x112] = orientation
        pillow_heif.from_pillow(colors).save(tmp_path / "plain.heic", quality=-1)
        pillow_heif.from_pillow(colors).save(tmp_path / "a.heic", quality=-1, exif=exif.tobytes())
        plain = pixels(tmp_path / "plain.heic").astype(int)
        assert np.abs(plain - np.asarray(colors)).mean() < 14
        image = pixels(tmp_path / "a.heic").astype(int)
        assert np.abs(image - UPRIGHT[orientation](plain)).mean() < 1


HEIC_HEADER = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100


def test_heic_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r'pillow-heif.*pip install "transferkit\[heic\]"'):
        read_image(HEIC_HEADER)
    # The brand that HEIC and AVIF share.
    with pytest.raises(ImageError, match=r'pip install "transferkit\[heic\]"'):
        read_image(HEIC_HEADER.replace(b"ftypheic", b"ftypmif1"))
