"""Reading of one image, given as a path, a file's content, a PIL image or an array.

The result is an upright RGB image. Files are treated as untrusted input. The header is checked
before anything is decoded, and the number of bytes read is limited according to the size stated
there, so that no file, however damaged, can hang or crash the process, or use more memory than an
image of the maximum size.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from transferkit.errors import ImageError
from transferkit.images.bit_depth import BitDepth, check_bit_depth
from transferkit.images.color_profiles import to_srgb
from transferkit.images.containers import JPEG_2000, brands, read_codestream
from transferkit.images.named import NamedImage
from transferkit.support.locks import ForkSafeLock

__all__ = [
    "MAX_CONTENT",
    "MAX_PIXELS",
    "EncodedImage",
    "ImageLike",
    "ImageTypeError",
    "check_range",
    "file_format",
    "is_encoded",
    "join_blocks",
    "read_content",
    "read_image",
    "read_image_of_call",
    "too_long",
]

MAX_PIXELS = 128_000_000
"""The maximum number of pixels of an image; reading one takes about 512 MB."""

Array: TypeAlias = npt.NDArray[np.generic]
"""An array of any dtype; `read_image` states which ones are accepted."""

EncodedImage: TypeAlias = bytes | bytearray | memoryview | IO[bytes]
"""The types of the content of an image file: bytes, or a binary file object."""

ImageLike: TypeAlias = str | os.PathLike[str] | EncodedImage | NamedImage | Image.Image | Array
"""The types of one image: a path, the content of a file, a named or PIL image, or an array."""

_ACCEPTED = (
    "expected a path, the bytes of an image file, a binary file object, a PIL image, or an array "
    "of uint8 or floats in [0, 1], height x width or height x width x 1, 3 or 4"
)

# Pillow's readers are called directly, not through Image.open, which warns of every image beyond
# its own limit; suppressing warnings is not thread-safe. The JPEG reader also reads MPO, whose
# first image is an ordinary JPEG.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_Reader: TypeAlias = Callable[[io.BufferedReader], ImageFile]
_READERS: tuple[tuple[str, tuple[bytes, ...], _Reader], ...] = (
    ("JPEG", (b"\xff\xd8\xff",), JpegImageFile),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ("WebP", (b"RIFF",), WebPImageFile),
    ("BMP", (b"BM",), BmpImageFile),
    ("GIF", (b"GIF87a", b"GIF89a"), GifImageFile),
    ("TIFF", _TIFF, TiffImageFile),
    ("JPEG 2000", JPEG_2000, Jpeg2KImageFile),
    (
        "PPM",
        tuple(b"P%c%c" % (kind, space) for kind in b"123456" for space in b" \t\n\r"),
        PpmImageFile,
    ),
)
# These are recognized by their brands.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
# The number of bytes at the start of a file that tell its format, and the size of a WebP image.
_HEADER = 64

# The maximum size of everything besides the pixels: EXIF, profiles, thumbnails, the depth maps
# that phones add. Animated WebP files are read completely, so their limit is higher.
_METADATA_BYTES = 8 << 20
_WEBP_BYTES = 64 << 20
# Pillow reads these headers in Python, in small pieces.
_HEADER_BYTES = {"JPEG 2000": 1 << 20, "PPM": 1 << 16}
# The maximum length of an AVIF or HEIC file, which is read completely before its size is known.
_BOXES_BYTES = 128 << 20
# An upper limit for all formats: twice the size of four uncompressed channels of 16 bits.
_BYTES_PER_PIXEL = 16

MAX_CONTENT = _METADATA_BYTES + 8 * MAX_PIXELS
"""The maximum length of the content of a file object or URL, in bytes: an uncompressed image of
the maximum size with four channels of 16 bits."""
# The block size in which it is read.
_BLOCK = 1 << 20

# Pillow decodes run-length encoded BMP files, and some PPM files, pixel by pixel, in Python.
_MAX_PIXELS_IN_PYTHON = 16_000_000
_DECODED_IN_PYTHON = {
    "bmp_rle": "a run-length encoded BMP",
    "ppm": "a PPM whose maximum is neither 255 nor 65535",
    "ppm_plain": "a PPM in plain text",
}

# The tiles of a JPEG 2000 file take memory besides the pixels, and each is decoded to 32 bits.
_PIXELS_PER_TILE = 4096
_MAX_PIXELS_OF_A_TILE = 32_000_000

# The decoders of AVIF and HEIC hold the image two or three times.
_MAX_PIXELS_BOXES = 64_000_000

# A progressive JPEG can have any number of scans of the whole image, each only a few bytes long;
# ten are usual.
_MAX_PIXELS_OF_ALL_SCANS = 30 * MAX_PIXELS
_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
# A marker with a segment, within the data of scans, where a byte of 255 is followed by 0.
_MARKER = re.compile(rb"\xff+[^\x00\x01\xd0-\xd7\xff]")

_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow decodes an opened image on first use, which is not thread-safe. A PIL image has no place
# for a lock of its own, so images share these.
_LOADING = tuple(ForkSafeLock() for _ in range(32))


class ImageTypeError(ImageError, TypeError):
    """An object of a type that is not accepted as an image or as images.

    Examples
    --------
    >>> from transferkit.images import ImageTypeError, read_image
    >>> try:
    ...     read_image(7, "images[0]")
    ... except ImageTypeError as error:
    ...     print(str(error)[:31])
    images[0]: unsupported type int
    """


def read_image(
    image: ImageLike, source: str | None = None, *, bit_depth: int | None = None
) -> Image.Image | npt.NDArray[np.float32]:
    """Read one image and turn it upright.

    Parameters
    ----------
    image
        One of

        - a path to a JPEG (or MPO), PNG, WebP, BMP, GIF, TIFF, JPEG 2000, PPM (or PGM, PBM)
          or AVIF file, or to a HEIC file if pillow-heif is installed, of which the first
          frame is read;
        - the bytes of such a file, or a binary file object such as `io.BytesIO`. A seekable file
          object is read from its start, whatever its position is, and its position is restored;
          a non-seekable one is read from its current position to its end. It is not closed;
        - a `NamedImage`;
        - a PIL image of any mode. It is not changed, except that Pillow decodes it if that has
          not been done yet;
        - an array, height x width or height x width x 1 (gray), 3 (RGB) or 4 (RGBA), uint8 or
          floats in [0, 1].

        Transparent pixels are blended with white. Images of 16 bits or of Pillow's mode "I"
        are read as 0 to 65535, or to the largest value of ``bit_depth`` bits, those of mode "F"
        as floats in [0, 1]. Colors are converted to sRGB if the image has a color profile (ICC)
        of another color space. The orientation in EXIF data is applied. Invalid profiles and
        EXIF data are ignored.
    source
        The name of the image in error messages. None: its path or name, or "image".
    bit_depth
        The number of bits that are used in images of 16 bits, as in `Preprocessing`. None: 16,
        or what a TIFF file states, with a warning if no value is above 4095.

    Returns
    -------
    PIL image or array
        An image of mode RGB, which may be the given object and must not be changed; or
        (h, w, 3) float32 in [0, 1] for floats.

    Raises
    ------
    ImageError
        If the image cannot be read, has more than `MAX_PIXELS` pixels, or has values outside
        [0, 1]; the error has the reason.
    ImageTypeError
        If ``image`` has another type.
    ParameterError
        If ``bit_depth`` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import read_image
    >>> read_image(np.zeros((20, 30), np.uint8)).size
    (30, 20)
    """
    if source is None:
        source = _own_name(image) or "image"
    depth = BitDepth(check_bit_depth(bit_depth))
    upright = read_image_of_call(image, source, depth)
    depth.warn()
    return upright


def _own_name(image: ImageLike) -> str:
    """Return the path or name of an image; empty if it has none."""
    if isinstance(image, NamedImage):
        return image.source
    return os.fsdecode(image) if isinstance(image, (str, os.PathLike)) else ""


def read_image_of_call(
    image: ImageLike, source: str, depth: BitDepth
) -> Image.Image | npt.NDArray[np.float32]:
    """Read one of the images of a call, as `read_image` does.

    Parameters
    ----------
    image
        As for `read_image`.
    source
        Its name in error messages.
    depth
        The bits of the 16-bit images of the call. The caller warns of them.
    """
    if isinstance(image, Image.Image):
        with _LOADING[id(image) // 64 % len(_LOADING)]:
            _check_size(image.size, source)
            orientation = _load(image, source)
        return _upright_rgb(image, orientation, source, depth)
    if isinstance(image, np.ndarray):
        return _from_array(image, source, depth)
    if isinstance(image, (str, os.PathLike)):
        return _read_file(os.fsdecode(image), source, depth)
    if is_encoded(image) or isinstance(image, NamedImage):
        return _read_content(read_content(image, source), source, depth)
    raise ImageTypeError(source, f"unsupported type {type(image).__name__}; {_ACCEPTED}")


def is_encoded(image: object) -> TypeGuard[EncodedImage]:
    """Return whether an object is the content of a file: bytes or a file object.

    Examples
    --------
    >>> import io
    >>> from transferkit.images.reading import is_encoded
    >>> is_encoded(b"GIF89a"), is_encoded(io.BytesIO()), is_encoded("cat.jpg")
    (True, True, False)
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return True
    # File objects of web frameworks and of tempfile do not derive from io.IOBase.
    return callable(getattr(image, "read", None)) and not isinstance(image, NamedImage)


