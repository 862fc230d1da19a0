"""Reading one picture: whatever it is given as, out comes an upright RGB picture.

A file is distrusted. What it claims to be is checked from its header, before anything is
decoded, and how much of it may be read is bounded by what it claims, so that no file,
however broken, hangs, crashes, or takes more memory than a full-size photo.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ExifTags import Base as Tag
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from transferkit.errors import ImageError

__all__ = ["MAX_PIXELS", "ImageLike", "ImageTypeError", "read_image"]

MAX_PIXELS = 128_000_000
"""The most pixels that a picture may have: about 512 MB while it is being read."""

Array: TypeAlias = npt.NDArray[np.generic]
"""An array of any type; which types are read as pictures, `read_image` says."""

ImageLike: TypeAlias = str | os.PathLike[str] | Image.Image | Array
"""What one picture may be given as."""

_ACCEPTED = (
    "a picture is a path, a PIL image, or an array, uint8 or floats in [0, 1], height x width "
    "or height x width x 1, 3 or 4"
)

# Pillow's readers are called by themselves, not through Image.open: that would warn of every
# picture beyond its own limit, and silencing a warning is not safe from several threads.
# The JPEG reader serves MPO too, whose first picture is an ordinary JPEG.
_Reader: TypeAlias = Callable[[io.BufferedReader], ImageFile]
_READERS: tuple[tuple[str, tuple[bytes, ...], _Reader], ...] = (
    ("JPEG", (b"\xff\xd8\xff",), JpegImageFile),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ("WebP", (b"RIFF",), WebPImageFile),
    ("BMP", (b"BM",), BmpImageFile),
    ("GIF", (b"GIF87a", b"GIF89a"), GifImageFile),
    ("TIFF", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
)

# What may be read of a file besides the pixels it claims: EXIF, profiles, thumbnails, the
# depth maps that phones add. Animations in WebP are read as a whole, so they get more.
_METADATA_BYTES = 8 << 20
_WEBP_BYTES = 64 << 20
# The most that any of the formats takes for a pixel: four channels of 16 bits, uncompressed,
# twice over.
_BYTES_PER_PIXEL = 16

# Pillow decodes these one pixel at a time, in Python.
_MAX_PIXELS_RUN_LENGTH = 16_000_000

# A JPEG may go over the whole picture any number of times at almost no length; ten times is
# usual where a picture is to become clearer while it is being loaded.
_MAX_PIXELS_OF_ALL_SCANS = 30 * MAX_PIXELS
_SCAN = b"\xff\xda"
_END_OF_PICTURE = b"\xff\xd9"
# Any marker that something follows, within the data of scans, where 255 is followed by 0.
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

# Pillow decodes an opened picture when it is first used, which two threads must not do at
# once. Locks are shared out among pictures, since a picture cannot carry one.
_LOADING = tuple(threading.Lock() for _ in range(32))


class ImageTypeError(ImageError, TypeError):
    """Something was given as a picture, or as pictures, that is nothing of the kind.

    Examples
    --------
    >>> from transferkit.images import ImageTypeError, read_image
    >>> try:
    ...     read_image(7, "images[0]")
    ... except ImageTypeError as error:
    ...     print(str(error)[:20])
    images[0]: is an int
    """


def read_image(
    picture: ImageLike, source: str | None = None
) -> Image.Image | npt.NDArray[np.float32]:
    """Read one picture and turn it upright.

    Parameters
    ----------
    picture
        One of

        - a path to a JPEG (or MPO), PNG, WebP, BMP, GIF or TIFF file, of which the first
          frame is read;
        - a PIL image of any mode. It is not changed, except that Pillow decodes it if it is
          not decoded yet;
        - an array, height x width or height x width x 1 (grey), 3 (RGB) or 4 (RGBA), uint8 or
          floats in [0, 1].

        Transparent pixels are shown over white. Pictures of 16 bits, or of Pillow's mode "I",
        are read as 0 to 65535; mode "F" as floats in [0, 1]. The orientation in EXIF data is
        applied; EXIF data that cannot be read is ignored.
    source
        What the picture is called in errors: its place in the input, say. None: its path, or
        "image".

    Returns
    -------
    PIL image or array
        A picture of mode RGB, possibly the very object that was given, so not to be changed;
        or height x width x 3 float32 in [0, 1] where floats were given.

    Raises
    ------
    ImageError
        If it cannot be read, has more than `MAX_PIXELS`, or has values outside [0, 1]; the
        reason is part of the error.
    ImageTypeError
        If it is nothing that a picture may be given as.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import read_image
    >>> read_image(np.zeros((20, 30), np.uint8)).size
    (30, 20)
    """
    if source is None:
        source = os.fsdecode(picture) if isinstance(picture, (str, os.PathLike)) else "image"
    if isinstance(picture, Image.Image):
        with _LOADING[id(picture) // 64 % len(_LOADING)]:
            _check_size(picture.size, source)
            orientation = _load(picture, source)
        return _upright_rgb(picture, orientation, source)
    if isinstance(picture, np.ndarray):
        return _from_array(picture, source)
    if isinstance(picture, (str, os.PathLike)):
        return _read_file(os.fsdecode(picture), source)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        raise ImageTypeError(
            source,
            "is bytes; for a path use os.fsdecode(...), for an encoded picture "
            "PIL.Image.open(io.BytesIO(...))",
        )
    article = "an" if type(picture).__name__[0] in "aeiouAEIOU" else "a"
    raise ImageTypeError(source, f"is {article} {type(picture).__name__}; {_ACCEPTED}")


class _BoundedFile(io.BufferedReader):
    """A file of which no more may be read than allowed: Pillow keeps all metadata it meets."""

    def __init__(self, path: str, source: str) -> None:
        super().__init__(io.FileIO(path))
        self._source = source
        self._allowed = 0

    def allow(self, number_of_bytes: int) -> None:
        """Let so many bytes more be read."""
        self._allowed += number_of_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        most = self._allowed + 1
        found = super().read(most if size is None or size < 0 else min(size, most))
        self._allowed -= len(found)
        if self._allowed < 0:
            raise ImageError(
                self._source, "has more data besides its pixels than a picture has any use for"
            )
        return found


def _read_file(path: str, source: str) -> Image.Image | npt.NDArray[np.float32]:
    try:
        status = os.stat(path)
        # A pipe would wait for a writer and a device has no end, so neither is ever opened.
        problem = _why_not_to_open(status)
        if problem is None:
            file = _BoundedFile(path, source)
    except FileNotFoundError:
        problem = "there is no such file"
    except PermissionError:
        problem = "permission denied"
    except OSError as error:
        problem = f"cannot be opened: {error.strerror}"
    except ValueError:  # a NUL within the path
        problem = "is no path that this system accepts"
    if problem is not None:
        raise ImageError(source, problem)
    with file:
        # Pillow's readers raise errors of every kind on broken files, those of struct, zlib
        # and plain Python among them. Whatever they raise, it is the file that is at fault.
        try:
            image = _open(file, status.st_size, source)
            _check_size(image.size, source)
            # Decoders may begin at the start of the file again.
            file.allow(_METADATA_BYTES + _BYTES_PER_PIXEL * image.size[0] * image.size[1])
            _check_effort(file, image, source)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(source, _reason(error)) from error
        orientation = _load(image, source)
    return _upright_rgb(image, orientation, source)


def _why_not_to_open(status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a file"
    if not stat.S_ISREG(status.st_mode):
        return "is no ordinary file but a pipe, socket or device"
    if status.st_size == 0:
        return "the file is empty"
    return None


def _open(file: _BoundedFile, length: int, source: str) -> ImageFile:
    """Read the header of a file; nothing is decoded."""
    file.allow(_METADATA_BYTES)
    header = file.read(30)
    file.seek(0)
    for name, beginnings, reader in _READERS:
        if not header.startswith(beginnings) or (name == "WebP" and header[8:12] != b"WEBP"):
            continue
        if name == "WebP":
            # Alone among the readers this one allocates the picture, and reads the whole
            # file, on opening it.
            size = _webp_size(header)
            if size is None or int.from_bytes(header[4:8], "little") + 8 > length:
                raise ImageError(source, "is cut short")
            _check_size(size, source)
            file.allow(_WEBP_BYTES + _BYTES_PER_PIXEL * size[0] * size[1])
        return reader(file)
    formats = ", ".join(name for name, _, _ in _READERS)
    raise ImageError(source, f"is no image in a format that transferkit reads ({formats})")


def _webp_size(header: bytes) -> tuple[int, int] | None:
    """Width and height from the first 30 bytes of a WebP file; None if they are not there."""
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


def _check_size(size: tuple[int, int], source: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            source,
            f"claims {width:,} x {height:,} pixels; the most that is read is {MAX_PIXELS:,} pixels",
        )
    if width * height == 0:
        raise ImageError(source, f"is {width} x {height} pixels: there is nothing in it")


def _check_effort(file: _BoundedFile, image: ImageFile, source: str) -> None:
    """Refuse a picture of an acceptable size that would take a long time or much memory."""
    if isinstance(image, JpegImageFile):
        _check_scans(file, image, source)
    elif isinstance(image, TiffImageFile):
        # A tile is decoded as a whole, whatever little of it is in the picture.
        sides = [image.tag_v2.get(tag, 1) for tag in (Tag.TileWidth, Tag.TileLength)]
        if all(isinstance(side, int) for side in sides):
            _check_size((sides[0], sides[1]), source)
    elif image.tile and image.tile[0][0] == "bmp_rle":
        pixels = image.size[0] * image.size[1]
        if pixels > _MAX_PIXELS_RUN_LENGTH:
            raise ImageError(
                source,
                f"is a run-length encoded BMP that claims {pixels:,} pixels; the most that is "
                f"read of those is {_MAX_PIXELS_RUN_LENGTH:,}",
            )


def _check_scans(file: _BoundedFile, image: JpegImageFile, source: str) -> None:
    """Refuse a JPEG that goes over its pixels so often that decoding it would not end."""
    pixels = image.size[0] * image.size[1]
    # Pillow has read up to the data of the first scan.
    position = file.tell()
    most = _METADATA_BYTES + _BYTES_PER_PIXEL * pixels
    file.allow(most)
    data = file.read(most)
    file.seek(position)
    # A quick count that may be too high, of bytes that look like the marker of a scan, is
    # enough for nearly every file. A film that a phone appended can contain many.
    if data.count(_SCAN) * pixels <= _MAX_PIXELS_OF_ALL_SCANS:
        return
    scans, place = 1, 0
    while (marker := _MARKER.search(data, place)) and marker[0][-2:] != _END_OF_PICTURE:
        scans += marker[0][-2:] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        place = marker.end() + length
    if scans * pixels > _MAX_PIXELS_OF_ALL_SCANS:
        raise ImageError(source, f"goes over its pixels {scans:,} times, as no real picture does")


def _load(image: Image.Image, source: str) -> int:
    """Decode a picture, if that is still to be done, and return its EXIF orientation."""
    try:
        image.load()
    except ImageError:
        raise
    except Exception as error:  # as in _read_file: the errors of decoders are of every kind
        raise ImageError(source, _reason(error)) from error
    try:
        orientation = image.getexif().get(Tag.Orientation)
    except Exception:  # a picture with broken EXIF data is still a picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _reason(error: Exception) -> str:
    """What Pillow's error means for a reader who does not know Pillow."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"claims more pixels in one of its parts than are read ({text})"
    if isinstance(error, EOFError) or any(
        word in text.lower() for word in ("truncated", "not enough", "not large enough", "cut off")
    ):
        return "is cut short"
    return f"is damaged, or not what its first bytes say ({text or type(error).__name__})"


