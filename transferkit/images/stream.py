"""Many pictures, in batches: read in threads ahead of the network, few in memory at a time."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from numbers import Integral
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from transferkit.errors import DatasetError, ImageError, ParameterError, ShapeError
from transferkit.images.conversion import to_float32
from transferkit.images.folders import list_images
from transferkit.images.preprocessing import Preprocessing
from transferkit.images.reading import Array, ImageLike, ImageTypeError, read_image

__all__ = ["Batch", "Images", "Skipped", "count_images", "stream_batches"]

Images: TypeAlias = ImageLike | Iterable[ImageLike]
"""What pictures may be given as; `stream_batches` says how each is read."""

_Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.float32]

_ACCEPTED = (
    "pictures are given as a path, a folder, a PIL image, an array, or a sequence or generator of "
    "paths, PIL images and arrays"
)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some pictures, ready for a network.

    Parameters
    ----------
    pixels
        (n, height, width, 3), RGB, float32 in [0, 1].
    sources
        What each of the n pictures came from: its path, or its place in the input
        (``"images[3]"``).
    indices
        The place of each in the input, counting from 0 and counting pictures that were skipped.
    """

    pixels: npt.NDArray[np.float32]
    sources: list[str]
    indices: list[int]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that was left out.

    Parameters
    ----------
    source
        What it came from: its path, or its place in the input (``"images[3]"``).
    reason
        Why it was left out, as a clause.
    """

    source: str
    reason: str


def count_images(images: Images) -> int | None:
    """How many pictures there are, without reading any.

    Parameters
    ----------
    images
        As for `stream_batches`.

    Returns
    -------
    int or None
        None where only going through them would tell, as for a generator.

    Raises
    ------
    DatasetError
        If ``images`` is a path at which there is nothing, or a folder without pictures.
    ImageTypeError
        If ``images`` is nothing that pictures may be given as.
    ShapeError
        If ``images`` is an array of a shape that pictures do not have.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import count_images
    >>> count_images(np.zeros((5, 32, 32, 3), np.uint8))
    5
    """
    pictures = _pictures(images)
    return len(pictures) if isinstance(pictures, Sized) else None


def stream_batches(
    images: Images,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_error: str = "raise",
    skipped: list[Skipped] | None = None,
) -> Generator[Batch, None, None]:
    """Read pictures, resize and crop them, and give them out in batches, in input order.

    Pictures are read in threads, one for each core there is, while the caller works on the
    batch it has. At most two further batches are read or being read (or one picture for each
    thread where that is more), and ``images`` is gone through no further than that, however
    long it is. When the generator is closed, garbage-collected or interrupted, the threads
    end after the pictures that they are at.

    Parameters
    ----------
    images
        One of

        - a path to a file, or to a folder, which is read as by `list_images`;
        - a PIL image;
        - an array of one picture or of several, uint8 or floats in [0, 1]: height x width
          (grey), height x width x 1, 3 or 4 (grey, RGB, RGBA), or number x height x width x
          1, 3 or 4. With three axes of which the last is of another length it is number x
          height x width, all grey;
        - a sequence, a generator, an array of strings, or anything else that can be iterated
          over, of paths to files, PIL images and arrays of one picture, also mixed. Arrays from
          a generator are copied at once, so that it may use the same memory for the next.
    preprocessing
        How each is resized and cropped. Where its ``size`` is None all pictures must have one
        size.
    batch_size
        Pictures in a batch; the last batch has what is left.
    on_error
        ``"raise"``: the first picture, in input order, that cannot be read ends it with its
        error. ``"skip"``: such a picture is left out. Nothing is given out if all are.
    skipped
        A list to which the pictures that are left out are appended, in input order.

    Returns
    -------
    generator of Batch

    Raises
    ------
    ParameterError
        If ``on_error`` or ``batch_size`` is not one of the above.
    DatasetError
        If there are no pictures, or no such path or folder.
    ImageTypeError
        If ``images`` is nothing that pictures may be given as.
    ImageError
        While iterating: if a picture cannot be read, and ``on_error`` is ``"raise"``.
    ShapeError
        If ``images`` is an array of a shape that pictures do not have; while iterating: if
        pictures that are not resized differ in size.

    Examples
    --------
    >>> import numpy as np
    >>> from transferkit.images import Preprocessing, stream_batches
    >>> pictures = (np.full((300, 400, 3), grey, np.uint8) for grey in range(5))
    >>> for batch in stream_batches(pictures, Preprocessing(size=224), batch_size=3):
    ...     print(batch.pixels.shape, batch.sources[0])
    (3, 224, 224, 3) images[0]
    (2, 224, 224, 3) images[3]
    """
    if on_error not in ("raise", "skip"):
        raise ParameterError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size!r}; it must be a whole number, at least 1")
    pictures = _pictures(images)
    if isinstance(pictures, Sized) and len(pictures) == 0:
        raise DatasetError("no images were given")
    return _stream(pictures, preprocessing, batch_size, on_error == "skip", skipped)


def _pictures(images: Images) -> Iterable[ImageLike]:
    """The pictures one by one; sized where their number is known."""
    if isinstance(images, (str, os.PathLike)):
        return list_images(images)
    if isinstance(images, Image.Image):
        return [images]
    if isinstance(images, np.ndarray):
        return _pictures_of_array(images)
    # Bytes and files can be iterated over too, though not picture by picture; what a mapping or
    # a set is iterated over has no order that could be the order of the results.
    no_pictures = (bytes, bytearray, memoryview, Mapping, AbstractSet, io.IOBase)
    if isinstance(images, no_pictures) or not isinstance(images, Iterable):
        article = "an" if type(images).__name__[0] in "aeiouAEIOU" else "a"
        raise ImageTypeError("images", f"is {article} {type(images).__name__}; {_ACCEPTED}")
    return images


def _pictures_of_array(array: Array) -> Iterable[ImageLike]:
    if array.dtype.kind in "OU":
        if array.ndim == 1:
            pictures: list[ImageLike] = array.tolist()
            return pictures
    elif array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        return [array]
    elif array.ndim in (3, 4):
        return array
    shape = " x ".join(map(str, array.shape)) or "a single value"
    raise ShapeError(
        f"images is an array of type {array.dtype} and shape {shape}; arrays of pictures are "
        "height x width, height x width x channels, number x height x width or number x height x "
        "width x channels, arrays of paths have one axis"
    )


def _stream(
    pictures: Iterable[ImageLike],
    preprocessing: Preprocessing,
    batch_size: int,
    skip: bool,
    skipped: list[Skipped] | None,
) -> Generator[Batch, None, None]:
    with _ReadAhead(pictures, preprocessing, 2 * batch_size) as reader:
        first: tuple[str, tuple[int, ...]] | None = None
        rows: list[_Row] = []
        for index, source, future in reader:
            try:
                row = _Row(index, source, future.result())
            except ImageError as error:
                if not skip:
                    raise
                if skipped is not None:
                    skipped.append(Skipped(error.source, error.reason))
                continue
            first = first or (source, row.pixels.shape)
            if row.pixels.shape != first[1]:
                raise ShapeError(
                    f"{first[0]} is {_size(first[1])} pixels and {source} is "
                    f"{_size(row.pixels.shape)}; pictures that are neither resized nor cropped "
                    "must all have one size"
                )
            rows.append(row)
            if len(rows) == batch_size:
                # Nothing of a batch may be held on to while the caller works on it.
                del row, future
                reader.fill()
                yield _take_batch(rows)
        if reader.is_empty:
            raise DatasetError("no images were given")
        if rows:
            yield _take_batch(rows)


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One picture of a batch that is being put together."""

    index: int
    source: str
    pixels: _Pixels