def read_content(file: EncodedImage | NamedImage, source: str) -> bytes:
    """Return the content of a file object or named image, or a copy of bytes that could change.

    Parameters
    ----------
    file
        Bytes, a binary file object, which `read_image` describes, or a named image.
    source
        The name of the image in error messages.

    Returns
    -------
    bytes

    Raises
    ------
    ImageError
        If the file object cannot be read, does not begin like an image, or is too long; or if the
        named image cannot be read.
    ImageTypeError
        If it does not return bytes.

    Examples
    --------
    >>> import io
    >>> from transferkit.images.reading import read_content
    >>> read_content(io.BytesIO(b"GIF89a"), "images[0]")
    b'GIF89a'
    """
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file)
    if isinstance(file, NamedImage):
        return _read_named(file, source)
    try:
        if isinstance(file, io.BytesIO):
            # Does not depend on the position, which several threads would change.
            return file.getvalue()
        position = _rewind(file)
        try:
            return _read_to_end(file, source)
        finally:
            if position is not None:
                file.seek(position)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(source, f"the file object cannot be read: {error}") from error


def _read_named(image: NamedImage, source: str) -> bytes:
    try:
        content: object = image.read()
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(source, f"cannot be read: {error.strerror or error}") from error
    except Exception as error:
        # One bad image of many must not end a run, whatever the class of the caller raises.
        reason = f"read() of the {type(image).__name__} raised {type(error).__name__}: {error}"
        raise ImageError(source, reason) from error
    if not isinstance(content, bytes):
        raise ImageTypeError(
            source,
            f"read() of the {type(image).__name__} returned {type(content).__name__}, not bytes",
        )
    return content