def _upright_rgb(
    image: Image.Image, orientation: int, source: str
) -> Image.Image | npt.NDArray[np.float32]:
    """A decoded picture in RGB, turned upright; as floats if it is of floats."""
    try:
        transposition = _TRANSPOSITIONS.get(orientation)
        if image.mode == "F":
            upright = image if transposition is None else image.transpose(transposition)
            return _from_array(np.asarray(upright), source)
        image = _rgb(image, source)
        # After the conversion, so that a picture of 16 bits or with transparency is turned in
        # its smaller form.
        return image if transposition is None else image.transpose(transposition)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(source, _reason(error)) from error
    except Exception as error:  # a palette or a colour key that Pillow cannot make sense of
        raise ImageError(
            source, f"is a picture of mode {image.mode!r} that cannot be read as RGB ({error})"
        ) from error


def _rgb(image: Image.Image, source: str) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image, source).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        over_white = Image.new("RGB", image.size, (255, 255, 255))
        over_white.paste(image, mask=image)
        return over_white
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image, source: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "I":
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > 65535:
            raise ImageError(
                source,
                f"is of whole numbers from {lowest} to {highest}; 0 to 65535 is read as black to "
                "white",
            )
    # 65535 = 255 * 257. Rounded to the nearest, in bands so that wide integers stay few.
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), 256):
        grey[top : top + 256] = (values[top : top + 256].astype(np.uint32) + 128) // 257
    return Image.fromarray(grey)