class _ReadAhead:
    """Pictures that threads prepare, given out in input order, no more than ``ahead`` early."""

    def __init__(
        self, pictures: Iterable[ImageLike], preprocessing: Preprocessing, ahead: int
    ) -> None:
        threads = _available_cores()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="transferkit-images")
        self._ahead = max(ahead, threads)
        self._preprocessing = preprocessing
        self._pictures = iter(_named(pictures))
        self._pending: deque[tuple[int, str, Future[_Pixels]]] = deque()
        self._ended = False
        self._failure: Exception | None = None
        self.is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        # The pictures that threads are at are waited for: a few milliseconds each.
        self._executor.shutdown(wait=True, cancel_futures=True)

    def fill(self) -> None:
        """Hand pictures to the threads until there are enough."""
        while not self._ended and len(self._pending) < self._ahead:
            try:
                index, source, picture = next(self._pictures)
            except StopIteration:
                self._ended = True
            except Exception as error:
                # The caller's own generator failed. Its error waits for its turn, so that an
                # error of a picture before it comes first, however fast the threads are.
                self._ended = True
                self._failure = error
            else:
                self.is_empty = False
                future = self._executor.submit(_prepare, picture, source, self._preprocessing)
                self._pending.append((index, source, future))

    def __iter__(self) -> Iterator[tuple[int, str, Future[_Pixels]]]:
        self.fill()
        while self._pending:
            yield self._pending.popleft()
            self.fill()
        if self._failure is not None:
            raise self._failure


def _named(pictures: Iterable[ImageLike]) -> Iterator[tuple[int, str, ImageLike]]:
    """Each picture with its place and with what it is called in errors."""
    may_be_reused = not isinstance(pictures, (Sequence, np.ndarray))
    for index, picture in enumerate(pictures):
        if isinstance(picture, (str, os.PathLike)):
            yield index, os.fsdecode(picture), picture
        elif may_be_reused and isinstance(picture, np.ndarray):
            # A reader of videos, say, may put every frame into the same memory, but threads
            # look at a picture only later.
            yield index, f"images[{index}]", picture.copy()
        else:
            yield index, f"images[{index}]", picture


def _prepare(picture: ImageLike, source: str, preprocessing: Preprocessing) -> _Pixels:
    """One picture as an array, in a thread."""
    try:
        return preprocessing.apply(read_image(picture, source), source)
    except MemoryError as error:
        raise ImageError(source, "there is not enough memory to resize it") from error


def _take_batch(rows: list[_Row]) -> Batch:
    """A batch of the rows, which are taken out of the list."""
    pixels = np.empty((len(rows), *rows[0].pixels.shape), np.float32)
    for place, row in zip(pixels, rows, strict=True):
        to_float32(row.pixels, out=place)
    batch = Batch(pixels, [row.source for row in rows], [row.index for row in rows])
    rows.clear()
    return batch


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"


def _available_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