def _rewind(file: IO[bytes]) -> int | None:
    """Go to the start of a file object, and return its position before; None if it cannot seek."""
    try:
        position = file.tell()
        file.seek(0)
    except (AttributeError, OSError):
        return None
    return position


def _read_to_end(file: IO[bytes], source: str) -> bytes:
    return join_blocks(_blocks(file, source), source)


def _blocks(file: IO[bytes], source: str) -> Iterator[bytes | bytearray | memoryview]:
    # In blocks, because some file objects allocate all of the size that is asked for.
    while True:
        block: object = file.read(_BLOCK)
        if not isinstance(block, (bytes, bytearray, memoryview)):
            hint = "open the file in binary mode" if isinstance(block, str) else "pass its bytes"
            if type(block).__name__ == "coroutine":
                block.close()  # type: ignore[attr-defined]  # else Python warns of it
                hint = "pass the file object inside of it, such as upload.file, or its bytes"
            raise ImageTypeError(
                source,
                f"read() of the {type(file).__name__} returned {type(block).__name__}, not bytes; "
                f"{hint}",
            )
        if not block:
            return
        yield block


def join_blocks(blocks: Iterable[bytes | bytearray | memoryview], source: str) -> bytes:
    """Return the content of an image file that arrives in blocks.

    Parameters
    ----------
    blocks
        The blocks, in order. They are not iterated further if the content is no image.
    source
        The name of the image in error messages.

    Raises
    ------
    ImageError
        If the content does not begin like an image, or is longer than `MAX_CONTENT`.

    Examples
    --------
    >>> from transferkit.images.reading import join_blocks
    >>> join_blocks([b"GIF", b"89a"], "images[0]")
    b'GIF89a'
    """
    content = bytearray()
    begins = True
    for block in blocks:
        content += block
        if begins and len(content) >= _HEADER:
            # An endless stream of something else is not read further.
            _find_reader(bytes(content[:_HEADER]), source)
            begins = False
        if len(content) > MAX_CONTENT:
            raise too_long(source)
    if begins:
        _find_reader(bytes(content), source)
    return bytes(content)