def _from_array(array: Array, source: str) -> Image.Image | npt.NDArray[np.float32]:
    shape = " x ".join(map(str, array.shape)) or "a single number"
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if not grey and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        raise ImageError(source, f"is an array of shape {shape}; {_ACCEPTED}")
    if array.size == 0:
        raise ImageError(source, f"is an array of shape {shape}: there is nothing in it")
    if grey:
        array = array.reshape(array.shape[:2])
    if array.dtype == np.uint8:
        image = Image.fromarray(np.ascontiguousarray(array))
        return _rgb(image, source)
    if array.dtype.kind != "f":
        hint = ""
        if array.dtype == np.uint16:
            hint = "; for 16 bits give array / 65535"
        elif array.dtype.kind in "iu":
            hint = "; for values from 0 to 255 give array.astype(numpy.uint8)"
        raise ImageError(source, f"is an array of type {array.dtype}; {_ACCEPTED}{hint}")
    return _from_floats(array, source)


# By how much floats may leave [0, 1]: what interpolating or averaging them leaves behind.
_ROUNDING = 1e-6


def _from_floats(array: Array, source: str) -> npt.NDArray[np.float32]:
    lowest, highest = float(array.min()), float(array.max())
    # Not `lowest < 0 or highest > 1`, which is false for NaN.
    if not (lowest >= -_ROUNDING and highest <= 1.0 + _ROUNDING):
        if np.isnan(lowest):
            raise ImageError(source, "has the value nan; floats must be in [0, 1]")
        value = lowest if lowest < 0.0 else highest
        hint = ""
        if lowest >= 0.0 and 2.0 < highest <= 255.0:
            hint = "; these look like 0 to 255: divide them by 255, or give them as uint8"
        elif lowest < 0.0 and np.isfinite(lowest):
            hint = "; pictures are given as they are, the network itself normalises them"
        raise ImageError(source, f"has the value {value!r}; floats must be in [0, 1]{hint}")
    floats = np.clip(array.astype(np.float32), 0.0, 1.0)
    if floats.ndim == 2:
        return np.repeat(floats[:, :, None], 3, axis=2)
    if floats.shape[2] == 4:
        alpha = floats[:, :, 3:]
        return floats[:, :, :3] * alpha + (1.0 - alpha)
    return floats
