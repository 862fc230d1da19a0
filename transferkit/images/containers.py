"""What the first bytes of a file state, for formats that consist of boxes."""

from __future__ import annotations

import struct
from typing import IO, NamedTuple

__all__ = ["JPEG_2000", "Codestream", "brands", "read_codestream"]

_CODESTREAM = b"\xff\x4f\xff\x51"
JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", _CODESTREAM)
"""The beginnings of JPEG 2000 files, with and without boxes."""

_MAX_BOXES = 1000


def brands(header: bytes) -> set[bytes]:
    r"""Return the formats that a file of the kind of MP4 states; empty for other files.

    Examples
    --------
    >>> from transferkit.images.containers import brands
    >>> sorted(brands(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"))
    [b'heic', b'mif1']
    """
    if header[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(header[:4], "big"), len(header))
    return {header[8:12]} | {header[start : start + 4] for start in range(16, end - 3, 4)}


class Codestream(NamedTuple):
    """The header of the compressed data of a JPEG 2000 file."""

    size: tuple[int, int]
    components: int
    tiles: int
    pixels_of_a_tile: int


def read_codestream(file: IO[bytes]) -> Codestream:
    """Return the header of the compressed data of a JPEG 2000 file.

    Pillow takes the size from a box before it, which may state another one.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    position = 0
    file.seek(0)
    if file.read(4) != _CODESTREAM:
        for _ in range(_MAX_BOXES):
            file.seek(position)
            length, kind, start = *struct.unpack(">I4s", _read(file, 8)), 8
            if length == 1:
                length, start = int.from_bytes(_read(file, 8), "big"), 16
            if kind == b"jp2c":
                position += start
                break
            if length < start:
                raise ValueError("invalid length of a box")
            position += length
        else:
            raise ValueError("too many boxes")
    file.seek(position)
    marker, x1, y1, x0, y0, tile_width, tile_height, tile_x0, tile_y0, components = struct.unpack(
        ">4s4x8IH", _read(file, 42)
    )
    if marker != _CODESTREAM or not tile_width or not tile_height:
        raise ValueError("invalid codestream")
    # Rounded up.
    tiles = (-(-(x1 - tile_x0) // tile_width)) * (-(-(y1 - tile_y0) // tile_height))
    pixels_of_a_tile = min(tile_width, x1 - x0) * min(tile_height, y1 - y0)
    return Codestream((x1 - x0, y1 - y0), components, tiles, pixels_of_a_tile)


def _read(file: IO[bytes], number: int) -> bytes:
    data = file.read(number)
    if len(data) < number:
        raise ValueError("truncated")
    return data