def too_long(source: str) -> ImageError:
    """Return the error for a file that is longer than `MAX_CONTENT`."""
    return ImageError(source, f"too long: more than {MAX_CONTENT:,} bytes")


class _BoundedFile(io.BufferedReader):
    """A file with a limit for the bytes read, because Pillow keeps all metadata in memory."""

    def __init__(self, raw: io.FileIO | io.BytesIO, source: str) -> None:
        super().__init__(raw)
        self._source = source
        self._allowed = 0

    def allow(self, num_bytes: int) -> None:
        """Raise the limit by a number of bytes."""
        self._allowed += num_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        limit = self._allowed + 1
        data = super().read(limit if size is None or size < 0 else min(size, limit))
        self._allowed -= len(data)
        if self._allowed < 0:
            raise ImageError(self._source, "too much data besides the pixels")
        return data


def _read_file(path: str, source: str, depth: BitDepth) -> Image.Image | npt.NDArray[np.float32]:
    try:
        status = os.stat(path)
        # Opening a pipe waits for a writer and a device has no end, so neither is opened.
        problem = _why_not_to_open(status)
        if problem is None:
            file = _BoundedFile(io.FileIO(path), source)
    except FileNotFoundError:
        problem = "no such file" if path else "the path is empty"
    except PermissionError:
        problem = "permission denied"
    except OSError as error:
        problem = f"cannot be opened: {error.strerror}"
    except ValueError:  # a NUL in the path
        problem = "not a valid path"
    if problem is not None:
        raise ImageError(source, problem)
    return _decode(file, status.st_size, source, depth)


def _read_content(
    content: bytes, source: str, depth: BitDepth
) -> Image.Image | npt.NDArray[np.float32]:
    file = _BoundedFile(io.BytesIO(content), source)
    if content.startswith(_TIFF):
        # Pillow lets libtiff read a file on disk, but reads the whole content otherwise, with
        # all pages.
        file.allow(len(content))
    return _decode(file, len(content), source, depth)


def _decode(
    file: _BoundedFile, length: int, source: str, depth: BitDepth
) -> Image.Image | npt.NDArray[np.float32]:
    with file:
        # Pillow's readers raise errors of any type for damaged files, including those of struct
        # and zlib. All of them are caused by the file.
        try:
            image = _open(file, length, source)
            _check_size(image.size, source)
            # Decoders may read from the start of the file again.
            file.allow(_METADATA_BYTES + _BYTES_PER_PIXEL * image.size[0] * image.size[1])
            _check_effort(file, image, source)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(source, _reason(error)) from error
        orientation = _load(image, source)
    # The decoder of HEIC may change the size.
    _check_size(image.size, source)
    return _upright_rgb(image, orientation, source, depth)


def _why_not_to_open(status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "a folder, not a file"
    if not stat.S_ISREG(status.st_mode):
        return "a pipe, socket or device, not a regular file"
    return None


def _open(file: _BoundedFile, length: int, source: str) -> ImageFile:
    """Read the header of a file without decoding its pixels."""
    file.allow(_HEADER)
    header = file.read(_HEADER)
    file.seek(0)
    name, reader = _find_reader(header, source)
    file.allow(_HEADER_BYTES.get(name, _METADATA_BYTES))
    if name == "WebP":
        # This is the only one of the simple formats whose reader allocates the image and reads
        # the whole file when it opens it.
        size = _webp_size(header)
        if size is None or int.from_bytes(header[4:8], "little") + 8 > length:
            raise ImageError(source, "the file is truncated")
        _check_size(size, source)
        file.allow(_WEBP_BYTES + _BYTES_PER_PIXEL * size[0] * size[1])
    elif name in ("AVIF", "HEIC"):
        file.allow(_BOXES_BYTES)
    return reader(file)


def _find_reader(header: bytes, source: str) -> tuple[str, _Reader]:
    """Return the name of a format, and its reader, from the first bytes of a file."""
    if not header:
        raise ImageError(source, "the file is empty")
    name = file_format(header)
    if name == "AVIF":
        return name, AvifImageFile
    if name == "HEIC":
        return name, _heic_reader(source)
    if name is not None:
        return name, next(reader for known, _, reader in _READERS if known == name)
    names = [name for name, _, _ in _READERS] + ["AVIF"]
    if importlib.util.find_spec("pillow_heif") is not None:
        names.append("HEIC")
    raise ImageError(source, f"not an image in a supported format ({', '.join(names)})")


def file_format(header: bytes) -> str | None:
    """Return the name of the format of an image file, such as ``"JPEG"``; None if unknown.

    Parameters
    ----------
    header
        The first bytes of the file, at least 64 if it has as many.

    Examples
    --------
    >>> from transferkit.images.reading import file_format
    >>> file_format(b"GIF89a"), file_format(b"<html>")
    ('GIF', None)
    """
    for name, beginnings, _ in _READERS:
        if header.startswith(beginnings) and (name != "WebP" or header[8:12] == b"WEBP"):
            return name
    stated = brands(header)
    if stated & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if stated & _HEIC_BRANDS else None


def _heic_reader(source: str) -> _Reader:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            source,
            "a HEIC image, which needs the package pillow-heif; install it with "
            'pip install "transferkit[heic]"',
        ) from error
    reader: _Reader = HeifImageFile
    return reader


def _webp_size(header: bytes) -> tuple[int, int] | None:
    """Return width and height from the first 30 bytes of a WebP file; None if truncated."""
    if len(header) < 30:
        return None
    kind = header[12:16]
    if kind == b"VP8X":
        return (
            int.from_bytes(header[24:27], "little") + 1,
            int.from_bytes(header[27:30], "little") + 1,
        )
    if kind == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return (
        int.from_bytes(header[26:28], "little") & 0x3FFF,
        int.from_bytes(header[28:30], "little") & 0x3FFF,
    )


def _check_size(size: tuple[int, int], source: str, limit: int = MAX_PIXELS) -> None:
    width, height = size
    if width * height > limit:
        raise ImageError(
            source,
            f"too large: {width:,} x {height:,} pixels; expected at most {limit:,} pixels",
        )
    if width * height == 0:
        raise ImageError(source, f"empty: {width} x {height} pixels")


def _check_effort(file: _BoundedFile, image: ImageFile, source: str) -> None:
    """Reject an image whose decoding would take a long time or much memory despite its size."""
    if isinstance(image, JpegImageFile):
        _check_scans(file, image, source)
    elif isinstance(image, TiffImageFile):
        # A tile is decoded completely, even if only a small part of it is in the image.
        sides = [image.tag_v2.get(tag, 1) for tag in (Tag.TileWidth, Tag.TileLength)]
        if all(isinstance(side, int) for side in sides):
            _check_size((sides[0], sides[1]), source)
    elif isinstance(image, Jpeg2KImageFile):
        _check_codestream(file, image, source)
    elif image.format in ("AVIF", "HEIF"):
        _check_size(image.size, source, _MAX_PIXELS_BOXES)
    elif image.tile and (kind := _DECODED_IN_PYTHON.get(image.tile[0][0])):
        pixels = image.size[0] * image.size[1]
        if pixels > _MAX_PIXELS_IN_PYTHON:
            raise ImageError(
                source,
                f"too large: {kind} of {pixels:,} pixels; expected at most "
                f"{_MAX_PIXELS_IN_PYTHON:,} pixels",
            )


def _check_codestream(file: _BoundedFile, image: Jpeg2KImageFile, source: str) -> None:
    """Reject a JPEG 2000 whose compressed data need more memory than its header states."""
    position = file.tell()
    codestream = read_codestream(file)
    file.seek(position)
    if codestream.size != image.size:
        raise ImageError(
            source, f"damaged: {image.size} pixels in the header but {codestream.size} in the data"
        )
    if codestream.components > 4:
        raise ImageError(source, f"{codestream.components} channels; expected at most 4")
    if codestream.tiles > 64 + image.size[0] * image.size[1] // _PIXELS_PER_TILE:
        raise ImageError(source, f"a JPEG 2000 with {codestream.tiles:,} tiles, too many to decode")
    if codestream.pixels_of_a_tile > _MAX_PIXELS_OF_A_TILE:
        raise ImageError(
            source,
            f"too large: a JPEG 2000 with a tile of {codestream.pixels_of_a_tile:,} pixels; "
            f"expected at most {_MAX_PIXELS_OF_A_TILE:,} pixels",
        )


def _check_scans(file: _BoundedFile, image: JpegImageFile, source: str) -> None:
    """Reject a JPEG with so many scans that decoding it would take extremely long."""
    pixels = image.size[0] * image.size[1]
    # Pillow has read up to the data of the first scan.
    position = file.tell()
    limit = _METADATA_BYTES + _BYTES_PER_PIXEL * pixels
    file.allow(limit)
    data = file.read(limit)
    file.seek(position)
    # A quick count of bytes that look like the marker of a scan, which may be too high, is enough
    # for nearly all files. A video that a phone appended can contain many of them.
    if data.count(_SCAN) * pixels <= _MAX_PIXELS_OF_ALL_SCANS:
        return
    scans, position = 1, 0
    while (marker := _MARKER.search(data, position)) and marker[0][-2:] != _END_OF_IMAGE:
        scans += marker[0][-2:] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    if scans * pixels > _MAX_PIXELS_OF_ALL_SCANS:
        raise ImageError(
            source, f"a JPEG with {scans:,} scans, which would take too long to decode"
        )


def _load(image: Image.Image, source: str) -> int:
    """Decode an image if that has not been done yet, and return its EXIF orientation."""
    try:
        image.load()
    except ImageError:
        raise
    except Exception as error:  # as in _read_file: decoders raise errors of any type
        raise ImageError(source, _reason(error)) from error
    try:
        orientation = image.getexif().get(Tag.Orientation)
    except Exception:  # an image with invalid EXIF data can still be read
        return 1
    return orientation if isinstance(orientation, int) else 1


def _reason(error: Exception) -> str:
    """Return the meaning of a Pillow error, for users who do not know Pillow."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode the image"
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: a part of the image has too many pixels ({text})"
    if isinstance(error, EOFError) or any(
        word in text.lower() for word in ("truncated", "not enough", "not large enough", "cut off")
    ):
        return "the file is truncated"
    return f"damaged, or not the format of its first bytes ({text or type(error).__name__})"


def _upright_rgb(
    image: Image.Image, orientation: int, source: str, depth: BitDepth
) -> Image.Image | npt.NDArray[np.float32]:
    """Return a decoded image in RGB and upright; as an array if its pixels are floats."""
    try:
        transposition = _TRANSPOSITIONS.get(orientation)
        if image.mode == "F":
            upright = image if transposition is None else image.transpose(transposition)
            return _from_array(np.asarray(upright), source, depth)
        mode, profile = image.mode, image.info.get("icc_profile")
        if mode == "CMYK":
            image = to_srgb(image, mode, profile)
            profile = None
        image = to_srgb(_rgb(image, source, depth), mode, profile)
        # After the conversion, which makes images of 16 bits or with transparency smaller.
        return image if transposition is None else image.transpose(transposition)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(source, _reason(error)) from error
    except Exception as error:  # a palette or a color key that is invalid
        raise ImageError(
            source, f"an image of mode {image.mode!r} that cannot be converted to RGB ({error})"
        ) from error


def _rgb(image: Image.Image, source: str, depth: BitDepth) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image, source, depth).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        over_white = Image.new("RGB", image.size, (255, 255, 255))
        over_white.paste(image, mask=image)
        return over_white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image, source: str, depth: BitDepth) -> Image.Image:
    stated = None
    if isinstance(image, TiffImageFile):
        bits = image.tag_v2.get(Tag.BitsPerSample)
        # Pillow reads 12 bits to 16 without scaling them.
        stated = bits[0] if bits and 8 < bits[0] < 16 else None
    return Image.fromarray(depth.to_8_bits(np.asarray(image), stated, source))


def _from_array(
    array: Array, source: str, depth: BitDepth
) -> Image.Image | npt.NDArray[np.float32]:
    shape = " x ".join(map(str, array.shape)) or "()"
    is_gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not is_gray and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        expected = _ACCEPTED
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            # For 4 x 4 x 7 it is not known which axis, if any, holds the channels.
            expected += "; if the first axis holds the channels, pass array.transpose(1, 2, 0)"
        elif array.ndim == 4 and array.shape[0] == 1:
            expected = "expected one image; pass array[0]"
        elif array.ndim == 4:
            expected = "expected one image; pass the images one by one, or this array alone"
        raise ImageError(source, f"an array of shape {shape}; {expected}")
    if array.size == 0:
        raise ImageError(source, f"empty: an array of shape {shape}")
    if is_gray:
        array = array.reshape(array.shape[:2])
    if array.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(array))
        return _rgb(image, source, depth)
    if array.dtype.kind != "f":
        hint = ""
        if array.dtype == np.uint16:
            hint = "; convert 16 bits with array / 65535, 12 bits with array / 4095"
        elif array.dtype.kind in "iu":
            hint = "; convert values from 0 to 255 with array.astype(numpy.uint8)"
            if array.min() < 0:
                hint = "; it has negative values: scale them to floats in [0, 1]"
        raise ImageError(source, f"an array of dtype {array.dtype}; {_ACCEPTED}{hint}")
    return _from_floats(array, source)


# The tolerance for floats outside [0, 1], due to rounding errors of interpolation or averaging.
_ROUNDING = 1e-6


def check_range(array: Array, source: str) -> None:
    """Check that the values of an image are in [0, 1].

    Parameters
    ----------
    array
        Floats.
    source
        The name of the image in error messages.

    Raises
    ------
    ImageError
        If not.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images.reading import check_range
    >>> check_range(np.array([[0.0, 1.0]]), "image")
    """
    lowest, highest = float(array.min()), float(array.max())
    # Not `lowest < 0 or highest > 1`, which is false for NaN.
    if not (lowest >= -_ROUNDING and highest <= 1.0 + _ROUNDING):
        if np.isnan(lowest):
            raise ImageError(source, "has the value nan; expected floats in [0, 1]")
        value = lowest if lowest < 0.0 else highest
        hint = ""
        if lowest >= 0.0 and 2.0 < highest <= 255.0:
            hint = "; for values from 0 to 255, divide by 255 or convert to uint8"
        elif lowest < 0.0 and np.isfinite(lowest):
            hint = "; do not normalize images, the network does it"
        raise ImageError(source, f"has the value {value!r}; expected floats in [0, 1]{hint}")


def _from_floats(array: Array, source: str) -> npt.NDArray[np.float32]:
    check_range(array, source)
    floats = np.clip(array.astype(np.float32), 0.0, 1.0)
    if floats.ndim == 2:
        return np.repeat(floats[:, :, None], 3, axis=2)
    if floats.shape[2] == 4:
        alpha = floats[:, :, 3:]
        return floats[:, :, :3] * alpha + (1.0 - alpha)
    return floats
